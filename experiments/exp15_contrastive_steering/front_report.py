"""Tables and figure of the ActAdd part: layers and coefficients, dimensions, perplexity by relevance, knowledge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.exp15_contrastive_steering.front import (
    AGAINST,
    COEFFICIENTS,
    DOSE,
    FRONT,
    KNOWLEDGE,
    OFF,
    ON,
    RELEVANCE,
    SENTIMENT,
    SHARES,
    TEXTS,
    TOPIC,
)
from experiments.exp15_contrastive_steering.settings import ContrastiveConfig
from experiments.exp15_contrastive_steering.steering_report import flagged, share
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band

TASKS = (TOPIC, SENTIMENT)


def layers(records: Records) -> list[int]:
    return sorted({r["layer"] for r in of(records, FRONT) if r["layer"] is not None})


def rows_of(
    records: Records, task: str, layer: int | None, arm: str, coefficient: float, **more: object
) -> list[Record]:
    return of(records, FRONT, task=task, layer=layer, arm=arm, coefficient=coefficient, **more)


def best_layer(records: Records, task: str) -> int | None:
    """The layer with most hits in whole texts at the middle coefficient, on the choosing half; ties to the lower."""

    def hits(layer: int) -> int:
        own = rows_of(records, task, layer, "difference", DOSE, half="choose")
        return sum(bool(r["hit"]) and r["degenerate"] is None for r in own)

    found = layers(records)
    return max(found, key=lambda layer: (hits(layer), -layer)) if found else None


def layer_table(records: Records, config: ContrastiveConfig) -> Table | None:
    """Hits at every layer and coefficient."""
    if not layers(records):
        return None
    rows: list[list[Cell]] = []
    for task in TASKS:
        plain = of(records, FRONT, task=task, arm="none", half="test")
        for layer in layers(records):
            hits = [
                share(rows_of(records, task, layer, arm, c, half="test"), "hit", config.seed)
                for arm, c in (*(("difference", c) for c in COEFFICIENTS), ("random", DOSE))
            ]
            broken = flagged(rows_of(records, task, layer, "difference", DOSE, half="test"), config.seed)
            chosen = " *" if layer == best_layer(records, task) else ""
            rows.append(
                [task, f"{layer}{chosen}", len(plain), share(plain, "hit", config.seed), *hits, broken],
            )
    pairs = "; ".join(f'{task}: "{plus}" minus "{minus}"' for task, (plus, minus) in TEXTS.items())
    return Table(
        "One pair of prompts, added in front of each prompt (ActAdd)",
        [
            *("task", "layer", "n", Column("unsteered", "%")),
            *(Column(f"coefficient {c:g}", "%") for c in COEFFICIENTS),
            *(Column(f"random, {DOSE:g}", "%"), Column(f"degenerate, {DOSE:g}", "%")),
        ],
        rows,
        [
            f"{pairs}. Added at resid_pre, once, to the first positions of the user's text. Hits: replies that read as "
            "Spanish; replies that say no to a plain question. *: best on the other half of the prompts. Random: as "
            "long at each position. n: prompts.",
        ],
    )


def dimension_table(records: Records, config: ContrastiveConfig) -> Table | None:
    """A random share of the dimensions alone, at the chosen layer."""
    if not layers(records):
        return None
    rows: list[list[Cell]] = []
    for task in TASKS:
        layer = best_layer(records, task)
        cells = [rows_of(records, task, layer, "some dimensions", DOSE, share=part, half="test") for part in SHARES] + [
            rows_of(records, task, layer, arm, DOSE, half="test") for arm in ("difference", "random")
        ]
        rows.append([task, layer, len(cells[0]), *(share(own, "hit", config.seed) for own in cells)])
    return Table(
        "Some of the dimensions",
        [
            *("task", "layer", "n"),
            *(Column(f"{part:.0%} of the dimensions", "%") for part in SHARES),
            *(Column("all", "%"), Column("random direction", "%")),
        ],
        rows,
        ["Hits as above, on the half of the prompts that did not choose the layer."],
    )


def side_table(records: Records, config: ContrastiveConfig) -> Table | None:
    """Perplexity by relevance, and knowledge, in the lower half of the layers: above, little is left of the effect."""
    best, found = best_layer(records, SENTIMENT), layers(records)
    if best is None:
        return None
    rows: list[list[Cell]] = []
    shown = [(layer, f"{layer}{' *' if layer == best else ''}") for layer in found[: -(-len(found) // 2)]]
    for near in (ON, AGAINST, OFF):
        for layer, name in shown:
            own = [log_ratios(of(records, RELEVANCE, near=near, arm=a, layer=layer)) for a in ("difference", "random")]
            ratios = [share(part, "ratio", config.seed) for part in own]
            rows.append([f"log perplexity ratio, {near}", name, len(own[0]), 0.0, *ratios])
    for field, title in (("first", "knowledge: P@1"), ("first_ten", "knowledge: P@10")):
        plain = of(records, KNOWLEDGE, arm="none")
        for layer, name in shown:
            parts = [plain, *(of(records, KNOWLEDGE, arm=a, layer=layer) for a in ("difference", "random"))]
            rows.append([title, name, len(plain), *(share(part, field, config.seed) for part in parts)])
    return Table(
        f'Side effects of "{TEXTS[SENTIMENT][0]}" minus "{TEXTS[SENTIMENT][1]}", coefficient {DOSE:g}',
        ["measure", "layer", "n", "unsteered", "difference", "random"],
        rows,
        [
            "Log perplexity ratio, nats a token: below 0 the text has become likelier. On topic: every plain question "
            "answered no, whatever the model's own view; the opposite: yes. Off topic: requests, Spanish, facts, with "
            "their replies. Knowledge: facts as sentences, with the block in front.",
        ],
    )


def log_ratios(records: Sequence[Record]) -> list[Record]:
    """Records with the log of the perplexity ratio, steered over unsteered."""
    return [{**r, "ratio": r["plain"] - r["log_prob"]} for r in records]


def layer_curves(records: Records, config: ContrastiveConfig) -> Iterator[Plot]:
    """Hits over layers."""
    found = layers(records)
    if not found:
        return
    yield line_with_band(
        found,
        [
            Series(
                f"{task}{'' if arm == 'difference' else ', random'}",
                [share(rows_of(records, task, layer, arm, DOSE), "hit", config.seed) for layer in found],
            )
            for task in TASKS
            for arm in ("difference", "random")
        ],
        name="in_front",
        title="ActAdd: replies as meant, by layer",
        x_label="layer",
        y_label="share of replies",
        caption=f"Replies in Spanish (topic) and replies that say no (sentiment) with the difference of one pair of "
        f"prompts added in front, coefficient {DOSE:g}, and with random blocks of the same length. 95 % intervals.",
        limits=(0, 1),
    )
