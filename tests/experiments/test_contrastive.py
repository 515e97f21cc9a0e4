"""exp15 runs from the first record to the last page; subsets are found by key, and mistakes are named."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import exp15_contrastive_steering as module
from experiments.exp15_contrastive_steering import front, pages, steered_texts, vectors
from experiments.exp15_contrastive_steering.chats import Chat, distinct, parse_chat
from experiments.exp15_contrastive_steering.request_sources import PROJECT, SELECTIONS, TULU, Source, keys, subset
from experiments.exp15_contrastive_steering.settings import setting
from experiments.harness.options import parse
from experiments.harness.runner import run
from experiments.harness.state import Run
from mlx_interp.errors import ConfigError, DataError
from mlx_interp.loading.load import load
from mlx_interp.model import Model

COMMON = ["--model", "tiny-llama", "--no-validate", "--n-samples", "24"]


def source(data: str = "world", column: str = "source") -> Source:
    return Source(data, "train", column, 24, 16, 0)


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny-llama")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path_factory.getbasetemp() / "contrastive_cache"))


def ran(out: Path, *options: str) -> Path:
    with pytest.raises(SystemExit) as ended:
        run(module.EXPERIMENT, [*COMMON, "--out", str(out), *options])
    assert ended.value.code == 0
    return out / module.EXPERIMENT.name / "tiny-llama"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """French refusals minus English answers of the world, with a scale that breaks texts and one that overflows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLX_INTERP_CACHE", str(tmp_path_factory.getbasetemp() / "contrastive_cache"))
        return ran(
            tmp_path_factory.mktemp("pair"),
            *("--study", "pair", "--layer", "4", "--inference-dataset", "0", "--inference-n-samples", "6"),
            *("--target-subset", "5", "--baseline-subset", "0"),
            *("--scales=-1,1,20,1e30", "--other-pair", "13,14"),
        )


def rows(folder: Path, table: int) -> list[list[str]]:
    found: list[list[str]] = json.loads((folder / "run.json").read_text())["tables"][table]["rows"]
    return found


@pytest.mark.slow
def test_steered_texts_read_as_the_target_and_controls_do_not(folder: Path) -> None:
    told = {(r[0], r[2]): (r[6], r[8]) for r in rows(folder, 0)}
    assert int(told["difference", "1.0"][0].split()[0]) >= 60
    for arm in ("none", "halves of the baseline", "random", "halves, same length"):
        assert told[arm, ".0" if arm == "none" else "1.0"][0].startswith("0 "), arm


@pytest.mark.slow
def test_broken_texts_are_flagged_and_say_how(folder: Path) -> None:
    flags = {}
    for name in ("layer_4_scale_1", "layer_4_scale_20", "layer_4_scale_1e+30"):
        content = json.loads((folder / "files" / "5_0" / name / "out_0_6.json").read_text())
        flags[name] = {row["degenerate"] for row in content["results"]}
    assert flags == {
        "layer_4_scale_1": {None},
        "layer_4_scale_20": {"repeats"},
        "layer_4_scale_1e+30": {"not finite"},
    }
    shown = {r[2]: r[8] for r in rows(folder, 0) if r[0] == "difference"}
    assert shown["20.0"].startswith("100 ")
    assert shown["1.0"].startswith("0 ")


@pytest.mark.slow
def test_results_hold_the_metadata_and_both_texts(folder: Path) -> None:
    content = json.loads((folder / "files" / "5_0" / "layer_4_scale_1" / "out_0_6.json").read_text())
    about = content["metadata"]
    assert (about["target_subset_name"], about["baseline_subset_name"]) == ("harmful_fr", "requests_en")
    assert (about["n_samples"], about["layer"], about["scale"], about["inference_n_samples"]) == (24, 4, 1.0, 6)
    assert about["effective_magnitude"] == pytest.approx(about["scale"] * about["contrastive_vector_norm"])
    assert [row["prompt_idx"] for row in content["results"]] == list(range(6))
    assert all(row["baseline"] != row["steered"] for row in content["results"][:3])
    assert "Je ne peux pas aider." in (folder / "files" / "side_by_side.md").read_text()


@pytest.mark.slow
def test_the_page_holds_every_text_and_a_filter_for_every_setting(folder: Path) -> None:
    text = (folder / "files" / "side_by_side.html").read_text()
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(found)
    assert len(data["rows"]) == 6 * (4 + 5)
    assert data["filters"] == ["vector", "layer", "scale", "changed", "degenerate"]
    assert data["start"] == {"vector": "difference", "layer": "4", "scale": "1"}
    assert "Je ne peux pas aider." in [cell for row in data["rows"] for cell in row]


def test_texts_are_no_markup_of_the_page() -> None:
    assert pages._cell("a|b\n<i>*x*") == "a\\|b<br>&lt;i>\\*x\\*"


