"""exp0: a study of numbers, for the tests of the runner.

Question   Does a resumed run end with the files of one that was never stopped?
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

from experiments.harness.experiment import Experiment, ExperimentConfig, Plan, Records, Stage
from experiments.harness.runner import run
from experiments.harness.schema import InBatch
from experiments.harness.state import Run
from mlx_interp.errors import UnknownModel
from mlx_interp.reporting import Column, Panel, Plot, Series, Table, heat_map, line_with_band
from mlx_interp.stats import mean_interval, mean_or_none

# Seconds a measurement takes: a run that is to be killed has to last.
PAUSE = float(os.environ.get("FAKE_PAUSE", "0"))
LAYERS = 4


@dataclass(frozen=True)
class Config(ExperimentConfig):
    position: Literal["bridge", "last"] = "last"
    """Where to patch: end of the first hop, or end of the prompt."""
    strength: float = 1.0
    """How much of it, in 100 % of the norm."""
    layers: tuple[int, ...] = (0, 1)
    """Which layers."""
    data: str | None = None
    """A file of names, one a line, instead of the built-in ones."""
    rescale: bool = False
    """Whether to keep the norm."""


@dataclass(frozen=True)
class Item:
    key: str
    family: str


@dataclass(frozen=True)
class FakeModel:
    name: str
    model_id: str = "test/fake"
    weights_hash: str = os.environ.get("FAKE_WEIGHTS", "abc") + (
        "other" if os.environ.get("FAKE_OTHER_WEIGHTS") == os.environ.get("MLX_RANK", "none") else ""
    )
    quantization: str | None = "4-bit, group 64"


@dataclass(frozen=True)
class FakeReport:
    passed: bool = os.environ.get("FAKE_GATE", "pass") == "pass"

    @property
    def summary(self) -> dict[str, Any]:
        found = "passed: 0" if self.passed else "failed: logits differ by 0.5"
        return {"passed": self.passed, "checks": {"identity": "passed: 0 (bound 0)", "exactness": f"{found} (bound 0)"}}


def chance(*parts: object) -> float:
    """A number in [0, 1) that is the same in every process."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4]) / 2**32


class Screened(InBatch):
    family: str
    counts: bool


class Fixed(TypedDict):
    family: str
    arm: str
    source: int
    target: int
    fixed: bool


def queries(run: Run[Config], earlier: Records) -> list[Item]:
    names = Path(run.config.data).read_text().split() if run.config.data else [f"query {n}" for n in range(30)]
    return [Item(name, ("capital", "currency")[n % 2]) for n, name in enumerate(names)]


def screen(run: Run[Config], batch: Sequence[Item]) -> Iterator[Screened]:
    time.sleep(PAUSE)
    for item in batch:
        yield {"item": item.key, "family": item.family, "counts": chance(run.model.name, item.key) < 0.6}


def counted(run: Run[Config], earlier: Records) -> list[Item]:
    return [Item(record["item"], record["family"]) for record in earlier if record["counts"]]


MEASURED: list[str] = []


def found_here(fixed: bool) -> bool:
    """What a rank of a damaged link would find: another thing than the others, from its fifth query on."""
    return fixed != (len(MEASURED) >= 5 and os.environ.get("FAKE_DIFFERS") == os.environ.get("MLX_RANK", "none"))


def accident(item: Item) -> None:
    """What the tests of several ranks ask for: this rank is killed, or fails, at its fifth query."""
    MEASURED.append(item.key)
    here, fifth = os.environ.get("MLX_RANK", "none"), len(MEASURED) == 5
    if fifth and os.environ.get("FAKE_KILL") == here:
        os.kill(os.getpid(), signal.SIGKILL)
    if fifth and os.environ.get("FAKE_RAISE") == here:
        raise ValueError(f"{item.key} cannot be measured")


