"""Activation capping: what lies within the bounds is untouched bitwise, what lies outside is moved onto the bound."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp import Clamp, Direction, Intervention, Model
from mlx_interp.errors import DataError, DirectionError, NeverFired, ShapeError, SiteError
from tests.engine.examples import TOKENS, worst
from tests.tiny import tiny_model

SITE = "resid_post.1"
RNG = np.random.default_rng(5)
VECTOR = mx.array(RNG.normal(size=30).astype(np.float32))
OF_HEAD = mx.array(RNG.normal(size=8).astype(np.float32))


def along(x: mx.array, vector: mx.array = VECTOR) -> np.ndarray:
    """Components (...,) along a direction of unit length."""
    unit = np.asarray(vector, np.float64)
    return np.asarray(x, np.float64) @ (unit / np.linalg.norm(unit))


def middle(model: Model) -> float:
    """A bound that some positions of the prompt lie below, and others above."""
    return float(np.mean(along(model.run(TOKENS, capture=SITE)[SITE][0])))


def test_states_within_the_bounds_are_untouched_bitwise_and_others_moved_onto_them(llama: Model) -> None:
    clean, bound = llama.run(TOKENS, capture=SITE)[SITE], middle(llama)
    below = along(clean[0]) < bound
    assert below.any()
    assert not below.all()
    for edit, moves in ((Clamp(SITE, VECTOR, low=bound), below), (Clamp(SITE, 7 * VECTOR, high=bound), ~below)):
        found = llama.run(TOKENS, interventions=edit, capture=SITE)[SITE]
        kept = mx.array(np.flatnonzero(~moves))
        assert mx.array_equal(found[0, kept], clean[0, kept])
        assert np.abs(along(found[0])[moves] - bound).max() < 1e-5
        across = np.asarray(found[0] - clean[0]) - np.outer(along(found[0] - clean[0]), along(mx.eye(30)))
        assert np.abs(across).max() < 1e-5


def test_bounds_that_nothing_crosses_leave_the_logits_bitwise_as_they_are(model: Model) -> None:
    vector = mx.ones((model.d_model,))
    edits = [Clamp("resid_post", vector, low=-1e6, high=1e6), Clamp("z.1", mx.ones((model.d_head,)), low=-1e6)]
    for edit in edits:
        found = model.run(TOKENS, interventions=edit, logits="all").logits
        assert mx.array_equal(found, model.run(TOKENS, logits="all").logits)  # type: ignore[arg-type]


def test_a_sweep_of_clamps_is_each_alone_whatever_their_bounds(llama: Model) -> None:
    bound = middle(llama)
    variants: list[list[Intervention]] = [
        [Clamp(SITE, VECTOR, low=bound)],
        [Clamp(SITE, VECTOR, high=bound - 1)],
        [Clamp(SITE, VECTOR, -0.1, 0.1)],
        [Clamp("z.0", OF_HEAD, high=0.0, heads=2), Clamp("resid_post", VECTOR, low=bound, positions=[1, -1])],
        [],
    ]
    alone = mx.concatenate([llama.run(TOKENS, interventions=variant).logits for variant in variants])
    assert worst(llama.sweep(TOKENS, variants), alone) < 1e-4
    assert worst(llama.sweep_prompts([TOKENS], variants)[0], alone) < 1e-4
    assert float(mx.abs(alone[:-1] - alone[-1]).max(axis=-1).min()) > 0.01


def test_generation_under_a_clamp_is_recomputing_from_scratch(llama: Model) -> None:
    edit = Clamp("resid_post", VECTOR, low=0.5)
    (text,) = llama.generate(TOKENS, interventions=edit, max_tokens=5)
    so_far = [*TOKENS]
    for token in text.tokens:
        assert token == int(mx.argmax(llama.run(so_far, interventions=edit).logits))
        so_far.append(token)
    assert text.tokens != llama.generate(TOKENS, max_tokens=5)[0].tokens


def test_a_gradient_passes_within_the_bounds_and_loses_its_part_along_the_direction_outside(llama: Model) -> None:
    def metric(logits: mx.array) -> mx.array:
        return logits[:, 7] - logits[:, 9]

    below = along(llama.run(TOKENS, capture=SITE)[SITE][0]) < (bound := middle(llama))
    edit = Clamp(SITE, VECTOR, low=bound)
    behind = llama.gradients(TOKENS, metric, SITE, interventions=edit)[SITE][0]
    before = llama.gradients(TOKENS, metric, "mlp_out.1", interventions=edit)["mlp_out.1"][0]
    assert np.abs(along(before)[below]).max() < 1e-4 < np.abs(along(behind)[below]).max()
    assert mx.allclose(before[mx.array(np.flatnonzero(~below))], behind[mx.array(np.flatnonzero(~below))], atol=1e-5)


def direction(model: Model, vector: mx.array, site: str) -> Direction:
    return Direction(vector, site, -1, "by hand", "plain", model.model_id, "", "", model.n_layers, 0.0)


def test_a_direction_brings_its_site_and_its_quantile_of_prompts_lies_above_the_bound(llama: Model) -> None:
    prompts = [[3, 5, 7 + n, 11] for n in range(8)]
    made = direction(llama, VECTOR, SITE)
    bound = mi.directions.projection_quantile(llama, prompts, made, quantile=0.25)
    states = mx.stack([llama.run(prompt, capture=SITE)[SITE][0, -1] for prompt in prompts])
    assert bound == pytest.approx(np.quantile(along(states), 0.25), abs=1e-4)
    assert bound == mi.directions.projection_quantile(llama, prompts, VECTOR, SITE, quantile=0.25)
    edits = [Clamp(made, low=bound), Clamp(SITE, made, low=bound), Clamp(SITE, VECTOR, low=bound)]
    found = [llama.run(prompts[0], interventions=edit).logits for edit in edits]
    assert mx.array_equal(found[0], found[2])  # type: ignore[arg-type]
    assert mx.array_equal(found[1], found[2])  # type: ignore[arg-type]


def test_the_assistant_axis_is_the_default_less_the_mean_of_the_roles_and_every_role_counts_alike(llama: Model) -> None:
    rng = np.random.default_rng(1)
    default = ([[3, 5, *row] for row in rng.integers(0, 50, (6, 4)).tolist()], [2] * 6)
    roles = {
        f"role {n}": ([[3, 5, *row] for row in rng.integers(51, 101, (1 + n, 4)).tolist()], [2] * (1 + n))
        for n in range(4)
    }
    axis = mi.directions.assistant_axis(llama, default, roles, SITE)

    def mean(texts: Any) -> np.ndarray:
        return np.mean([np.asarray(llama.run(t, capture=SITE)[SITE][0, 2:]).mean(0) for t in texts[0]], axis=0)

    expected = mean(default) - np.mean([mean(role) for role in roles.values()], axis=0)
    assert np.allclose(np.asarray(axis.vector), expected, atol=1e-4)
    assert axis.site == SITE
    with pytest.raises(DataError, match="four default replies and four roles, found 6 and 1"):
        mi.directions.assistant_axis(llama, default, {"pirate": roles["role 0"]}, SITE)
    with pytest.raises(DataError, match="role 'pirate' has no replies"):
        mi.directions.assistant_axis(llama, default, {**roles, "pirate": ([], [])}, SITE)


@pytest.mark.parametrize(
    ("edit", "error", "hint"),
    [
        (Clamp(SITE, VECTOR), ShapeError, "no bound; give low="),
        (Clamp(SITE, low=1.0), ShapeError, "there is no direction"),
        (Clamp(SITE, VECTOR, low=2.0, high=1.0), ShapeError, r"low=2.0 is above high=1.0"),
        (Clamp(SITE, VECTOR, low=float("nan")), ShapeError, "low is one finite number or None, not nan"),
        (Clamp(SITE, VECTOR, high=float("inf")), ShapeError, "high is one finite number or None, not inf"),
        (Clamp(SITE, VECTOR, high="2"), ShapeError, "high is one finite number or None, not '2'"),  # type: ignore[arg-type]
        (Clamp(SITE, mx.ones(29), low=1.0), ShapeError, r"the array is \(29,\), the site .* is \(1, 7, 30\)"),
        (Clamp(SITE, mx.zeros(30), low=1.0), ShapeError, "finite and not zero"),
        (Clamp("resid_post.9", VECTOR, low=1.0), SiteError, "layer 9 does not exist"),
        (Clamp(SITE, VECTOR, low=1.0, positions=slice(50, None)), NeverFired, "touches nothing"),
    ],
)
def test_its_mistakes_name_both_sides(edit: Any, error: type[Exception], hint: str) -> None:
    model = tiny_model("llama")
    with pytest.raises(error, match=hint):
        model.run(TOKENS, interventions=[edit])


def test_a_quantile_refuses_what_has_no_site_no_length_or_another_width(llama: Model) -> None:
    with pytest.raises(DirectionError, match="does not know its site"):
        mi.directions.projection_quantile(llama, [TOKENS], VECTOR)
    with pytest.raises(DirectionError, match=r"shape \(29,\) .* needs \(30,\)"):
        mi.directions.projection_quantile(llama, [TOKENS], mx.ones(29), SITE)
    with pytest.raises(DirectionError, match="length 0"):
        mi.directions.projection_quantile(llama, [TOKENS], mx.zeros(30), SITE)
    with pytest.raises(DataError, match=r"quantile 1\.5 of 1 prompts"):
        mi.directions.projection_quantile(llama, [TOKENS], VECTOR, SITE, quantile=1.5)
