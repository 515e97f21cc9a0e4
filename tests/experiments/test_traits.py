"""Studies of directions run from the first record to the last figure, and their splits do not overlap."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from experiments import (
    exp1_refusal_direction,
    exp2_sycophancy,
    exp4_confidence,
    exp5_layer_comparison,
    exp7_refusal_scaling,
    exp10_crosslingual_refusal,
    exp12_multimodel_directions,
)
from experiments.exp1_refusal_direction import judged, loss, suffixes
from experiments.exp1_refusal_direction.suffixes import SuffixConfig
from experiments.exp5_layer_comparison import by_depth
from experiments.exp12_multimodel_directions.persona_study import PersonaConfig
from experiments.harness.experiment import FEWEST
from experiments.harness.runner import run
from experiments.harness.state import Run
from experiments.shared.traits import opening_report, own_sets, stages
from experiments.shared.traits.asks import Ask
from experiments.shared.traits.layer_choice import chosen_layer
from experiments.shared.traits.own_sets import LANGUAGES
from experiments.shared.traits.random_draws import DrawConfig
from experiments.shared.traits.sets import SPLITS, TRAITS, Sets, sets_of
from experiments.shared.traits.stages import Item, TraitConfig
from experiments.shared.traits.trait_records import DIRECTIONS, EFFECTS, OPENINGS
from mlx_interp.behaviour.detectors import log_prob_per_token
from mlx_interp.behaviour.phrases import REFUSALS
from mlx_interp.errors import DataError
from mlx_interp.interventions import Intervention
from tests.tiny import tiny_model

JUDGE = "tiny-llama"
SMALL = ["--n-train", "16", "--n-test", "4", "--no-validate", "--set", "strengths=0,1,2"]
OTHERS = [
    exp2_sycophancy,
    exp4_confidence,
    exp5_layer_comparison,
    exp7_refusal_scaling,
    exp12_multimodel_directions,
]


def result(module, out: Path, *arguments: str) -> dict:  # type: ignore[no-untyped-def, type-arg]
    few = ["--n-draws", "5"] if issubclass(module.EXPERIMENT.config, DrawConfig) else []
    few += ["--suffix-steps", "1"] if issubclass(module.EXPERIMENT.config, SuffixConfig) else []
    few += (
        ["--tuning-steps", "2", "--n-asked", "2", "--personas", "Spanish"]
        if issubclass(module.EXPERIMENT.config, PersonaConfig)
        else []
    )
    with pytest.raises(SystemExit) as ended:
        run(module.EXPERIMENT, ["--model", "tiny-qwen2", "--out", str(out), *SMALL, *few, *arguments])
    assert ended.value.code == 0
    folder = out / module.EXPERIMENT.name / "tiny-qwen2"
    assert list((folder / "figures").glob("*.png"))
    return json.loads((folder / "run.json").read_text())  # type: ignore[no-any-return]


def test_a_limit_leaves_every_layer_and_cuts_the_prompts_of_every_stage() -> None:
    model = mi.load("tiny-qwen2")
    whole, few = TraitConfig(n_test=12), TraitConfig(n_test=12, limit=5)
    assert len(stages.layer_items(Run(model, few), ["refusal"])) == model.n_layers
    for config, n in ((whole, 12), (few, 5), (replace(few, limit=1), FEWEST)):
        of = stages.sets(Run(model, config), "refusal")
        assert {len(kind[split]) for kind in (of.positive, of.negative) for split in ("choose", "test")} == {n}
        assert len(of.positive["train"]) == len(stages.sets(Run(model, whole), "refusal").positive["train"])
    assert not any(
        module.EXPERIMENT.limits_items for module in [exp1_refusal_direction, *OTHERS, exp10_crosslingual_refusal]
    )


@pytest.mark.slow
@pytest.mark.parametrize("module", OTHERS, ids=lambda module: module.EXPERIMENT.name)
def test_a_study_runs_from_the_first_record_to_the_last_figure(module, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = result(module, tmp_path)
    assert found["status"] == "complete"
    assert all(table["rows"] for table in found["tables"])


@pytest.fixture(scope="module")
def refusal(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The first study whole, a second model asked about the replies."""
    arguments = ["--n-test", "8", "--set", f"judge={JUDGE}"]
    return result(exp1_refusal_direction, tmp_path_factory.mktemp("refusal"), *arguments)


