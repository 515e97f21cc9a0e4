"""Stated certainty against being right."""

from __future__ import annotations

from experiments.exp4_confidence.entropy import TRAIT
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.shared.traits import trait_report
from experiments.shared.traits.layer_choice import chosen_layer
from experiments.shared.traits.stages import TraitConfig
from experiments.shared.traits.trait_records import EFFECTS
from mlx_interp.embedded import load_world
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.stats import difference_interval


def calibration_table(records: Records, config: TraitConfig) -> Table | None:
    """Stated certainty against being right, where the right answer is known."""
    layer = chosen_layer(records, TRAIT)
    right = {c.text: c.reply.split(": ")[-1].rstrip(".") for c in load_world().chat_prompts("certainty")}
    answerable = {c.text for c in load_world().chat_prompts("certainty") if c.label == "certain"}
    rows: list[list[Cell]] = []
    for kinds, what in ((("positive",), "answerable"), (("negative",), "of names that are in no text")):
        for arm in ("none", "direction", "random"):
            own = [
                {**r, "right": r["unit"] in answerable and right[r["unit"]] in r["text"]}
                for r in of(records, EFFECTS, split="test", arm=arm)
                if r["layer"] in (None, layer) and r["kind"] in kinds and r["unit"] in right
            ]
            if len({r["unit"] for r in own}) > 1:
                units = [r["unit"] for r in own]
                gap = difference_interval(
                    [float(r["hit"]) for r in own], [float(r["right"]) for r in own], unit=units, seed=config.seed
                )
                rows.append(
                    [what, arm, len(own), *(trait_report.rate(own, config.seed, f) for f in ("hit", "right")), gap]
                )
    if not rows:
        return None
    return Table(
        "Stated certainty against being right",
        [
            *("questions", "direction", "n", Column("says that it is certain", "%")),
            *(Column("gives the right answer", "%"), Column("certain beyond right", "%")),
        ],
        rows,
        [
            "Held-out questions at the chosen layer: ablated where they are answerable, added where they are not. "
            "Calibrated: as often certain as right.",
        ],
    )
