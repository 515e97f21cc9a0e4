"""exp19: what they record is what the model's own lens shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from experiments.exp19_lenses import EXPERIMENT, attributes, depth, early_exit, injection, token_identity
from experiments.exp19_lenses.lens_texts import READ, split_texts
from experiments.exp19_lenses.parts import Config, parts_of
from experiments.harness.runner import run
from experiments.harness.state import Run
from mlx_interp.behaviour.answers import question, verdicts
from mlx_interp.errors import DataError
from mlx_interp.loading.packaged import PACKAGED_MODELS
from mlx_interp.stats import split_halves
from tests.loading.checkpoints import write_checkpoint

NAME = "tiny-qwen2"
PARTS = "text,input,basis,depth,early_exit,injection,token_identity,reader,attributes"
FEW = ["--n-train-texts", "60", "--n-texts", "18", "--lens-steps", "20"]
FASTER = ["--n-directions", "3", "--n-basis-states", "24", "--basis-steps", "3", "--n-basis-texts", "4"]
FASTER += ["--n-depth", "12", "--tuning-steps", "3", "--n-tuned", "6", "--n-queries", "1"]
FASTER += ["--n-ordinary", "20", "--n-injected", "4", "--n-subjects", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over all parts beside the two-hop queries."""
    out = tmp_path_factory.mktemp("results")
    with pytest.raises(SystemExit) as ended:
        run(EXPERIMENT, ["--model", NAME, "--parts", PARTS, *FEW, *FASTER, "--no-validate", "--out", str(out)])
    assert ended.value.code in (0, None)
    return out / EXPERIMENT.name / NAME


def of(folder: Path, stage: str) -> Iterator[dict[str, Any]]:
    for line in (folder / "records.jsonl").read_text().splitlines():
        if (row := json.loads(line)).get("stage") == stage and "item" in row:
            yield row


@pytest.mark.slow
def test_a_run_leaves_every_table_and_its_figures(finished: Path) -> None:
    table = (finished / "table.md").read_text()
    for title in (
        *("Lenses on held-out text", "Bias of each layer's lens", "Transfer of translators between layers"),
        *("The input's tokens in the logit lens", "Causal basis of lenses"),
        *("Prediction depth of two-hop queries", "Transfer of the lens to a fine-tuned model"),
        *("Token identity: readings of a state", "Token identity against lenses", "Another model as the reader"),
        *("Attributes of entities: Patchscope against probe",),
        *("Early exit on in-context prompts", "A second request found by the prediction's trajectory"),
    ):
        assert title in table
    assert "Bridge and answer" not in table
    assert {path.stem for path in (finished / "figures").glob("*.png")} >= {"bits_per_byte", "bias", "transfer"}


@pytest.mark.slow
def test_the_last_layer_spends_what_the_model_spends_on_the_texts_own_words(finished: Path) -> None:
    model = mi.load(NAME)
    row = next(r for r in of(finished, "lenses on text") if r["item"].startswith("requests"))
    text = next(t for t in split_texts(Run(model, Config(n_train_texts=60, n_texts=18)))[1] if t.key == row["item"])
    logits = model.run(list(text.tokens), logits="all").logits
    assert logits is not None
    log_probs = np.asarray(logits[0] - mx.logsumexp(logits[0], axis=-1, keepdims=True))
    nats = -sum(log_probs[i, token] for i, token in zip(text.read, text.follows, strict=True))
    assert row["nats"][-1] == pytest.approx(nats, rel=1e-2, abs=1e-2)
    reply = text.key.rpartition("<assistant>")[2].removesuffix("<end_of_turn>")
    assert text.n_bytes == pytest.approx(len(reply.encode()), abs=1)


@pytest.mark.slow
def test_texts_to_train_on_are_none_of_those_held_out_and_both_are_of_all_kinds() -> None:
    train, test = split_texts(Run(mi.load(NAME), Config(n_train_texts=60, n_texts=18)))
    assert len(train) == 60
    assert len(test) == 18
    assert not {t.tokens for t in train} & {t.tokens for t in test}
    assert len({t.kind for t in test}) == len({t.kind for t in train}) == 9


@pytest.mark.slow
@pytest.mark.skipif(not PACKAGED_MODELS["smollm2-135m"].installed(), reason="smollm2-135m is not installed: make real")
def test_a_model_of_no_world_reads_the_projects_texts() -> None:
    run = Run(mi.load("smollm2-135m", check=False), Config(n_train_texts=60, n_texts=30))
    train, test = split_texts(run)
    kinds = {"facts", "two hops", "in context", "requests", "questions", "opinions"}
    assert {text.kind for text in train} == {text.kind for text in test} == kinds
    assert not {text.key for text in train} & {text.key for text in test}
    for text in [*train, *test]:
        assert 0 < len(text.read) <= READ
        assert text.follows == tuple(text.tokens[i + 1] for i in text.read)
    assert set(parts_of(run)) == {"text", "input", "basis", "early_exit", "injection", "token_identity", "reader"}
    with pytest.raises(DataError, match="leave this part out"):
        depth.queries(run.under(Config(parts=("depth",))))


def test_a_files_texts_are_cut_into_pieces_and_read_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": f"The capital of number {n} is a word and so on and so forth."}) for n in range(8)]
    path.write_text("\n".join(lines))
    train, test = split_texts(Run(mi.load(NAME), Config(texts=str(path), text_length=8)))
    assert len(train) > 4
    for text in [*train, *test]:
        assert text.read == tuple(range(len(text.tokens)))
        assert text.tokens[1:] == text.follows[:-1]
        assert len(text.tokens) <= 8


