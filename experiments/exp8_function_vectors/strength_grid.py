"""Layer vectors added to bare queries, over layers and strengths."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import numpy as np

from experiments.exp8_function_vectors.layer_vectors import ARMS, FORMS, VectorConfig, vector
from experiments.harness.experiment import Metric, Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.in_context.screening import BASE, base_items, rate, solved
from experiments.shared.in_context.tasks import Query, prompts
from mlx_interp.behaviour.answers import answer_scores
from mlx_interp.interventions import Add, Intervention
from mlx_interp.reporting import Cell, Column, Panel, Plot, Table, heat_map
from mlx_interp.stats import Estimate

GRID = "grid"
REPORTED = "0 to 100 % by task and model, in the project's first round"


def grid_items(run: Run[VectorConfig], earlier: Records) -> list[Query]:
    known = {query.key: query for query in base_items(run, earlier)}
    return [known[r["item"]] for r in solved(earlier)]


class Added(TypedDict):
    """A layer's vector added to one bare query."""

    task: str
    form: str
    """mean or difference."""
    arm: str
    layer: int
    strength: float
    half: str
    """choose or report."""
    right: bool
    """Whether the answer's first token comes first."""
    log_prob: float
    """Of the answer's first token, nats."""


def measure_grid(run: Run[VectorConfig], query: Query) -> Iterator[Added]:
    """Every form, arm, layer and strength on one bare query: one sweep."""
    asked = prompts(run, query, 1)["no examples"]
    cells = [
        (form, arm, layer, strength)
        for form in FORMS
        for arm in ARMS
        for layer in range(run.model.n_layers)
        for strength in run.config.strengths
    ]
    held = {(form, arm): vector(run, query.task, form, arm) for form in FORMS for arm in ARMS}
    variants: list[list[Intervention]] = [
        [Add(f"resid_post.{layer}", held[form, arm][layer], strength, -1)] for form, arm, layer, strength in cells
    ]
    scores = np.asarray(run.model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
    for (form, arm, layer, strength), (rank, log_prob) in zip(cells, scores, strict=True):
        yield {
            "task": query.task,
            "form": form,
            "arm": arm,
            "layer": layer,
            "strength": strength,
            "half": "choose" if query.number % 2 else "report",
            "right": int(rank) == 0,
            "log_prob": float(log_prob),
        }


def best(records: Records, form: str) -> tuple[int, float] | None:
    """Layer and strength of the own vector with the most right answers on the choosing half."""
    hits: dict[tuple[int, float], list[bool]] = {}
    for r in of(records, GRID, form=form, arm="own", half="choose"):
        hits.setdefault((r["layer"], r["strength"]), []).append(bool(r["right"]))
    rates = {cell: sum(values) / len(values) for cell, values in hits.items()}
    return max(rates, key=lambda cell: (round(rates[cell], 9), -cell[1], -cell[0])) if rates else None


def grid_table(records: Records, config: VectorConfig) -> Table:
    """Both forms at their best layer and strength."""
    base = {r["item"]: r for r in of(records, BASE, prompt="no examples")}
    rows: list[list[Cell]] = []
    for form in FORMS:
        cell = best(records, form)
        if cell is None:
            continue
        for name in [*dict.fromkeys(r["task"] for r in of(records, GRID)), "all"]:
            own = [
                r
                for r in of(records, GRID, form=form, layer=cell[0], strength=cell[1], half="report")
                if name in (r["task"], "all")
            ]
            arms = [[r for r in own if r["arm"] == arm] for arm in ARMS]
            plain = [{**base[r["item"]]} for r in arms[0]]
            rows.append(
                [form, name, *cell, len(plain), rate(plain, config.seed), *(rate(arm, config.seed) for arm in arms)]
            )
    return Table(
        "A layer's vector instead of examples",
        [
            *("form", "task", "layer", Column("strength", digits=1), "n"),
            *(Column(name, "%") for name in ("nothing", *ARMS)),
        ],
        rows,
        [
            "Layer and strength are chosen over all tasks on the other half of the queries. Test set: queries right "
            f"with examples. Reported for this form: {REPORTED}; not measured here.",
        ],
    )


def heat(records: Records, config: VectorConfig) -> Iterator[Plot]:
    """Accuracy by layer and strength, own vector beside its controls."""
    for form in FORMS:
        own = of(records, GRID, form=form)
        layers = sorted({r["layer"] for r in own})
        if not layers:
            continue
        panels = []
        for arm in ARMS:
            cells: dict[tuple[float, int], list[bool]] = {}
            for r in own:
                if r["arm"] == arm:
                    cells.setdefault((r["strength"], r["layer"]), []).append(r["right"])
            shares = {cell: sum(values) / len(values) for cell, values in cells.items()}
            panels.append(Panel(arm, [[shares.get((s, at)) for at in layers] for s in config.strengths]))
        yield heat_map(
            panels,
            name=f"{form}_by_layer_and_strength",
            title=f"The {form} of a layer, added",
            x_label="layer (output)",
            y_label="strength",
            value_label="right (share of queries)",
            caption=f"Share of bare queries right when the {form} of a layer is added there, over all tasks, by layer "
            "and strength; beside it another task's vector and a random one of the same length.",
            y_ticks=[f"{s:g}" for s in config.strengths],
            limits=(0, 1),
        )


def headline(records: Records, config: VectorConfig) -> str:
    parts = []
    for row in grid_table(records, config).rows:
        if row[1] == "all" and isinstance(row[6], Estimate) and isinstance(row[5], Estimate):
            parts.append(f"{row[0]}: {row[6].text(percent=True)} % right against {row[5].text(percent=True)} % without")
    return "; ".join(parts) or "too few queries are right with examples"


def metrics(records: Records, config: VectorConfig) -> list[Metric]:
    rows = [row for row in grid_table(records, config).rows if row[1] == "all"]
    return [Metric(f"right with the {row[0]}", "%", row[6] if isinstance(row[6], Estimate) else None) for row in rows]
