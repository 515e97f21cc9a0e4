"""Attributes of an entity, read from its state by a Patchscope and by a probe, in twelve relations.

Eight relations of the embedded world and four of its in-context tasks. The state is that of the subject's last token
in a prompt that does not ask for the relation; it is written over the placeholder of one that does, for every pair of
source and target layer (the embedding as a target, too; as a source it would be the name itself). Right: the whole
answer, decoded greedily. The pair is chosen on one half of the subjects and scored on the other; "any pair" is the
paper's oracle, beside the same oracle of the controls.

Probe: multinomial logistic regression on states of the same layer, layer chosen in the same way. Where several subjects
share an answer and are many (cities), it is fitted on other subjects; else on the same subjects in another prompt: it
has then seen every answer with its subject, and the Patchscope nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.exp19_lenses.lens_texts import TextConfig, needs_world
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from mlx_interp.behaviour.answers import question, verdicts
from mlx_interp.deferred import mx
from mlx_interp.directions.state_classifier import fit_state_classifier
from mlx_interp.embedded import load_world
from mlx_interp.lenses.patchscopes import TargetPrompt, all_pairs, attribute_scores
from mlx_interp.model import Model
from mlx_interp.patching.back_patching import EMBEDDING, Pair, random_states, states_at
from mlx_interp.reporting import Cell, Column, Panel, Plot, Table, heat_map
from mlx_interp.stats import Estimate, difference_interval, mean_or_none, split_halves

STAGE, PROBE = "attributes", "attribute probes"
OWN, OTHER, RANDOM = "own", "another subject's", "random"
ARMS = (OWN, OTHER, RANDOM)
KIN = {
    "capital": ("governor", "flower"),
    "governor": ("capital", "flower"),
    "flower": ("capital", "governor"),
    "currency": ("language", "president"),
    "language": ("currency", "president"),
    "president": ("currency", "language"),
}
"""For relations of states and countries: the two other relations in whose prompts the subject is read."""
TASKS = {
    "capital": ("language", "continent"),
    "language": ("capital", "continent"),
    "continent": ("capital", "language"),
    "noun_french": ("noun_spanish", "noun_german"),
}
"""The same for in-context tasks."""
N_SHOTS = 3


@dataclass(frozen=True)
class AttributeConfig(TextConfig):
    """Fields of the attributes."""

    n_subjects: int = 16
    """Subjects of each relation that are read, at most."""


@dataclass(frozen=True)
class Case:
    """A subject of a relation, where its state is read, and where it is written."""

    relation: str
    subject: str
    answer: str
    source: str
    """The prompt whose subject is read."""
    target: TargetPrompt
    donor: str
    """A prompt of another subject, with another answer: the control."""
    donor_subject: str

    @property
    def key(self) -> str:
        return f"{self.relation}: {self.subject}"


@dataclass(frozen=True)
class Examples:
    """What a relation's probe is fitted on and asked: (prompt, subject, answer)."""

    key: str
    fitted: tuple[tuple[str, str, str], ...]
    asked: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Relation:
    name: str
    target: TargetPrompt
    fitted: tuple[tuple[str, str, str], ...]
    asked: tuple[tuple[str, str, str], ...]


def relations(config: AttributeConfig) -> list[Relation]:
    """All twelve."""
    return [*_of_cities(config), *_of_states(config), *_of_tasks(config)]


def _of_cities(config: AttributeConfig) -> Iterator[Relation]:
    """State and country of a city; the name alone is read, and the probe sees other cities."""
    world = load_world()
    for kind in ("state", "country"):
        facts = [(fact.subject, fact.subject, fact.answer) for fact in world.facts if fact.kind == kind]
        first, second = split_halves(facts, config.seed)
        known = {answer for _, _, answer in second}
        asked = [fact for fact in first if fact[2] in known][: config.n_subjects]
        yield Relation(f"{kind} of a city", TargetPrompt(f"The {kind} containing ", " is"), tuple(second), tuple(asked))


def _of_states(config: AttributeConfig) -> Iterator[Relation]:
    """Relations of states and countries; read in the prompt of another one, the probe in that of a third."""
    for kind, (first, second) in KIN.items():
        facts = [fact for fact in load_world().facts if fact.kind == kind][: config.n_subjects]
        fitted, asked = (
            tuple((f"The {other} of {fact.subject}", fact.subject, fact.answer) for fact in facts)
            for other in (first, second)
        )
        yield Relation(kind, TargetPrompt(f"The {kind} of ", " is"), fitted, asked)


