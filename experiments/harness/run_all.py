"""Many experiments on many models: `python -m experiments run_all --model A --model B --experiments exp6,exp9`.

Each model is loaded once and goes through all experiments; what fails is reported at the end, and all else is
measured. Run again, the same command goes on where it stopped. Tables and figures over all models lie in
runs/<experiment>/. Several processes or machines share the work under MLX's launcher,
`mlx.launch -n 2 --env OMP_NUM_THREADS=4 python -m experiments run_all ...`, or as workers of a Ray cluster, `--on ray`.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.harness import registry
from experiments.harness.bar import duration
from experiments.harness.experiment import ConfigT, Experiment, Plan
from experiments.harness.gated import Gate
from experiments.harness.identity import release_memory
from experiments.harness.local_pool import asked_for, workers_here
from experiments.harness.measuring import Pool
from experiments.harness.on_ray import workers
from experiments.harness.options import Options, Parser, parse
from experiments.harness.pace import Pace
from experiments.harness.runner import Load, pace_under, plan_of, run_model
from mlx_interp.deferred import rich
from mlx_interp.errors import MlxInterpError
from mlx_interp.loading.load import load as load_model
from mlx_interp.loading.names import DEFAULT_MODELS, resolve
from mlx_interp.loading.outline import outline
from mlx_interp.loading.profile import Memory, add_memory_option
from mlx_interp.ranks import launched
from mlx_interp.reporting.folders import RUNS
from mlx_interp.reporting.index import write_overviews
from mlx_interp.studies import invocation
from validation import gate as validation_gate

EXAMPLES = """examples:
  python -m experiments run_all                                          everything, on the embedded models
  python -m experiments run_all --experiments exp3,exp9 --limit 20 --dry-run
  python -m experiments run_all --model gemma-2-2b --model llama-3.2-3b --experiments exp6,exp9