def measure(run: Run[Config], item: Item) -> Iterator[Fixed]:
    accident(item)
    for arm, size in (("patched", 0.7), ("control", 0.1)):
        time.sleep(PAUSE)
        for source in range(LAYERS):
            for target in range(source):
                fixed = chance(item.key, arm, source, target, run.seed) < size
                yield {
                    "family": item.family,
                    "arm": arm,
                    "source": source,
                    "target": target,
                    "fixed": found_here(fixed),
                }


def fix_rates(records: Records, config: Config) -> Table:
    grids = [record for record in records if record["stage"] == "grid"]
    rows = []
    for family in ("capital", "currency"):
        arms = [[r for r in grids if r["family"] == family and r["arm"] == arm] for arm in ("patched", "control")]
        rates = [mean_or_none([r["fixed"] for r in a], unit=[r["item"] for r in a], seed=config.seed) for a in arms]
        rows.append([family, len({r["item"] for r in arms[0]}), *rates])
    columns = ["family", "n", Column("fixed", "%"), Column("control", "%")]
    return Table(
        "Fixed by the best pair", columns, rows, notes=["n counts queries; 95 % bootstrap intervals over them."]
    )


def heat(records: Records, config: Config) -> Plot:
    def grid(arm: str) -> list[list[float | None]]:
        cells: dict[tuple[int, int], list[bool]] = {}
        for r in records:
            if r["stage"] == "grid" and r["arm"] == arm:
                cells.setdefault((r["target"], r["source"]), []).append(r["fixed"])
        mean = {cell: sum(values) / len(values) for cell, values in cells.items()}
        return [[mean.get((target, source)) for source in range(LAYERS)] for target in range(LAYERS)]

    return heat_map(
        [Panel("patched", grid("patched")), Panel("control: another prompt", grid("control"))],
        name="fix_rate",
        title="Fix rate by source and target layer",
        x_label="source layer",
        y_label="target layer",
        value_label="fixed (fraction of queries)",
        caption="Fraction of failed queries that are right after the patch.",
        limits=(0, 1),
    )


def by_source(records: Records, config: Config) -> Plot:
    series = []
    for arm in ("patched", "control"):
        rows = [[r for r in records if r.get("arm") == arm and r["source"] == layer] for layer in range(1, LAYERS)]
        estimates = [mean_interval([r["fixed"] for r in a], unit=[r["item"] for r in a], seed=0) for a in rows]
        series.append(Series(arm, estimates))
    return line_with_band(
        range(1, LAYERS),
        series,
        name="by_source",
        title="Fix rate by source layer",
        x_label="source layer",
        y_label="fixed (fraction)",
        caption="Bands are 95 % intervals over queries.",
        limits=(0, 1),
    )


def headline(records: Records, config: Config) -> str:
    return f"{sum(r['counts'] for r in records if r['stage'] == 'screen')} of 30 queries count"


def names_that_count(records: Records, config: Config) -> Iterator[tuple[str, str]]:
    yield "lists/counting.txt", "".join(f"{r['item']}\n" for r in records if r["stage"] == "screen" and r["counts"])


def plan(run: Run[Config], items: Sequence[Item]) -> Plan:
    return Plan(
        prompts=len(items), counterfactuals=len(items) * 12, forward_passes=len(items) * 2.9, memory_bytes=10**9
    )


EXPERIMENT = Experiment(
    name="exp0_numbers",
    config=Config,
    stages=[
        Stage("screen", queries, screen, batch=4, record=Screened),
        Stage("grid", counted, measure, record=Fixed),
    ],
    tables=[fix_rates],
    figures=[heat, by_source],
    headline=headline,
    plan=plan,
    group=lambda item: item.family,
    files=names_that_count,
)


def load(name: str) -> FakeModel:
    if not name.startswith("tiny-"):
        raise UnknownModel(f"no model {name!r}: did you mean 'tiny-llama'?")
    return FakeModel(name)


def gate(model: FakeModel, *, level: str, cache_dir: Path) -> FakeReport:
    return FakeReport()


if __name__ == "__main__":
    run(EXPERIMENT, load=load, gate=gate)