def _of_tasks(config: AttributeConfig) -> Iterator[Relation]:
    """In-context tasks; the subject is the query behind an example of another task."""
    world = load_world()
    for name, others in TASKS.items():
        pairs = world.task(name).pairs
        order = np.random.default_rng(config.seed).permutation(len(pairs))  # neighbours share a continent
        shots, rest = ([pairs[i] for i in part] for part in (order[:N_SHOTS], order[N_SHOTS:][: config.n_subjects]))
        before = "".join(f"{word} -> {image}, " for word, image in shots)
        fitted, asked = (
            tuple((f"{shot[0]} -> {shot[1]}, {word}", word, image) for word, image in rest)
            for shot in (world.task(other).pairs[0] for other in others)
        )
        yield Relation(f"{name}, in context", TargetPrompt(before, " ->"), fitted, asked)


def cases(run: Run[AttributeConfig]) -> list[Case]:
    """Subjects of every relation."""
    needs_world(run.model)
    found = []
    for relation in relations(run.config):
        for number, (prompt, subject, answer) in enumerate(relation.asked):
            rest = [*relation.asked[number + 1 :], *relation.asked[:number], *relation.fitted]
            donor = next(other for other in rest if other[2] != answer)
            found.append(Case(relation.name, subject, answer, prompt, relation.target, donor[0], donor[1]))
    return found


def states_of(model: Model, prompt: str, subject: str) -> mx.array:
    """(n_layers + 1, d_model) at the subject's last token, the embedding last."""
    return states_at(model, prompt, model.prompt(prompt).find(subject, occurrence=-1)[-1])


def layer_pairs(n_layers: int) -> list[Pair]:
    """Every layer as a source, into every layer and the embedding."""
    return [pair for pair in all_pairs(n_layers, embedding=True) if pair[0] != EMBEDDING]


class Attributed(TypedDict):
    """Which pairs of layers give the whole answer, with one kind of state."""

    relation: str
    arm: str
    known: bool
    """Whether the model gives it when asked by name."""
    hit: list[bool]
    """By pair of source and target layer, as `layer_pairs` has them."""


def measure(run: Run[AttributeConfig], case: Case) -> Iterator[Attributed]:
    """Which pairs of layers give the whole answer, with each kind of state; and the model when asked by name."""
    model = run.model
    pairs = layer_pairs(model.n_layers)
    own = states_of(model, case.source, case.subject)
    held = {
        OWN: own,
        OTHER: states_of(model, case.donor, case.donor_subject),
        RANDOM: random_states(own, run.config.seed),
    }
    asked = question(model, f"{case.target.before}{case.subject}{case.target.after}", [case.answer])
    known = verdicts(model, [asked])[0].whole_name
    for arm, states in held.items():
        scores = np.asarray(attribute_scores(model, case.target, case.answer, states, pairs))
        yield {
            "relation": case.relation,
            "arm": arm,
            "known": known,
            "hit": [bool(value) for value in scores[:, 2] == 1],
        }


def probed(run: Run[AttributeConfig]) -> list[Examples]:
    needs_world(run.model)
    return [Examples(relation.name, relation.fitted, relation.asked) for relation in relations(run.config)]


class Probed(TypedDict):
    """Whether a probe gives the right answer for one subject, by layer."""

    subject: str
    hit: list[bool]


def measure_probe(run: Run[AttributeConfig], examples: Examples) -> Iterator[Probed]:
    """Whether a probe of each layer gives the right answer, for the subjects that are read."""
    fitted, asked = (
        np.stack([np.asarray(states_of(run.model, prompt, subject).astype(mx.float32)) for prompt, subject, _ in some])
        for some in (examples.fitted, examples.asked)
    )
    labels = [answer for _, _, answer in examples.fitted]
    told = [fit_state_classifier(fitted[:, row], labels).told(asked[:, row]) for row in range(run.model.n_layers)]
    for number, (_, subject, answer) in enumerate(examples.asked):
        yield {"subject": subject, "hit": [one[number] == answer for one in told]}


def chosen(items: Sequence[str], hits: np.ndarray, seed: int) -> tuple[int, list[int]]:
    """The column with most hits on one half of the items, the first of several, and the rows of the other half."""
    half = set(split_halves(list(items), seed)[0])
    train = [row for row, item in enumerate(items) if item in half]
    return int(hits[train].mean(axis=0).argmax()), [row for row in range(len(items)) if row not in set(train)]


