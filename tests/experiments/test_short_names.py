"""A study goes by its number wherever its name is taken."""

from __future__ import annotations

import importlib
import sys

import pytest

from experiments.__main__ import main
from experiments.harness.short_names import ShortNames, know_short_names
from mlx_interp.studies import study_called, study_names


@pytest.mark.parametrize("name", ["exp9", "exp9_back_patching", "exp1", "exp19"])
def test_a_short_name_is_one_study(name: str) -> None:
    full = study_called(name)
    assert full in study_names()
    assert full.partition("_")[0] == name.partition("_")[0]


@pytest.mark.parametrize("name", ["exp", "exp99", "", "harness", "exp9_back"])
def test_what_names_no_study_or_several_is_none(name: str) -> None:
    assert study_called(name) is None


def test_the_short_module_is_the_study_s_own_and_is_imported_once() -> None:
    short, full = importlib.import_module("experiments.exp3"), importlib.import_module("experiments.exp3_two_hop")
    assert short is full
    assert full.__spec__ is not None
    assert full.__spec__.name == full.__name__ == "experiments.exp3_two_hop"
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'experiments\.exp99'"):
        importlib.import_module("experiments.exp99")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("experiments.harness.exp9")


def test_the_finder_is_there_once() -> None:
    know_short_names()
    assert sum(isinstance(finder, ShortNames) for finder in sys.meta_path) == 1


@pytest.mark.parametrize("name", ["exp3", "exp3_two_hop"])
def test_the_list_of_studies_runs_one_by_either_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["experiments"])
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("usage: python -m experiments.exp3_two_hop")
