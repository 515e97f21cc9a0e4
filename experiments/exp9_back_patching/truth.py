"""What the methods find against what is known of the embedded models: where the bridge is, and which failures can be
repaired.

1. The bridge, at the last token of the first hop's phrase, layer by layer: the logit lens has it among the top k; a
   probe (nearest mean over the other subjects of each bridge, leave-one-out) says it; ablating it (removing, at that
   layer and position, the direction of its mean against that of all bridges) lowers the answer's log-probability by
   more than ablating another bridge's. The probe reads what is there, the ablation what is used.
2. The second hop: the deepest layer into which the bridge's name can be written (same layer, from the second-hop
   prompt) so that the answer comes out. A query whose bridge arrives above that layer is too late: back-patching ought
   to repair it, and no other failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared.two_hop.queries import Case, Labelled
from experiments.shared.two_hop.summaries import GROUPS, first, mean_over, n_layers, share_by_layer
from mlx_interp.behaviour.answers import answer_scores, question
from mlx_interp.behaviour.two_hop import bridge_position, named_bridge_position
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.deferred import mx
from mlx_interp.interventions import Ablate, Intervention
from mlx_interp.lenses.logit import lens_ranks, logit_lens
from mlx_interp.model import Model
from mlx_interp.patching.back_patching import back_patching_pairs, patches, same_layer_pairs, states_at
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band

STAGE = "truth"


@dataclass(frozen=True)
class Chain:
    """All queries whose bridges are of one kind, with those that are looked at."""

    name: str
    cases: tuple[Case, ...]
    subjects: tuple[TwoHopQuery, ...]
    """One query for each subject: what the probe is made from."""

    @property
    def key(self) -> str:
        return self.name


def chains(queries: Sequence[TwoHopQuery], chosen: Sequence[Case]) -> list[Chain]:
    """Queries by the kind of their bridge: families share the first hop's phrasing, "the state containing"."""
    found: dict[str, dict[str, TwoHopQuery]] = {}
    for query in queries:
        kind = query.mention.replace(query.subject, "").strip()
        found.setdefault(kind, {}).setdefault(query.subject, query)
    result = []
    for kind, subjects in found.items():
        mine = tuple(c for c in chosen if c.query.mention.replace(c.query.subject, "").strip() == kind)
        if mine:
            result.append(Chain(kind, mine, tuple(subjects.values())))
    return result


class Chained(Labelled):
    """What lens and back-patching find, against a probe and against ablation."""

    query: str
    lens: list[int]
    """Rank of the bridge in the logit lens, by layer."""
    probe: list[bool]
    """Whether a probe reads the bridge, by layer."""
    ablated: list[float]
    """Log-probability of the answer that ablating the bridge's direction costs, by layer, nats."""
    ablated_other: list[float]
    second_hop_until: int | None
    repaired: bool
    repaired_by_other: bool | None


def measure(run: Run[PatchingConfig], chain: Chain) -> Iterator[Chained]:
    """For every query, layer by layer: lens, probe and ablation of the bridge, and how deep the second hop begins."""
    model = run.model
    states = {query.subject: _states(model, query) for query in chain.subjects}
    bridges = {query.subject: query.bridge for query in chain.subjects}
    for case in chain.cases:
        query = case.query
        means = _means(states, bridges, leave_out=query.subject)
        names, centres = list(means), np.stack(list(means.values()))  # (bridge, layer, d_model)
        own = _states(model, query)
        distances = np.linalg.norm(centres - own[None], axis=-1)
        probed = [names[i] == query.bridge for i in distances.argmin(axis=0)]
        bridge = question(model, query.first_hop, query.bridges).first_tokens
        ranks = lens_ranks(logit_lens(model, query.two_hop, bridge_position(model, query)), bridge)
        ablated, other = _ablation(model, case, means)
        yield {
            "query": query.key,
            **case.labels,
            "lens": ranks,
            "probe": probed,
            "ablated": ablated,
            "ablated_other": other,
            "second_hop_until": _second_hop(model, query),
            "repaired": _repaired(model, query, query),
            "repaired_by_other": None if case.donor is None else _repaired(model, query, case.donor),
        }


