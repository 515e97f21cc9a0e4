"""Heads exchanged between prompts: all of them make the other prompt, and their number comes from one half alone."""

from __future__ import annotations

import mlx_interp as mi  # isort: split

import numpy as np
import pytest

from experiments.exp11_function_vectors_v2 import interchange
from experiments.exp11_function_vectors_v2.interchange import (
    ARMS,
    CHOSEN,
    CORRUPTED,
    DONORS,
    EFFECT,
    LAST,
    OTHER_TASK,
    OTHERS,
    PLACES,
    QUERY,
    SMALLEST,
    counts,
    enough,
    exchange,
    removed,
)
from experiments.exp11_function_vectors_v2.report_interchange import interchange_table, needed
from experiments.harness.state import Run
from experiments.shared.in_context.mediation import MediationConfig
from experiments.shared.in_context.tasks import queries
from mlx_interp.in_context.function_vectors import interchanged
from mlx_interp.reporting import Record
from mlx_interp.stats import Estimate

CONFIG = MediationConfig(tasks=("antonym", "plural", "noun_french"), n_test=3)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("donor", DONORS)
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2"])
def test_all_heads_exchanged_give_the_other_prompt_and_none_the_own(name: str, donor: str, place: str) -> None:
    """At the last token nothing but heads reaches back to the examples: with all of them it is the other prompt."""
    model = mi.load(name)
    made = exchange(Run(model, CONFIG), queries(Run(model, CONFIG), 1, 1)[0], 1)
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    where = made.where[place]
    found = np.asarray(model.sweep(made.asked.prompt, [[], interchanged(made.z[donor, place], every, where)]))
    own, other = (np.asarray(model.run(asked.prompt).logits)[0] for asked in (made.asked, made.donors[donor]))
    assert np.abs(own - other).max() > 0.1
    np.testing.assert_allclose(found[0], own, atol=1e-3)
    np.testing.assert_allclose(found[1], other, atol=1e-3)


def test_the_exchanged_positions_are_the_query_in_both_prompts() -> None:
    model = mi.load("tiny-llama")
    for query in queries(Run(model, CONFIG), 1, 3):
        made = exchange(Run(model, CONFIG), query, 1)
        n = len(made.where[QUERY])
        tails = [asked.prompt.tokens[-n:] for asked in (made.asked, *made.donors.values())]
        assert tails[0] == tails[1] == tails[2]
        assert model.tokenizer.decode(tails[0]).split() == f"{query.key.split(': ')[1]} ->".split()
        assert made.where[LAST] == (-1,)


def test_other_examples_are_of_another_task_and_labels_do_not_belong_to_their_inputs() -> None:
    model = mi.load("tiny-llama")
    pairs = {name: dict(interchange.of_tasks.tasks(Run(model, CONFIG))[name].pairs) for name in CONFIG.tasks}
    for query in queries(Run(model, CONFIG), 1, 3):
        made = exchange(Run(model, CONFIG), query, 1)
        shots = {
            name: dict(part.split(" -> ") for part in asked.prompt.text.split(", ")[:-1])
            for name, asked in made.donors.items()
        }
        assert any(shots[OTHER_TASK].items() <= pairs[name].items() for name in CONFIG.tasks if name != query.task)
        assert not shots[CORRUPTED].items() <= pairs[query.task].items()


def record(stage: str, item: str, right: list[int], base: bool = False, which: str = CHOSEN) -> Record:
    labels = {"donor": OTHER_TASK, "place": LAST, "ranking": EFFECT, "heads": which, "task": "t"}
    return {"stage": stage, "item": item, **labels, "counts": [1, 2, 4], "right": right, "base": base}


def test_the_share_removed_goes_from_all_right_to_what_the_other_prompt_gives() -> None:
    found = [record("x", str(n), [1, int(n < 6), int(n < 2)], base=n < 2) for n in range(10)]
    shares = [removed(found, k, 0) for k in (1, 2, 4)]
    assert [share.value for share in shares if share] == pytest.approx([0.0, 0.5, 1.0])
    assert shares[1] is not None
    assert shares[1].low < 0.5 < shares[1].high
    assert removed([record("x", str(n), [1, 1, 1], base=True) for n in range(3)], 1, 0) is None


def test_the_number_of_heads_is_the_smallest_that_suffices_on_the_first_half() -> None:
    first = [record(interchange.FIRST, str(n), [1, 0, 0]) for n in range(10)]
    second = [record(interchange.SECOND, str(n), [0, 1, 1]) for n in range(10)]
    assert enough([*first, *second], OTHER_TASK, LAST, EFFECT, 0)[0] == 2
    none = [record(interchange.FIRST, str(n), [1, 1, int(n < 5)]) for n in range(10)]
    k, share = enough(none, OTHER_TASK, LAST, EFFECT, 0)
    assert (k, share and share.value) == (4, 0.5)


def test_needed_means_destroyed_by_the_chosen_heads_and_spared_by_others() -> None:
    def at(value: float) -> Estimate:
        return Estimate(value, value, value, 9)

    assert needed(at(0.8), at(0.2)) == "yes"
    assert needed(at(0.79), at(0.0)) == "not destroyed"
    assert needed(at(0.9), at(0.21)) == "destroyed, by others as well"
    assert needed(None, at(0.0)) == "no gap"


def test_heads_of_each_arm_are_what_its_name_says() -> None:
    order = [(layer, head) for layer in (1, 0) for head in (3, 1, 2, 0)]
    rng = np.random.default_rng(0)
    assert interchange.chosen_heads(order, CHOSEN, 3, rng) == order[:3]
    assert interchange.chosen_heads(order, SMALLEST, 3, rng) == order[-3:]
    assert set(interchange.chosen_heads(order, OTHERS, 4, rng)) == set(order[4:])
    assert set(interchange.chosen_heads(order, interchange.ANY, 8, rng)) == set(order)
    assert counts(32) == [1, 2, 4, 6, 8, 10, 12, 14, 16]
    assert counts(448)[-1] == 224


def test_nothing_of_the_second_half_reaches_rankings_or_numbers() -> None:
    model = mi.load("tiny-llama")
    held_out = {query.key for query in queries(Run(model, CONFIG), 1, 99)}
    effects = [{"stage": "effects", "task": name, "item": name, "effects": [[0.0] * 4] * 8} for name in CONFIG.tasks]
    needs = [{**r, "stage": interchange.NEEDS, "needs": r["effects"]} for r in effects]
    assert not held_out & {trial.key for trial in interchange.first_items(Run(model, CONFIG), [*effects, *needs])}
    trial = interchange.first_items(Run(model, CONFIG), [*effects, *needs])[0]
    rows = list(interchange.measure_first(Run(model, CONFIG), trial))
    assert {row["heads"] for row in rows} <= {CHOSEN}
    assert {(row["place"], row["ranking"]) for row in rows} <= {(p, arm[0]) for p in PLACES for arm in ARMS[p]}


def test_the_table_reads_the_second_half_at_the_number_of_the_first() -> None:
    records = [record(interchange.FIRST, str(n), [1, 0, 0]) for n in range(10)]
    records += [record(interchange.SECOND, str(n), [1, 0, 1]) for n in range(10)]
    records += [record(interchange.SECOND, str(n), [1, 1, 0], which=OTHERS) for n in range(10)]
    table = interchange_table(records, CONFIG)
    assert table is not None
    row = table.rows[0]
    assert (row[3], row[-1]) == (2, "yes")
