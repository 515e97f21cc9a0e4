"""exp8 and exp11 run from the first record to the last figure; task files that are none are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mlx_interp as mi
from experiments import exp8_function_vectors, exp11_function_vectors_v2
from experiments.function_vectors.mediation import MediationConfig
from experiments.function_vectors.report import decoded_table
from experiments.function_vectors.tasks import FILES, TaskConfig, halves, prompts, queries, read_task, tasks
from experiments.runner import run
from mlx_interp.errors import DataError

SMALL = [
    "--n-test",
    "4",
    "--n-effects",
    "2",
    "--n-means",
    "8",
    "--no-validate",
    "--set",
    "tasks=antonym,plural,capital",
]


def result(module, out: Path) -> dict:  # type: ignore[no-untyped-def, type-arg]
    with pytest.raises(SystemExit) as ended:
        run(module.EXPERIMENT, ["--model", "tiny-llama", "--out", str(out), *SMALL])
    assert ended.value.code == 0
    folder = out / module.EXPERIMENT.name / "tiny-llama"
    assert list((folder / "figures").glob("*.png"))
    return json.loads((folder / "run.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("module", [exp8_function_vectors, exp11_function_vectors_v2], ids=lambda m: m.EXPERIMENT.name)
def test_a_study_runs_from_the_first_record_to_the_last_figure(module, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = result(module, tmp_path)
    assert found["status"] == "complete"
    assert all(table["rows"] for table in found["tables"])


def test_heads_come_from_one_half_and_figures_from_the_other() -> None:
    model, config = mi.load("tiny-llama"), TaskConfig(tasks=("antonym",))
    one, two = halves(model, config, "antonym")
    assert not {x for x, _ in one.pairs} & {x for x, _ in two.pairs}
    for query in queries(model, config, 1, 12):
        text = prompts(model, config, query, 1)["examples"].prompt.text
        examples = [part.split(" -> ")[0] for part in text.split(", ")[:-1]]
        assert set(examples) <= {x for x, _ in one.pairs}


def test_published_files_load_as_they_are_and_damaged_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "antonym.json"
    rows = [{"input": f"word{n}", "output": f"other{n}"} for n in range(30)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert read_task(path).pairs[3] == ("word3", "other3")
    config = TaskConfig(data=str(tmp_path))
    assert list(tasks(mi.load("tiny-llama"), config)) == ["antonym"]
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
        tasks(model, TaskConfig(shots=20, tasks=("antonym",)))
    with pytest.raises(DataError, match="did you mean 'antonym'"):
        tasks(model, TaskConfig(tasks=("antonim",)))
    with pytest.raises(DataError, match="holds no task"):
        tasks(model, TaskConfig(data=str(tmp_path)))


def test_twenty_five_tasks_and_more_ship_with_forty_pairs_each() -> None:
    files = sorted(FILES.glob("*.json"))
    assert len(files) >= 25
    for path in files:
        assert len(read_task(path).pairs) >= 40, path.stem


def test_a_task_whose_answers_all_begin_alike_comes_with_a_warning() -> None:
    records = [
        {"stage": "base", "task": name, "item": f"{name} {n}", "prompt": "examples", "right": True}
        for name in ("alike", "apart")
        for n in range(3)
    ]
    for name, shared in (("alike", 1.0), ("apart", 0.0)):
        for arm in ("function vector", "random heads"):
            labels = {"stage": "vocabulary", "task": name, "item": name, "arm": arm}
            records.append({**labels, "tokens": ["a"], "answers": 0, "shared": shared})
    table = decoded_table(records, MediationConfig())
    assert "Scored loosely by first token: alike**" in " ".join(table.notes)
