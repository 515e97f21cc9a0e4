"""Selection of one direction among all layers and template positions (mlx_interp.directions.candidates).

Candidates are found on training prompts and scored on those set aside for choosing. All scores are kept and drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.schema import InBatch
from experiments.harness.state import Run, of_run
from experiments.shared.traits import stages
from experiments.shared.traits.stages import Item, TraitConfig
from experiments.shared.traits.trait_records import EFFECTS
from experiments.shared.traits.trait_report import rate
from mlx_interp.behaviour.detectors import opener_tokens
from mlx_interp.directions.candidates import (
    DEEPEST,
    KL_BOUND,
    Candidates,
    PromptScores,
    rank,
    score_harmful,
    score_harmless,
)
from mlx_interp.directions.contrasts import Contrast, contrast, template_positions
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Panel, Plot, Table, finite, heat_map
from mlx_interp.stats import auroc

SCORES = "scores"
SCORED = ("bypass", "induce", "kl")


class Scored(InBatch):
    """A candidate's score on one prompt."""

    trait: str
    score: str
    """bypass, induce (log-odds of a refusal) or kl (nats)."""
    layer: int
    position: int
    value: float | None
    plain: float
    """The score without any direction."""
    unit: str
    n_layers: int


@of_run(4)
def candidates(run: Run[TraitConfig]) -> Contrast:
    """The contrast at every layer and template position."""
    of_refusal = stages.sets(run, "refusal")
    kinds = [
        [run.model.prompt(ask.text, chat=True) for ask in part["train"]]
        for part in (of_refusal.positive, of_refusal.negative)
    ]
    return contrast(run.model, kinds[0], kinds[1], positions=template_positions(run.model), seed=run.config.seed)


@of_run(4)
def openers(run: Run[TraitConfig]) -> tuple[int, ...]:
    """The first tokens of this model's refusals, read off the training prompts."""
    of_refusal = stages.sets(run, "refusal")
    kinds = [
        [run.model.prompt(ask.text, chat=True) for ask in part["train"]]
        for part in (of_refusal.positive, of_refusal.negative)
    ]
    return tuple(opener_tokens(run.model, kinds[0], kinds[1]))


def items(run: Run[TraitConfig], earlier: Records) -> list[Item]:
    """The prompts on which candidates are scored; none for a model that refuses nothing."""
    if not openers(run):
        return []
    return [item for item in stages.prompt_items(run, ["refusal"]) if item.split == "choose"]


@of_run(4)
def tried(run: Run[TraitConfig]) -> Candidates:
    """The candidates with the edits that try them."""
    layers = tuple(stages.tried_layers(run))
    return Candidates(candidates(run), openers(run), layers)


def measure(run: Run[TraitConfig], batch: Sequence[Item]) -> Iterator[Scored]:
    """All candidates on many prompts: one sweep over the harmful ones, one over the harmless."""
    trying = tried(run)
    if not trying.cells:
        return
    for kind, score in (("positive", score_harmful), ("negative", score_harmless)):
        some = [item for item in batch if item.kind == kind]
        prompts = [run.model.prompt(stages.asked(run, item).text, chat=True) for item in some]
        for item, prompt, found in zip(some, prompts, score(run.model, trying, prompts) if some else (), strict=True):
            yield from _records(run.model, item, prompt.text, found, trying.cells)


def _records(
    model: Model, item: Item, text: str, found: PromptScores, cells: Sequence[tuple[int, int]]
) -> Iterator[Scored]:
    for name in SCORED:
        values = getattr(found, name)
        if values is None:
            continue
        for (layer, position), value in zip(cells, values, strict=True):
            yield {
                "item": item.key,
                "trait": "refusal",
                "score": name,
                "layer": layer,
                "position": position,
                "value": finite(float(value)),
                "plain": found.plain if name != "kl" else 0.0,
                "unit": text,
                "n_layers": model.n_layers,
            }


def means(records: Records) -> dict[tuple[int, int], dict[str, float]]:
    """Mean score of each candidate, by (layer, position)."""
    cells: dict[tuple[int, int], dict[str, list[float]]] = {}
    for r in of(records, SCORES):
        cells.setdefault((r["layer"], r["position"]), {}).setdefault(r["score"], []).append(_number(r["value"]))
    return {cell: {name: sum(v) / len(v) for name, v in scores.items()} for cell, scores in cells.items()}


def _number(value: float | None) -> float:
    """What was not finite is kept as None in records."""
    return float("nan") if value is None else float(value)


def ranked(records: Records) -> list[tuple[int, int]]:
    """Candidates that pass, the best first; empty where none does."""
    n_layers = max((r["n_layers"] for r in of(records, SCORES)), default=0)
    scores = {cell: tuple(by_name[name] for name in SCORED) for cell, by_name in means(records).items()}
    return rank(scores, n_layers)  # type: ignore[arg-type]