@dataclass(frozen=True)
class Found:
    """What one relation's records say."""

    items: list[str]
    known: list[bool]
    hits: dict[str, np.ndarray]
    """(n_subjects, n_pairs) by arm."""
    probe: np.ndarray
    """(n_subjects, n_layers)."""


def by_relation(records: Records) -> dict[str, Found]:
    """Records of both stages, by relation."""
    mine = of(records, STAGE)
    result = {}
    for name in dict.fromkeys(r["relation"] for r in mine):
        arms = {arm: [r for r in mine if r["relation"] == name and r["arm"] == arm] for arm in ARMS}
        probe = {r["subject"]: r["hit"] for r in of(records, PROBE, item=name)}
        items = [r["item"] for r in arms[OWN]]
        result[name] = Found(
            items,
            [r["known"] for r in arms[OWN]],
            {arm: np.array([r["hit"] for r in own], dtype=float) for arm, own in arms.items()},
            np.array([probe[item.removeprefix(f"{name}: ")] for item in items], dtype=float),
        )
    return result


def table(records: Records, config: AttributeConfig) -> Table | None:
    """Patchscope and probe, by relation."""
    relations_found = by_relation(records)
    if not relations_found:
        return None
    rows: list[list[Cell]] = []
    pooled: dict[str, list[float]] = {name: [] for name in ("known", *ARMS, "probe")}
    for name, found in relations_found.items():
        pair, rest = chosen(found.items, found.hits[OWN], config.seed)
        layer, _ = chosen(found.items, found.probe, config.seed)
        columns = {"known": [float(found.known[row]) for row in rest]}
        columns |= {arm: found.hits[arm][rest, pair].tolist() for arm in ARMS}
        columns["probe"] = found.probe[rest, layer].tolist()
        for key, values in columns.items():
            pooled[key] += values
        source, target = layer_pairs(found.probe.shape[1])[pair]
        oracle = [found.hits[arm].max(axis=1).mean() for arm in (OWN, OTHER)]
        rows.append(
            [name, f"{_place(source)} to {_place(target)}", layer, *_cells(columns, config), *map(float, oracle)]
        )
    oracles = [
        float(np.mean([value for found in relations_found.values() for value in found.hits[arm].max(axis=1)]))
        for arm in (OWN, OTHER)
    ]
    rows.append(["all", "", "", *_cells(pooled, config), *oracles])
    return Table(
        "Attributes of entities: Patchscope against probe",
        [
            *("relation", "layers", "probe's layer", "n"),
            Column("asked by name", "%"),
            *(Column(f"Patchscope, {arm} state", "%") for arm in ARMS),
            Column("probe", "%"),
            Column("Patchscope beyond probe", "%"),
            Column("oracle, any pair", "%"),
            Column("oracle, another subject's state", "%"),
        ],
        rows,
        [
            "Right: the whole answer is decoded greedily. Pair and layer are chosen on half of the subjects, n are "
            "the others; oracles are over all of them. The probe of cities is fitted on other cities, the others on "
            "the same subjects in another prompt."
        ],
    )


def _cells(columns: dict[str, list[float]], config: TextConfig) -> list[Cell]:
    """n, the shares with their intervals, and the Patchscope against the probe."""
    units = list(range(len(columns[OWN])))
    shares = [mean_or_none(values, unit=units, seed=config.seed) for values in columns.values()]
    beyond: Estimate | None = None
    if len(units) > 1:
        beyond = difference_interval(columns[OWN], columns["probe"], unit=units, seed=config.seed)
    return [len(units), *shares, beyond]


def _place(layer: int) -> str:
    return "embedding" if layer == EMBEDDING else str(layer)


def figure(records: Records, config: AttributeConfig) -> Iterator[Plot]:
    """Share of right answers for every pair of layers, over all relations."""
    found = by_relation(records)
    if not found:
        return
    side = next(iter(found.values())).probe.shape[1]
    panels = []
    for arm in (OWN, OTHER):
        hits = np.concatenate([one.hits[arm] for one in found.values()]).mean(axis=0)
        panels.append(Panel(f"{arm} state", hits.reshape(side, side + 1)))
    n = sum(len(one.items) for one in found.values())
    yield heat_map(
        panels,
        name="attributes",
        title="Attributes read by a Patchscope",
        x_label="target layer",
        y_label="source layer",
        value_label="share right",
        x_ticks=[_place(layer) for layer in range(EMBEDDING, side)],
        limits=(0, 1),
        caption=f"Share of {n} subjects of {len(found)} relations whose answer the model writes when the state of the "
        "source layer replaces the placeholder at the target layer: their own state, and another subject's.",
    )
