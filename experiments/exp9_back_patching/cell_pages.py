"""Pages of back-patching: every cell of a grid with the queries that were patched there, the answer's rank in each."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.exp9_back_patching.back_patching import STAGE
from experiments.exp9_back_patching.back_patching_figures import heat_maps, panels_of
from experiments.exp9_back_patching.grids import pairs_of
from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.shared.two_hop.summaries import n_layers
from mlx_interp.pages import Details, Page, heat_page
from mlx_interp.patching.back_patching import EMBEDDING
from mlx_interp.reporting import Record

SHOWN = 8
"""Queries that a cell lists: those on which the answer came highest."""


def pages(records: Records, config: PatchingConfig) -> Iterator[tuple[str, Page]]:
    """A page in the place of each heat map of fix rates, with its panels."""
    for plot in heat_maps(records, config):
        length = plot.name.removeprefix("fix_rate_")
        details = [_details(records, length, position, arm) for position, arm, _ in panels_of(records, length)]
        yield plot.name, heat_page(plot, details=details, title=f"Back-patching: failures fixed, {length} states")


def _details(records: Records, length: str, position: str, arm: str) -> list[list[Details | None]]:
    """By target layer (row 0 the embedding) and source layer."""
    label = {"study": "back-patching", "group": "failure", "position": position, "arm": arm, "length": length}
    mine = [r for r in of(records, STAGE, **label) if "rank" in r]
    n = n_layers(records)
    found: list[list[Details | None]] = [[None] * n for _ in range(n + 1)]
    for cell, (source, target) in enumerate(pairs_of(records, "back-patching")):
        found[target - EMBEDDING][source] = _detail(mine, cell)
    return found


def _detail(mine: list[Record], cell: int) -> Details:
    ranked = sorted(mine, key=lambda r: r["rank"][cell])
    lines = [f"{r['rank'][cell] + 1}. {_query(r)}" for r in ranked[:SHOWN]]
    fixed = sum(r["rank"][cell] == 0 for r in mine)
    return Details(
        {"failures": len(mine), "fixed": fixed}, {"place of the answer among all tokens, by query": "\n".join(lines)}
    )


def _query(record: Record) -> str:
    """The prompt and its bridge, from an item's name: "failure: family: prompt"."""
    return f"{record['item'].split(': ', 2)[-1]} ({record['bridge']})"
