"""Figures of back-patching: heat maps of fix rates, the diagonal band, and the logit lens beside them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from experiments.exp9_back_patching import chosen_cells
from experiments.exp9_back_patching.grids import Grids, grids, pairs_of, settings
from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.shared.two_hop.summaries import mean_over, n_layers, share_by_layer
from mlx_interp.patching.back_patching import EMBEDDING
from mlx_interp.reporting import Panel, Plot, Record, Series, heat_map, line_with_band


def band(records: Records, config: PatchingConfig) -> Iterator[Plot]:
    """Failures whose text names the answer, along the diagonal: each layer written into the one below."""
    pairs = pairs_of(records, "back-patching") if of(records, chosen_cells.STAGE) else []
    diagonal = {number: source for number, (source, target) in enumerate(pairs) if source - target == 1}
    series = []
    for position in dict.fromkeys(r["position"] for r in of(records, chosen_cells.STAGE)):
        for arm in chosen_cells.DECODED:
            mine = of(records, chosen_cells.STAGE, group="failure", position=position, arm=arm, length="raw")
            if mine:
                hits = {r["item"]: _along(r, diagonal) for r in mine}
                label = f"{position} position, {arm}, n = {len(mine)}"
                series.append(Series(label, share_by_layer(hits, mine, config.seed)))
    if series:
        yield line_with_band(
            list(range(len(diagonal))),
            series,
            name="text_along_the_diagonal",
            title="Failures fixed by the text, each layer into the one below",
            x_label="source layer (resid_post); target: the layer below",
            y_label="share of texts with the answer",
            limits=(0, 1.02),
            caption=f"Share of failures whose text of {config.new_tokens} greedy tokens names the answer when a "
            "layer's state replaces that of the layer below; bands: 95 % intervals over bridges.",
        )


def _along(record: Record, diagonal: dict[int, int]) -> list[bool]:
    """By source layer."""
    found = dict(zip(record["cells"], record["mentioned"], strict=True))
    return [found[cell] for cell, _ in sorted(diagonal.items(), key=lambda item: item[1])]


def heat_maps(records: Records, config: PatchingConfig) -> Iterator[Plot]:
    """Fix rate of every cell, patched beside the control, at each position; one figure for each length."""
    for length in ("raw", "rescaled"):
        panels = [
            Panel(f"{position} position, {arm}, n = {len(found.cells)}", _matrix(records, found))
            for position, arm, found in panels_of(records, length)
        ]
        if panels:
            layers = list(range(n_layers(records)))
            yield heat_map(
                panels,
                name=f"fix_rate_{length}",
                title=f"Failures fixed, {length} states",
                x_label="source layer (resid_post)",
                y_label="target layer",
                value_label="failures fixed (%)",
                x_ticks=layers,
                y_ticks=["E", *layers],
                columns=2,
                caption="Share of failures (n above each panel) whose answer becomes the top prediction when "
                f"resid_post of the source layer replaces that of the target (E: the embedding), {length}. "
                "Right: another failure's states, where one of another bridge exists.",
            )


def panels_of(records: Records, length: str) -> list[tuple[str, str, Grids]]:
    """Position, arm and grids of each panel of a heat map, those without failures left out."""
    shown = [
        (position, arm, grids(records, study="back-patching", arm=arm, position=position, length=length))
        for position in dict.fromkeys(position for position, _ in settings(records, "back-patching"))
        for arm in ("patched", "other prompt")
    ]
    return [one for one in shown if one[2].cells]


def lens_curves(records: Records, config: PatchingConfig) -> Iterator[Plot]:
    """Share of queries whose bridge and answer are visible, by layer."""
    for group in ("failure", "correct"):
        lenses = [r for r in records if r.get("arm") == "lens" and r["group"] == group]
        if not lenses:
            continue
        series = []
        for name, label in (
            ("bridge", "bridge, at its position"),
            ("other_bridge", "another query's bridge"),
            ("answer", "answer, at the last position"),
            ("other_answer", "another query's answer"),
        ):
            mine = [r for r in lenses if f"{name}_ranks" in r]
            shares = [
                mean_over([r[f"{name}_ranks"][layer] < config.lens_k for r in mine], mine, config.seed)
                for layer in range(n_layers(records))
            ]
            series.append(Series(label, shares))
        yield line_with_band(
            list(range(n_layers(records))),
            series,
            name=f"lens_{group}",
            title=f"Logit lens, {'failures' if group == 'failure' else 'correct queries'}",
            x_label="layer",
            y_label=f"share in the top {config.lens_k}",
            limits=(0, 1.02),
            caption=f"Share of {len(lenses)} queries ({group}) whose bridge and answer are among the top "
            f"{config.lens_k} of the logit lens at each layer, and those of another query as control; "
            "bands: 95 % intervals over bridges.",
        )


def _matrix(records: Records, found: Grids) -> np.ndarray:
    """(target, source) in per cent, row 0 the embedding; nan where the source is not above the target."""
    n = n_layers(records)
    values = np.full((n + 1, n), np.nan)
    means = 100 * np.mean(list(found.cells.values()), axis=0)
    for (source, target), mean in zip(pairs_of(records, "back-patching"), means, strict=True):
        values[target - EMBEDDING, source] = mean
    return values


FIGURES = [heat_maps, band, lens_curves]