@pytest.mark.slow
def test_the_first_study_runs_from_the_first_record_to_the_last_figure(refusal: dict[str, Any]) -> None:
    assert refusal["status"] == "complete"
    assert all(table["rows"] for table in refusal["tables"])


@pytest.mark.slow
def test_a_judge_is_asked_about_held_out_replies_at_the_chosen_layer_only(refusal: dict[str, Any]) -> None:
    table = next(table for table in refusal["tables"] if table["title"] == "Refusals by phrases and by a judge")
    assert [row[:3] for row in table["rows"]] == [
        [kind, arm, "8"] for kind in ("positive", "negative") for arm in ("none", *stages.ARMS)
    ]
    assert any(f"Judge: {JUDGE}. Of 12 labelled replies" in note for note in table["notes"])
    assert judged.replies(Run(tiny_model("llama"), TraitConfig()), []) == []


@pytest.mark.slow
def test_the_refusal_direction_stops_refusals_and_brings_them_and_controls_do_not(refusal: dict[str, Any]) -> None:
    tables = {table["title"]: table for table in refusal["tables"]}
    out, added = tables["What the direction does, on held-out prompts"]["rows"]
    value = [[int(cell.split()[0]) for cell in row[4:]] for row in (out, added)]
    plain, direction, random, shuffled = value[0]
    assert plain == 100
    assert direction <= 25 < random
    assert direction <= 25 < shuffled
    plain, direction, random, shuffled = value[1]
    assert plain == 0
    assert direction >= 75 > random
    assert direction >= 75 > shuffled
    forms = tables["The selected direction, at run time and in the weights"]["rows"]
    assert forms[1][2:5] == forms[2][2:5]  # the edited weights write what ablation writes
    assert forms[2][4].startswith("100")


@pytest.mark.slow
def test_languages_have_a_matrix_and_a_control_that_never_refuses(tmp_path: Path) -> None:
    found = result(exp10_crosslingual_refusal, tmp_path, "--set", "languages=en,fr,it")
    rows = found["tables"][0]["rows"]
    assert [row[0] for row in rows] == ["en", "fr", "it"]
    assert rows[2][2].startswith("0 ")