def table(records: Records, config: TraitConfig) -> Table:
    """The five best candidates, and how many passed."""
    rows: list[list[Cell]] = []
    own = of(records, SCORES)
    passed = ranked(records)
    for layer, position in passed[:5]:
        cell = [r for r in own if (r["layer"], r["position"]) == (layer, position)]
        n_layers = cell[0]["n_layers"]
        scores = [rate([r for r in cell if r["score"] == name], config.seed, "value") for name in SCORED]
        rows.append([layer, position, layer / n_layers, *scores])
    plain = {name: [r["plain"] for r in own if r["score"] == name] for name in ("bypass", "induce")}
    before = {name: sum(values) / len(values) if values else float("nan") for name, values in plain.items()}
    return Table(
        "Selected direction, and its runners-up",
        [
            *("layer", "position", Column("depth", "%")),
            Column("bypass", "nats", digits=1),
            Column("induce", "nats", digits=1),
            Column("KL", "nats", digits=3),
        ],
        rows,
        [
            f"{len(passed)} of {len(means(records))} candidates pass: induce above 0, KL below {KL_BOUND}, at most "
            f"{DEEPEST:.0%} deep. {why_not(records)}Bypass and induce are log-odds of its own refusal openers; "
            f"plain prompts give {before['bypass']:.1f} (harmful) and {before['induce']:.1f} (harmless).",
        ],
    )


def why_not(records: Records) -> str:
    """Of the candidates that fail, how many fail each rule; of a model without refusals, what it did instead."""
    found = means(records)
    if not found:
        plain = {
            kind: [r["hit"] for r in of(records, EFFECTS, arm="none", kind=kind)] for kind in ("positive", "negative")
        }
        told = ", ".join(
            f"{sum(hits)} of {len(hits)} {what} prompts"
            for what, hits in (("harmful", plain["positive"]), ("harmless", plain["negative"]))
        )
        return f"None was scored: no first token opens refusals of training prompts; plain replies refuse {told}. "
    n_layers = max(r["n_layers"] for r in of(records, SCORES))
    values = [(cell, scores["bypass"], scores["induce"], scores["kl"]) for cell, scores in found.items()]
    failed = {
        "not finite": sum(not np.isfinite(row[1:]).all() for row in values),
        "induce 0 or below": sum(row[2] <= 0 for row in values),
        f"KL {KL_BOUND} or above": sum(row[3] >= KL_BOUND for row in values),
        "too deep": sum(row[0][0] > DEEPEST * n_layers for row in values),
    }
    return "Fail (some by several): " + ", ".join(f"{n} {why}" for why, n in failed.items()) + ". "


def metric_table(records: Records, config: TraitConfig) -> Table | None:
    """The refusal metric on plain prompts: does it tell harmful from harmless?"""
    plain: dict[str, dict[str, float]] = {}
    for r in of(records, SCORES):
        plain.setdefault(r["score"], {})[r["unit"]] = float(r["plain"])
    if not {"bypass", "induce"} <= plain.keys():
        return None
    harmful, harmless = (list(plain[name].values()) for name in ("bypass", "induce"))
    rows: list[list[Cell]] = [
        [what, len(odds), *np.quantile(odds, (0, 0.25, 0.5, 0.75, 1)).tolist(), None]
        for what, odds in (("harmful", harmful), ("harmless", harmless))
    ]
    rows.append(
        [
            "harmful above harmless",
            len(harmful) + len(harmless),
            *[None] * 5,
            auroc(harmful, harmless, seed=config.seed),
        ]
    )
    quantiles = (
        Column(name, "nats", digits=1) for name in ("least", "lower quarter", "median", "upper quarter", "most")
    )
    return Table(
        "The refusal metric on plain prompts",
        ["prompts", "n", *quantiles, "AUROC"],
        rows,
        ["Log-odds that the first token is one of the model's own refusal openers; prompts set aside for choosing."],
    )


def figure(records: Records, config: TraitConfig) -> Iterator[Plot]:
    """Every candidate's three scores."""
    found = means(records)
    if not found:
        return
    layers, positions = range(1 + max(cell[0] for cell in found)), sorted({cell[1] for cell in found})
    panels = [
        Panel(name, [[found.get((layer, p), {}).get(name) for layer in layers] for p in positions]) for name in SCORED
    ]
    for panel in panels:
        yield heat_map(
            [panel],
            name=f"candidates_{panel.title}",
            title=f"Candidates: {panel.title}",
            x_label="layer",
            y_label="position",
            value_label={"kl": "KL (nats)"}.get(panel.title, "refusal log-odds (nats)"),
            caption=f"{panel.title.capitalize()} of every candidate by layer and position from the end, mean over the "
            "choosing prompts; hatched: both kinds are the same there, not scored.",
            y_ticks=positions,
        )
