"""Entity description: what hidden states of a two-hop prompt say in another prompt (Biran et al. 2024, section 3a).

The state of every source layer, at the bridge's position and at the last one, replaces the placeholder of a description
prompt at every target layer; the model goes on writing, sampled several times. A text counts for the subject, the
bridge or the answer, whichever it names first in this order. Control: another query's bridge and answer in the same
texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.two_hop.queries import Case, Labelled, Place, place
from experiments.shared.two_hop.summaries import GROUPS, first, mean_over, n_layers, share_by_layer
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.lenses.patchscopes import described, placeholder_position
from mlx_interp.patching.back_patching import patches, states_at
from mlx_interp.reporting import Cell, Column, Panel, Plot, Record, Series, Table, heat_map, line_with_band

STAGE = "described"
SHORT = {"subject": "s", "bridge": "b", "answer": "a", "other": "-"}
READINGS: tuple[tuple[Place, str], ...] = (("bridge", "bridge"), ("last", "bridge"), ("last", "answer"))
"""Which entity is looked for at which position."""


class Described(Labelled):
    """What states of every layer say of themselves at one position: a letter for each cell and sample."""

    position: str
    targets: list[int]
    """Target layers."""
    own: list[str]
    """By source layer, a letter for each target layer and sample: what the text names."""
    other: list[str]
    """The same of another query's states."""
    example: str


def measure(run: Run[PatchingConfig], case: Case) -> Iterator[Described]:
    """For each position a letter a cell and sample: source layer by source layer, target layers within."""
    model, config = run.model, run.config
    target = placeholder_position(model, config.target_prompt)
    targets = target_layers(model.n_layers, config.described_step)
    pairs = [(source, target) for source in range(model.n_layers) for target in targets]
    positions: tuple[Place, ...] = ("bridge", "last")
    for name in positions:
        states = states_at(model, case.query.two_hop, place(model, case.query, name))
        grid = patches(states, states, pairs, target, "raw")
        own, other, example = [], [], ""
        for sample in range(config.samples):
            written = model.sweep_generate(
                config.target_prompt,
                grid,
                max_tokens=config.new_tokens,
                temperature=config.temperature,
                seed=config.seed + sample,
            )
            own.append("".join(_letter(completion.text, case.query) for completion in written))
            other.append("".join(_letter(completion.text, case.donor) for completion in written))
            example = example or written[-1].text
        yield {
            **case.labels,
            "position": name,
            "targets": list(targets),
            "own": own,
            "other": other,
            "example": example,
        }


def target_layers(n_layers: int, step: int) -> range:
    """Layers that states are written into; every one in a model of up to fifteen, about ten of a deeper one."""
    return range(0, n_layers, step or max(1, round(n_layers / 10)))


def _letter(text: str, query: TwoHopQuery | None) -> str:
    if query is None:
        return SHORT["other"]
    entities = {"subject": [query.subject], "bridge": query.bridges, "answer": query.answers}
    return SHORT[described(text, entities)]


def cells(record: Record, entity: str, whose: str = "own") -> np.ndarray:
    """(source layer, target layer): whether any sample names the entity."""
    letters = np.array([list(sample) for sample in record[whose]]) == SHORT[entity]
    found: np.ndarray = np.any(letters, axis=0)
    return found.reshape(-1, len(record["targets"]))


def by_source(record: Record, entity: str, whose: str = "own") -> list[bool]:
    """At each source layer: whether any target layer, in any sample, names the entity."""
    return [bool(hit) for hit in np.any(cells(record, entity, whose), axis=1).tolist()]


def table(records: Records, config: PatchingConfig) -> Table | None:
    """How many queries have their bridge and answer described from some layer, and from which first."""
    found = of(records, STAGE)
    if not found:
        return None
    rows: list[list[Cell]] = []
    for group in GROUPS:
        for position, entity in READINGS:
            mine = of(records, STAGE, group=group, position=position)
            hits = [by_source(r, entity) for r in mine]
            controls = [any(by_source(r, entity, "other")) for r in mine]
            seen = [(first(hit), r) for hit, r in zip(hits, mine, strict=True) if any(hit)]
            rows.append(
                [
                    group,
                    f"{entity}, from the {position} position",
                    len(mine),
                    mean_over([any(hit) for hit in hits], mine, config.seed),
                    mean_over(controls, mine, config.seed),
                    mean_over([float(layer or 0) for layer, _ in seen], [r for _, r in seen], config.seed),
                ]
            )
    return Table(
        "Entity description (Patchscopes)",
        [
            "group",
            "entity",
            "n",
            Column("described", "%"),
            Column("another query's", "%"),
            Column("first source layer", digits=1),
        ],
        rows,
        [
            f"Any of {len(found[0]['targets'])} target layers, any of {config.samples} samples, as in the paper; 95 % "
            "intervals over bridges.",
            f"Target prompt: {config.target_prompt!r}, the state written over its last token.",
        ],
    )


def heat_maps(records: Records, config: PatchingConfig) -> Iterator[Plot]:
    """Share of queries described, for every source and target layer."""
    for group, label in GROUPS.items():
        panels, n = [], 0
        targets: list[int] = next((r["targets"] for r in of(records, STAGE)), [])
        for position, entity in READINGS:
            mine = of(records, STAGE, group=group, position=position)
            if mine:
                n = len(mine)
                share = 100 * np.mean([cells(r, entity) for r in mine], axis=0)
                panels.append(Panel(f"{entity}, from the {position} position", share.T))
        if panels:
            yield heat_map(
                panels,
                name=f"described_{group}",
                title=f"Entity description, {label}",
                x_label="source layer (resid_post)",
                y_label="target layer",
                value_label="queries described (%)",
                x_ticks=list(range(n_layers(records))),
                y_ticks=targets,
                columns=3,
                caption=f"Share of {n} {label} whose entity is named when the state of the source layer replaces the "
                f"placeholder of a description prompt at the target layer, in any of {config.samples} samples.",
            )


def curves(records: Records, config: PatchingConfig) -> Iterator[Plot]:
    """Share of queries described from each source layer, and another query's entity as the control."""
    for group, label in GROUPS.items():
        series = []
        readings: Sequence[tuple[Place, str]] = (("bridge", "bridge"), ("last", "answer"))
        for position, entity in readings:
            mine = of(records, STAGE, group=group, position=position)
            if not mine:
                continue
            for whose, name in (("own", entity), ("other", f"another query's {entity}")):
                hits = {r["item"]: by_source(r, entity, whose) for r in mine}
                series.append(Series(f"{name}, {position} position", share_by_layer(hits, mine, config.seed)))
        if series:
            yield line_with_band(
                list(range(n_layers(records))),
                series,
                name=f"described_by_layer_{group}",
                title=f"Entity description by source layer, {label}",
                x_label="source layer",
                y_label="share described",
                limits=(0, 1.02),
                caption=f"Share of {len(mine)} {label} whose bridge (from the bridge's position) and answer (from the "
                "last position) are named from a source layer, in any target layer and sample; bands: 95 % intervals "
                "over bridges.",
            )
