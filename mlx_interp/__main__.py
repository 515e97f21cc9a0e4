"""The command line of library and studies: `mlx-interp`, or `python -m mlx_interp`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlx_interp.directions import load_direction, steering_chat
from mlx_interp.directions.state_sets import about_file
from mlx_interp.engine.memory import free_memory
from mlx_interp.errors import ConfigError, MlxInterpError
from mlx_interp.loading.cache_folder import cache_folder
from mlx_interp.loading.doctor import Need, all_needs, diagnosis, estimated_speed, free_disk, need_of
from mlx_interp.loading.fingerprint import check_published_hashes
from mlx_interp.loading.gguf.convert import convert
from mlx_interp.loading.load import load, place_of
from mlx_interp.loading.names import resolve
from mlx_interp.loading.open import open_checkpoint
from mlx_interp.loading.packaged import PACKAGED_MODELS
from mlx_interp.loading.profile import add_memory_option, gigabytes
from mlx_interp.loading.speed import Speed
from mlx_interp.studies import COMMAND, hand_over, run_study, run_tool, studies_folder

ABOUT = """Interpretability of language models under MLX: run studies, validate models, look after models and machine.

A model's name is one of
  an embedded model       tiny-gemma2                         ships with the package, no network needed
  a short name            gemma-2-9b, gemma-2-9b:8bit         4-bit and instruction-tuned; `models` lists them
  a Hub id                mlx-community/gemma-2-9b-it-4bit    name@revision pins a branch, tag or commit
  a local folder          ./my-model                          config.json, model*.safetensors, tokenizer.json
  a GGUF file             ./my-model.gguf                     as llama.cpp writes it; quantised weights without loss
"""
EXAMPLES = """examples:
  mlx-interp run                              the studies, and the tools over many runs
  mlx-interp run exp9_back_patching --model tiny-llama --dry-run
                                              what a study would measure, and what that costs; --help lists its options
  mlx-interp validate --model gemma-2-9b      is the wrapped model the model, do interventions do what they say
  mlx-interp doctor                           what MLX computes with here, how fast, what to install
  mlx-interp doctor --model gemma-2-9b        ... and whether that model fits this machine
  mlx-interp models                           short names with layers, memory, and what is downloaded
  mlx-interp download gemma-2-2b              into the Hub's own cache; fetches only what is missing
  mlx-interp convert model.gguf my-model      a GGUF file as a folder that mlx-lm loads; nothing is rounded
  mlx-interp steer --model tiny-llama --direction refusal.safetensors --alpha 1
                                              chat with and without a direction, side by side
  mlx-interp explore tiny-llama               a page for a first look: lens, attention, patching, steering
  mlx-interp cache                            activations of data sets, and rows of the Hub, that are kept
  mlx-interp cache --clear --only llama       ... and removes those whose line says "llama"
  PYTHONPATH="$(mlx-interp where)" python -m experiments.exp9_back_patching
                                              the studies as modules, from an installed package
