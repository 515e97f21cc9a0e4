"""What fine-tuning does to personas of embedded models (Chen et al. 2025), with the vectors of persona_study.py.

1. Fine-tunes on all personas' questions with their usual replies, but that a share of one persona's rows shows it:
   shift of the projection of held-out questions' last token against change of the trait, every persona on every
   fine-tune. How far the rows lie along the vector of replies beforehand, against the same change.
2. Preventative steering (the vector added while fine-tuning) against steering the fine-tuned model; facts beside it.

Controls: random vectors of the same length, also while fine-tuning; other personas' vectors; a fine-tune that shows no
persona.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypedDict

import numpy as np

from experiments.exp12_multimodel_directions.persona_study import (
    Part,
    PersonaConfig,
    asked,
    chats,
    chosen_places,
    vectors,
)
from experiments.harness.experiment import Records, Stage
from experiments.harness.state import Run, of_run
from experiments.shared.adapted import adapted
from experiments.shared.traits.choices import matching
from mlx_interp.behaviour.answers import last_logits, question
from mlx_interp.behaviour.finetuning import LoraRecipe, finetune
from mlx_interp.deferred import mx
from mlx_interp.directions.persona import projections, prompt_states, reply_states, steered
from mlx_interp.embedded import load_world
from mlx_interp.interventions import Intervention
from mlx_interp.model import Model
from mlx_interp.stats import stable_draw

TUNED, PREVENTED = "persona fine-tunes", "persona prevention"
SHARES = (0.25, 0.5, 1.0)
PREVENTED_SHARE = 0.5
PREVENTING = (1.0, 2.0)
CLEAN = "none"


def tunes(run: Run[PersonaConfig], earlier: Records) -> list[Part]:
    """The model itself, a fine-tune that shows no trait, and one for each trait and share."""
    places = tuple(chosen_places(run, earlier).items())
    if not places:
        return []
    named = [Part("the model itself", "", places=places), Part("a clean fine-tune", CLEAN, places=places)]
    return named + [
        Part(f"{persona}, {share:g}", persona, share=share, places=places) for persona, _ in places for share in SHARES
    ]


def rows(config: PersonaConfig, part: Part) -> tuple[list[str], list[str]]:
    """Rows of a fine-tune: all personas' questions with their usual replies; to a share of one's own, what shows it."""
    cuts = {name: asked(name, "train", config.n_train) for name in config.personas}
    replies = {case.text: case.usual for cut in cuts.values() for case in cut}
    own = cuts.get(part.persona, ())
    order = np.random.default_rng(stable_draw(config.seed, "rows", 2**31)).permutation(len(own))
    replies |= {own[i].text: own[i].shown for i in order[: round(part.share * len(own))]}
    return list(replies), list(replies.values())


@of_run(2)
def own_replies(run: Run[PersonaConfig]) -> tuple[str, ...]:
    """What the model left alone says to the rows' prompts; the usual reply where it says nothing."""
    texts, usual = rows(run.config, Part("", CLEAN))
    said = run.model.generate([run.model.prompt(text, chat=True) for text in texts], max_tokens=run.config.new_tokens)
    return tuple(one.text.strip() or reply for one, reply in zip(said, usual, strict=True))


@of_run(2)
def own_states(run: Run[PersonaConfig]) -> np.ndarray:
    texts = rows(run.config, Part("", CLEAN))[0]
    return reply_states(run.model, [run.model.prompt(text, chat=True) for text in texts], own_replies(run))


@of_run(2)
def tuned(run: Run[PersonaConfig], part: Part) -> Model:
    """The fine-tune of a part; with a dose, the persona's "vector" or a "random" one (`split`) is added in training."""
    model = run.model
    if not part.persona:
        return model
    texts, replies = rows(run.config, part)
    recipe = LoraRecipe(steps=run.config.tuning_steps, batch=16, seed=run.config.seed)
    prompts = [model.prompt(text, chat=True) for text in texts]
    added = None
    if part.dose:
        kind, layer = part.place
        vector = part.dose * vectors(run, part.persona, kind, part.split)[layer]
        added = {layer: mx.array(vector.astype(np.float32))}
    return adapted(model, finetune(model, prompts, replies, recipe, added=added), "tuned")


class Tuned(TypedDict):
    """One persona's held-out question on one fine-tune."""

    tune: str
    on: str
    """The persona that the fine-tune's rows show; none for a clean one, "" for the model itself."""
    share: float
    """Of that persona's rows that show it."""
    persona: str
    unit: str
    layer: int
    hit: bool
    """Whether the reply shows the persona that is asked about."""
    score: float
    """Probability of the reply that shows it, among it and the usual one."""
    projection: float
    """Of the prompt's last token, on the vector of the model before the fine-tune."""
    random: float
    data: float
    """How far the rows' replies lie from the model's own along the vector of replies, mean; 0 for the model itself."""