def _states(model: Model, query: TwoHopQuery) -> np.ndarray:
    """(n_layers, d_model) at the bridge's position."""
    return np.asarray(states_at(model, query.two_hop, bridge_position(model, query)).astype(mx.float32))[:-1]


def _means(states: dict[str, np.ndarray], bridges: dict[str, str], leave_out: str) -> dict[str, np.ndarray]:
    """Mean state of each bridge over its subjects, one of them left out."""
    rows: dict[str, list[np.ndarray]] = {}
    for subject, state in states.items():
        if subject != leave_out:
            rows.setdefault(bridges[subject], []).append(state)
    return {bridge: np.mean(found, axis=0) for bridge, found in rows.items()}


def _ablation(model: Model, case: Case, means: dict[str, np.ndarray]) -> tuple[list[float], list[float]]:
    """How far the answer's log-probability falls, in nats, when a layer loses the bridge's direction, and another's."""
    query = case.query
    asked = question(model, query.two_hop, query.answers)
    position = bridge_position(model, query)
    middle = np.mean(list(means.values()), axis=0)
    others = [name for name in means if name != query.bridge]
    other = case.donor.bridge if case.donor is not None and case.donor.bridge in means else others[0]
    variants = [
        [Ablate(f"resid_post.{layer}", means[name][layer] - middle[layer], position)]
        for name in (query.bridge, other)
        for layer in range(model.n_layers)
    ]
    scores = np.asarray(model.sweep(asked.prompt, [[], *variants], metric=answer_scores(asked.first_tokens)))[:, 1]
    falls = np.round(scores[0] - scores[1:], 4).tolist()
    return falls[: model.n_layers], falls[model.n_layers :]


def _second_hop(model: Model, query: TwoHopQuery) -> int | None:
    """The deepest layer into which the bridge's name can be written so that the answer comes out; None if none."""
    position = bridge_position(model, query)
    states = states_at(model, query.second_hop, named_bridge_position(model, query))
    fixed = _fixes(model, query, patches(states, states, same_layer_pairs(model.n_layers), position, "raw"))
    return max((layer for layer, fix in enumerate(fixed) if fix), default=None)


def _repaired(model: Model, query: TwoHopQuery, source: TwoHopQuery) -> bool:
    """Whether any pair of layers (blocks' outputs, as in the paper) repairs the query with the source's states."""
    position = bridge_position(model, query)
    states = states_at(model, source.two_hop, bridge_position(model, source))
    pairs = back_patching_pairs(model.n_layers, embedding=False)
    return any(_fixes(model, query, patches(states, states, pairs, position, "raw")))


def _fixes(model: Model, query: TwoHopQuery, variants: Sequence[Sequence[Intervention]]) -> list[bool]:
    asked = question(model, query.two_hop, query.answers)
    ranks = np.asarray(model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))[:, 0]
    return [rank == 0 for rank in ranks]


def by_lens(record: Record, config: PatchingConfig) -> list[bool]:
    return [rank < config.lens_k for rank in record["lens"]]


def by_ablation(record: Record) -> list[bool]:
    """Layers where losing the bridge costs the answer more than losing another bridge does, by a tenth of a nat."""
    return [own > max(other, 0) + 0.1 for own, other in zip(record["ablated"], record["ablated_other"], strict=True)]


ARRIVALS = ("probe", "lens, top 1", "ablation")
"""When a bridge counts as there: readable by a probe, on top of the lens, or used."""


def arrival(record: Record, by: str) -> int | None:
    """The first layer at which the bridge is there; None if it never is."""
    hits = {
        "probe": record["probe"],
        "lens, top 1": [rank == 0 for rank in record["lens"]],
        "ablation": by_ablation(record),
    }
    return first(hits[by])


def too_late(record: Record, by: str) -> bool | None:
    """Whether the bridge arrives above the layers that can use it; None where either is not seen."""
    arrives, until = arrival(record, by), record["second_hop_until"]
    return None if arrives is None or until is None else arrives > until


