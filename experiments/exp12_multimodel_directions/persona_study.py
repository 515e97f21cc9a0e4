"""Persona vectors measured on embedded models (Chen et al. 2025; mlx_interp.directions.persona).

1. Vectors after every block, of two kinds: "reply", the mean over the reply's tokens, replies that show the trait less
   the usual ones to the same questions; "prompt", the last token of prompts that elicit it less that of ordinary ones.
2. Steering: both kinds, every layer, several multiples, from the prompt's last token on; the kind and layer that bring
   the trait to most questions set aside are chosen (at most 80 % deep), ties to the prompt and to the lower layer.
3. Monitoring: ordinary and eliciting questions after earlier turns that show the trait or do not; projection of their
   last token on the vector against the reply.
4. Flagging: which training rows show the trait, by how far their replies lie along the "reply" vector.

Controls: random vectors of the same length. What fine-tuning does to all this stands in persona_tuning.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

import numpy as np

from experiments.exp12_multimodel_directions.personas import PERSONAS, Case, cases
from experiments.harness.experiment import Records, Stage
from experiments.harness.frame import of, spread
from experiments.harness.state import Run, of_run
from experiments.shared.traits.choices import bos, matching
from experiments.shared.traits.stages import TraitConfig
from experiments.shared.traits.trait_report import REPEATED
from mlx_interp.behaviour.detectors import repetition
from mlx_interp.controls import random_like
from mlx_interp.directions.candidates import DEEPEST
from mlx_interp.directions.contrasts import contrast
from mlx_interp.directions.persona import (
    SITE,
    persona_vectors,
    projection_difference,
    projections,
    prompt_states,
    steered,
)
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.stats import stable_draw

STEERED, MONITORED, FLAGGED = (f"persona {name}" for name in ("steering", "monitoring", "flags"))
DOSES = (0.5, 1.0, 2.0)
SHOTS = (1, 2, 4)
KINDS = ("prompt", "reply")


@dataclass(frozen=True)
class PersonaConfig(TraitConfig):
    """Fields of studies of personas."""

    personas: tuple[str, ...] = PERSONAS
    """Which; none for models that are not embedded ones."""
    n_asked: int = 12
    """Held-out questions of each persona."""
    tuning_steps: int = 16
    """Steps of each fine-tune, of 16 rows."""


@dataclass(frozen=True)
class Part:
    """A persona, or a question of it, or a fine-tune."""

    key: str
    persona: str
    split: str = "test"
    number: int = 0
    place: tuple[str, int] = ("", 0)
    """Kind and layer of the vector."""
    share: float = 0.0
    dose: float = 0.0
    eliciting: bool = False
    places: tuple[tuple[str, tuple[str, int]], ...] = ()
    """Of all personas."""


def personas(run: Run[PersonaConfig]) -> tuple[str, ...]:
    return run.config.personas if run.model.name in EMBEDDED else ()


@lru_cache(maxsize=64)
def asked(persona: str, split: str, n: int, eliciting: bool = False) -> tuple[Case, ...]:
    """At most n questions, evenly."""
    found = cases(persona, split, eliciting=eliciting)
    return tuple(spread(found, n))


def chats(model: Model, part: Sequence[Case]) -> list[Prompt]:
    return [model.prompt(case.text, chat=True) for case in part]


@of_run(32)
def found(run: Run[PersonaConfig], persona: str, kind: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Vectors (n_layers, d_model), and their p values over the layers; None where no prompt elicits it."""
    model, config = run.model, run.config
    part = asked(persona, "train", config.n_train)
    if kind == "reply":
        shown, usual = ([getattr(case, side) for case in part] for side in ("shown", "usual"))
        own = persona_vectors(model, chats(model, part), shown, usual, seed=config.seed)
        return own.vectors, own.p_values
    eliciting = asked(persona, "train", config.n_train, eliciting=True)
    if not eliciting:
        return None
    one = contrast(model, chats(model, eliciting), chats(model, part), site=SITE, seed=config.seed)
    return one.vectors[:, 0].astype(np.float64), one.p_values[:, 0]