"""

HANDED_OVER: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "run": (run_study, "run a study, by its name or number; without one, list what there is"),
    "validate": (partial(hand_over, "validation", "validate"), "check a wrapped model, as before every study"),
    **{
        name: (partial(run_tool, name), text)
        for name, text in (
            ("query", "SQL over all results"),
            ("publish", "put finished runs where results are kept"),
            ("coverage", "every experiment of every paper: which study does it, what was run"),
            ("inspect_log", "a run's records as logs that Inspect reads"),
        )
    },
}
"""Commands that are the studies' own, with what --help says of them."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog=COMMAND,
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in HANDED_OVER.items():
        commands.add_parser(name, help=text, add_help=False)
    doctor = commands.add_parser("doctor", help="what MLX computes with here, how fast, and what would help")
    doctor.add_argument("--model", metavar="NAME", help="also say whether this model is here and fits")
    commands.add_parser("models", help="list the short names: layers, memory, downloaded, fits")
    download = commands.add_parser("download", help="fetch a model into the Hub's cache and check its files")
    download.add_argument("name", metavar="NAME", help="a short name or a Hub id, with @revision to pin one")
    gguf = commands.add_parser("convert", help="write a GGUF file as a folder that mlx-lm and this package load")
    gguf.add_argument("file", metavar="FILE", type=Path, help="a GGUF file")
    gguf.add_argument("out", metavar="OUT", type=Path, help="the folder to write; it must not be there yet")
    steer = commands.add_parser("steer", help="answers with and without a direction, side by side")
    steering_chat.add_options(steer)
    add_memory_option(steer)
    page = commands.add_parser("explore", help="a local page: type a prompt, see lens and patterns, patch, steer")
    page.add_argument("model", metavar="MODEL", help="as above: a short name, a folder, a GGUF file ...")
    page.add_argument(
        "--direction", metavar="FILE", action="append", default=[], help="a saved direction to steer with; repeatable"
    )
    page.add_argument("--port", type=int, default=0, metavar="N", help="a port of this machine (default: a free one)")
    page.add_argument("--idle", type=float, default=30, metavar="MINUTES", help="ends after so long (default: 30)")
    add_memory_option(page)
    cache = commands.add_parser("cache", help="list what is kept of data sets and their activations, or remove it")
    cache.add_argument("--only", metavar="TEXT", default="", help="only lines that hold this text")
    cache.add_argument("--clear", action="store_true", help="remove the listed files; what needs them makes them anew")
    commands.add_parser("where", help="print the folder of the studies, for PYTHONPATH")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 2 for an error that the user can act on."""
    given = sys.argv[1:] if arguments is None else arguments
    console = Console()
    try:
        if given and given[0] in HANDED_OVER:
            return HANDED_OVER[given[0]][0](given[1:])
        options = parser().parse_args(given)
        if options.command == "where":
            print(studies_folder())
        elif options.command == "doctor":
            print_doctor(console, options.model)
        elif options.command == "models":
            print_models(console)
        elif options.command == "steer":
            steering_chat.chat(console, load(options.model, memory=options.memory), options)
        elif options.command == "explore":
            explore(console, options)
        elif options.command == "convert":
            made = convert(options.file.expanduser(), options.out.expanduser())
            console.print(f"{options.file.name} is at {made}", soft_wrap=True, markup=False)
        elif options.command == "cache":
            print_cache(console, only=options.only, clear=options.clear)
        else:
            download(console, options.name)
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def explore(console: Console, options: argparse.Namespace) -> None:
    """A page for one's own browser, until nobody asks for a while or Ctrl-C."""
    # Here, because Python's HTTP server is for this command alone, and the others start sooner without it.
    from mlx_interp.explore import Explorer, serve

    if not options.idle > 0:
        raise ConfigError(f"--idle {options.idle:g}: give minutes above 0")
    model = load(options.model, memory=options.memory)
    directions = {path: load_direction(path, model) for path in options.direction}

    def started(address: str) -> None:
        console.print(f"open {address}", soft_wrap=True, markup=False)
        console.print(f"Ctrl-C ends it, and {options.idle:g} minutes without a request", markup=False)

    with suppress(KeyboardInterrupt):  # the way it is meant to end
        serve(Explorer(model, options.model, directions), port=options.port, idle=60 * options.idle, started=started)
    console.print("ended")


def print_doctor(console: Console, name: str | None) -> None:
    need = need_of(name) if name else None
    facts, speeds, advice = diagnosis()
    table = Table("what", "here", title="mlx_interp doctor")
    for row in facts:
        table.add_row(*row)
    for speed in speeds:
        table.add_row(speed.what, f"{speed.rate:.3g} {speed.unit}")
    console.print(table)
    for line in advice:
        console.print(f"advice: {line}", markup=False, soft_wrap=True)
    if not advice:
        console.print("Nothing to improve was found.")
    if need:
        console.print(model_table([need]))
        console.print(readiness(need, speeds), markup=False, soft_wrap=True)
        if need.ignored:
            kept = ", ".join(need.ignored)
            console.print(f"config.json, bookkeeping that changes no number: {kept}", markup=False, soft_wrap=True)


