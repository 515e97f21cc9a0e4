"""Two-hop methods: shortcuts, names in the lens, knockout windows, descriptions."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.behaviour.answers import contains, mentions, question
from mlx_interp.behaviour.two_hop import screen
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError
from mlx_interp.lenses.logit import lens_at, lens_name_log_probs, logit_lens
from mlx_interp.lenses.patchscopes import DESCRIPTIONS, described, placeholder_position
from mlx_interp.model import Model
from mlx_interp.patching.knockout import knockouts, reach_of, windows

DALLAS = TwoHopQuery(
    family="state_capital",
    subject="Dallas",
    bridge="Texas",
    answer="Austin",
    two_hop="The capital of the state containing Dallas is",
    first_hop="The state containing Dallas is",
    second_hop="The capital of Texas is",
    mention="the state containing Dallas",
)


def test_shortcuts_leave_out_one_part_each() -> None:
    assert DALLAS.entity_shortcut == "The capital of Dallas is"
    assert DALLAS.relation_shortcut == "The capital of the state containing"


def test_a_shortcut_is_seen_where_the_model_takes_it() -> None:
    model = mi.load("tiny-llama")
    query = load_world().two_hop_queries("state_capital", "trained")[0]
    (found,) = screen(model, [query])
    assert found.group == "correct"
    said = model.generate(query.relation_shortcut, max_tokens=4)[0].text
    assert found.relation_shortcut.whole_name == said.strip().startswith(query.answer)
    assert found.shortcut == (found.entity_shortcut.whole_name or found.relation_shortcut.whole_name)


def test_a_name_of_several_tokens_has_the_models_own_log_probability_at_the_last_layer(model: Model) -> None:
    asked = question(model, "3 5 7", ["11 13 17", "19"])
    found = lens_name_log_probs(model, asked)
    best = -np.inf
    for name in asked.names:
        total = 0.0
        for i, token in enumerate(name):
            logits = np.asarray(model.run([3, 5, 7, *name[:i]]).logits)[0].astype(float)
            total += logits[token] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        best = max(best, total)
    assert len(found) == model.n_layers
    assert found[-1] == pytest.approx(best, rel=1e-3, abs=1e-3)


def test_the_lens_at_several_positions_is_the_lens_at_each(llama: Model) -> None:
    both = lens_at(llama, [3, 5, 7, 11], [1, 3])
    for found, position in zip(both, (1, 3), strict=True):
        alone = logit_lens(llama, [3, 5, 7, 11], position)
        # Rows of another number are summed in another order: the contract's bound for a batch against one alone.
        assert mx.abs(found - alone).max() <= 1e-4 * mx.abs(alone).max()


def test_windows_reach_to_both_sides_and_are_cut_at_the_ends() -> None:
    assert windows(4, 1) == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3]]
    assert windows(3, 0) == [[0], [1], [2]]
    assert [reach_of(n) for n in (8, 32, 80)] == [1, 3, 8]


def test_knockouts_are_one_variant_a_layer(llama: Model) -> None:
    variants = knockouts(llama.n_layers, 1, 3, [1])
    grid = llama.sweep([3, 5, 7, 11], variants)
    alone = llama.run([3, 5, 7, 11], interventions=[mi.Knockout([0, 1], query=3, keys=[1])]).logits
    assert len(variants) == llama.n_layers
    assert mx.allclose(grid[0], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Texas: a state", "bridge"),
        ("Dallas, Texas", "subject"),
        ("Austin is in Texas", "bridge"),
        ("Texan", "other"),
        ("", "other"),
    ],
)
def test_a_text_is_of_the_first_entity_in_order_that_it_names_as_words(text: str, found: str) -> None:
    assert described(text, {"subject": ["Dallas"], "bridge": ["Texas"], "answer": ["Austin"]}) == found


def test_names_inside_words_count_by_the_papers_rule_alone() -> None:
    assert contains("They are Texans", ["Texan"])
    assert not mentions("They are Texans", ["Texan"])
    assert mentions("the TEXAN!", ["Texan"])
    assert not contains("a", ["a"])  # single letters never count


def test_the_placeholder_is_the_last_token_and_must_be_there() -> None:
    model = mi.load("tiny-gemma2")
    assert placeholder_position(model, DESCRIPTIONS) == len(model.prompt(DESCRIPTIONS)) - 1
    with pytest.raises(DataError, match="must end in the placeholder"):
        placeholder_position(model, "Paris: a city")