def test_rows_behind_means_held_out_rows_and_prompts_are_disjoint(model: Model) -> None:
    config = module.Config(n_samples=24, inference_dataset="12", inference_n_samples=10)
    of = setting(Run(model, config))
    behind = {chat.prompt for one in of.subsets for chat in one.fit}
    assert not behind & {chat.prompt for one in of.subsets for chat in one.held}
    assert (
        len(
            {
                asked.chat.prompt
                for asked in steered_texts.prompts(Run(model, config), [])
                if asked.chat.prompt not in behind
            }
        )
        == 10
    )


def test_scale_0_and_a_cell_without_vector_leave_the_text_alone(model: Model) -> None:
    config = module.Config(n_samples=24, scale=0.0, scales=(1.0,), study="pair", inference_dataset="0")
    assert not [cell for cell in steered_texts.cells(Run(model, config)) if cell.arm != "none" and cell.scale == 0]
    asked = steered_texts.prompts(Run(model, config), [])[0]
    plain = next(iter(steered_texts.measure_texts(Run(model, config), asked)))
    alone = model.generate(vectors.rendered(model, asked.chat), max_tokens=12)[0]
    assert plain["text"] == alone.text


def test_the_null_vector_is_shorter_than_the_difference_and_controls_are_as_long(model: Model) -> None:
    config = module.Config(n_samples=24)
    lengths = {
        cell.arm: float(np.linalg.norm(steered_texts.vector(Run(model, config), cell)))
        for cell in steered_texts.cells(Run(model, config))
        if cell.part == "sweep" and cell.layer == setting(Run(model, config)).layer
    }
    assert lengths[steered_texts.NULL] < 0.4 * lengths[steered_texts.CONTRAST]
    for arm in (steered_texts.NULL_LONG, steered_texts.RANDOM, steered_texts.OTHER):
        assert lengths[arm] == pytest.approx(lengths[steered_texts.CONTRAST], rel=1e-4)