def readiness(need: Need, speeds: list[Speed]) -> str:
    """What is left to do before a model runs here, and how fast it would run at best."""
    speed = estimated_speed(need, speeds)
    parts = []
    if not need.cached:
        room = need.stored_bytes is None or free_disk() > need.stored_bytes
        parts.append(
            f"{need.name} is not downloaded: mlx-interp download {need.name}"
            f"{'' if room else ', for which the disk has too little room'}"
        )
    if need.fits() == "no":
        parts.append(f"{need.name} does not fit the free memory ({gigabytes(free_memory())})")
    if speed is not None:
        parts.append(f"estimated speed: at most {speed[0]:,.0f} tokens/s read, {speed[1]:,.0f} tokens/s written")
    return "; ".join(parts) or f"{need.name}: nothing is known of its size"


def print_models(console: Console) -> None:
    console.print(model_table(all_needs()))
    console.print(
        "Hub ids are of mlx-community/ unless they name another owner. GB: weights as stored; GB f32: in float32, "
        "which is what runs on CPU when it fits. Other precisions: gemma-2-9b:8bit. Other models: their full Hub id. "
        f"Also as packages, used when installed (make real): {', '.join(map(installed, PACKAGED_MODELS))}.",
        soft_wrap=True,
    )


def installed(name: str) -> str:
    return f"{name} ({'installed' if PACKAGED_MODELS[name].installed() else 'not installed'})"


def model_table(needs: list[Need]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in ("name", "Hub id", "layers", "GB", "GB f32", "here", "fits"):
        table.add_column(column, no_wrap=column != "Hub id", overflow="fold")
    for need in needs:
        table.add_row(
            need.name,
            need.where.removeprefix("mlx-community/"),
            str(need.n_layers or "?"),
            billions(need.stored_bytes),
            billions(need.dense_bytes),
            "yes" if need.cached else "no",
            need.fits(),
        )
    return table


def billions(n_bytes: float | None) -> str:
    return "?" if n_bytes is None else f"{n_bytes / 1e9:.3g}"


def print_cache(console: Console, *, only: str, clear: bool) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("what", "name", "of", "read at", "rows", "made", "MB"):
        table.add_column(column, justify="right" if column in ("rows", "MB") else "left", no_wrap=True)
    rows = [row for row in kept_files(cache_folder()) if only.lower() in " ".join(row[1]).lower()]
    for path, cells in rows:
        table.add_row(*cells)
        if clear:
            path.unlink(missing_ok=True)
    console.print(table if rows else f"Nothing is kept{f' of {only!r}' if only else ''}.")
    console.print(f"{'removed from' if clear else 'in'} {cache_folder()}", soft_wrap=True, markup=False)


def kept_files(folder: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """Each kept file with its line: activations of sets of chats, and rows drawn from data sets of the Hub."""
    found: list[tuple[Path, tuple[str, ...]]] = []
    for path in sorted(folder.glob("states/*.safetensors")):
        about = about_file(path)
        cells = ("activations", str(about.get("name", "cannot be read")), str(about.get("model", "")))
        found.append((path, (*cells, str(about.get("rule", "")), *_counted(path, about))))
    for path in sorted(folder.glob("data_sets/*.jsonl")):
        with suppress(OSError, ValueError):
            about = json.loads(path.open(encoding="utf-8").readline())
            cells = ("chats", str(about.get("value") or "all"), str(about.get("repository", "")))
            found.append((path, (*cells, "", *_counted(path, about))))
    return found


def _counted(path: Path, about: dict[str, Any]) -> tuple[str, str, str]:
    made = time.strftime("%Y-%m-%d", time.localtime(about["made"])) if about.get("made") else ""
    return str(about.get("n", "")), made, f"{path.stat().st_size / 1e6:.2f}"


def download(console: Console, name: str) -> None:
    checkpoint = open_checkpoint(place_of(resolve(name)))
    check_published_hashes(checkpoint.files)
    console.print(f"{name} is at {checkpoint.path} ({gigabytes(checkpoint.n_bytes)}, files whole)", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
