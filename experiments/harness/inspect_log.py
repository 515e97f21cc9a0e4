"""Inspect logs of runs: `python -m experiments inspect_log runs/exp1_refusal_direction/MODEL`, then `inspect view`.

Each stage of a run becomes one log that Inspect's viewer and data frames read (github.com/UKGovernmentBEIS/inspect_ai,
format 2, JSON): one sample a record, what the model wrote as its output, every yes-or-no field a score, all others its
metadata. A log has no mean over its samples: they are of several arms and layers, and the run's tables say which means
mean something. Inspect itself is not needed to write one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.harness.options import Parser
from mlx_interp.errors import DataError, MlxInterpError, nearest
from mlx_interp.reporting.files import make_folder, write_atomically
from mlx_interp.reporting.folders import RECORDS_FILE, RUN_FILE, read_run
from mlx_interp.reporting.index import Run
from mlx_interp.reporting.records import Record, read_records
from mlx_interp.studies import invocation

FORMAT = 2
"""Of Inspect's logs, as inspect_ai 0.3 reads them."""
LOGS = Path("logs")
"""Where `inspect view` looks."""
TEXT, UNIT = "text", "unit"
"""Fields of records: what the model wrote, and the prompt or query that the record is of."""
STATUS = {"complete": "success", "running": "started"}
EXAMPLES = """examples:
  python -m experiments inspect_log runs/exp1_refusal_direction/tiny-llama
  python -m experiments inspect_log runs/exp1_refusal_direction/* --stage effects --out logs
"""


def write_logs(folder: Path, out: Path, stages: Sequence[str] = ()) -> list[Path]:
    """The logs of a run, one a stage, or of some stages alone. Raises DataError where there is no such run or stage."""
    run = read_run(folder)
    if run is None:
        raise DataError(f"{folder}: no run there ({RUN_FILE} is not there): give the folder of one")
    if not (folder / RECORDS_FILE).is_file():
        raise DataError(f"{folder}: published results have no records: give the folder where it was run")
    found: dict[str, list[Record]] = {}
    for record in read_records(folder / RECORDS_FILE):
        found.setdefault(str(record["stage"]), []).append(record)
    for stage in stages:
        if stage not in found:
            raise DataError(f"{folder}: no stage {stage!r}: {nearest(stage, found)}there are {', '.join(found)}")
    make_folder(out)
    written = []
    for stage, records in found.items():
        if stages and stage not in stages:
            continue
        log = log_of(run, stage, records)
        name = f"{log['eval']['task']}_{run['model']['name']}_{log['eval']['eval_id']}".replace("/", "-")
        path = out / f"{str(run['started']).replace(':', '-')}_{name.replace(' ', '-')}.json"
        write_atomically(path, json.dumps(log, indent=1, ensure_ascii=False) + "\n")
        written.append(path)
    return written


def log_of(run: Run, stage: str, records: Sequence[Record]) -> dict[str, Any]:
    """One stage as a log."""
    experiment, model = str(run["experiment"]), str(run["model"]["name"])
    samples = list(_samples(records, model))
    where = f"{experiment} {stage} {model} {run['started']} {run['model']['weights_hash']}"
    identity = hashlib.sha256(where.encode()).hexdigest()[:22]
    return {
        "version": FORMAT,
        "status": STATUS.get(str(run["status"]), "cancelled"),
        "eval": {
            "eval_id": identity,
            "run_id": identity,
            "created": run["started"],
            "task": f"{experiment}/{stage}",
            "task_id": identity,
            "dataset": {
                "name": experiment,
                "samples": len(samples),
                "sample_ids": [sample["id"] for sample in samples],
                "shuffled": False,
            },
            "model": f"mlx-interp/{model}",
            "config": {},
            "packages": run["versions"],
            "metadata": {
                "title": run["title"],
                "headline": run.get("headline"),
                "validated": run["validated"],
                "weights_hash": run["model"]["weights_hash"],
                "quantization": run["model"]["quantization"],
                "config": run["identity"]["config"],
            },
        },
        "plan": {},
        "results": {"total_samples": len(samples), "completed_samples": len(samples), "scores": []},
        "stats": {"started_at": run["started"], "completed_at": run.get("finished") or ""},
        "samples": samples,
    }


def _samples(records: Iterable[Record], model: str) -> Iterable[dict[str, Any]]:
    seen: Counter[str] = Counter()
    for record in records:
        item = str(record["item"])
        seen[item] += 1
        prompt = str(record.get(UNIT) or item)
        text = record.get(TEXT)
        yield {
            "id": item if seen[item] == 1 else f"{item} #{seen[item]}",
            "epoch": 1,
            "input": prompt,
            "target": "",
            "messages": _messages(prompt, text),
            "output": {"model": model} if text is None else _output(model, str(text)),
            "scores": {name: {"value": value} for name, value in record.items() if isinstance(value, bool)},
            "metadata": {
                name: value
                for name, value in record.items()
                if not isinstance(value, bool) and name not in ("stage", TEXT)
            },
        }


def _messages(prompt: str, text: Any) -> list[dict[str, str]]:
    asked = {"role": "user", "content": prompt, "source": "input"}
    return [asked] if text is None else [asked, _reply(str(text))]


def _reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text, "source": "generate"}


def _output(model: str, text: str) -> Mapping[str, Any]:
    return {
        "model": model,
        "choices": [{"message": _reply(text), "stop_reason": "unknown"}],
        "completion": text,
    }


def parser() -> argparse.ArgumentParser:
    options = Parser(
        prog=invocation("experiments inspect_log"),
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="folder of a run, as a study names it")
    options.add_argument("--stage", action="append", default=[], help="this stage alone; repeatable")
    options.add_argument(
        "--out", type=Path, default=LOGS, metavar="DIR", help=f"folder of logs (default: {LOGS}, which Inspect reads)"
    )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for a mistake that the message explains."""
    try:
        options = parser().parse_args(arguments)
        for folder in options.runs:
            for path in write_logs(folder, options.out, options.stage):
                print(path)
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