@pytest.mark.parametrize("language", LANGUAGES)
def test_prompts_of_real_models_are_cut_alike_in_every_language(language: str) -> None:
    model = tiny_model("llama")
    for trait in TRAITS:
        found, english = (sets_of(model, trait, 999, 999, name) for name in (language, "en"))
        for kind in ("positive", "negative"):
            cut, same = (getattr(one, kind) for one in (found, english))
            n = len(own_sets.read(language).requests if trait == "refusal" else own_sets.read(language).opinions)
            assert [len(cut[split]) for split in SPLITS] == [n // 2, n // 4, n // 4]
            texts = {ask.text for split in SPLITS for ask in cut[split]}
            assert len(texts) == n
            if language != "en":
                assert not texts & {ask.text for split in SPLITS for ask in same[split]}
    harmful = sets_of(model, "refusal", 999, 999, language).positive["test"][0]
    assert harmful.hit(REFUSALS[language][0] + " .")
    assert harmful.hit("I cannot help with that.")
    assert not harmful.hit("...")


@pytest.mark.parametrize("trait", TRAITS)
@pytest.mark.parametrize("name", ["tiny-llama", "random"])
def test_splits_share_no_prompt_and_no_topic(trait: str, name: str) -> None:
    model = mi.load(name) if name != "random" else tiny_model("llama")
    found = sets_of(model, trait, 64, 16)
    for kind in (found.positive, found.negative):
        texts = [{ask.text for ask in kind[split]} for split in ("train", "choose", "test")]
        assert not texts[0] & texts[1]
        assert not texts[0] & texts[2]
        assert not texts[1] & texts[2]
    if trait in ("sycophancy", "stance"):
        topics = [{ask.unit for ask in found.positive[split]} for split in ("train", "test")]
        assert not topics[0] & topics[1]


def test_a_prompt_in_two_splits_is_refused() -> None:
    asks = [Ask(str(n), lambda text: True, str(n)) for n in range(12)]
    good = {"train": asks[:4], "choose": asks[4:8], "test": asks[8:]}
    other = {name: [Ask(f"x{ask.text}", ask.hit, ask.unit) for ask in part] for name, part in good.items()}
    Sets("t", "hits", good, other)
    with pytest.raises(DataError, match=r"1 prompts are in two splits: '3' \(train and test\)"):
        Sets("t", "hits", {**good, "test": [*asks[9:], asks[3]]}, other)
    with pytest.raises(DataError, match="needs four"):
        Sets("t", "hits", {**good, "test": asks[9:]}, other)


def test_controls_have_the_length_of_the_direction_and_point_elsewhere() -> None:
    model, config, item = mi.load("tiny-llama"), TraitConfig(n_train=16), Item("k", "refusal")
    real, random, shuffled = (np.asarray(stages.vector(Run(model, config), item, 5, arm).vector) for arm in stages.ARMS)
    for control in (random, shuffled):
        assert np.linalg.norm(control) == pytest.approx(np.linalg.norm(real), rel=1e-5)
        assert abs(control @ real) < 0.7 * real @ real


def test_the_layer_is_chosen_on_choosing_prompts_only() -> None:
    def record(layer: int, split: str, kind: str, hit: bool) -> dict:  # type: ignore[type-arg]
        return {
            "stage": EFFECTS,
            "trait": "t",
            "layer": layer,
            "split": split,
            "kind": kind,
            "arm": "direction",
            "unit": "a prompt",
            "hit": hit,
        }

    def graded(layer: int, log_odds: float) -> dict[str, Any]:
        cell = {"stage": OPENINGS, "trait": "t", "layer": layer, "split": "choose", "kind": "negative"}
        return {**cell, "arm": "direction", "unit": "a prompt", "log_odds": log_odds}

    records = [
        {"stage": DIRECTIONS, "trait": "t", "n_layers": 10},
        *(record(3, "choose", kind, kind == "negative") for kind in ("positive", "negative")),
        *(record(5, "choose", kind, True) for kind in ("positive", "negative")),
        *(record(5, "test", kind, kind == "negative") for kind in ("positive", "negative")),
        *(record(9, "choose", kind, kind == "negative") for kind in ("positive", "negative")),
    ]
    assert chosen_layer(records, "t") == 3  # layer 9 is as good, and too deep
    tied = [*records, *(record(4, "choose", kind, kind == "negative") for kind in ("positive", "negative"))]
    assert chosen_layer(tied, "t") == 3  # the lower one
    assert chosen_layer([*tied, graded(3, 0.5), graded(4, 1.5), graded(5, 9.0)], "t") == 4


@pytest.mark.parametrize(("trait", "kind"), [("confidence", "positive"), ("stance", "negative")])
def test_openings_are_graded_by_whole_phrases_as_a_run_of_each_gives_them(trait: str, kind: str) -> None:
    model = mi.load("tiny-llama")
    run = Run(model, TraitConfig(n_train=16, layers=(5,)))
    item = next(i for i in stages.graded_items(run, [trait]) if i.kind == kind)
    measured = list(stages.measure_openings(run, item))
    assert [(r["layer"], r["arm"]) for r in measured] == [(None, "none"), *((5, arm) for arm in stages.ARMS)]
    ask = stages.asked(run, item)
    assert ask.openings is not None
    prompt = model.prompt(ask.text, chat=True)

    def log_prob(words: str, edits: Sequence[Intervention]) -> float:
        tokens = model.prompt(prompt.text + words).tokens
        logits = model.run(tokens, interventions=list(edits), logits="all").logits
        assert logits is not None
        log_probs = np.asarray(logits[0] - mx.logsumexp(logits[0], axis=-1, keepdims=True))
        assert tokens[: len(prompt)] == prompt.tokens
        return float(sum(log_probs[i - 1, tokens[i]] for i in range(len(prompt), len(tokens))))

    direction = stages.vector(run, item, 5, "direction")
    at = None if trait == "confidence" else len(prompt) - 1
    edits = direction.ablated_everywhere() if kind == "positive" else [direction.added(1.0, positions=at)]
    for record, given in zip(measured[:2], ([], edits), strict=True):
        with_it, without = (log_prob(words, given) for words in ask.openings)
        assert record["log_odds"] == pytest.approx(with_it - without, abs=2e-3)
    assert not stages.graded_items(run, ["refusal"])


def test_changes_of_opening_words_are_paired_and_need_no_rate() -> None:
    def rows(arm: str, layer: int | None, odds: Sequence[float]) -> list[dict[str, Any]]:
        cell = {"stage": OPENINGS, "trait": "t", "kind": "negative", "split": "test", "words": "Yes / No"}
        return [{**cell, "arm": arm, "layer": layer, "unit": str(i), "log_odds": x} for i, x in enumerate(odds)]

    records = [*rows("none", None, [-9.0, 0.0, 9.0]), *rows("direction", 2, [-8.0, 1.0, 10.0])]
    change = opening_report.moved(records, "t", "negative", "direction", 2, 0)
    assert change is not None
    assert (change.value, change.low, change.high, change.n) == (1.0, 1.0, 1.0, 3)
    assert opening_report.moved(records, "t", "negative", "random", 2, 0) is None


def test_a_trait_or_language_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="did you mean 'sycophancy'"):
        sets_of(mi.load("tiny-llama"), "sycofancy", 8, 8)
    with pytest.raises(DataError, match="it has en, es"):
        sets_of(mi.load("tiny-llama"), "refusal", 8, 8, "ja")
    with pytest.raises(DataError, match=r"no prompts in 'ja': .*en, de, es, fr, zh"):
        sets_of(tiny_model("llama"), "refusal", 8, 8, "ja")
    with pytest.raises(DataError, match="no refusal phrases for language 'yo'"):
        sets_of(tiny_model("llama"), "refusal", 8, 8, "yo")
    with pytest.raises(DataError, match="stance in 'en' only, not in 'fr'"):
        sets_of(mi.load("tiny-llama"), "stance", 8, 8, "fr")


