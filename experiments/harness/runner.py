"""Runs an experiment: options, gate, run folder, resuming, tables, figures. The one entry of every experiment module.

    if __name__ == "__main__":
        run(EXPERIMENT)

For each model: load it, lock its run folder, pass the gate, keep aside what the folder holds of another run, measure
item by item (what is already in records.jsonl is not measured again), then make all files from the records as they
stand on disk. So a resumed run ends with the same files as one that was never stopped, and a complete one is shown.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, cast

from experiments.harness.code import report_digest
from experiments.harness.experiment import ConfigT, Experiment, Plan
from experiments.harness.fields import config_fields
from experiments.harness.gated import Gate, passed
from experiments.harness.identity import identity_of, model_facts, peak_memory, release_memory, versions
from experiments.harness.local_pool import workers_here
from experiments.harness.measuring import Pool, items_of, measure
from experiments.harness.options import Options, look_lines, parse
from experiments.harness.pace import Pace, pace_of
from experiments.harness.page_files import write_pages
from experiments.harness.report import plan_table, write_latex, write_report
from experiments.harness.screen import closing, overviews_line
from experiments.harness.state import Run
from experiments.harness.together import help_measuring, launched_for, locked_by, memory_of_gate
from mlx_interp.deferred import rich
from mlx_interp.errors import MlxInterpError, RunError
from mlx_interp.loading.load import load as load_model
from mlx_interp.loading.names import resolve
from mlx_interp.loading.outline import NeedsWeights, Outline, outline
from mlx_interp.model import Model
from mlx_interp.ranks import Ranks, launched, said
from mlx_interp.reporting.folders import PUBLISHED, RECORDS_FILE, RunFolder, locked, make_room, open_folder, run_folder
from mlx_interp.reporting.index import write_overviews
from mlx_interp.reporting.records import open_records
from mlx_interp.wrapped import Wrapped
from validation import gate as validation_gate

Load = Callable[[str], Any]


def run(
    experiment: Experiment[ConfigT],
    arguments: Sequence[str] | None = None,
    *,
    load: Load | None = None,
    gate: Gate | None = None,
) -> NoReturn:
    """Run an experiment as a program: parse the command line, run, exit with 0, 2 (user's error) or 130 (Ctrl-C).

    load: name -> Model, by default mlx_interp.load. gate: (model, level=, cache_dir=) -> GateReport, by default
    validation.gate.
    """
    try:
        options = parse(experiment, sys.argv[1:] if arguments is None else arguments)
        run_experiment(experiment, options, load=load, gate=gate)
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; everything measured is kept: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def run_experiment(
    experiment: Experiment[ConfigT], options: Options[ConfigT], *, load: Load | None = None, gate: Gate | None = None
) -> list[Path]:
    """Run an experiment on each model in turn; returns the run folders. Raises MlxInterpError for a user's mistake.

    Under mlx.launch the ranks share the items, or with --shard one model; the first one writes and prints, the others
    return no folders.
    """
    folders = []
    ranks = launched_for(experiment, options)
    if ranks.first:
        _tell(look_lines(options, config_fields(experiment.config)))
    if load is None:
        for name in options.models:
            resolve(name)  # a misspelled name is said before the models before it have run for hours
    for name in options.models:
        if load is None and ranks.size == 1:
            if options.dry_run:
                print_plan(experiment, options, outline(name, memory=options.memory))
                continue
            if shown := shown_without_weights(experiment, options, outline(name)):
                folders.append(shown)
                overviews = finished(experiment, options, shown)
                continue
        model = load(name) if load is not None else load_model(name, shard=options.shard, memory=options.memory)
        if options.dry_run:
            if ranks.first:
                print_plan(experiment, options, model)
        else:
            asked = options.workers if load is None else "1"  # by its name alone workers can load it too
            with workers_here(experiment, options.config, name, model, asked, options.memory) as pool:
                path = run_model(experiment, options, model, gate or validation_gate, ranks, pool)
            if path is not None:
                folders.append(path)
                overviews = finished(experiment, options, path)
        del model
        release_memory()
    if folders:
        print(overviews_line(overviews))
    return folders


def finished(experiment: Experiment[ConfigT], options: Options[ConfigT], path: Path) -> list[Path]:
    """Overviews and screen after each model: should a later one fail, the index has those that are done."""
    overviews = write_overviews(options.out, experiment.name)
    print(closing(path))
    also = [write_latex(path)] if options.latex else []
    return [*overviews, *also, *(write_pages(experiment, options.config, path) if options.html else [])]


def print_plan(experiment: Experiment[ConfigT], options: Options[ConfigT], model: Any) -> None:
    """Print what a run would cost: passes, memory, time."""
    plan, pace = plan_of(experiment, options, model), pace_under(experiment, options, model)
    rich.console.Console().print(plan_table(experiment, model.name, plan, pace))


def pace_under(experiment: Experiment[ConfigT], options: Options[ConfigT], model: Any) -> Pace | None:
    """How fast a pass would be, by earlier runs or by the machine's speed; None of what is no model of ours."""

    def planned(config: ConfigT) -> Plan:
        return plan_of(experiment, replace(options, config=config), model)

    return pace_of(experiment, model, planned, (options.out, PUBLISHED)) if isinstance(model, Wrapped) else None


def shown_without_weights(experiment: Experiment[ConfigT], options: Options[ConfigT], model: Outline) -> Path | None:
    """`shown_if_complete` before anything is loaded; None, too, where only the weights tell which run this is."""
    if not model.weights_hash:
        return None
    try:
        items = items_of(experiment, experiment.main_stage, Run(cast(Model, model), options.config))
    except NeedsWeights:
        return None
    path = run_folder(options.out, experiment.name, model.name)
    return shown_if_complete(experiment, options, path, identity_of(experiment, options.config, model, items))


def plan_of(experiment: Experiment[ConfigT], options: Options[ConfigT], model: Any) -> Plan:
    """What a run on a loaded model would cost; nothing is written."""
    under = Run(model, options.config)
    return experiment.plan(under, items_of(experiment, experiment.main_stage, under))


def run_model(
    experiment: Experiment[ConfigT],
    options: Options[ConfigT],
    model: Any,
    gate: Gate,
    ranks: Ranks | None = None,
    pool: Pool | None = None,
) -> Path | None:
    """Run an experiment on one loaded model; returns its run folder, or None on a rank that only helps to measure.

    pool: workers that measure in this process's stead.
    """
    ranks = ranks or launched()
    under = Run(model, options.config)
    items = items_of(experiment, experiment.main_stage, under)
    identity = identity_of(experiment, options.config, model, items)
    ranks.agree("run", json.loads(json.dumps(identity)))
    if not ranks.first:
        help_measuring(experiment, options, under, gate, ranks)
        return None
    path = run_folder(options.out, experiment.name, model.name)
    if ranks.size == 1 and (shown := shown_if_complete(experiment, options, path, identity)):
        return shown
    with locked_by(path, ranks):
        try:
            folder = open_folder(path, identity, fresh=options.fresh)
            state = _first_state(experiment, options, model, identity, folder)
            if ranks.one_model:
                ranks.succeeded(None)
            if options.validate:
                _tell([f"{model.name}: validation first (exactness, tokens, what the model knows)"])
                state |= {"validated": True, "validation": passed(gate, model, memory_of_gate(options.out, ranks))}
            _tell(make_room(folder))
            if options.fresh:
                experiment.start_over(under)
            file = open_records(folder.records_path)
            if file.discarded:
                print(f"{file.path}: an unfinished item ({file.discarded} bytes) is measured again", file=sys.stderr)
            folder.write_run(state)
        except Exception as error:
            ranks.succeeded(said(error))
            raise
        ranks.succeeded(None)
        ranks.gather(file.path.read_text(encoding="utf-8") if ranks.size > 1 and file.path.exists() else "")
        status = "failed"
        try:
            measure(experiment, under, file, ranks, pool)
            write_report(experiment, options.config, folder, file, state)
            status = "complete"
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            state |= {"status": status, "measuring_seconds": round(sum(file.done.values()), 3)}
            state["peak_memory_bytes"] = _peak(pool, folder)
            if status == "complete":
                state["finished"] = folder.earlier.get("finished") or _now()
                folder.write_run(state)
            else:
                _try_write(folder, state)
    return path


def _peak(pool: Pool | None, folder: RunFolder) -> dict[str, int]:
    """Bytes at the peak of the largest process that measured, this session or an earlier one."""
    known = peak_memory(folder.earlier.get("peak_memory_bytes", {}))
    workers = pool.peak if pool is not None else {}
    return {name: max(size, workers.get(name, 0)) for name, size in known.items()}


def shown_if_complete(
    experiment: Experiment[ConfigT], options: Options[ConfigT], path: Path, identity: Mapping[str, Any]
) -> Path | None:
    """The folder of a run that is complete already, here or kept aside; None where there is something to measure.

    Its report is made anew from its records where the code of tables and figures has changed since.
    """
    folder = open_folder(path, identity, fresh=options.fresh)
    missing_gate = options.validate and not folder.earlier.get("validated")
    report = report_digest(experiment.source)
    outdated = folder.earlier.get("report_code") != report
    if not folder.complete or missing_gate or (outdated and not _records_of(folder).is_file()):
        return None
    with locked(path):
        _tell(make_room(folder))
        state = dict(folder.earlier)
        if outdated:
            write_report(experiment, options.config, folder, open_records(folder.records_path), state)
            folder.write_run(state | {"report_code": report})
    made = "its tables made anew from its records" if outdated else "nothing is measured"
    _tell([f"{path}: complete since {state['finished']}, {made}; --fresh measures it again"])
    return path


def _records_of(folder: RunFolder) -> Path:
    return (folder.back or folder.path) / RECORDS_FILE


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _first_state(
    experiment: Experiment[ConfigT],
    options: Options[ConfigT],
    model: Any,
    identity: Mapping[str, Any],
    folder: RunFolder,
) -> dict[str, Any]:
    """run.json at the start. A pass of the gate in an earlier session counts: it was the same model and code."""
    earlier = folder.earlier
    return {
        "status": "running",
        "experiment": experiment.name,
        "title": experiment.title,
        "validated": bool(earlier.get("validated", False)),
        "validation": earlier.get("validation"),
        "model": model_facts(model),
        "identity": dict(identity),
        "report_code": report_digest(experiment.source),
        "versions": versions(),
        "command": ["python", "-m", f"experiments.{experiment.name}", *sys.argv[1:]],
        "started": earlier.get("started") or _now(),
    }


def _try_write(folder: RunFolder, state: Mapping[str, Any]) -> None:
    """run.json of a run that is ending by an error: that error is the one to be told, not a second one from here."""
    try:
        folder.write_run(state)
    except RunError:
        return


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
