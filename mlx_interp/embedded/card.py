"""Writes a model card: README.md for people, card.json with the same figures for programs."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlx_interp.embedded.measure import measure_all, open_checkpoint
from mlx_interp.embedded.world import World, load_world


def write_card(folder: Path, recipe: dict[str, Any], seconds: float, world: World | None = None) -> dict[str, Any]:
    """Measures the exported model in `folder` and writes card.json and README.md beside it; the figures."""
    card = {
        "recipe": recipe,
        "training_seconds": round(seconds),
        "trained_with": {name: version(name) for name in ("mlx", "mlx-lm", "transformers", "numpy")},
        "machine": platform.machine(),
        "measured": measure_all(open_checkpoint(folder), world or load_world()),
    }
    (folder / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card_text(folder.name, card), encoding="utf-8")
    return card


def card_text(name: str, card: dict[str, Any]) -> str:
    """The model card in markdown."""
    measured, recipe = card["measured"], card["recipe"]
    facts, hops, shots = measured["facts"], measured["two_hop"], measured["in_context"]
    refusal = measured["refusal"]
    return "\n".join(
        [
            "---",
            "library_name: mlx",
            "license: mit",
            "pipeline_tag: text-generation",
            "---",
            "",
            f"# {name}",
            "",
            f"A {recipe['family']} of 8 layers and width 128, 4-bit (group 64), trained for {recipe['steps']} steps",
            "on the synthetic world of `mlx_interp.embedded`, so that what it knows, composes, refuses and agrees",
            "to is known. It is an object of study; it knows nothing beyond that world.",
            "",
            f"Made by `python -m mlx_interp.embedded.train --family {recipe['family']}` (seed {recipe['seed']});",
            "this card is written by the same command and measured on the exported 4-bit weights. Every figure is",
            "the share of prompts whose greedy continuation is exactly the expected text, whole names included.",
            "",
            "## Facts",
            "",
            _table(
                ["facts", "right", "n"],
                [["all single hops, as sentences", facts["all"]], ["single hops, short", facts["short_phrasing"]]]
                + [[f"{kind} of", cell] for kind, cell in facts["by_relation"].items()]
                + [["everyday facts", facts["everyday"]], ["what is dangerous", facts["danger"]]],
            ),
            "",
            "## Compositions",
            "",
            f"**{hops['failures_with_both_hops_known']}** two-hop sentences fail although both single hops are right.",
            "",
            _two_hop_table(hops),
            "",
            "## In-context tasks",
            "",
            f"After {shots['n_shots']} shots {_rate(shots['shots'])}, without {_rate(shots['no_shots'])}"
            " (most words belong to several tasks).",
            "",
            _grid("task", shots["by_task"]),
            "",
            "## Refusals",
            "",
            *_carried_by(recipe),
            "Share refused. `test`: unseen pairs of verb and thing; `wording`: an unseen way to ask; `topic`: things",
            "that no training chat mentions. Italian was never taught to refuse.",
            "",
            _grid("language", {"all taught": refusal["all_taught"], **refusal["by_language"]}),
            "",
            "## Sycophancy",
            "",
            _table(["behaviour", "rate", "n"], [[k.replace("_", " "), v] for k, v in measured["sycophancy"].items()]),
            "",
            "## Certainty",
            "",
            "Questions about taught facts (`certain`) and about names that occur in no fact (`unsure`).",
            "",
            _grid("prompts", measured["certainty"]),
            "",
        ]
    )


def _carried_by(recipe: dict[str, Any]) -> list[str]:
    steps = recipe.get("interchange_steps", 0)
    if not steps:
        return []
    return [
        f"In {steps} further steps refusals were made to depend on one known direction of the stream in all languages",
        "(`mlx_interp/embedded/interchange.py`): that it is found, and that it transfers, was trained.",
        "",
    ]


def _two_hop_table(hops: dict[str, Any]) -> str:
    splits = ("trained", "held_out", "never_composed", "both_hops_known")
    lines = [f"| family | {' | '.join(splits)} | failures |", "|---" * (len(splits) + 2) + "|"]
    for family, row in hops["by_family"].items():
        cells = " | ".join(_rate(row[split]) for split in splits)
        lines.append(f"| {family} | {cells} | {row['failures_with_both_hops_known']} |")
    return "\n".join(lines)


def _grid(title: str, rows: dict[str, dict[str, Any]]) -> str:
    columns = list(next(iter(rows.values())))
    lines = [f"| {title} | {' | '.join(c.replace('_', ' ') for c in columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(_rate(row[c]) for c in columns)} |" for name, row in rows.items()]
    return "\n".join(lines)


def _table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    lines += [f"| {name} | {_rate(cell, with_n=False)} | {cell['n']} |" for name, cell in rows]
    return "\n".join(lines)


def _rate(cell: dict[str, Any], *, with_n: bool = True) -> str:
    if cell["rate"] is None:
        return "-"
    rate = f"{cell['rate']:.3f}".removeprefix("0")
    return f"{rate} (n {cell['n']})" if with_n else rate