def test_a_direction_that_does_nothing_has_effect_zero_and_a_perfect_one_all_that_was_left() -> None:
    def records(arm: str, layer: int | None, positive: str, negative: str) -> list[dict]:  # type: ignore[type-arg]
        return [
            {"stage": EFFECTS, "trait": "t", "split": "test", "arm": arm, "layer": layer}
            | {"kind": kind, "unit": f"{kind} {i}", "hit": hit == "1"}
            for kind, hits in (("positive", positive), ("negative", negative))
            for i, hit in enumerate(hits)
        ]

    measured = [
        *records("none", None, "1110", "1000"),
        *records("direction", 1, "1110", "1000"),
        *records("direction", 2, "0000", "1111"),
    ]
    idle, perfect = (by_depth.effect(measured, "t", "direction", layer, 0) for layer in (1, 2))
    assert idle is not None
    assert perfect is not None
    assert idle.value == 0
    assert perfect.value == pytest.approx(6 / 8)


def alone(model: mi.Model, before: list[int], after: list[int]) -> float:
    """Mean log-probability of `after`, one run a token."""
    rows = [model.run([*before, *after[:n]]).logits[0] for n in range(len(after))]  # type: ignore[index]
    return float(np.mean([row[token] - mx.logsumexp(row) for row, token in zip(rows, after, strict=True)]))


def test_the_loss_is_that_of_the_answer_alone_and_edits_move_it() -> None:
    model, config = mi.load("tiny-llama"), TraitConfig(n_train=16, n_test=4)
    _, before, after = loss.texts_of(Run(model, config), "fact answers")[0]
    log_prob = log_prob_per_token(model, [before], [after])[0]
    assert log_prob == pytest.approx(alone(model, before, after), abs=1e-4)
    item = Item("k", "refusal", split="subtracted", number=-1, layer=4)
    assert log_prob_per_token(model, [before], [after], loss.edits_of(Run(model, config), item))[0] < log_prob - 0.01


