"""Steering in the terminal: each message is answered twice, by the model alone and by the steered one."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from mlx_interp.behaviour.detectors import refusal, repetition
from mlx_interp.deferred import rich
from mlx_interp.directions.direction import Direction, load_direction
from mlx_interp.directions.steering import UNITS, Pair, added_at_strength, side_by_side
from mlx_interp.errors import ConfigError, MlxInterpError
from mlx_interp.interventions import Add, Intervention, Positions
from mlx_interp.model import Completion, Model

POSITIONS: dict[str, Positions] = {"all": None, "last": -1, "generated": "generated"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `mlx-interp steer`."""
    parser.add_argument("--model", required=True, metavar="NAME", help="the model that the direction was made on")
    parser.add_argument("--direction", required=True, type=Path, metavar="FILE", help="what mi.save_direction wrote")
    parser.add_argument("--alpha", type=float, metavar="X", help="strength of the addition; negative: the other way")
    parser.add_argument("--unit", choices=UNITS, default="stream", help="what 1 is: the mean norm of the residual "
                        "stream there (default), the direction's own length, or a length of 1")  # fmt: skip
    parser.add_argument("--ablate", action="store_true", help="take the direction out at all layers instead")
    parser.add_argument("--positions", choices=POSITIONS, default="all", help="tokens that are steered (default: all)")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help="answer this and stop; may be repeated")
    parser.add_argument("--system", metavar="TEXT", help="a system prompt, where the template has room for one")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="length of an answer (default: 128)")


def chat(console: rich.console.Console, model: Model, options: argparse.Namespace) -> None:
    """Answers `--prompt`s, or messages until an empty line or the end of input; no message sees an earlier one.

    Raises ConfigError unless exactly one of --alpha and --ablate is given, and what the library raises; in a
    conversation a message's own error is shown and the next message awaited.
    """
    if (options.alpha is None) != options.ablate:
        raise ConfigError("give either --alpha X, to add the direction, or --ablate, to take it out")
    direction = load_direction(options.direction, model)
    if options.prompt:
        for text in options.prompt:
            answer(console, model, direction, options, text)
        return
    console.print("One message a line, each for itself; an empty line ends.")
    for text in messages(console):
        try:
            answer(console, model, direction, options, text)
        except MlxInterpError as error:
            console.print(f"error: {rich.markup.escape(str(error))}")


def messages(console: rich.console.Console) -> Iterable[str]:
    while True:
        try:
            text = console.input("> ").strip()
        except EOFError:
            return
        if not text:
            return
        yield text


def answer(
    console: rich.console.Console, model: Model, direction: Direction, options: argparse.Namespace, text: str
) -> None:
    prompt = model.prompt(text, chat=direction.template == "chat", system=options.system)
    steering: list[Intervention]
    if options.ablate:
        steering = direction.ablated_everywhere(positions=POSITIONS[options.positions])
        label = "ablated"
    else:
        positions = POSITIONS[options.positions]
        unit = options.unit
        steering = [added_at_strength(model, direction, options.alpha, [prompt], unit=unit, positions=positions)]
        label = f"{options.alpha:+g} {unit}" + _as_length(steering[0], direction)
    console.print(columns(side_by_side(model, prompt, steering, max_tokens=options.max_tokens), label))


def columns(pair: Pair, label: str) -> rich.table.Table:
    """Both answers beside each other, and below them what the detectors see."""
    heads = (rich.table.Column(head, overflow="fold", ratio=1) for head in ("unsteered", f"steered: {label}"))
    table = rich.table.Table(*heads, expand=True, show_lines=True)
    table.add_row(*(rich.markup.escape(one.text) or "(nothing)" for one in (pair.plain, pair.steered)))
    table.add_row(*(seen(one) for one in (pair.plain, pair.steered)))
    return table


def seen(text: Completion) -> str:
    """Refusal phrase and repetition of an answer."""
    phrase = refusal(text.text)
    refused = f"refuses: {rich.markup.escape(repr(phrase))}" if phrase else "no refusal phrase"
    return f"{refused}; repetition {repetition(text.tokens):.0%}"


def _as_length(edit: Intervention, direction: Direction) -> str:
    assert isinstance(edit, Add)
    return f", {edit.scale:+.3g} differences of means at {direction.site}"
