"""Tables and figures of refusal directions across languages."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.exp10_crosslingual_refusal.languages import PARALLEL, SUFFICES, TRAIT, TRANSFER, Config
from experiments.harness.experiment import Metric, Records
from experiments.harness.frame import of
from experiments.shared.traits import random_draws, trait_report
from experiments.shared.traits.layer_choice import chosen_layer
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Table, heat_map
from mlx_interp.stats import Estimate

REPORTED: dict[str, tuple[str, str, str, str, str, str]] = {
    "gemma-2-2b": ("100", "100", "100", "100", "100", "0"),
    "llama-3.2-3b": ("0", "0", "0", "0", "0", "0"),
    "qwen-2.5-7b": ("100", "0", "100", "100", "100", "80"),
}
"""Success (%) in English, Spanish, French, German, Chinese, and neutral prompts kept, of the project's first round."""


def cell(records: Records, config: Config, source: str, target: str, edit: str, kind: str) -> Estimate | None:
    own = of(records, TRANSFER, source=source, target=target, edit=edit, kind=kind)
    return trait_report.rate(own, config.seed)


def english_table(records: Records, config: Config) -> Table:
    """The English direction in every language."""
    rows: list[list[Cell]] = []
    for target in _languages(records):
        n = len(of(records, TRANSFER, source="en", target=target, edit="plain", kind="positive"))
        harmful = [cell(records, config, "en", target, edit, "positive") for edit in ("plain", "ablated")]
        harmless = [cell(records, config, "en", target, edit, "negative") for edit in ("plain", "added")]
        random = [
            random_draws.mean(records, config.seed, language=target, kind=kind) for kind in ("positive", "negative")
        ]
        kept = cell(records, config, "en", target, "ablated", "negative")
        rows.append([target, n, *harmful, random[0], *harmless, random[1], kept])
    return Table(
        "The English direction in every language: refusals on held-out prompts",
        [
            *("language", "n"),
            *(Column(f"harmful, {edit}", "%") for edit in ("plain", "ablated", "random ablated")),
            *(Column(f"harmless, {edit}", "%") for edit in ("plain", "added", "random added")),
            Column("harmless, ablated", "%"),
        ],
        rows,
        [
            "Neutral prompts are preserved where harmless requests stay answered when the direction is ablated. "
            "Random: mean over the draws of the next table.",
            *(
                f"Added at every position, {dose:g} times the difference of means: the least strength that "
                f"induces {SUFFICES:.0%} of the refusals in every language in which any does, on prompts set aside."
                for dose in sorted({r["dose"] for r in of(records, TRANSFER)})
            ),
        ],
    )


def source_table(records: Records, config: Config) -> Table:
    """Every language's direction in English and in its own language."""
    rows: list[list[Cell]] = []
    for source in _languages(records):
        own = of(records, TRANSFER, source=source)
        found = [
            cell(records, config, source, target, edit, kind)
            for target in (source, "en")
            for edit, kind in (("ablated", "positive"), ("added", "negative"))
        ]
        angle = next(r for r in of(records, PARALLEL, source=source, target="en"))
        angles = [angle[name] for name in ("cosine", "random", "language", "trained")]
        rows.append([source, "yes" if own[0]["carries"] else "no", *found, *angles])
    return Table(
        "Every language's own direction",
        [
            *("source", "more than chance"),
            *(Column(f"{where}, {what}", "%") for where in ("own", "English") for what in ("ablated", "added")),
            "cosine to English",
            "random cosine",
            "cosine to the language itself",
            "cosine to the one trained in",
        ],
        rows,
        [
            "Ablated: refusals left on harmful prompts. Added: refusals induced on harmless ones. The language "
            "itself: its harmless requests minus those of English. Trained in: three embedded models were trained to "
            "refuse along one known direction in all languages.",
        ],
    )


