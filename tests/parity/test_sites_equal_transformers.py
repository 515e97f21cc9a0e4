"""Every site of every family equals what transformers computes on the same weights, in float32."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from mlx_interp.activations import Activations
from mlx_interp.architectures import FAMILIES
from mlx_interp.sites import KINDS
from tests.parity.reference import TOKENS, case_config, cases, golden_path, overrides, reference
from tests.tiny import FAMILY_CONFIGS, tiny_model

BOUND = 1e-4  # relative, float32: two orders above what differs by the order of summation
SITES = [name for name in KINDS if name != "head_out"]
CASES = cases(FAMILIES)
with_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="live comparison needs torch: pip install '.[parity]'; golden files are compared either way",
)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def in_order_of_experts(out: Activations, name: str) -> np.ndarray:
    """A site of the only prompt; what experts give by their numbers: which of them is in which slot means nothing."""
    found = np.asarray(out[name])[0]
    if not name.startswith("expert_out"):
        return found
    order = np.argsort(np.asarray(out[name.replace("expert_out", "experts")])[0], axis=-1)
    return np.take_along_axis(found, order[..., None], axis=1)


def compare(family: str, heads: str, expected: dict[str, np.ndarray]) -> None:
    model = tiny_model(family, **overrides(family, heads))
    out = model.run(TOKENS, capture=[site for site in SITES if site in model.sites], logits="all")
    assert relative(np.asarray(out.logits)[0], expected["logits"]) < BOUND
    names = {str(site) for site in out.captured if site.name not in ("choice", "experts")}  # as the router says
    assert names == set(expected) - {"logits"}, "a site is recorded on one side only"
    for name in sorted(names):
        assert relative(in_order_of_experts(out, name), expected[name]) < BOUND, name


def test_every_family_has_a_parity_config() -> None:
    assert set(FAMILY_CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize(("family", "heads"), CASES)
def test_every_site_equals_the_golden_file(family: str, heads: str) -> None:
    with np.load(golden_path(family, heads)) as golden:
        compare(family, heads, dict(golden))


@with_torch
@pytest.mark.parametrize(("family", "heads"), CASES)
def test_every_site_equals_transformers_live(family: str, heads: str) -> None:
    compare(family, heads, reference(case_config(family, heads), TOKENS))


@with_torch
@pytest.mark.parametrize(("family", "heads"), [case for case in CASES if case[1] == "full"])
def test_layer_counting_equals_transformers_hidden_states(family: str, heads: str) -> None:
    import torch

    from tests.parity.reference import transformers_model

    states = transformers_model(case_config(family, heads), 0)(torch.tensor([TOKENS]), output_hidden_states=True)
    model = tiny_model(family, **overrides(family, heads))
    out = model.run(TOKENS, capture="resid_pre")
    assert len(states.hidden_states) == model.n_layers + 1
    for layer in range(model.n_layers):
        theirs = states.hidden_states[layer][0].detach().numpy()
        assert relative(np.asarray(out[f"resid_pre.{layer}"])[0], theirs) < BOUND


@pytest.mark.parametrize(("family", "heads"), CASES)
def test_a_missing_piece_of_the_architecture_is_seen(family: str, heads: str) -> None:
    """The comparison can fail: with queries scaled by 1 % it does."""
    with np.load(golden_path(family, heads)) as golden, pytest.raises(AssertionError):
        altered = dict(golden)
        queries = next(name for name in altered if name.startswith("q."))
        altered[queries] = altered[queries] * 1.01
        compare(family, heads, altered)
