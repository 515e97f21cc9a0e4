"""Passes that begin where two prompts begin to differ give what passes over whole prompts give."""

from __future__ import annotations

import sys

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Ablate
from mlx_interp.circuits import Pair, log_odds, node_effects, node_scores, nodes, wiring
from mlx_interp.circuits.attribution import node_sites
from mlx_interp.circuits.exact import patch, replacements
from mlx_interp.engine import host
from mlx_interp.engine.host import HostNetwork, on_host
from mlx_interp.engine.shared_start import shared_start
from mlx_interp.model import Model
from tests.tiny import tiny_model

FAMILIES = ("llama", "gemma2", "gpt2", "phi", "gpt_oss")


def pairs_of(model: Model, shared: int = 3) -> list[Pair]:
    """Two pairs of seven tokens that begin with as many in common, and differ in most others."""
    rows = np.random.default_rng(5).integers(0, 101, (2, 2, 7))
    rows[:, 1, :shared] = rows[:, 0, :shared]
    rows[:, 1, shared] = rows[:, 0, shared] + 1
    return [Pair(str(n), *(model.prompts(side.tolist())[0] for side in row), (7,), (23,)) for n, row in enumerate(rows)]


@pytest.mark.parametrize("shared", [3, 6])
@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_from_where_prompts_differ_is_that_of_whole_prompts(family: str, shared: int) -> None:
    model = tiny_model(family)
    made = pairs_of(model, shared)
    assert [pair.differs_from for pair in made] == [shared, shared]
    found = node_scores(model, made, method="attribution", positions=True)
    here, there = (model.run([getattr(pair, side) for pair in made], capture=node_sites(model)) for side in SIDES)
    slopes = model.gradients([pair.clean for pair in made], log_odds(model)(made), node_sites(model))
    for number, node in enumerate(nodes(wiring(model.network))):
        site = {"embed": "resid_pre.0", "head": f"z.{node.layer}", "mlp": f"mlp_out.{node.layer}"}[node.kind]
        product = (there[site] - here[site]) * slopes[site]
        product = product[:, :, node.head] if node.kind == "head" else product
        assert np.abs(np.array(product.sum(-1)) - found[:, number]).max() < 1e-4, node


SIDES = ("clean", "counterfactual")


@pytest.mark.parametrize("family", FAMILIES)
def test_exact_effects_from_where_prompts_differ_are_those_of_patches_everywhere(family: str) -> None:
    model = tiny_model(family)
    pair = pairs_of(model)[0]
    known, values = nodes(wiring(model.network)), replacements(model, [pair])[0]
    found = node_effects(model, [pair], [(number, None) for number in range(len(known))])[0]
    measure = log_odds(model)([pair])
    clean, *changed = (
        float(measure(model.run(pair.clean, interventions=edits).logits)[0])  # type: ignore[arg-type]
        for edits in ([], *([patch(node, values)] for node in known))
    )
    assert np.array(changed) - clean == pytest.approx(found, abs=1e-4)
    assert np.abs(found).max() > 1e-2


def test_prompts_that_are_alike_share_all_but_the_last_token() -> None:
    model = tiny_model("llama")
    rows = [[3, 4, 5, 6], [7, 8, 9, 10]]
    assert shared_start(model.network, rows, rows).n == 3
    assert shared_start(model.network, rows, [[3, 4, 5, 6], [7, 9, 9, 10]]).n == 1


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_activation_functions_in_numpy_are_mlxs(family: str) -> None:
    """From where they are flat to where they overflow, zero and what is not finite included."""
    net = tiny_model(family).network
    form = net.family.form
    assert form is not None
    assert form.host is not None
    line = np.concatenate([np.linspace(-120, 120, 4001), [0.0, 1e-30, -1e-30, np.nan, np.inf]]).astype(np.float32)
    inputs = (line, np.linspace(-3, 3, len(line), dtype=np.float32)) if form.gated else (line,)
    expected = np.array(form.combine(*map(mx.array, inputs)))
    np.testing.assert_allclose(form.host(*inputs), expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_sweep_in_numpy_is_each_variant_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "WORTH", 1)
    model, tokens = tiny_model(family), [5, 17, 3, 44, 8]
    variants = [[Ablate(f"z.{layer}", positions=2, heads=head)] for layer in range(2) for head in range(2)]
    swept = np.array(model.sweep(tokens, variants))
    alone = np.concatenate([np.array(model.run(tokens, interventions=variant).logits) for variant in variants])
    assert swept == pytest.approx(alone, abs=1e-5)
    assert np.abs(swept[0] - swept[1]).max() > 1e-3


def test_on_the_cpu_sweeps_take_them_and_runs_do_not() -> None:
    model = tiny_model("llama")
    swift = on_host(model.network)
    assert type(model.network) is not HostNetwork
    linux_cpu = sys.platform == "linux" and mx.default_device() == mx.Device(mx.cpu)
    assert isinstance(swift, HostNetwork) == linux_cpu
    half = tiny_model("llama")
    half.mlx_model.set_dtype(mx.bfloat16)
    assert on_host(half.network) is half.network
