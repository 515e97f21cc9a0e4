"""Page of exp3: where bridge and answer stand in the lens, layer by layer and query by query."""

from __future__ import annotations

import math
from collections.abc import Iterator

from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.shared.two_hop import lens
from experiments.shared.two_hop.tuned import LensConfig
from mlx_interp.pages import Details, Page, grid
from mlx_interp.reporting import Panel, Record

MOST = 120
"""Queries on the page: more columns than a browser moves about in with ease."""


def pages(records: Records, config: LensConfig) -> Iterator[tuple[str, Page]]:
    """How close each entity is to the top at each place; a column says which query it is, and both entities' ranks."""
    mine = of(records, lens.STAGE)[:MOST]
    names = [f"{entity} at {place}" for entity in lens.ENTITIES for place in lens.PLACES]
    shown = [name for name in names if any(name in r for r in mine)]
    if not shown:
        return
    layers = range(max(len(r[name]) for r in mine for name in shown if name in r))
    panels = [
        Panel(name, [[_closeness(r[name][at]) if name in r else None for r in mine] for at in layers]) for name in shown
    ]
    details = [[_detail(r, shown, at) for r in mine] for at in layers]
    yield (
        "lens_by_query",
        grid(
            panels,
            details=[details] * len(panels),
            title="Two-hop queries under the lens",
            about=f"How close the first token of bridge and answer is to the lens's top, {len(mine)} queries: 1 is "
            "the top prediction, 2/3 the tenth, 1/3 the hundredth, 0 from the thousandth on. Subject: its last token; "
            "last: the end of the prompt.",
            x_label="query",
            y_label="layer",
            value_label="1 - log10(place) / 3",
            limits=(0, 1),
        ),
    )


def _closeness(rank: int) -> float:
    """1 at the top (rank 0), 0 from the thousandth place on."""
    return max(0.0, 1 - math.log10(rank + 1) / 3)


def _detail(record: Record, shown: list[str], layer: int) -> Details:
    places = {f"place of the {name}": record[name][layer] + 1 for name in shown if name in record}
    return Details(places, {"query": f"{record['item']} (bridge: {record['bridge']})"})