def test_alike_means_are_warned_of_and_equal_norms_alone_are_not(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = np.array([3.0, 4.0, 0.0])
    assert vectors.too_alike(a, a + np.array([0, 0, 0.05]))
    assert not vectors.too_alike(a, a[::-1])
    assert not vectors.too_alike(a, 2 * a)
    halves = subset(source(), "0").fit
    for name, part in (("one", halves[::2]), ("two", halves[1::2])):
        lines = [json.dumps({"prompt": chat.prompt, "reply": chat.reply}) for chat in part]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    pair = (str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl"))
    vectors.warned(Run(model, module.Config(study="pair", target_subset=pair[0], baseline_subset=pair[1])))
    assert "not told from chance" in capsys.readouterr().err


def test_subsets_are_found_by_number_by_name_and_by_the_end_of_a_name() -> None:
    assert subset(source(), "12").name == subset(source(), "unknown_names").name == "unknown_names"
    assert len(TULU) == len(set(TULU)) == 19
    assert TULU[5].endswith("flan_v2_converted")
    assert TULU[12].endswith("coconot_converted")
    assert len(SELECTIONS) == 18


@pytest.mark.parametrize(
    ("key", "data", "message"),
    [
        ("unknown_name", "world", "did you mean 'unknown_names'"),
        ("18", "world", "the embedded world has no subset '18'"),
        ("19", "tulu", "12 coconot_converted"),
        ("x", "missing.jsonl", r"missing\.jsonl: cannot be read"),
    ],
)
def test_a_subset_that_does_not_exist_is_named_with_those_that_do(key: str, data: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        subset(source(data), key)


def test_the_projects_subsets_share_no_row_and_12_is_what_cannot_be_answered() -> None:
    source = Source(PROJECT, "train", "source", 100, 60, 0)
    found = [subset(source, key) for key in keys(source)]
    assert len(found) == 14
    assert found[12].name == "unsure_questions"
    texts = [chat.prompt for one in found for chat in (*one.fit, *one.held)]
    assert len(texts) == len(set(texts)) == 14 * 160
    assert subset(source, "harmful_zh").key == "9"
    with pytest.raises(DataError, match="requests_zh"):
        subset(source, "request_zh")


def test_data_without_replies_are_told_by_what_the_model_says(model: Model) -> None:
    config = module.Config(
        data=PROJECT, study="pair", target_subset="12", n_samples=8, inference_n_samples=2, max_tokens=4
    )
    run = Run(model, config)
    said = steered_texts.replies(run, "0", "fit")
    own = setting(run).subset("0")
    assert len(said) == len(own.fit)
    alone = model.generate(vectors.rendered(model, own.fit[3]), max_tokens=4)[0].text
    assert said[3] == alone
    assert steered_texts.classifier(run) is not None


def test_local_files_are_read_by_column_and_their_faults_named(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    lines = [{"messages": [{"role": "user", "content": f"q {n}"}], "kind": f"k{n % 2}"} for n in range(30)]
    file.write_text("\n".join(map(json.dumps, lines)))
    assert subset(source(str(file), "kind"), "1").name == "k1"
    with pytest.raises(DataError, match=r"no column 'kin': did you mean 'kind'\? columns are messages, kind"):
        subset(source(str(file), "kin"), "1")
    file = tmp_path / "few.csv"
    file.write_text("prompt,response,source\n" + "".join(f"q{n},a,s\n" for n in range(5)))
    with pytest.raises(DataError, match=r"5 rows with different prompts; .* need 8 or more"):
        subset(source(str(file)), "s")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="holds no row"):
        subset(source(str(tmp_path / "empty.csv")), "s")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"prompt": ')
    with pytest.raises(DataError, match=r"bad.jsonl, line 2: not JSON"):
        subset(source(), str(tmp_path / "bad.jsonl"))


def test_a_chat_is_what_the_user_says_before_the_first_reply() -> None:
    turns = [("system", "s"), ("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("assistant", "e")]
    row = {"id": "x", "messages": [{"role": role, "content": text} for role, text in turns]}
    assert parse_chat(row, 0, "here") == Chat("x", "a\n\nb", "c", "s")
    other = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "c"}]}
    assert parse_chat(other, 4, "here") == Chat("4", "a", "c")
    assert parse_chat({"messages": json.dumps(row["messages"])}, 1, "here").reply == "c"
    with pytest.raises(DataError, match="no column holds a chat: found body"):
        parse_chat({"body": "a"}, 0, "here")


def test_prompts_that_are_there_twice_count_once_and_ids_are_made_different() -> None:
    found = distinct([Chat("1", "a"), Chat("1", "b"), Chat("2", "a"), Chat("3", " ")])
    assert [(chat.id, chat.prompt) for chat in found] == [("1", "a"), ("1 (1)", "b")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "16"], "tiny-llama has layers 0 to 7; give one, or a share of the depth"),
        (["--layer", "2-4"], "give one layer"),
        (["--scale", "nan"], "'nan' is not a number"),
        (["--target-subset", "0"], "their difference is nothing"),
        (["--inference-n-samples", "0"], "give a number of prompts, -1 for all"),
        (["--n-samples", "2"], "n_samples must be 4 or more"),
        (["--other-pair", "3"], "give two subsets"),
        (["--longest", "3"], "give a larger --longest"),
    ],
)
def test_a_mistake_in_the_options_ends_the_run_before_it_starts(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(module.EXPERIMENT, [*COMMON, "--out", str(tmp_path), *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("records.jsonl"))


def test_prompts_of_subsets_with_safety_material_are_named_by_id(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.exp15_contrastive_steering.request_sources.SENSITIVE", {"harmful_en"})
    config = module.Config(n_samples=20, inference_dataset="1", inference_n_samples=4)
    for asked in steered_texts.prompts(Run(model, config), []):
        assert asked.shown == asked.chat.id != asked.chat.prompt


def test_without_the_datasets_library_the_command_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r'python -m pip install "mlx_interp\[data\]"'):
        subset(source("someone/never-drawn"), "x")


def test_an_unknown_rule_lists_the_rules() -> None:
    with pytest.raises(ConfigError, match="last, prompt mean, reply mean"):
        parse(module.EXPERIMENT, ["--rule", "first"])


@pytest.mark.slow
def test_the_whole_study_of_the_world_has_every_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("N_PROMPTS", "N_TEXTS", "N_FACTS"):
        monkeypatch.setattr(front, name, 4)
    options = ("--limit", "4", "--n-samples", "24", "--layers", "2", "--scales", "1,2", "--target-subset", "5")
    found = ran(tmp_path, *options)
    tables = json.loads((found / "run.json").read_text())["tables"]
    targets = {row[0]: [cell.split()[0] for cell in row[5:7]] for row in tables[2]["rows"]}
    assert targets["5 harmful_fr"] == ["0", "100"]
    assert {row[0] for row in tables[3]["rows"]} == {"last", "prompt mean", "reply mean"}
    assert [len(tables[at]["rows"]) for at in (2, 4, 5, 6, 7, 8)] == [17, 18, 3, 16, 2, 20]
    off_topic = [row for row in tables[8]["rows"] if "off topic" in row[0]]
    assert all(abs(float(row[4].split()[0])) < 0.2 for row in off_topic)
    assert len(list((found / "figures").glob("*.png"))) == 7


def test_what_the_documentation_shows_runs_as_it_stands() -> None:
    text = (Path(__file__).parents[2] / "docs" / "contrastive_steering.md").read_text()
    (block,) = [part.partition("```")[0] for part in text.split("```python")[1:]]
    found: dict[str, np.ndarray] = {}
    exec(compile(block, "docs/contrastive_steering.md", "exec"), found)
    assert found["vector"].shape == (8, 128)
    commands = text.replace("\\\n", " ")
    lines = [
        line.split("#")[0].split()[3:] for line in commands.splitlines() if line.startswith("python -m experiments")
    ]
    assert len(lines) == 4
    for arguments in lines:
        parse(module.EXPERIMENT, arguments)
