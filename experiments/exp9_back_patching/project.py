"""Sublayer projection: which of attention and MLP promote bridge and prediction? (Biran et al. 2024, section 3b)

What attention and what the MLP add at the last position, each alone, through the last norm and the unembedding, layer
by layer. Promoted: an entity's first token, or the model's own prediction, is the top token. Control: the bridge and
the answer of another query.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict, cast

from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from experiments.harness.state import Run
from experiments.shared.two_hop.queries import Case, Labelled
from experiments.shared.two_hop.summaries import GROUPS, first, mean_over, n_layers, share_by_layer
from mlx_interp.behaviour.answers import question
from mlx_interp.deferred import mx
from mlx_interp.lenses.logit import lens_at, lens_ranks
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band

STAGE = "projected"
SUBLAYERS = {"attn_out": "attention", "mlp_out": "MLP"}
ENTITIES = ("prediction", "bridge", "answer", "other bridge", "other answer")

OwnRanks = TypedDict("OwnRanks", {"prediction ranks": list[int], "bridge ranks": list[int], "answer ranks": list[int]})
"""Rank of the first token by layer, 0 on top; prediction: the token that the model writes."""
OtherRanks = TypedDict("OtherRanks", {"other bridge ranks": list[int], "other answer ranks": list[int]}, total=False)
"""The same of another query's; absent where the family has no other."""


class Projected(Labelled, OwnRanks, OtherRanks):
    """What one kind of sublayer adds at the last position, through the unembedding."""

    sublayer: str
    """attention or MLP."""


def measure(run: Run[PatchingConfig], case: Case) -> Iterator[Projected]:
    """Ranks by layer of each entity's first token in what each sublayer adds; 0 is the top."""
    model = run.model
    prompt = model.prompt(case.query.two_hop)
    logits = model.run(prompt).logits
    tokens = {
        "prediction": [int(mx.argmax(logits[0]))],  # type: ignore[index]
        "bridge": question(model, case.query.first_hop, case.query.bridges).first_tokens,
        "answer": question(model, case.query.two_hop, case.query.answers).first_tokens,
    }
    if case.donor is not None:
        tokens["other bridge"] = question(model, case.donor.first_hop, case.donor.bridges).first_tokens
        tokens["other answer"] = question(model, case.donor.two_hop, case.donor.answers).first_tokens
    for site, name in SUBLAYERS.items():
        projected = lens_at(model, prompt, [len(prompt) - 1], site)[0]
        ranks = {f"{entity} ranks": lens_ranks(projected, chosen) for entity, chosen in tokens.items()}
        yield cast(Projected, {**case.labels, "sublayer": name, **ranks})


def top(record: Record, entity: str) -> list[bool]:
    """At each layer whether the entity is the top token of what the sublayer adds."""
    return [rank == 0 for rank in record[f"{entity} ranks"]]


def table(records: Records, config: PatchingConfig) -> Table | None:
    """How often a sublayer of any layer promotes an entity to the top, and the first layer where it does."""
    if not of(records, STAGE):
        return None
    rows: list[list[Cell]] = []
    for group in GROUPS:
        for name in SUBLAYERS.values():
            for entity in ENTITIES[:3]:
                mine = of(records, STAGE, group=group, sublayer=name)
                others = [r for r in mine if f"other {entity} ranks" in r]
                seen = [r for r in mine if any(top(r, entity))]
                rows.append(
                    [
                        group,
                        name,
                        entity,
                        len(mine),
                        mean_over([any(top(r, entity)) for r in mine], mine, config.seed),
                        mean_over([any(top(r, f"other {entity}")) for r in others], others, config.seed),
                        mean_over([float(first(top(r, entity)) or 0) for r in seen], seen, config.seed),
                    ]
                )
    return Table(
        "Sublayer projection at the last position",
        [
            "group",
            "sublayer",
            "entity",
            "n",
            Column("top somewhere", "%"),
            Column("another query's", "%"),
            Column("first layer", digits=1),
        ],
        rows,
        ["Prediction: the token that the model writes, right or wrong; it has no counterpart in another query."],
    )


def curves(records: Records, config: PatchingConfig) -> Iterator[Plot]:
    """Share of queries where each sublayer promotes the prediction, the bridge and the answer, by layer."""
    for group, label in GROUPS.items():
        series, mine = [], Frame()
        for name, entity in (("MLP", "prediction"), ("attention", "prediction"), ("attention", "bridge")):
            mine = of(records, STAGE, group=group, sublayer=name)
            if mine:
                hits = {r["item"]: top(r, entity) for r in mine}
                series.append(Series(f"{entity}, by {name}", share_by_layer(hits, mine, config.seed)))
        others = [r for r in mine if "other bridge ranks" in r]
        if others:
            hits = {r["item"]: top(r, "other bridge") for r in others}
            series.append(Series("another query's bridge, by attention", share_by_layer(hits, others, config.seed)))
        if series:
            yield line_with_band(
                list(range(n_layers(records))),
                series,
                name=f"projection_{group}",
                title=f"Sublayer projection, {label}",
                x_label="layer",
                y_label="share with the entity on top",
                limits=(0, 1.02),
                caption=f"Share of {len(mine)} {label} where what attention or the MLP of a layer adds at the last "
                "position has the entity's first token on top; bands: 95 % intervals over bridges.",
            )