def vectors(run: Run[PersonaConfig], persona: str, kind: str, arm: str = "vector") -> np.ndarray:
    """(n_layers, d_model): the persona's, or random ones of the same lengths."""
    made = found(run, persona, kind)
    assert made is not None
    if arm == "vector":
        return made[0]
    return random_like(made[0], seed=run.seed, key=("persona", persona, kind))


def questions(run: Run[PersonaConfig], earlier: Records) -> list[Part]:
    return [
        Part(f"{persona}, {split} {number}", persona, split, number)
        for persona in personas(run)
        for split in ("choose", "test")
        for number in range(len(asked(persona, split, run.config.n_asked)))
    ]


class Steered(TypedDict):
    """The reply to one question under one multiple of a vector."""

    persona: str
    split: str
    unit: str
    n_layers: int
    arm: str
    """plain, vector, or random."""
    kind: str
    """Which vector: of the prompt or of the reply; "" for none."""
    layer: int | None
    dose: float
    hit: bool
    """Whether the reply shows the trait."""
    repetition: float
    """Share of repeated trigrams."""
    text: str


def measure_steering(run: Run[PersonaConfig], item: Part) -> Iterator[Steered]:
    """A question under every layer's vector of either kind and a random one, at every dose."""
    model = run.model
    case = asked(item.persona, item.split, run.config.n_asked)[item.number]
    made = {kind: found(run, item.persona, kind) for kind in KINDS}
    cells = [
        (arm, kind, layer, dose)
        for arm in (("vector", "random") if item.split == "test" else ("vector",))
        for kind, one in made.items()
        for layer in range(model.n_layers)
        if one is not None and np.linalg.norm(one[0][layer]) > 0
        for dose in DOSES
    ]
    edits = [steered(vectors(run, item.persona, kind, arm)[layer], layer, dose) for arm, kind, layer, dose in cells]
    prompt = model.prompt(case.text, chat=True)
    texts = model.sweep_generate(prompt, [[], *edits], max_tokens=run.config.new_tokens)
    named: list[tuple[str, str, int | None, float]] = [("plain", "", None, 0.0), *cells]
    for (arm, kind, at, dose), text in zip(named, texts, strict=True):
        yield {
            "persona": item.persona,
            "split": item.split,
            "unit": case.text,
            "n_layers": model.n_layers,
            "arm": arm,
            "kind": kind,
            "layer": at,
            "dose": dose,
            "hit": case.hit(text.text),
            "repetition": repetition(text.tokens),
            "text": text.text,
        }


def chosen(records: Records, persona: str) -> tuple[str, int] | None:
    """Kind and layer of the vector that brings the trait to most questions set aside in texts that do not repeat
    themselves, over all doses; None if none was measured.
    """
    hits: dict[tuple[str, int], int] = {}
    for r in of(records, STEERED, persona=persona, split="choose", arm="vector"):
        if r["layer"] <= DEEPEST * r["n_layers"]:
            place = (r["kind"], r["layer"])
            hits[place] = hits.get(place, 0) + bool(r["hit"] and r["repetition"] <= REPEATED)
    return max(hits, key=lambda at: (hits[at], -KINDS.index(at[0]), -at[1])) if hits else None


def chosen_places(run: Run[PersonaConfig], earlier: Records) -> dict[str, tuple[str, int]]:
    places = {persona: chosen(earlier, persona) for persona in personas(run)}
    return {persona: place for persona, place in places.items() if place is not None}


def contexts(run: Run[PersonaConfig], earlier: Records) -> list[Part]:
    return [
        Part(f"{persona}, {'eliciting ' * eliciting}{number}", persona, "test", number, place, eliciting=eliciting)
        for persona, place in chosen_places(run, earlier).items()
        for eliciting in (False, True)
        for number in range(len(asked(persona, "test", run.config.n_asked, eliciting)))
    ]


