"""Whether words alone tell the clean prompts of a task from the counterfactual ones, in exp18."""

from __future__ import annotations

from typing import TypedDict

from experiments.exp18_discover_circuits.config import CircuitConfig, drawn_pairs
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from mlx_interp.circuits.matching import FOLDS, told_by_words
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.stats import mean_or_none

WORDS_OF = 200
"""Pairs that a bag of words is fitted to and tried on, at most."""


class Worded(TypedDict):
    """The pairs of a task, and what words alone tell of them."""

    made: int
    """Pairs that there are."""
    uneven: int
    """Pairs left out because their prompts are of unequal length."""
    used: int
    told: list[float] | None
    """Of each pair, the share of its two prompts that a bag of words tells right; None for too few pairs."""


def measure(run: Run[CircuitConfig], task: str) -> Worded:
    """How many pairs there are, and whether a bag of words tells their clean prompts from the others."""
    found = drawn_pairs(run, task)
    made = found.made[:WORDS_OF]
    texts = [(pair.clean.text, pair.counterfactual.text) for pair in made]
    told = told_by_words(texts, run.config.seed) if len(made) >= FOLDS else None
    return {
        "made": len(found.made),
        "uneven": found.dropped,
        "used": len(found.pairs),
        "told": told,
    }


def word_table(records: Records, config: CircuitConfig) -> Table | None:
    """Could a difference between classes be one of wording?"""
    rows: list[list[Cell]] = []
    for r in (r for r in records if r.get("level") == "words"):
        told = None if r["told"] is None else mean_or_none(r["told"], unit=range(len(r["told"])), seed=config.seed)
        verdict = "too few pairs" if told is None else "yes" if told.low > 0.5 else "not seen"
        tried = len(r["told"] or ())
        rows.append([r["task"], r["made"] + r["uneven"], r["uneven"], r["used"], tried, told, 0.5, verdict])
    if not rows:
        return None
    return Table(
        "Pairs, and what words alone tell of them",
        [
            *("task", "pairs there are", "of unequal length", "used", "tried by words"),
            *(Column("told right by words", "%"), Column("chance", "%"), "words alone tell clean from counterfactual"),
        ],
        rows,
        [
            "A bag of words and pairs of words, fitted to other pairs (none of the texts at hand among them), tells "
            "which prompt of a pair is the clean one. Where it does, a circuit may answer to wording, and what two "
            "classes' circuits do not share may be words that they do not share."
        ],
    )
