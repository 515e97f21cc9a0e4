"""Steering of experts: rates are what single runs count, a planted difference ranks first, what is wanted is taken."""

from __future__ import annotations

import re

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import directions
from mlx_interp.errors import DataError, UnsupportedModel
from mlx_interp.model import Model
from tests.tiny import tiny_model

TEXTS = [[3, 5, 7, 11], [3, 9, 2, 31, 6, 8], [4, 4, 17]]
OTHERS = [[41, 23, 19, 2, 7], [29, 31], [37, 41, 5, 6]]


@pytest.fixture(scope="module")
def experts() -> Model:
    return tiny_model("qwen3_moe")


def counted(model: Model, texts: list[list[int]], layer: int, start: int = 0) -> np.ndarray:
    """Shares of tokens that take each expert, one text after the other."""
    chosen = [np.asarray(model.run(text, capture=f"experts.{layer}")[f"experts.{layer}"])[0, start:] for text in texts]
    tokens = np.concatenate(chosen)
    return np.array([(tokens == expert).any(-1).mean() for expert in range(model.network.n_experts)])


@pytest.mark.parametrize("start", [0, 1])
def test_rates_are_what_single_runs_count(experts: Model, start: int) -> None:
    found = directions.expert_differences(experts, TEXTS, OTHERS, responses_from=([start] * 3, [start] * 3))
    assert found.n_tokens == (13 - 3 * start, 11 - 3 * start)
    for number, layer in enumerate(found.layers):
        for kind, texts in enumerate((TEXTS, OTHERS)):
            assert found.rates[kind, number] == pytest.approx(counted(experts, texts, layer, start))
    assert found.rates.sum(-1) == pytest.approx(experts.network.n_chosen)


def test_an_expert_that_is_planted_for_one_kind_of_token_ranks_first() -> None:
    """Layer 1's router answers to token 50's embedding, which one kind of text has everywhere, with expert 2 alone."""
    model = tiny_model("qwen3_moe")
    embedding = model.network.decoder.embed_tokens
    rows = mx.zeros_like(embedding.weight)
    rows[50, 0], rows[51, 0] = 100.0, -100.0
    embedding.weight = embedding.weight + rows
    gate = model.network.layers[1].mlp.gate
    weight = mx.zeros_like(gate.weight)
    weight[2, 0] = 10.0
    gate.weight = weight
    found = directions.expert_differences(model, [[50] * 5, [50] * 7], [[51] * 6])
    layer, expert, difference = next(row for row in found.ranked() if row[0] == 1)
    assert (layer, expert, difference) == (1, 2, 1.0)


@pytest.mark.parametrize("towards", [0, 1])
def test_steering_forces_the_experts_of_what_is_wanted_and_forbids_those_of_the_other(
    experts: Model, towards: int
) -> None:
    found = directions.expert_differences(experts, TEXTS, OTHERS)
    edits = found.interventions(4, towards=towards)
    assert sum(len(edit.forced) + len(edit.forbidden) for edit in edits) == 4
    chosen = experts.run(OTHERS[0], capture="experts", interventions=edits)
    for edit in edits:
        row = np.asarray(chosen[f"experts.{edit.layers}"])[0]
        assert all((row == expert).any(-1).all() for expert in edit.forced)
        assert not np.isin(row, edit.forbidden).any()
        signs = found.differences[found.layers.index(int(str(edit.layers)))]
        assert all((signs[expert] > 0) == (towards == 0) for expert in edit.forced)
        assert all((signs[expert] > 0) == (towards == 1) for expert in edit.forbidden)


def test_most_experts_that_can_be_steered_leave_every_token_its_number(experts: Model) -> None:
    found = directions.expert_differences(experts, TEXTS, OTHERS)
    with pytest.raises(DataError, match=r"there are (\d+) whose shares differ") as refused:
        found.interventions(10_000)
    steerable = int(re.findall(r"there are (\d+)", str(refused.value))[0])
    assert steerable > 4
    edits = found.interventions(steerable)
    assert sum(len(edit.forced) + len(edit.forbidden) for edit in edits) == steerable
    experts.run(TEXTS[0], interventions=edits)  # the engine refuses more than a layer takes


def test_the_control_steers_as_many_in_each_layer(experts: Model) -> None:
    found = directions.expert_differences(experts, TEXTS, OTHERS)
    edits = found.interventions(5)
    control = found.random_interventions(edits, seed=1)
    shape = [(edit.layers, len(edit.forced), len(edit.forbidden)) for edit in edits]
    assert [(edit.layers, len(edit.forced), len(edit.forbidden)) for edit in control] == shape
    numbers, again = (
        [(edit.forced, edit.forbidden) for edit in one] for one in (control, found.random_interventions(edits, seed=1))
    )
    assert numbers == again != [(edit.forced, edit.forbidden) for edit in edits]
    experts.run(TEXTS[0], interventions=control)


def test_mistakes_are_named(experts: Model, llama: Model) -> None:
    with pytest.raises(UnsupportedModel, match="has no experts to steer by"):
        directions.expert_differences(llama, TEXTS, OTHERS)
    with pytest.raises(DataError, match="0 texts of a kind"):
        directions.expert_differences(experts, TEXTS, [])
    with pytest.raises(DataError, match="position 4 of a text of 4 tokens"):
        directions.expert_differences(experts, TEXTS, OTHERS, responses_from=([4, 0, 0], [0, 0, 0]))
    found = directions.expert_differences(experts, TEXTS, OTHERS)
    with pytest.raises(DataError, match="towards 2"):
        found.interventions(1, towards=2)
    with pytest.raises(DataError, match="0 experts"):
        found.interventions(0)