class Monitored(TypedDict):
    """A question behind earlier turns: what its last token says, and what the reply shows."""

    persona: str
    unit: int
    """The question's number."""
    layer: int
    kind: str
    """Which vector: of the prompt or of the reply."""
    context: str
    hit: bool
    score: float
    """Probability of the reply that shows the trait, among it and the usual one."""
    projection: float
    random: float
    """Projection on a random vector."""


def measure_monitoring(run: Run[PersonaConfig], item: Part) -> Iterator[Monitored]:
    """A question after earlier turns: projection of its last token, and what the reply shows."""
    model = run.model
    case = asked(item.persona, item.split, run.config.n_asked, item.eliciting)[item.number]
    kind, layer = item.place
    named = [("none", 0), *((side, n) for side in ("shown", "usual") for n in SHOTS)]
    befores = [turns(run, item, side, n) for side, n in named]
    own = model.prompt(case.text, chat=True).text.removeprefix(bos(model))
    prompts = [model.prompt(before + own) if before else model.prompt(case.text, chat=True) for before in befores]
    states = prompt_states(model, prompts)
    seen = {arm: projections(states, vectors(run, item.persona, kind, arm)) for arm in ("vector", "random")}
    texts = model.generate(prompts, max_tokens=run.config.new_tokens)
    for row, ((side, n), before, text) in enumerate(zip(named, befores, texts, strict=True)):
        yield {
            "persona": item.persona,
            "unit": item.number,
            "layer": layer,
            "kind": kind,
            "context": f"{'eliciting' if item.eliciting else 'ordinary'}, {n} {side}",
            "hit": case.hit(text.text),
            "score": matching(model, case.ask, [], before)[0],
            "projection": float(seen["vector"][layer, row]),
            "random": float(seen["random"][layer, row]),
        }


def turns(run: Run[PersonaConfig], item: Part, side: str, n: int) -> str:
    """Earlier turns on other questions, different ones for every question; "" for none."""
    model = run.model
    part = asked(item.persona, "train", run.config.n_train)
    order = np.random.default_rng(stable_draw(run.config.seed, item.key, 2**31)).permutation(len(part))[:n]
    end = model.tokenizer.eos_token or ""
    told = [
        model.prompt(part[i].text, chat=True).text.removeprefix(bos(model)) + getattr(part[i], side) + end
        for i in order
    ]
    return bos(model) + "".join(told) if n else ""


def flags(run: Run[PersonaConfig], earlier: Records) -> list[Part]:
    return [Part(name, name, place=place) for name, place in chosen_places(run, earlier).items()]


class Flagged(TypedDict):
    """How far a training row's reply lies from the model's own, along a vector."""

    persona: str
    unit: str
    arm: str
    """vector or random."""
    rows: str
    """What the row's reply is."""
    difference: float


def measure_flags(run: Run[PersonaConfig], item: Part) -> Iterator[Flagged]:
    """Rows that show the trait, that answer another question, or that show another trait: how far along the vector."""
    model = run.model
    part = asked(item.persona, "test", 2 * run.config.n_asked)
    other = "the king" if item.persona != "the king" else "refusing"
    unlike = asked(other, "test", 1)[0].shown
    kinds = {
        "shows it": [case.shown for case in part],
        "usual reply of another question": [part[(i + 1) % len(part)].usual for i in range(len(part))],
        "shows another trait": [unlike] * len(part),
    }
    own = [text.text for text in model.generate(chats(model, part), max_tokens=run.config.new_tokens)]
    for arm in ("vector", "random"):
        made = vectors(run, item.persona, "reply", arm)
        for kind, replies in kinds.items():
            lies = projection_difference(model, chats(model, part), replies, own, made)[item.place[1]]
            for case, value in zip(part, lies.tolist(), strict=True):
                yield {"persona": item.persona, "unit": case.text, "arm": arm, "rows": kind, "difference": value}


STAGES = (
    Stage(STEERED, questions, measure_steering, record=Steered),
    Stage(MONITORED, contexts, measure_monitoring, record=Monitored),
    Stage(FLAGGED, flags, measure_flags, record=Flagged),
)