@pytest.mark.slow
def test_prompts_with_wrong_labels_keep_their_examples_and_are_asked_the_same(finished: Path) -> None:
    for shots in early_exit.queries(Run(mi.load(NAME), Config(n_queries=2))):
        own, shuffled, foreign = (examples for _, examples in shots.arms)
        assert own.answer == shuffled.answer == foreign.answer
        words = [[p.text for p in examples.pieces if p.role == "input"] for examples in (own, shuffled, foreign)]
        assert words[0] == words[1] == words[2]
        labels = [[p.text for p in examples.pieces if p.role == "label"] for examples in (own, shuffled, foreign)]
        assert sorted(labels[0]) == sorted(labels[1])
        assert labels[0] != labels[2]
    model = mi.load(NAME)
    row = next(r for r in of(finished, "early exit") if r["lens"] == "logit lens" and r["labels"] == "own labels")
    shots = next(s for s in early_exit.queries(Run(model, Config(n_queries=1))) if s.key == row["item"])
    verdict = verdicts(model, [question(model, shots.arms[0][1].text, [shots.arms[0][1].answer])])[0]
    assert row["right"][-1] == verdict.first_token


def test_the_layer_to_exit_at_is_the_one_with_most_right_answers() -> None:
    rows = [{"right": [False, True, True, False]}, {"right": [False, False, True, False]}]
    assert early_exit.best_row(rows) == 2
    assert early_exit.best_row([{"right": [True, True]}]) == 0


def test_ordinary_prompts_that_are_scored_are_none_of_those_fitted_on() -> None:
    for requests in injection.prompts(Run(mi.load(NAME), Config(n_ordinary=30, n_injected=8))):
        scored = [text for _, text in requests.scored]
        assert len(requests.fitted) == 30
        assert len(set(scored)) == len(scored)
        assert not set(requests.fitted) & set(scored)


def test_a_query_is_learnt_from_when_it_stays_right() -> None:
    looks = [(0, [False, True, True, False]), (3, [True, True, False, False]), (6, [True, True, True, False])]
    assert [depth._from_when(looks, row) for row in range(4)] == [3, 0, 6, None]


@pytest.mark.slow
def test_a_fine_tune_learns_its_queries_and_leaves_the_model_as_it_was(finished: Path) -> None:
    model = mi.load(NAME)
    config = Config(n_tuned=6, tuning_steps=12, n_train_texts=20, n_texts=9, lens_steps=2)
    before = model.run("The capital of Jania is").logits
    found = depth.fine_tuned(Run(model, config))
    assert sum(step is not None for step in found.learnt.values()) >= 3
    after = model.run("The capital of Jania is").logits
    assert before is not None
    assert after is not None
    assert mx.array_equal(before, after)
    assert found.model.weights_hash != model.weights_hash


@pytest.mark.slow
def test_the_last_layer_reads_the_models_own_prediction_and_controls_do_not(finished: Path) -> None:
    rows = list(of(finished, "token identity"))
    by_reading = {name: [r["hit"] for r in rows if r["reading"] == name] for name in {r["reading"] for r in rows}}
    for name in ("Patchscope", "logit lens", "tuned lens", "affine map"):
        assert np.mean([hit[-1] for hit in by_reading[name]]) == 1
    assert np.mean(by_reading["random vector"]) < 0.5
    assert np.mean([hit[-1] for hit in by_reading["another text's state"]]) < 0.8


@pytest.mark.slow
def test_a_text_in_another_models_tokens_is_the_same_text(tmp_path: Path) -> None:
    model, reader = mi.load(NAME), mi.load("tiny-llama")
    for text in split_texts(Run(model, Config(n_texts=9)))[1]:
        there = token_identity.own_tokens(reader, text, model)
        assert there is not None
        back = token_identity.own_tokens(model, there, reader)
        assert back == text
        assert there.tokens == (reader.tokenizer.bos_token_id, *text.tokens)
        assert [there.tokens[i] for i in there.read] == [text.tokens[i] for i in text.read]
    with pytest.raises(DataError, match="does not cut text"):
        token_identity.reader_of(Run(model, Config(n_texts=9, reader=str(write_checkpoint(tmp_path)))))


def test_no_subject_of_a_probe_of_cities_is_asked_and_no_source_prompt_asks_for_the_relation() -> None:
    found = attributes.relations(Config(n_subjects=6))
    assert len(found) == 12
    for relation in found:
        if relation.name.endswith("of a city"):
            assert not {s for _, s, _ in relation.fitted} & {s for _, s, _ in relation.asked}
            assert {a for _, _, a in relation.asked} <= {a for _, _, a in relation.fitted}
        else:
            assert not {p for p, _, _ in relation.fitted} & {p for p, _, _ in relation.asked}
        for prompt, subject, answer in (*relation.fitted, *relation.asked):
            assert prompt.endswith(subject)
            assert answer not in prompt.replace(subject, "")
            assert relation.name.split(",")[0] not in prompt


def test_a_pair_is_chosen_on_one_half_and_scored_on_the_other() -> None:
    items = [f"item {n}" for n in range(8)]
    hits = np.zeros((8, 3))
    half, rest = split_halves(items, 0)
    hits[[items.index(i) for i in half], 1] = 1
    hits[[items.index(i) for i in rest], 2] = 1
    column, rows = attributes.chosen(items, hits, 0)
    assert column == 1
    assert [items[row] for row in rows] == rest


def test_the_page_on_lenses_shows_code_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "lenses.md").read_text()
    exec(compile(page.partition("```python\n")[2].partition("```")[0], "docs/lenses.md", "exec"), {})
    assert capsys.readouterr().out.rstrip().endswith("7 Bremium")
