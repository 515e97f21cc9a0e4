"""exp8 and exp11 run from the first record to the last figure; task files that are none are named."""

from __future__ import annotations

import json
from pathlib import Path

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from experiments import exp8_function_vectors, exp11_function_vectors_v2
from experiments.exp11_function_vectors_v2 import composition, heads, vocabulary
from experiments.exp11_function_vectors_v2.vector_report import data_table
from experiments.harness.runner import run
from experiments.harness.state import Run
from experiments.shared.in_context import mediation, transfer
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.mediation import MediationConfig
from experiments.shared.in_context.tasks import FILES, TaskConfig, halves, prompts, queries, read_task, tasks, written
from mlx_interp.errors import DataError
from mlx_interp.in_context.demonstrations import Examples

SMALL = [
    "--n-test",
    "4",
    "--n-effects",
    "2",
    "--n-means",
    "8",
    "--no-validate",
    "--set",
    "tasks=antonym,plural",
]


def result(module, out: Path) -> dict:  # type: ignore[no-untyped-def, type-arg]
    with pytest.raises(SystemExit) as ended:
        run(module.EXPERIMENT, ["--model", "tiny-llama", "--out", str(out), *SMALL])
    assert ended.value.code == 0
    folder = out / module.EXPERIMENT.name / "tiny-llama"
    assert list((folder / "figures").glob("*.png"))
    return json.loads((folder / "run.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("module", [exp8_function_vectors, exp11_function_vectors_v2], ids=lambda m: m.EXPERIMENT.name)
def test_a_study_runs_from_the_first_record_to_the_last_figure(module, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = result(module, tmp_path)
    assert found["status"] == "complete"
    assert all(table["rows"] for table in found["tables"])


def test_heads_come_from_one_half_and_figures_from_the_other() -> None:
    model, config = mi.load("tiny-llama"), TaskConfig(tasks=("antonym",))
    one, two = halves(Run(model, config), "antonym")
    assert not {x for x, _ in one.pairs} & {x for x, _ in two.pairs}
    for query in queries(Run(model, config), 1, 12):
        text = prompts(Run(model, config), query, 1)["examples"].prompt.text
        examples = [part.split(" -> ")[0] for part in text.split(", ")[:-1]]
        assert set(examples) <= {x for x, _ in one.pairs}


def test_what_people_say_for_an_output_is_accepted_and_words_of_the_synthetic_world_have_one_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(of_tasks, "question", lambda model, text, names: names)
    model, made = mi.load("tiny-llama"), Examples("country-currency", "India ->", "India", "rupee")
    real, world = TaskConfig(data=str(FILES)), TaskConfig()
    assert of_tasks.asked(Run(model, real), made) == ["rupee", "rupees", "Indian rupee", "INR"]
    assert of_tasks.asked(Run(model, world), made) == ["rupee"]


def test_published_files_load_as_they_are_and_damaged_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "antonym.json"
    rows = [{"input": f"word{n}", "output": f"other{n}"} for n in range(30)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert read_task(path).pairs[3] == ("word3", "other3")
    config = TaskConfig(data=str(tmp_path))
    assert list(tasks(Run(mi.load("tiny-llama"), config))) == ["antonym"]
    doubled = [*rows, {"input": "word3", "output": "another"}]
    path.write_text(json.dumps(doubled), encoding="utf-8")
    assert (dict(read_task(path).pairs)["word3"], read_task(path).conflicts) == ("other3", 1)
    path.write_text(json.dumps(rows)[:-40], encoding="utf-8")
    with pytest.raises(DataError, match="was it cut off"):
        read_task(path)
    path.write_text(json.dumps([{"input": "a"}]), encoding="utf-8")
    with pytest.raises(DataError, match="pair 1 needs input and output"):
        read_task(path)


def test_too_few_pairs_and_unknown_tasks_are_refused(tmp_path: Path) -> None:
    model = mi.load("tiny-llama")
    with pytest.raises(DataError, match="need 42: give more pairs"):
        tasks(Run(model, TaskConfig(shots=20, tasks=("antonym",))))
    with pytest.raises(DataError, match="did you mean 'antonym'"):
        tasks(Run(model, TaskConfig(tasks=("antonim",))))
    with pytest.raises(DataError, match="holds no task"):
        tasks(Run(model, TaskConfig(data=str(tmp_path))))


def test_twenty_five_tasks_and_more_ship_with_forty_pairs_each() -> None:
    files = sorted(FILES.glob("*.json"))
    assert len(files) >= 25
    for path in files:
        assert len(read_task(path).pairs) >= 40, path.stem


def test_a_task_whose_answers_all_begin_alike_comes_with_a_warning() -> None:
    row = {"stage": "data", "pairs": 9, "repeats": 0, "conflicts": 0, "commonest": 0.1, "leak": 0.0, "warning": ""}
    records = [
        {**row, "task": name, "item": name, "shared": shared} for name, shared in (("alike", 1.0), ("apart", 0.0))
    ]
    assert "Scored loosely by first token: alike**" in " ".join(data_table(records, MediationConfig()).notes)


def test_heads_layer_and_strength_are_chosen_on_pairs_that_no_figure_is_of() -> None:
    model, config = mi.load("tiny-llama"), MediationConfig(tasks=("antonym", "plural"), n_test=12)
    effects = [{"stage": "effects", "task": name, "item": name, "effects": [[0.0] * 4] * 8} for name in config.tasks]
    chosen = {item.key for item in mediation.choice_items(Run(model, config), effects)}
    assert chosen
    assert not chosen & {query.key for query in queries(Run(model, config), 1, 99)}
    counts, layers, strengths = mediation.grid(Run(model, config))
    assert max(counts) <= model.n_layers * model.n_heads // 2
    assert (counts[0], strengths[0]) == (mediation.n_heads(Run(model, config)), 1.0)
    assert max(layers) < model.n_layers


def test_the_setting_is_the_one_most_often_right_and_ties_go_to_fewer_heads() -> None:
    grid = {"stage": "choice", "task": "t", "heads": [6, 12], "layers": [0, 1], "strengths": [1.0, 2.0]}
    plain = [[[0, 1], [1, 1]], [[1, 1], [0, 0]]]  # (heads, layer, strength)
    other = [[[0, 1], [0, 0]], [[1, 1], [0, 0]]]
    none = [[[0, 0], [0, 0]], [[0, 0], [0, 0]]]
    late = [[[0, 0], [0, 0]], [[0, 0], [0, 1]]]
    tied = [{**grid, "item": "a", "right": [plain, plain]}, {**grid, "item": "b", "right": [other, other]}]
    chosen, paper, best_plain = mediation.settings(tied)
    assert (chosen.k, chosen.layer, chosen.strength, chosen.centred) == (6, 0, 2.0, False)
    assert (paper.k, paper.layer, paper.strength) == (6, 1, 1.0)
    assert best_plain == chosen
    chosen, paper, best_plain = mediation.settings([{**grid, "item": "a", "right": [none, late]}])
    assert (chosen.k, chosen.layer, chosen.strength, chosen.centred) == (12, 1, 2.0, True)
    assert not paper.centred
    assert not best_plain.centred


def test_a_centred_vector_is_what_a_task_has_of_its_own() -> None:
    model, config = mi.load("tiny-llama"), MediationConfig(tasks=("antonym", "plural"), n_means=6)
    some = ((0, 1), (2, 3))
    plain = [mediation.task_vector(Run(model, config), name, some, False) for name in config.tasks]
    own = [mediation.task_vector(Run(model, config), name, some, True) for name in config.tasks]
    assert float(mx.abs(own[0] + own[1]).max()) < 1e-4
    assert np.allclose(np.asarray(own[0] - own[1]), np.asarray(plain[0] - plain[1]), atol=1e-4)


def test_weighted_attention_counts_the_values_of_the_heads_own_group() -> None:
    pattern = mx.array([[[[1.0, 0.0], [0.5, 0.5]], [[1.0, 0.0], [0.25, 0.75]]]])  # 1 layer, 2 heads, 2 x 2
    v = mx.array([[[[3.0, 4.0]], [[0.0, 15.0]]]])  # (layer, key, kv head, d_head): lengths 5 and 15, one kv head
    plain, weighted = heads.from_last(pattern, v)
    assert np.allclose(plain[0], [[0.5, 0.5], [0.25, 0.75]])
    assert np.allclose(weighted[0], [[0.25, 0.75], [0.1, 0.9]])


def test_prefix_matching_is_attention_to_what_followed_the_same_token() -> None:
    model, config = mi.load("tiny-llama"), MediationConfig()
    query = heads.induction_items(Run(model, config), [])[0]
    found = next(iter(heads.measure_induction(Run(model, config), query)))
    n = found["tokens"]
    captured: list[list[int]] = []
    run = model.run
    model.run = lambda tokens, **options: captured.append(tokens) or run(tokens, **options)  # type: ignore[method-assign,assignment,func-returns-value]
    try:
        list(heads.measure_induction(Run(model, config), query))
    finally:
        del model.run
    tokens = captured[0]
    assert tokens[-n:] == tokens[-2 * n : -n]
    pattern = np.asarray(run(tokens, capture="pattern").stack("pattern")[3, 0, 1].astype(mx.float32))
    start = len(tokens) - n
    expected = np.mean([pattern[q, q - n + 1] for q in range(start, len(tokens) - 1)])
    assert found["scores"][3][1] == pytest.approx(expected, abs=1e-4)


def test_other_places_are_where_their_names_say() -> None:
    model, config = mi.load("tiny-llama"), MediationConfig(tasks=("antonym",), n_test=4)
    query = queries(Run(model, config), 0, 1)[0]
    one = written(Run(model, config), query, 0)["examples"]
    prompt = model.prompt(one.text)
    shots = [part.split(" -> ") for part in one.text.split(", ")]

    def text(place: str) -> str:
        at = heads._where(prompt, one.pieces, place)
        return one.text[prompt.spans[at[0]][0] : prompt.spans[at[-1]][1]].strip()

    assert text("label of the first example") == shots[0][1]
    assert (text("input of the last example"), text("label of the last example")) == tuple(shots[-2])
    assert text("separator behind it") == ","
    assert text("query") == one.query
    assert heads._where(prompt, one.pieces, "last token") == [len(prompt) - 1]


def test_a_rebuilt_vector_says_what_the_vector_says() -> None:
    model = mi.load("tiny-llama")
    vector = model.run("hot -> cold, big ->", capture="resid_post.7").stack("resid_post.7")[0, 0, -1].astype(mx.float32)
    made, left = vocabulary.rebuilt(model, vector, 0, seed=0, steps=200)
    _, untrained = vocabulary.rebuilt(model, vector, 0, seed=0, steps=0)
    assert left < 0.2 < untrained
    assert float(mx.linalg.norm(made)) == pytest.approx(float(mx.linalg.norm(vector)), rel=1e-3)


def test_written_answers_are_scored_by_words_and_running_text_in_its_own_case() -> None:
    assert transfer.written_scores("New Delhi", "New Delhi") == {"exact": 1.0, "first_word": 1.0, "f1": 1.0}
    assert transfer.written_scores("New York", "New Delhi") == {"exact": 0.0, "first_word": 1.0, "f1": 0.5}
    assert transfer.said("means the art of it.", "art")
    assert not transfer.said("at the start", "art")
    assert not transfer.said("The Past", "past")


def test_sums_take_away_what_both_share_and_lists_ask_for_one_item() -> None:
    image, kind, both, own = (mx.array([float(n)]) for n in (1, 10, 100, 0))
    found = {arm: float(value[0]) for arm, value in composition.combined(image, kind, both, own).items()}
    assert (found["sum"], found["wrong sum"]) == (-89.0, 109.0)
    task = mi.FunctionTask("t", tuple((f"x{n}", f"y{n}") for n in range(9)))
    for place, at in (("first", 0), ("last", -1)):
        for x, y in composition.list_task(task, place, True, 0).pairs:
            assert dict(task.pairs)[x.split(", ")[at]] == y
        for x, y in composition.list_task(task, place, False, 0).pairs:
            assert x.split(", ")[at] == y
