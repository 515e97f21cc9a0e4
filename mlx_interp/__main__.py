"""The command line of the library: `python -m mlx_interp doctor | models | download NAME | steer`."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from mlx_interp.errors import MlxInterpError
from mlx_interp.loading.checkpoint import read_checkpoint
from mlx_interp.loading.doctor import Need, all_needs, diagnosis, need_of
from mlx_interp.loading.fingerprint import check_published_hashes
from mlx_interp.loading.load import folder_of, load
from mlx_interp.loading.names import resolve
from mlx_interp.loading.profile import gigabytes
from mlx_interp.methods import steering_chat

ABOUT = """Look after models and machine; experiments are run with `python -m experiments.<name>`.

A model's name is one of
  an embedded model       tiny-gemma2                         ships with the package, no network needed
  a short name            gemma-2-9b, gemma-2-9b:8bit         4-bit and instruction-tuned; `models` lists them
  a Hub id                mlx-community/gemma-2-9b-it-4bit    name@revision pins a branch, tag or commit
  a local folder          ./my-model                          config.json, model*.safetensors, tokenizer.json
"""
EXAMPLES = """examples:
  python -m mlx_interp doctor                       what MLX computes with here, how fast, what to install
  python -m mlx_interp doctor --model gemma-2-9b    ... and whether that model fits this machine
  python -m mlx_interp models                       short names with layers, memory, and what is downloaded
  python -m mlx_interp download gemma-2-2b          into the Hub's own cache; fetches only what is missing
  python -m mlx_interp steer --model tiny-llama --direction refusal.safetensors --alpha 0.3
                                                    chat with and without a direction, side by side
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m mlx_interp",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="{doctor,models,download,steer}")
    doctor = commands.add_parser("doctor", help="what MLX computes with here, how fast, and what would help")
    doctor.add_argument("--model", metavar="NAME", help="also say whether this model is here and fits")
    commands.add_parser("models", help="list the short names: layers, memory, downloaded, fits")
    download = commands.add_parser("download", help="fetch a model into the Hub's cache and check its files")
    download.add_argument("name", metavar="NAME", help="a short name or a Hub id, with @revision to pin one")
    steering_chat.add_options(commands.add_parser("steer", help="answers with and without a direction, side by side"))
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 2 for an error that the user can act on."""
    options = parser().parse_args(arguments)
    console = Console()
    try:
        if options.command == "doctor":
            print_doctor(console, options.model)
        elif options.command == "models":
            print_models(console)
        elif options.command == "steer":
            steering_chat.chat(console, load(options.model), options)
        else:
            download(console, options.name)
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


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


def print_models(console: Console) -> None:
    console.print(model_table(all_needs()))
    console.print(
        "Hub ids are of mlx-community/ unless they name another owner. GB: weights as stored; GB f32: in float32, "
        "which is what runs on CPU when it fits. Other precisions: gemma-2-9b:8bit. Other models: their full Hub id.",
        soft_wrap=True,
    )


def model_table(needs: list[Need]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for column in ("name", "Hub id", "layers", "GB", "GB f32", "here", "fits"):
        table.add_column(column, no_wrap=True)
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


def download(console: Console, name: str) -> None:
    checkpoint = read_checkpoint(folder_of(resolve(name)))
    check_published_hashes(checkpoint.files)
    console.print(f"{name} is at {checkpoint.path} ({gigabytes(checkpoint.n_bytes)}, files whole)", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
