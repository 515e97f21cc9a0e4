"""Tables and figures of a collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from experiments.exp16_collect_activations.collecting import CHECKED, NORMS, STORED
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.shared.prompts.collected import LENGTHS, CollectionFields
from mlx_interp.reporting import Column, Plot, Series, Table, line_with_band
from mlx_interp.stats import mean_or_none

DRAWN = 5
"""Categories of a figure: with the first positions, as many lines as can be told apart."""
BOUNDS = {"float32": 1e-4, "bfloat16": 2.0**-8, "float16": 2.0**-10}
"""Of a stored row, relative to the site's largest activation: batching in float32, or rounding."""


def prompt_table(records: Records, config: CollectionFields) -> Table:
    """What was collected from."""
    own = of(records, LENGTHS)
    rows = []
    for category in dict.fromkeys(record["category"] for record in own):
        lengths = [record["tokens"] for record in own if record["category"] == category]
        rows.append([category or "(none)", len(lengths), sum(lengths), min(lengths), max(lengths)])
    return Table("Prompts", ["category", "n", "tokens", "shortest", "longest"], rows)


def store_table(records: Records, config: CollectionFields) -> Table:
    """Size, time and memory of every store, beside what was predicted."""
    rows = [
        [
            record["item"],
            ", ".join(record["layers"]),
            record["sites"],
            record["prompts"],
            record["rows"],
            record["expected_bytes"] / 1e6,
            record["bytes"] / 1e6,
            record["bytes"] / record["prompts"] * 1000 / 1e6,
            record["expected_seconds"],
            record["seconds"],
            record["tokens_per_second"],
            None if record["peak_mlx_bytes"] is None else record["peak_mlx_bytes"] / 1e6,
            record["rows_read_per_second"],
        ]
        for record in of(records, STORED)
    ]
    heads = ["store", "layers", "sites", "n prompts", "rows"]
    measured = ["predicted (MB)", "on disk (MB)", "MB a 1000 prompts", "predicted (s)", "computed (s)"]
    return Table(
        "Stores: size, time, memory",
        [*heads, *measured, Column("tokens/s", digits=0), "peak (MB)", Column("rows/s read", digits=0)],
        rows,
        notes=[
            f"Stored: {config.dtype}, positions: {config.positions}, new tokens: {config.max_new_tokens}. Predicted "
            "from 256 prompts' lengths and 32 prompts run beforehand; computed: without writing, which another thread "
            "does meanwhile. peak: of MLX's arrays, the weights included, of a store "
            "made in one go. read: one site, all rows, shuffled.",
        ],
    )


def check_table(records: Records, config: CollectionFields) -> Table:
    """Every site's largest difference between stored rows and a fresh forward."""
    own = of(records, CHECKED)
    bound = BOUNDS[config.dtype]
    rows = []
    for store in dict.fromkeys(record["store"] for record in own):
        mine = [record for record in own if record["store"] == store]
        for at, site in enumerate(mine[0]["sites"]):
            errors = [record["error"][at] for record in mine]
            control = [record["control"][at] for record in mine if record["control"][at] is not None]
            equal = mean_or_none(
                [float(error <= bound) for error in errors], unit=[record["item"] for record in mine], seed=config.seed
            )
            rows.append(
                [store, site, len(mine), sum(r["rows"] for r in mine), equal, _exponent(max(errors)), min_of(control)]
            )
    tokens = sum(record["same_tokens"] and record["same_prompt"] for record in own)
    heads: list[Column | str] = [
        "store",
        "site",
        "n",
        "rows",
        Column("equal", "%"),
        "largest difference",
        "another prompt's rows, the least of all prompts",
    ]
    return Table(
        "Stored rows against a fresh forward of the prompt alone",
        heads,
        rows,
        notes=[
            f"Relative to the row's largest activation, the worst row; equal: within {_exponent(bound)}. Tokens and "
            f"positions are those of the prompt in {tokens} of {len(own)} comparisons. Last column, the control: "
            "rows of another prompt, the row that differs most, in the prompt where that is least.",
        ],
    )


def norm_figure(records: Records, config: CollectionFields) -> Iterator[Plot]:
    """Mean length of rows by layer, first positions apart, by category."""
    own = of(records, NORMS)
    if not own:
        return
    names = sorted({site.partition(".")[0] for site in own[0]["sites"]})
    for name in names:
        places = [(at, site) for at, site in enumerate(own[0]["sites"]) if site.partition(".")[0] == name]
        if len(places) < 2:
            continue
        sizes = Counter(record["category"] for record in own)
        drawn = [category for category, _ in sizes.most_common(DRAWN)]
        series = [_line("first position", own, "first", places, config.seed)]
        for category in drawn:
            mine = [record for record in own if record["category"] == category]
            series.append(_line(category or "later positions", mine, "later", places, config.seed))
        left = f"; the {DRAWN} largest of {len(sizes)} categories" if len(sizes) > DRAWN else ""
        yield line_with_band(
            [float(site.partition(".")[2]) for _, site in places],
            [one for one in series if any(estimate is not None for estimate in one.estimates)],
            name=f"norms_{name}",
            title=f"Length of stored activations, {name}",
            x_label="layer",
            y_label="mean Euclidean norm",
            caption=f"Mean length of the stored rows of {name} by layer: of each prompt's first position, and of its "
            f"later positions by category{left}. 95 % intervals over prompts. A first position that stands out "
            "dominates squared errors and means: `positions: no_bos` leaves it out.",
        )


def headline(records: Records, config: CollectionFields) -> str:
    """One sentence for the index."""
    stores, checks = of(records, STORED), of(records, CHECKED)
    if not stores:
        return "nothing collected"
    sizes = ", ".join(f"{record['item']} {record['bytes'] / 1e6:.1f} MB" for record in stores)
    worst = max((error for record in checks for error in record["error"]), default=float("nan"))
    speed = max(record["tokens_per_second"] for record in stores)
    return (
        f"{stores[-1]['prompts']} prompts, {stores[-1]['rows']} rows: {sizes}; {speed:,.0f} tokens/s; stored rows "
        f"equal a fresh forward within {_exponent(worst)} (n = {len(checks)})"
    )


def _line(label: str, records: Records, field: str, places: Sequence[tuple[int, str]], seed: int) -> Series:
    return Series(
        label,
        [
            mean_or_none(
                [record[field][at] for record in records if record[field][at] is not None],
                unit=[record["item"] for record in records if record[field][at] is not None],
                seed=seed,
            )
            for at, _ in places
        ],
    )


def min_of(values: Sequence[float]) -> float | None:
    return float(np.min(values)) if values else None


def _exponent(value: float) -> str:
    return f"{value:.0e}"
