"""exp17 end to end on a few texts, and the parts of it whose right answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.exp17_train_saes import EXPERIMENT, Config, dictionaries_compared, feature_truth, runs, texts
from experiments.harness.options import parse
from experiments.harness.runner import run_experiment
from experiments.harness.state import Run
from experiments.shared.project_texts import IN_CONTEXT
from mlx_interp import Model, load
from mlx_interp.loading.packaged import PACKAGED_MODELS
from mlx_interp.sae import load as load_sae
from tests.pages.reading import page_data

TINY = {
    "kinds": "topk,jumprelu",
    "steps": "20",
    "batch_size": "128",
    "n_texts": "9",
    "n_tasks": "16",
    "expansion": "2",
    "k": "4,16",
    "widths": "1",
    "layer_step": "8",
    "per_concept": "4",
    "reseeds": "1",
    "shift_languages": "en,es",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exp17")
    chosen = [f"--set={name}={value}" for name, value in TINY.items()]
    arguments = ["--model", "tiny-gemma2", "--out", str(out), "--no-validate", f"--set=save_to={out}/saes/{{model}}"]
    return run_experiment(EXPERIMENT, parse(EXPERIMENT, [*arguments, *chosen]))[0]


@pytest.mark.slow
def test_a_run_leaves_all_tables_both_curves_and_the_page_of_features(folder: Path) -> None:
    table = (folder / "table.md").read_text()
    for title in ("Kinds over sparsity", "Controls", "Layers", "Width", "Nested", "Training text", "by position"):
        assert title in table
    for title in ("Ground truth", "k-sparse probing", "Stability", "shuffled", "raw neurons"):
        assert title in table
    for title in ("Metrics over seeds", "A spurious cue removed by its latents", "Latents judged"):
        assert title in table
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"pareto_fve", "pareto_delta", "ground_truth_f1"} <= figures

    page = (folder / "files" / "features.html").read_text(encoding="utf-8")
    assert len(page_data(page)["features"]) > 3
    assert "Content-Security-Policy" in page  # nothing of it comes from elsewhere


@pytest.mark.slow
def test_the_autoencoders_it_leaves_are_read_back(folder: Path) -> None:
    saved = sorted((folder.parents[1] / "saes" / "tiny-gemma2").iterdir())
    assert len(saved) >= 2
    assert all(load_sae(path).site == path.name for path in saved)


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny-gemma2")


@pytest.mark.slow
def test_nothing_measured_was_trained_on(model: Model) -> None:
    trained = {tuple(prompt.tokens) for prompt in texts.training_prompts(Run(model, Config()), 0, 200)}
    assert not trained & {tuple(text.prompt.tokens) for text in texts.measured_texts(Run(model, Config()), 0, 30)}
    for group in ("entity", "harmful"):
        chosen = texts.labelled(Run(model, Config()), group, 30)
        held_out = [p for p, out in zip(chosen.prompts, chosen.held_out, strict=True) if out]
        assert not [p for p in held_out if any(tuple(p.tokens) == t[: len(p)] for t in trained)]


def test_labels_stand_at_the_token_that_carries_them(model: Model) -> None:
    entity = texts.labelled(Run(model, Config()), "entity", 3)
    for prompt, position in list(zip(entity.prompts, entity.positions, strict=True))[:20]:
        before = model.tokenizer.decode(prompt.tokens[: position + 1])
        assert before.rstrip().endswith(prompt.text.removesuffix(" is").rsplit(" ", 1)[-1])
    task = texts.labelled(Run(model, Config()), "task", 3)
    assert all(p.strings[i].endswith(">") for p, i in zip(task.prompts, task.positions, strict=True))


@pytest.mark.slow
def test_a_scored_start_is_the_token_before_the_answer(model: Model) -> None:
    for text in texts.measured_texts(Run(model, Config()), 0, 30):
        if text.group == "two_hop":
            rest = model.tokenizer.decode(text.prompt.tokens[text.start + 1 :])
            assert text.prompt.text.endswith(rest.strip())


def test_a_dictionary_that_knows_the_states_gets_them_right(model: Model) -> None:
    """Labels put into the activations by hand are found by the feature that reads them, and only by it."""
    rng = np.random.default_rng(0)
    is_train, is_test = rng.random((2, 300, 4)) < 0.3
    columns = rng.standard_normal((2, 300, 20))
    for concept in range(4):
        columns[0][:, 3 * concept] += 20 * is_train[:, concept]
        columns[1][:, 3 * concept] += 20 * is_test[:, concept]
    found = feature_truth.best_detectors(columns[0], is_train, columns[1], is_test)
    assert [one.column for one in found] == [0, 3, 6, 9]
    assert all(one.f1 > 0.99 for one in found)


def test_seeds_of_controls_differ_from_the_one_they_are_compared_with(model: Model) -> None:
    first, *others = runs.items(Run(model, Config()), ())
    partners = dictionaries_compared.seed_items(Run(model, Config()), ())
    assert first.seed == 0
    assert all(one.seed != 0 for one in partners)
    assert len({one.key for one in (first, *others)}) == len(others) + 1


MODEL = "smollm2-135m"


@pytest.fixture(scope="module")
def trained() -> Run[Config]:
    if not PACKAGED_MODELS[MODEL].installed():
        pytest.skip(f"{MODEL} is not installed: make real")
    return Run(load(MODEL), Config())


@pytest.mark.slow
def test_a_trained_model_is_measured_on_none_of_the_texts_it_was_trained_on(trained: Run[Config]) -> None:
    known = {tuple(prompt.tokens) for prompt in texts.training_prompts(trained, 0, 60)}
    held = texts.measured_texts(trained, 0, 30)
    assert not known & {tuple(text.prompt.tokens) for text in held}
    assert {text.group for text in held} == {"two_hop", "task", "chat"}
    queries = [text.prompt.text for text in held if text.group == "two_hop"]
    seen = {trained.model.tokenizer.decode(list(tokens)) for tokens in known}
    assert not [query for query in queries if query in seen]


@pytest.mark.slow
def test_a_trained_model_s_requests_are_scored_without_the_chat_template(trained: Run[Config]) -> None:
    decode = trained.model.tokenizer.decode
    for text in texts.measured_texts(trained, 0, 30):
        unscored = decode(list(text.prompt.tokens[: text.start + 1]))
        if text.group == "chat":
            assert "<|im_start|>user\n" in unscored
            assert len(unscored.rsplit("<|im_start|>user\n", 1)[1]) < 20
        else:
            assert text.start == 1


@pytest.mark.slow
def test_a_trained_model_s_labels_stand_where_their_meaning_is_known(trained: Run[Config]) -> None:
    decode = trained.model.tokenizer.decode
    entity = texts.labelled(trained, "entity", 3)
    assert ("Texas", True) in set(zip(entity.labels, decoded_end(trained, entity, "Dallas"), strict=True))
    harmful = texts.labelled(trained, "harmful", 2)
    assert set(harmful.within) == {"en", "de", "es", "fr", "zh"}
    assert all(position == len(p) - 1 for p, position in zip(harmful.prompts, harmful.positions, strict=True))
    task = texts.labelled(trained, "task", 2)
    assert all(decode(list(p.tokens)).endswith("A:") for p in task.prompts)
    assert set(task.labels) == set(IN_CONTEXT)


def decoded_end(run: Run[Config], chosen: texts.Labelled, subject: str) -> list[bool]:
    """Whether each labelled token ends a subject."""
    decode = run.model.tokenizer.decode
    pairs = zip(chosen.prompts, chosen.positions, strict=True)
    return [decode(list(p.tokens[: position + 1])).endswith(subject) for p, position in pairs]


def test_the_shipped_config_is_of_this_study() -> None:
    path = Path(runs.__file__).parents[1] / "configs" / "sae_balanced.yaml"
    found = parse(EXPERIMENT, ["--config", str(path), "--model", "tiny-llama"]).config
    assert found.kinds == ("topk",)
    assert found.store == "stores/{model}/balanced"
