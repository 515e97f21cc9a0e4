"""The fake study as a program in processes of its own, without the seconds that a fresh interpreter takes to import."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from mlx_interp.reporting import plots
from tests.experiments import fake_study


@dataclass(frozen=True)
class Setting:
    """What the fake world is like."""

    pause: float = 0.0
    weights: str = "abc"
    gate_passes: bool = True
    n_figures: int = 0
    """How many of the study's figures are made: they are what takes time."""


@dataclass(frozen=True)
class Ended:
    """A program that has ended."""

    code: int | None
    out: str
    err: str


def _program(arguments: list[str], setting: Setting, log: Path) -> None:
    """Becomes the program: its own output files, exit status and signals."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        target = os.open(log.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, stream.fileno())
    fake_study.PAUSE = setting.pause
    plots.DPI = 50
    study = replace(fake_study.EXPERIMENT, figures=fake_study.EXPERIMENT.figures[: setting.n_figures])

    def load(name: str) -> fake_study.FakeModel:
        return replace(fake_study.load(name), weights_hash=setting.weights)

    def gate(model: object, *, level: str, cache_dir: Path) -> fake_study.FakeReport:
        return fake_study.FakeReport(setting.gate_passes)

    fake_study.run(study, arguments, load=load, gate=gate)


@dataclass(frozen=True)
class Study:
    """Starts the study."""

    folder: Path

    def start(self, *arguments: str, setting: Setting | None = None) -> tuple[BaseProcess, Path]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.experiments.conftest"])
        log = self.folder / f"log{len(list(self.folder.glob('log*')))}"
        log.touch()
        process = context.Process(target=_program, args=(list(arguments), setting or Setting(), log))
        process.start()
        return process, log

    def __call__(self, *arguments: str, setting: Setting | None = None) -> Ended:
        process, log = self.start(*arguments, setting=setting)
        process.join(60)
        return ended(process, log)


def ended(process: BaseProcess, log: Path) -> Ended:
    texts = [path.read_text() if path.exists() else "" for path in (log.with_suffix(".out"), log.with_suffix(".err"))]
    return Ended(process.exitcode, *texts)


@pytest.fixture
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study(tmp_path_factory.mktemp("logs"))