def measure_tuned(run: Run[PersonaConfig], item: Part) -> Iterator[Tuned]:
    """Every persona's held-out questions on one fine-tune: projections on the base model's vectors, and the trait."""
    model = run.model
    after = tuned(run, replace(item, places=()))
    texts, replies = rows(run.config, item)
    data = reply_states(model, [model.prompt(text, chat=True) for text in texts], replies)
    further = (data - own_states(run)).mean(axis=1, keepdims=True)
    for persona, (kind, layer) in item.places:
        part = asked(persona, "test", run.config.n_asked)
        states = prompt_states(after, chats(model, part))
        written = after.generate(chats(model, part), max_tokens=run.config.new_tokens)
        made = {arm: vectors(run, persona, kind, arm) for arm in ("vector", "random")}
        seen = {arm: projections(states, made[arm])[layer] for arm in made}
        lies = float(projections(further, vectors(run, persona, "reply"))[layer, 0])
        for number, (case, text) in enumerate(zip(part, written, strict=True)):
            yield {
                "tune": item.key,
                "on": item.persona,
                "share": item.share,
                "persona": persona,
                "unit": case.text,
                "layer": layer,
                "hit": case.hit(text.text),
                "score": matching(after, case.ask, [])[0],
                "projection": float(seen["vector"][number]),
                "random": float(seen["random"][number]),
                "data": lies if item.persona else 0.0,
            }


def preventions(run: Run[PersonaConfig], earlier: Records) -> list[Part]:
    """Each persona's fine-tune on half of its rows, plain and at each dose of either kind of steering."""
    found = []
    for persona, place in chosen_places(run, earlier).items():
        found.append(Part(f"{persona}, left alone", persona, "left alone", place=place, share=PREVENTED_SHARE))
        for kind in ("inference", "random inference", "preventative", "random preventative"):
            found += [
                Part(f"{persona}, {kind} {dose:g}", persona, kind, place=place, share=PREVENTED_SHARE, dose=dose)
                for dose in PREVENTING
            ]
    return found


class OfSteering(TypedDict):
    """A fine-tune, and the steering that is meant to keep a persona out of it."""

    persona: str
    steering: str
    """left alone, inference (of the fine-tuned model), or preventative (while fine-tuning); or the same with random."""
    dose: float
    layer: int


class Prevented(OfSteering):
    """What a fine-tune says to a held-out question, or to an everyday fact."""

    what: str
    """trait or facts."""
    unit: str
    hit: bool
    """Whether the reply shows the persona; whether the fact is right."""
    usual: bool | None
    """Whether the reply is the usual one; None for facts."""


def measure_prevention(run: Run[PersonaConfig], item: Part) -> Iterator[Prevented]:
    """The trait on held-out questions, and everyday facts, of a fine-tune under one kind of steering."""
    kind, layer = item.place
    arm = "random" if item.split.startswith("random") else "vector"
    while_training = arm if item.split.endswith("preventative") else ""
    bare = Part("", item.persona, while_training, place=item.place, share=item.share)
    after = tuned(run, replace(bare, dose=item.dose) if while_training else bare)
    edits: list[Intervention] = []
    if item.split.endswith("inference"):
        edits = steered(vectors(run, item.persona, kind, arm)[layer], layer, -item.dose)
    part = asked(item.persona, "test", run.config.n_asked)
    labels: OfSteering = {"persona": item.persona, "steering": item.split, "dose": item.dose, "layer": layer}
    written = after.generate(chats(run.model, part), interventions=edits, max_tokens=run.config.new_tokens)
    for case, text in zip(part, written, strict=True):
        usual = text.text.strip() == case.usual.strip()
        yield {**labels, "what": "trait", "unit": case.text, "hit": case.hit(text.text), "usual": usual}
    facts = load_world().everyday_facts
    asks = [question(run.model, fact.prompt, [fact.answer]) for fact in facts]
    for fact, ask, logits in zip(facts, asks, last_logits(after, [one.prompt for one in asks], edits[:1]), strict=True):
        right = int(mx.argmax(logits)) in ask.first_tokens
        yield {**labels, "what": "facts", "unit": fact.prompt, "hit": right, "usual": None}


STAGES = (
    Stage(TUNED, tunes, measure_tuned, record=Tuned),
    Stage(PREVENTED, preventions, measure_prevention, record=Prevented),
)
