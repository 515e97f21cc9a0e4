"""A stage's record type is what its records are held to when written, and what --help prints."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, get_args, get_type_hints

import pytest

from experiments.harness.experiment import Experiment, Stage
from experiments.harness.options import parse
from experiments.harness.registry import experiment, names
from experiments.harness.runner import run_experiment
from experiments.harness.schema import InBatch, check_record, field_lines, fits
from experiments.harness.state import Run
from mlx_interp.errors import RunError
from tests.experiments import fake_study

SOURCES = Path(__file__).parents[2] / "experiments"


class Counted(TypedDict):
    family: str
    counts: bool
    """Whether the query counts."""


class Graded(Counted):
    rank: int | None
    log_prob: float
    arms: list[Literal["own", "other"]]
    by_arm: dict[str, float]


GOOD: dict[str, Any] = {
    "family": "a",
    "counts": True,
    "rank": None,
    "log_prob": -1,
    "arms": ["own", "other"],
    "by_arm": {},
}


def test_a_record_of_its_type_passes_with_the_runners_fields_in_front() -> None:
    check_record({"stage": "one", "item": "x", **GOOD}, Graded, "here")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"famly": "a"}, r"here: no field 'famly' in Graded: did you mean 'family'\? fields are family, counts, rank"),
        ({"rank": 1.5}, "here: rank = 1.5 is not int or None, as Graded says; correct the one or the other"),
        ({"rank": True}, "rank = True is not int or None"),
        ({"counts": 1}, "counts = 1 is not bool"),
        ({"arms": ["own", "third"]}, r"is not list of own\|other"),
        ({"log_prob": None}, "log_prob = None is not float"),
    ],
)
def test_another_record_is_refused_by_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        check_record({**GOOD, **change}, Graded, "here")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(RunError, match="field 'rank' of Graded is missing; write None if it has none"):
        check_record({name: value for name, value in GOOD.items() if name != "rank"}, Graded, "here")


class Spaced(Counted, TypedDict("Spaced", {"rank at last": int})):  # type: ignore[misc]
    said: NotRequired[str]
    """What was said, if anything."""


def test_a_field_may_be_absent_and_a_name_may_have_spaces() -> None:
    record = {"family": "a", "counts": True, "rank at last": 3}
    check_record(record, Spaced, "here")
    check_record({**record, "said": "yes"}, Spaced, "here")
    with pytest.raises(RunError, match="said = None is not str, as Spaced says"):
        check_record({**record, "said": None}, Spaced, "here")
    with pytest.raises(RunError, match="the field 'rank at last' of Spaced is missing"):
        check_record({"family": "a", "counts": True}, Spaced, "here")
    assert list(field_lines(Spaced))[-2:] == [
        "    rank at last: int",
        "    said: str or absent  What was said, if anything.",
    ]


def test_help_does_not_say_twice_that_a_record_of_a_batch_names_its_item() -> None:
    class Batched(InBatch):
        family: str

    check_record({"item": "x", "family": "a"}, Batched, "here")
    assert list(field_lines(Batched)) == ["    family: str"]


def test_types_of_json() -> None:
    assert fits({"a": 1}, dict[str, int])
    assert not fits({"a": "b"}, dict[str, int])
    assert not fits("ab", list[str])


def test_texts_below_fields_are_printed_those_of_the_type_it_extends_too() -> None:
    assert list(field_lines(Graded)) == [
        "    family: str",
        "    counts: bool  Whether the query counts.",
        "    rank: int or None",
        "    log_prob: float",
        "    arms: list of own|other",
        "    by_arm: dict of float",
    ]


def of_type(record: type) -> Experiment[fake_study.Config]:
    screen, grid = fake_study.EXPERIMENT.stages
    return replace(fake_study.EXPERIMENT, stages=[replace(screen, record=record), grid])


def test_help_prints_the_fields_of_records(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(of_type(Counted), ["--help"])
    assert "  screen\n    family: str\n    counts: bool  Whether the query counts." in capsys.readouterr().out


def test_a_run_stops_at_a_record_of_another_type(tmp_path: Path) -> None:
    study = of_type(Graded)
    options = parse(study, ["--model", "tiny-llama", "--out", str(tmp_path), "--no-validate"])
    with pytest.raises(RunError, match=r"stage 'screen', record of .*: the field 'rank' of Graded is missing"):
        run_experiment(study, options, load=fake_study.load)


def test_a_stage_may_serve_a_study_with_more_options() -> None:
    def items(run: Run[fake_study.Config], earlier: Sequence[dict[str, Any]]) -> list[fake_study.Item]:
        return []

    def measure(run: Run[fake_study.Config], item: fake_study.Item) -> Iterator[Counted]:
        yield from ()

    class More(fake_study.Config):
        pass

    stage: Stage[More, fake_study.Item, Counted] = Stage("one", items, measure, record=Counted)  # what mypy checks
    assert stage.record is Counted


@pytest.mark.parametrize("name", names())
def test_every_stage_of_every_study_says_what_its_measure_yields(name: str) -> None:
    for stage in experiment(name).stages:
        assert get_args(get_type_hints(stage.measure)["return"])[0] is stage.record, stage.name
        assert list(field_lines(stage.record)), stage.name


def test_no_stage_can_do_without_a_record_type() -> None:
    with pytest.raises(TypeError, match="record"):
        Stage("one", lambda run, earlier: [], lambda run, item: [])  # type: ignore[call-arg]


@pytest.mark.parametrize("name", names())
def test_every_field_of_a_record_type_is_written_by_some_code_of_the_studies(name: str) -> None:
    for stage in experiment(name).stages:
        unwritten = set(get_type_hints(stage.record)) - keys_in_code()
        assert not unwritten, stage.name


@cache
def keys_in_code() -> frozenset[str]:
    """Keys of dicts, and of fields that are set, in the sources of all studies; also those of types made by a call."""
    found: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            keys = node.keys if isinstance(node, ast.Dict) else [node.slice] if isinstance(node, ast.Subscript) else []
            found |= {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return frozenset(found)