def capability_table(records: Records, config: Config) -> Table:
    """What ablating the English direction does to harmless requests in every language."""
    rows: list[list[Cell]] = []
    for target in _languages(records):
        own = of(records, TRANSFER, source="en", target=target, kind="negative")
        plain = {r["unit"]: r["text"] for r in own if r["edit"] == "plain"}
        same = [
            trait_report.rate(
                [{"unit": r["unit"], "same": r["text"] == plain[r["unit"]]} for r in own if r["edit"] == edit],
                config.seed,
                "same",
            )
            for edit in ("ablated", "random ablated")
        ]
        rows.append([target, len(plain), *same])
    return Table(
        "What is left of harmless replies when the English direction is ablated",
        ["language", "n", Column("the same, word for word", "%"), Column("the same, random direction", "%")],
        rows,
        ["Held-out harmless requests, greedy replies."],
    )


def reported(records: Records, config: Config) -> Table:
    """The earlier round's figures."""
    rows: list[list[Cell]] = [[name, *figures] for name, figures in REPORTED.items()]
    heads = ["model", *(f"{name} (%)" for name in ("en", "es", "fr", "de", "zh", "neutral kept"))]
    return Table("Reported by the first round, two prompts a language, not measured here", heads, rows)


def matrices(records: Records, config: Config) -> Iterator[Plot]:
    """Refusals left, refusals induced, and cosines, source by target."""
    names = _languages(records)
    if not names:
        return
    angles = {(r["source"], r["target"]): r["cosine"] for r in of(records, PARALLEL)}

    def grid(edit: str, kind: str) -> list[list[float | None]]:
        found = [[cell(records, config, s, t, edit, kind) for t in names] for s in names]
        return [[None if one is None else one.value for one in row] for row in found]

    for name, what, values in (
        ("ablated", "refusals left on harmful prompts", grid("ablated", "positive")),
        ("added", "refusals induced on harmless prompts", grid("added", "negative")),
        ("cosines", "cosine of the directions", [[angles[s, t] for t in names] for s in names]),
    ):
        yield heat_map(
            [Panel(what, values)],
            name=name,
            title="Directions across languages",
            x_label="language of the prompts" if name != "cosines" else "language",
            y_label="language of the direction",
            value_label="rate" if name != "cosines" else "cosine",
            caption=f"{what.capitalize()}: direction of one language (rows) in another (columns), held-out prompts. "
            "Italian was never taught to refuse.",
            x_ticks=names,
            y_ticks=names,
            limits=(0, 1) if name != "cosines" else None,
        )


def headline(records: Records, config: Config) -> str:
    """The English direction over the other languages that refuse."""
    left, induced = _others(records)
    one, two = (trait_report.rate(records_, config.seed) for records_ in (left, induced))
    if one is None or two is None:
        return trait_report.why_none(records, TRAIT) if chosen_layer(records, TRAIT) is None else "one language only"
    return (
        f"English direction in the other languages that refuse: {one.text(percent=True)} % refusals left, "
        f"{two.text(percent=True)} % induced"
    )


def metrics(records: Records, config: Config) -> list[Metric]:
    left, induced = _others(records)
    return [
        Metric("refusals left in other languages", "%", trait_report.rate(left, config.seed)),
        Metric("refusals induced in other languages", "%", trait_report.rate(induced, config.seed)),
        Metric("refusals induced by random directions", "%", random_draws.mean(records, config.seed)),
    ]


def _others(records: Records) -> tuple[list[Record], list[Record]]:
    """Harmful prompts with the English direction ablated, harmless ones with it added; not English, and refusing."""
    own = [r for r in of(records, TRANSFER, source="en") if r["target"] != "en"]
    plain: dict[str, list[bool]] = {}
    for r in own:
        if r["edit"] == "plain" and r["kind"] == "positive":
            plain.setdefault(r["target"], []).append(bool(r["hit"]))
    refusing = {name for name, hits in plain.items() if sum(hits) > len(hits) / 2}
    mine = [r for r in own if r["target"] in refusing]
    return (
        [r for r in mine if r["edit"] == "ablated" and r["kind"] == "positive"],
        [r for r in mine if r["edit"] == "added" and r["kind"] == "negative"],
    )


def _languages(records: Records) -> list[str]:
    return list(dict.fromkeys(r["target"] for r in of(records, TRANSFER)))
