"""Selection of one direction among all layers and template positions, as in Arditi et al. (2024).

1. Candidates: differences of means at every layer and every token of the chat template behind the instruction.
2. Bypass: mean refusal log-odds on harmful prompts with the candidate taken out everywhere; the lower, the better.
3. Induce: mean log-odds on harmless prompts with the candidate added at its layer, at every prompt position; must be
   above 0. KL: of the next token on harmless prompts with the candidate taken out; must be below a bound.
4. The candidate with the lowest bypass among those that pass, at most 80 % deep. All scores are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import mlx.core as mx

from experiments.experiment import Records
from experiments.traits import stages
from experiments.traits.report import of, rate
from experiments.traits.stages import DEEPEST, Item, TraitConfig
from mlx_interp.interventions import Add, Intervention
from mlx_interp.methods.contrast import Contrast, contrast, template_positions
from mlx_interp.methods.detectors import log_odds, opener_tokens
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Table, heat_map

SCORES = "scores"
KL_BOUND = 0.1
SCORED = ("bypass", "induce", "kl")


@lru_cache(maxsize=4)
def candidates(model: Model, config: TraitConfig) -> Contrast:
    """The contrast at every layer and template position."""
    of_refusal = stages.sets(model, config, "refusal")
    kinds = [
        [model.prompt(ask.text, chat=True) for ask in part["train"]]
        for part in (of_refusal.positive, of_refusal.negative)
    ]
    return contrast(model, kinds[0], kinds[1], positions=template_positions(model), seed=config.seed)


@lru_cache(maxsize=4)
def openers(model: Model, config: TraitConfig) -> tuple[int, ...]:
    """The first tokens of this model's refusals, read off the training prompts."""
    of_refusal = stages.sets(model, config, "refusal")
    kinds = [
        [model.prompt(ask.text, chat=True) for ask in part["train"]]
        for part in (of_refusal.positive, of_refusal.negative)
    ]
    return tuple(opener_tokens(model, kinds[0], kinds[1]))


def items(model: Model, config: TraitConfig, earlier: Records) -> list[Item]:
    """The prompts on which candidates are scored; none for a model that refuses nothing."""
    if not openers(model, config):
        return []
    return [item for item in stages.prompt_items(model, config, ["refusal"]) if item.split == "choose"]


def measure(model: Model, item: Item, config: TraitConfig) -> Iterator[Record]:
    """All candidates on one prompt: one sweep for what is taken out, one for what is added."""
    found = candidates(model, config)
    prompt = model.prompt(stages.asked(model, config, item).text, chat=True)
    cells = [
        (layer, at) for layer in range(model.n_layers) for at in range(len(found.positions)) if found.carries[layer, at]
    ]
    vectors = [mx.array(found.vectors[cell]) for cell in cells]
    removed: list[list[Intervention]] = [[]]
    removed += [found.direction(layer, found.positions[at]).ablated_everywhere() for layer, at in cells]
    metric = log_odds(openers(model, config))
    logits = model.sweep(prompt, removed)
    odds = metric(logits)
    scores: dict[str, list[float]] = {}
    if item.kind == "positive":
        scores["bypass"] = [float(value) for value in odds[1:]]
    else:
        everywhere = slice(0, len(prompt))
        added = [
            [Add(f"{found.site}.{layer}", v, 1.0, everywhere)] for (layer, _), v in zip(cells, vectors, strict=True)
        ]
        scores["induce"] = [float(value) for value in model.sweep(prompt, added, metric=metric)]
        scores["kl"] = [stages.divergence(logits[0], row) for row in logits[1:]]
    for name, values in scores.items():
        for (layer, at), value in zip(cells, values, strict=True):
            yield {
                "trait": "refusal",
                "score": name,
                "layer": layer,
                "position": found.positions[at],
                "value": value,
                "plain": float(odds[0]) if name != "kl" else 0.0,
                "unit": prompt.text,
                "n_layers": model.n_layers,
            }


def means(records: Records) -> dict[tuple[int, int], dict[str, float]]:
    """Mean score of each candidate, by (layer, position)."""
    cells: dict[tuple[int, int], dict[str, list[float]]] = {}
    for r in of(records, SCORES):
        cells.setdefault((r["layer"], r["position"]), {}).setdefault(r["score"], []).append(float(r["value"]))
    return {cell: {name: sum(v) / len(v) for name, v in scores.items()} for cell, scores in cells.items()}


def ranked(records: Records) -> list[tuple[int, int]]:
    """Candidates that pass, the best first; empty where none does."""
    n_layers = max((r["n_layers"] for r in of(records, SCORES)), default=0)
    found = {
        cell: scores
        for cell, scores in means(records).items()
        if scores["induce"] > 0 and scores["kl"] < KL_BOUND and cell[0] <= DEEPEST * n_layers
    }
    return sorted(found, key=lambda cell: (found[cell]["bypass"], cell))


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
            f"{len(passed)} of {len(means(records))} candidates above the noise floor pass: induce above 0, KL below "
            f"{KL_BOUND}, at most {DEEPEST:.0%} deep. Bypass and induce are log-odds of its own refusal openers; "
            f"plain prompts give {before['bypass']:.1f} (harmful) and {before['induce']:.1f} (harmless).",
        ],
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
            "choosing prompts; hatched: no longer than random halves of one class, not scored.",
            y_ticks=positions,
        )