"""


@dataclass(frozen=True)
class Cell:
    """One experiment on one model, and how it ended."""

    model: str
    experiment: str
    outcome: str
    """"done", "planned", or what went wrong."""
    seconds: float = 0.0
    plan: Plan | None = None
    pace: Pace | None = None

    @property
    def failed(self) -> bool:
        return self.outcome not in ("done", "planned")


def run_experiment_suite(
    model_name: str,
    experiments: Sequence[str] = (),
    *,
    out: Path | str = RUNS,
    limit: int | None = None,
    seed: int = 0,
    fresh: bool = False,
    validate: bool = True,
    dry_run: bool = False,
    load: Load | None = None,
    gate: Gate | None = None,
    ray_workers: int | None = None,
    workers: str = "auto",
    memory: Memory = "auto",
) -> list[Cell]:
    """Runs experiments (all if none are named) on one model, loaded once; a failing one does not stop the rest.

    ray_workers: measure by so many workers of a Ray cluster; 0 is one for each of its machines. workers: processes on
    this machine that measure, a number or "auto". A study that has to be measured by one process is measured here.
    memory: as of `load`, for this process and all workers.

    Raises UnknownModel and ConfigError before anything is loaded, for names that do not exist.
    """
    chosen = [registry.experiment(name) for name in experiments or registry.names()]
    resolve(model_name)
    arguments = [f"--seed={seed}", f"--out={out}", *([f"--limit={limit}"] if limit is not None else [])]
    arguments += [f"--workers={workers}"] if load is None else ["--workers=1"]  # by a name they can load it too
    arguments += [f"--memory={memory}"]
    arguments += [flag for flag, on in (("--fresh", fresh), ("--no-validate", not validate)) if on]
    options = {experiment.name: parse(experiment, ["--model", model_name, *arguments]) for experiment in chosen}
    try:
        # a plan needs config and tokenizer alone
        if load is not None:
            model = load(model_name)
        else:
            model = (outline if dry_run else load_model)(model_name, memory=memory)
    except MlxInterpError as error:
        return [Cell(model_name, experiment.name, f"not loaded: {error}") for experiment in chosen]
    cells = [
        _planned(experiment, options[experiment.name], model)
        if dry_run
        else _run(experiment, options[experiment.name], model, gate or validation_gate, ray_workers)
        for experiment in chosen
    ]
    del model
    release_memory()
    return cells


def _run(
    experiment: Experiment[ConfigT], options: Options[ConfigT], model: Any, gate: Gate, ray_workers: int | None
) -> Cell:
    started = time.monotonic()
    try:
        with _pool(experiment, options, model, ray_workers) as pool:
            if run_model(experiment, options, model, gate, launched(), pool) is not None:
                write_overviews(options.out, experiment.name)
    except MlxInterpError as error:
        return Cell(model.name, experiment.name, " ".join(str(error).split()), time.monotonic() - started)
    except Exception as error:  # a fault of ours in one cell must not cost the others
        traceback.print_exc()
        return Cell(model.name, experiment.name, f"{type(error).__name__}: {error}", time.monotonic() - started)
    return Cell(model.name, experiment.name, "done", time.monotonic() - started)


def _pool(
    experiment: Experiment[ConfigT], options: Options[ConfigT], model: Any, ray_workers: int | None
) -> AbstractContextManager[Pool | None]:
    """Who measures beside this process: workers of Ray, workers here, or nobody."""
    if experiment.alone:
        return nullcontext()
    name = options.models[0]
    if ray_workers is not None:
        return workers(experiment, options.config, name, model.weights_hash, ray_workers, options.memory)
    return workers_here(experiment, options.config, name, model, options.workers, options.memory)


def _planned(experiment: Experiment[ConfigT], options: Options[ConfigT], model: Any) -> Cell:
    try:
        plan, pace = plan_of(experiment, options, model), pace_under(experiment, options, model)
    except MlxInterpError as error:
        return Cell(model.name, experiment.name, str(error))
    return Cell(model.name, experiment.name, "planned", plan=plan, pace=pace)


def parser() -> argparse.ArgumentParser:
    options = Parser(
        prog=invocation("experiments run_all"),
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    models = ", ".join(DEFAULT_MODELS)
    options.add_argument("--model", action="append", metavar="NAME", help=f"may be repeated (default: {models})")
    there = ", ".join(registry.names())
    options.add_argument("--experiments", default="", metavar="A,B", help=f"exp9 or in full (default: all: {there})")
    options.add_argument("--limit", type=int, metavar="N", help="fewer prompts in every experiment, for a look")
    options.add_argument("--seed", type=int, default=0, metavar="N", help="everything random follows from it")
    options.add_argument(
        "--out", type=Path, default=RUNS, metavar="DIR", help=f"where run folders go (default: {RUNS})"
    )
    options.add_argument("--fresh", action="store_true", help="do not resume: start over, earlier runs kept aside")
    options.add_argument("--no-validate", action="store_true", help="skip the gate; results are marked UNVALIDATED")
    options.add_argument(
        "--on", choices=("here", "ray"), default="here", help="ray: workers of a Ray cluster measure (docs/sharding.md)"
    )
    options.add_argument(
        "--workers",
        default="auto",
        metavar="N",
        help="processes that measure, each with a model of its own; auto: here as many as cores are idle and memory "
        "holds once that saves time, with Ray one a machine, two on a single one (default: auto)",
    )
    add_memory_option(options)
    options.add_argument("--dry-run", action="store_true", help="print what would be done, its time and memory")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 if every cell is done, 1 if one failed, 2 for a mistake on the command line, 130 for Ctrl-C."""
    cells: list[Cell] = []
    try:
        options = parser().parse_args(arguments)
        experiments = [name.strip() for name in options.experiments.split(",") if name.strip()]
        models = tuple(dict.fromkeys(options.model or DEFAULT_MODELS))
        for name in [*experiments]:
            registry.experiment(name)
        for name in models:
            resolve(name)
        for name in models:
            cells += run_experiment_suite(
                name,
                experiments,
                out=options.out,
                limit=options.limit,
                seed=options.seed,
                fresh=options.fresh,
                validate=not options.no_validate,
                dry_run=options.dry_run,
                ray_workers=(asked_for(options.workers) or 0) if options.on == "ray" else None,
                workers=options.workers,
                memory=options.memory,
            )
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; everything measured is kept: the same command goes on from here", file=sys.stderr)
        return 130
    if launched().first:
        console = rich.console.Console()
        console.print(cell_table(cells))
        for cell in cells:
            if cell.failed:
                console.print(f"{cell.experiment} on {cell.model}: {cell.outcome}", markup=False, highlight=False)
    return 1 if any(cell.failed for cell in cells) else 0


def cell_table(cells: Sequence[Cell]) -> rich.table.Table:
    """What was done, or would be, and the sum; why a cell failed is too long for it."""
    planned = any(cell.plan for cell in cells)
    table = rich.table.Table(
        title="plan, nothing written" if planned else "models and experiments",
        title_justify="left",
        show_footer=len(cells) > 1,
    )
    seconds = [cell.seconds for cell in cells]
    if planned:
        seconds = [cell.pace.of(cell.plan) if cell.pace and cell.plan else 0.0 for cell in cells]
    plans = [cell.plan or Plan(0, 0, 0.0, 0) for cell in cells]
    table.add_column("model", overflow="fold")
    table.add_column("study", no_wrap=True)
    table.add_column("outcome", "in all", no_wrap=True)
    if planned:
        table.add_column("prompts", f"{sum(plan.prompts for plan in plans):,}", justify="right")
        table.add_column("passes", f"{sum(plan.forward_passes for plan in plans):,.0f}", justify="right")
        table.add_column("memory (GB)", f"{max(plan.memory_bytes for plan in plans) / 1e9:.2f}", justify="right")
    table.add_column("about" if planned else "time", duration(sum(seconds)), justify="right", no_wrap=True)
    for cell, plan, time_of in zip(cells, plans, seconds, strict=True):
        figures = [f"{plan.prompts:,}", f"{plan.forward_passes:,.0f}", f"{plan.memory_bytes / 1e9:.2f}"]
        table.add_row(
            cell.model,
            cell.experiment.partition("_")[0],
            "failed" if cell.failed else cell.outcome,
            *(figures if planned else []),
            "" if planned and cell.failed else duration(time_of),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
