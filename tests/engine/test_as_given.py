"""Interventions as people give them: one alone, a Direction, lists inside lists, ablation to zero and to a mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp import Ablate, Add, Direction, FunctionVector, Model, Patch, Scale
from mlx_interp.errors import PositionError, PromptError, ShapeError, SiteError
from tests.engine.examples import TOKENS

SITE = "resid_post.1"
VECTOR = mx.array(np.random.default_rng(1).normal(size=30).astype(np.float32))
MORE = [[2, 4, 6], [1, 3, 5, 7, 9]]


def direction(site: str = SITE) -> Direction:
    return Direction(VECTOR, site, -1, "by hand", "plain", "tiny", "", "", 3, 0.0)


def vector_of_function() -> FunctionVector:
    return FunctionVector("antonyms", VECTOR, (), np.zeros((3, 6)), 1, {})


CALLS: dict[str, Callable[[Model, Any], Any]] = {
    "run": lambda model, given: model.run(TOKENS, interventions=given).logits,
    "sweep": lambda model, given: model.sweep(TOKENS, [given]),
    "sweep_prompts": lambda model, given: model.sweep_prompts([TOKENS, TOKENS[:3]], [given]),
    "generate": lambda model, given: [
        text.tokens for text in model.generate([TOKENS], interventions=given, max_tokens=3)
    ],
    "per_prompt": lambda model, given: [
        text.tokens for text in model.generate([TOKENS], per_prompt=[given], max_tokens=3)
    ],
    "sweep_generate": lambda model, given: [
        text.tokens for text in model.sweep_generate(TOKENS, [given], max_tokens=3)
    ],
    "stream": lambda model, given: list(model.stream(TOKENS, interventions=given, max_tokens=3)),
    "gradients": lambda model, given: model.gradients(TOKENS, lambda x: x.max(-1), SITE, interventions=given)[SITE],
    "cost": lambda model, given: model.cost(TOKENS, [given]).flops,
}
ALIKE: dict[str, tuple[Any, Any]] = {
    "one": (Scale(SITE, 20.0), [Scale(SITE, 20.0)]),
    "a direction": (direction(), [Add(SITE, VECTOR)]),
    "a direction in a list": ([Scale("z.0", 0.0), direction()], [Scale("z.0", 0.0), Add(SITE, VECTOR)]),
    "a function vector": ([vector_of_function()], [Add(SITE, VECTOR, 1.0, -1)]),
    "everywhere": ([direction().ablated_everywhere()], direction().ablated_everywhere()),
    "everywhere and more": (
        [direction().ablated_everywhere(), [[Scale("z.0", 0.0)]]],
        [*direction().ablated_everywhere(), Scale("z.0", 0.0)],
    ),
    "a tuple and a generator": ((Add(SITE, VECTOR),), [Add(SITE, VECTOR)]),
    "Add(site, direction)": (Add("resid_post.0", direction(), 3.0), [Add("resid_post.0", VECTOR, 3.0)]),
    "Add(direction)": (Add(direction()), [Add(SITE, VECTOR)]),
    "Add(direction, 2)": (Add(direction(), 2.0, positions=-1), [Add(SITE, VECTOR, 2.0, -1)]),
    "Ablate(site, direction)": (Ablate("resid_post.0", direction()), [Ablate("resid_post.0", VECTOR)]),
    "Ablate(direction)": (Ablate(direction()), [Ablate(SITE, VECTOR)]),
    "Patch(site, direction)": (Patch(SITE, direction(), -1), [Patch(SITE, VECTOR, -1)]),
    "zero ablation of a head": (Ablate("z.1", heads=[2]), [Patch("z.1", 0.0, heads=[2])]),
    "zero ablation by its name": (Ablate("mlp_out", "zero", -1), [Patch("mlp_out", 0.0, -1)]),
    "zero ablation by number": (Ablate("attn_out.1", 0), [Patch("attn_out.1", 0.0)]),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ALIKE)
def test_what_people_give_is_the_list_that_they_mean(llama: Model, call: str, name: str) -> None:
    given, meant = ALIKE[name]
    found, expected = CALLS[call](llama, given), CALLS[call](llama, meant)
    assert np.array_equal(np.asarray(found), np.asarray(expected))
    if call == "run":
        assert not np.array_equal(np.asarray(found), np.asarray(llama.run(TOKENS).logits))


def test_a_sweep_of_interventions_has_one_variant_for_each(llama: Model) -> None:
    variants: list[Any] = [Scale("z.0", 0.0), direction(), direction().ablated_everywhere(), []]
    as_lists = [[variants[0]], [Add(SITE, VECTOR)], direction().ablated_everywhere(), []]
    assert mx.array_equal(llama.sweep(TOKENS, variants), llama.sweep(TOKENS, as_lists))
    assert llama.sweep(TOKENS, (variant for variant in variants)).shape[0] == 4
    assert llama.sweep(TOKENS, variants[0]).shape[0] == 1


@pytest.mark.parametrize("wrong", ["resid_post.1", {"resid_post.1": VECTOR}, VECTOR, [VECTOR], 3, [[3]], None])
def test_what_is_no_intervention_is_named_shortly(llama: Model, wrong: Any) -> None:
    for call in ("run", "sweep", "generate"):
        with pytest.raises(ShapeError, match=r"is no intervention; a list holds Ablate, Add") as raised:
            CALLS[call](llama, wrong)
        assert len(str(raised.value)) < 200


def test_a_vector_of_another_width_names_itself(llama: Model) -> None:
    with pytest.raises(ShapeError, match=r"Add\(site='q.1', vector=array\(30,\).*give \(8,\)"):
        llama.run(TOKENS, interventions=direction("q.1"))


@pytest.mark.parametrize(("site", "heads"), [("z.1", [2]), ("z.1", 2), ("z", None), ("resid_post.0-1", None)])
@pytest.mark.parametrize("positions", [None, -1, [0, 2]])
def test_a_mean_ablation_writes_the_mean_of_other_prompts(llama: Model, site: str, heads: Any, positions: Any) -> None:
    edits = mi.mean_ablation(llama, site, MORE, heads=heads, positions=positions)
    names = [str(one) for one in llama.sites_of(site)]
    assert [edit.site for edit in edits] == names  # type: ignore[attr-defined]
    changed = llama.run(TOKENS, interventions=[edits], capture=site)
    for name in names:
        rows = [np.asarray(llama.run(tokens, capture=name)[name])[0] for tokens in MORE]
        chosen = [row[:] if positions is None else row[np.atleast_1d(positions)] for row in rows]
        mean = np.concatenate(chosen).mean(axis=0)
        where = slice(None) if positions is None else np.atleast_1d(positions)
        found = np.asarray(changed[name])[0][where]
        if heads is not None:
            found, mean = found[:, 2], mean[2]
        assert np.allclose(found, mean, atol=1e-5)


def test_a_mean_of_nothing_is_refused(llama: Model) -> None:
    with pytest.raises(PromptError, match="a mean needs one at least"):
        mi.mean_ablation(llama, "z.1", [])
    with pytest.raises(PromptError, match="a mean needs one at least"):
        mi.mean_ablation(llama, "z.1", MORE, positions=slice(20, 30))
    with pytest.raises(SiteError, match="patterns of prompts of different lengths have no mean"):
        mi.mean_ablation(llama, "pattern.1", MORE)
    with pytest.raises(PositionError, match=r"mean_ablation: position 4 does not exist, the prompt has 3 tokens"):
        mi.mean_ablation(llama, "z.1", MORE, positions=4)
    with pytest.raises(PromptError, match="no generated positions"):
        mi.mean_ablation(llama, "z.1", MORE, positions="generated")
