"""An intervention is one class: runs, sweeps, generation, gradients and errors take it as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import pytest

from mlx_interp import Intervention, Patch
from mlx_interp.errors import NeverFired, ShapeError, SiteError
from mlx_interp.interventions import Heads, Positions, column
from mlx_interp.model import Model
from tests.engine.examples import POSITIONS, TOKENS, sites_of, worst
from tests.tiny import tiny_model

OTHERS = [[3, 5, 7, 11, 4], [3, 5, 7, 11, 13, 17, 19, 4]]
BOUND = 1e-4


@dataclass(frozen=True, eq=False, repr=False)
class Bound(Intervention):
    """Keeps every value of an activation between two numbers."""

    site: str
    low: float
    high: float
    positions: Positions = None
    heads: Heads = None

    numbers = ("low", "high")

    @classmethod
    def changed(cls, edits: Sequence[Bound], old: mx.array, value: mx.array | None) -> mx.array:
        low, high = (column(edits, name, old.ndim) for name in cls.numbers)
        return mx.clip(old, low, high)

    def check(self) -> None:
        if self.low > self.high:
            raise ShapeError(f"{self}: low is above high; nothing lies between them")


def clamps(model: Model) -> list[list[Intervention]]:
    """Bounds at every site, alone and two of different widths at one site."""
    single: list[list[Intervention]] = [
        [Bound(site if site == "final" else f"{site}.{layer}", -0.2 * layer - 0.1, 0.3, POSITIONS[layer])]
        for site in sites_of(model)
        for layer in range(model.n_layers)
    ]
    widths: list[list[Intervention]] = [[Bound("resid_post.1", -width, width, -1)] for width in (0.1, 0.4, 0.2)]
    return [*single, [], [Bound("z.1", -0.1, 0.1, -1, heads=2)], single[0] + single[4], *widths]


def alone(model: Model, tokens: list[int], variants: list[list[Intervention]]) -> mx.array:
    return mx.concatenate([model.run(tokens, interventions=variant).logits for variant in variants])


def test_a_run_clamps_where_it_is_told_to_and_nowhere_else(llama: Model) -> None:
    clean = llama.run(TOKENS, capture="mlp_act.1")["mlp_act.1"]
    edits: list[Intervention] = [Bound("mlp_act.1", -0.1, 0.2, slice(2, 4)), Bound("mlp_act.1", 0.0, 9.0, -1)]
    found = llama.run(TOKENS, interventions=edits, capture="mlp_act.1")["mlp_act.1"]
    expected = mx.array(clean)
    expected[:, 2:4] = mx.clip(clean[:, 2:4], -0.1, 0.2)
    expected[:, -1] = mx.maximum(clean[:, -1], 0.0)
    assert mx.array_equal(found, expected)
    assert not mx.array_equal(found, clean)


def test_a_clamp_that_holds_everything_is_bitwise_the_identity(model: Model) -> None:
    wide: list[Intervention] = [Bound(site, -1e9, 1e9) for site in sites_of(model)]
    clean = model.run(TOKENS, logits="all").logits
    assert mx.array_equal(model.run(TOKENS, interventions=wide, logits="all").logits, clean)


def test_a_sweep_of_clamps_is_each_alone(model: Model) -> None:
    variants = clamps(model)
    assert worst(model.sweep(TOKENS, variants), alone(model, TOKENS, variants)) < BOUND


def test_prompts_swept_together_are_each_alone(llama: Model) -> None:
    variants: list[list[Intervention]] = [[Bound("resid_post.1", -0.5, 0.5, -1)], [Bound("z", -0.1, 0.1)]]
    swept = llama.sweep_prompts(OTHERS, variants)
    for row, tokens in enumerate(OTHERS):
        assert worst(swept[row], alone(llama, tokens, variants)) < BOUND


def test_generation_under_a_clamp_is_recomputing_from_scratch(llama: Model) -> None:
    edits: list[Intervention] = [Bound("resid_post.1", -0.4, 0.4)]
    texts = [
        llama.generate(TOKENS, interventions=edits, max_tokens=6)[0].tokens,
        llama.sweep_generate(TOKENS, [[], edits], max_tokens=6)[1].tokens,
    ]
    so_far = [*TOKENS]
    for token in texts[0]:
        assert token == int(mx.argmax(llama.run(so_far, interventions=edits).logits))
        so_far.append(token)
    assert texts[0] == texts[1] != llama.generate(TOKENS, max_tokens=6)[0].tokens


def test_gradients_pass_where_it_does_not_clamp_and_stop_where_it_does(llama: Model) -> None:
    def metric(logits: mx.array) -> mx.array:
        return logits[:, 7] - logits[:, 9]

    site, edit = "mlp_act.1", Bound("mlp_act.1", -0.05, 0.05)
    above = llama.gradients(TOKENS, metric, "mlp_out.1", interventions=[edit])["mlp_out.1"]
    clean = llama.run(TOKENS, capture=site)[site]
    inside = mx.abs(clean) < 0.05

    def through(x: mx.array) -> mx.array:
        return (llama.network.mlp_out(1, mx.clip(x, -0.05, 0.05)) * above).sum()

    expected = mx.grad(through)(clean)
    assert not mx.any(mx.where(inside, mx.zeros(()), expected))
    patched = llama.gradients(TOKENS, metric, "resid_mid.1", interventions=[edit])["resid_mid.1"]
    by_hand = mx.grad(lambda x: through(llama.network.mlp_act(1, llama.network.mlp_in(1, x))))(
        llama.run(TOKENS, capture="resid_mid.1")["resid_mid.1"]
    )
    assert mx.allclose(patched, by_hand + above, atol=1e-4)


@pytest.mark.parametrize(
    ("edit", "error", "hint"),
    [
        (Bound("mlp_act.1", 1.0, -1.0), ShapeError, r"Bound\(site='mlp_act.1', low=1.0.*low is above high"),
        (Bound("mlp_act.1", float("nan"), 1.0), ShapeError, "low is one finite number, not nan"),
        (Bound("mlp_act.1", 0.0, mx.ones(3)), ShapeError, r"high is one finite number, not an array \(3,\)"),  # type: ignore[arg-type]
        (Bound("mlp_ack.1", 0.0, 1.0), SiteError, "did you mean 'mlp_act'"),
        (Bound("head_out.1", 0.0, 1.0), SiteError, "head_out is read only"),
        (Bound("mlp_act.1", 0.0, 1.0, slice(50, None)), NeverFired, "touches nothing"),
        (Bound("mlp_act.1", 0.0, 1.0, heads=1), ShapeError, "has no heads"),
    ],
)
def test_its_mistakes_are_errors_like_those_of_the_others(edit: Any, error: type[Exception], hint: str) -> None:
    model = tiny_model("llama")
    with pytest.raises(error, match=hint):
        model.run(TOKENS, interventions=[edit])
    with pytest.raises(error, match=hint):
        model.sweep(TOKENS, [[], [edit]])


def test_what_is_no_intervention_is_told_the_names_of_all_that_are(llama: Model) -> None:
    with pytest.raises(ShapeError, match=r"a list holds Ablate, Add, .*Bound"):
        llama.run(TOKENS, interventions=["mlp_act.1"])  # type: ignore[list-item]


def test_a_class_that_does_not_say_what_it_changes_is_told_to(llama: Model) -> None:
    @dataclass(frozen=True, eq=False, repr=False)
    class Silent(Intervention):
        site: str
        positions: Positions = None

    with pytest.raises(NotImplementedError, match="Silent does not say what it changes: define `changed`"):
        llama.run(TOKENS, interventions=[Silent("z.1"), Patch("z.0", 0.0)])