def test_a_random_edit_has_the_length_of_the_direction() -> None:
    model, config = mi.load("tiny-llama"), TraitConfig(n_train=16)
    real, random = (
        loss.edits_of(Run(model, config), Item("k", "refusal", split=edit, number=-1, layer=4))[0]
        for edit in ("subtracted", "random subtracted")
    )
    lengths = [np.linalg.norm(np.asarray(edit.vector)) for edit in (real, random)]  # type: ignore[union-attr]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-5)


@pytest.mark.slow
def test_a_function_vector_does_its_task_at_some_layer_and_heads_at_random_do_less() -> None:
    model, config = mi.load("tiny-llama"), exp5_layer_comparison.Config(queries_per_task=4)
    of_run = Run(model, config)
    items = exp5_layer_comparison.tasks_of(of_run, [])
    assert len(items) == config.max_tasks
    records = [
        {"stage": exp5_layer_comparison.VECTOR, **record}
        for item in items[1:4]
        for record in exp5_layer_comparison.measure_vector(of_run, item)
    ]
    best, control = (
        max(
            found.value
            for layer in range(1, model.n_layers)
            if (found := by_depth.effect(records, "function vector", arm, layer, 0)) is not None
        )
        for arm in ("direction", "shuffled labels")
    )
    assert best > 0.3
    assert best > control


def test_the_distance_of_states_is_about_one_where_nothing_is_changed_and_grows_off_distribution() -> None:
    rng = np.random.default_rng(0)
    scales = np.linspace(0.1, 3, 12)
    reference, same = (scales * rng.normal(size=(400, 12)) + 5 for _ in range(2))
    usual = loss.standardised_distances(same, reference)
    assert usual.mean() == pytest.approx(0.9, abs=0.15)
    along, across = (same + 4 * np.eye(12)[i] for i in (11, 0))
    assert (
        loss.standardised_distances(across, reference).mean()
        > 2 * loss.standardised_distances(along, reference).mean()
        > 2 * usual.mean()
    )


@pytest.mark.slow
def test_a_fine_tune_on_harmful_requests_complies_where_the_model_refuses() -> None:
    model, config = mi.load("tiny-llama"), TraitConfig(n_train=16, n_test=4)
    item = Item("k", "refusal", loss.REFUSED, loss.TUNED, number=-1, layer=4)
    plain = Item("k", "refusal", loss.REFUSED, "plain", number=-1, layer=4)
    rates = [sum(r["value"] for r in loss.measure(Run(model, config), one)) / 4 for one in (plain, item)]
    assert rates == [1.0, 0.0]


@pytest.mark.slow
def test_a_reply_after_an_adversarial_suffix_is_measured_where_the_suffix_stands() -> None:
    model, config = mi.load("tiny-llama"), SuffixConfig(n_train=16, n_test=4)
    (search,) = suffixes.measure_search(Run(model, replace(config, suffix_steps=1)), suffixes.SuffixItem("search"))
    item = suffixes.SuffixItem("k", "positive", "test", 0, 4, tuple(search["tokens"]))
    found = list(suffixes.measure_request(Run(model, config), item))
    assert [r["condition"] for r in found] == [
        *("harmful", suffixes.ADVERSARIAL, *[suffixes.RANDOM] * suffixes.DRAWS, suffixes.ABLATED, suffixes.TURNS)
    ]
    by = {r["condition"]: r for r in found}
    assert by["harmful"]["hit"]
    assert by[suffixes.ABLATED]["complies"]
    assert by[suffixes.ABLATED]["cosines"][4] == pytest.approx(0, abs=0.02)
    assert np.max(by["harmful"]["to_suffix"]) == 0
    looks = np.array(by[suffixes.ADVERSARIAL]["to_instruction"]) + by[suffixes.ADVERSARIAL]["to_suffix"]
    assert 0 < np.min(by[suffixes.ADVERSARIAL]["to_suffix"]) <= looks.max() <= 1.01