def finding(records: Records, config: PatchingConfig) -> Table | None:
    """Each method's first layer against that of the probe."""
    if not of(records, STAGE):
        return None
    rows: list[list[Cell]] = []
    for group in GROUPS:
        mine = of(records, STAGE, group=group)
        for name, hits in (
            (f"lens, top {config.lens_k}", [by_lens(r, config) for r in mine]),
            ("lens, top 1", [[rank == 0 for rank in r["lens"]] for r in mine]),
            ("ablation", [by_ablation(r) for r in mine]),
            ("probe", [r["probe"] for r in mine]),
        ):
            both = [
                (first(hit), first(r["probe"]), r)
                for hit, r in zip(hits, mine, strict=True)
                if any(hit) and any(r["probe"])
            ]
            units = [r for _, _, r in both]
            apart = [float((a or 0) - (b or 0)) for a, b, _ in both]
            rows.append(
                [
                    group,
                    name,
                    len(mine),
                    mean_over([any(hit) for hit in hits], mine, config.seed),
                    mean_over([float(a or 0) for a, _, _ in both], units, config.seed),
                    mean_over(apart, units, config.seed),
                    mean_over([abs(gap) <= 1 for gap in apart], units, config.seed),
                ]
            )
    return Table(
        "Where the bridge is: methods against the probe",
        [
            "group",
            "method",
            "n",
            Column("finds it", "%"),
            Column("first layer", digits=1),
            Column("after the probe by", "layers", digits=1),
            Column("within one layer", "%"),
        ],
        rows,
        [
            "Probe: nearest mean of the bridges' states, the query's own subject left out. Ablation: the answer loses "
            "more, by .1 nats or more, than from ablating another bridge."
        ],
    )


def repairs(records: Records, config: PatchingConfig) -> Table | None:
    """Whether back-patching repairs the failures that are too late, and no others."""
    if not of(records, STAGE):
        return None
    failures = of(records, STAGE, group="failure")
    rows: list[list[Cell]] = []
    for by in ARRIVALS:
        for states, field in (("its own", "repaired"), ("another query's", "repaired_by_other")):
            held = [r for r in failures if r[field] is not None and too_late(r, by) is not None]
            late = [r for r in held if too_late(r, by)]
            repaired = [r for r in held if r[field]]
            rows.append(
                [
                    by,
                    states,
                    len(held),
                    len(late),
                    len(repaired),
                    mean_over([bool(too_late(r, by)) for r in repaired], repaired, config.seed),
                    mean_over([r[field] for r in late], late, config.seed),
                    mean_over([bool(too_late(r, by)) for r in held], held, config.seed),
                ]
            )
    return Table(
        "Does back-patching repair what is too late?",
        [
            "bridge arrives by",
            "states",
            "failures",
            "too late",
            "repaired by some pair",
            Column("precision", "%"),
            Column("recall", "%"),
            Column("precision of guessing", "%"),
        ],
        rows,
        [
            "Too late: the bridge arrives above the deepest layer into which its name, from the second-hop prompt, can "
            f"be written with success. Of {len(failures)} failures those where one of both is never seen are left out."
        ],
    )


def curves(records: Records, config: PatchingConfig) -> Iterator[Plot]:
    """By layer: how often lens, probe and ablation find the bridge."""
    for group, label in GROUPS.items():
        mine = [{**r, "item": r["query"]} for r in of(records, STAGE, group=group)]
        if not mine:
            continue
        series = [
            Series(name, share_by_layer({r["item"]: hits(r) for r in mine}, mine, config.seed))
            for name, hits in (
                ("probe", lambda r: r["probe"]),
                (f"lens, top {config.lens_k}", lambda r: by_lens(r, config)),
                ("ablation", by_ablation),
            )
        ]
        yield line_with_band(
            list(range(n_layers(records))),
            series,
            name=f"truth_{group}",
            title=f"Where the bridge is, {label}",
            x_label="layer",
            y_label="share of queries",
            limits=(0, 1.02),
            caption=f"Share of {len(mine)} {label} whose bridge is seen at each layer, at the last token of the first "
            "hop's phrase: by a probe, by the logit lens, and by what its ablation costs the answer; bands: 95 % "
            "intervals over bridges.",
        )
