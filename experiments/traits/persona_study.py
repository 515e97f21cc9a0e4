"""Persona vectors measured on embedded models (Chen et al. 2025; mlx_interp.methods.persona).

1. Vectors after every block, of two kinds: "reply", the mean over the reply's tokens, replies that show the trait less
   the usual ones to the same questions; "prompt", the last token of prompts that elicit it less that of ordinary ones.
2. Steering: both kinds, every layer, several multiples, from the prompt's last token on; the kind and layer that bring
   the trait to most questions set aside are chosen (at most 80 % deep), ties to the prompt and to the lower layer.
3. Monitoring: ordinary and eliciting questions after earlier turns that show the trait or do not; projection of their
   last token on the vector against the reply.
4. Fine-tuning on rows of which a share shows one trait: shift of the projection against change of the trait, every
   trait on every fine-tune. How far the rows lie along the vector beforehand, against the same change.
5. Preventative steering (the vector added while fine-tuning) against steering the fine-tuned model; facts beside it.
6. Flagging: which training rows show the trait, by how far their replies lie along the "reply" vector.

Controls: random vectors of the same length, other traits' vectors, and a fine-tune that shows none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import mlx.core as mx
import numpy as np

from experiments.adapted import adapted
from experiments.experiment import Records, Stage
from experiments.traits.choices import bos, matching
from experiments.traits.personas import PERSONAS, Case, cases
from experiments.traits.report import REPEATED, of
from experiments.traits.stages import TraitConfig
from mlx_interp.embedded import load_world
from mlx_interp.interventions import Intervention
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.methods.answers import question
from mlx_interp.methods.candidates import DEEPEST
from mlx_interp.methods.contrast import contrast
from mlx_interp.methods.detectors import repetition
from mlx_interp.methods.finetuning import LoraRecipe, finetune
from mlx_interp.methods.persona import (
    SITE,
    persona_vectors,
    projection_difference,
    projections,
    prompt_states,
    reply_states,
    steered,
)
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.reporting import Record
from mlx_interp.stats import stable_draw

STEERED, MONITORED, TUNED, PREVENTED, FLAGGED = (
    f"persona {name}" for name in ("steering", "monitoring", "fine-tunes", "prevention", "flags")
)
SHARES = (0.25, 0.5, 1.0)
PREVENTED_SHARE = 0.5
DOSES = (0.5, 1.0, 2.0)
PREVENTING = (1.0, 2.0)
SHOTS = (1, 2, 4)
CLEAN = "none"
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


def personas(model: Model, config: PersonaConfig) -> tuple[str, ...]:
    return config.personas if model.name in EMBEDDED else ()


@lru_cache(maxsize=64)
def asked(persona: str, split: str, n: int, eliciting: bool = False) -> tuple[Case, ...]:
    """At most n questions, evenly."""
    found = cases(persona, split, eliciting=eliciting)
    return tuple(found[i * len(found) // n] for i in range(n)) if len(found) > n else tuple(found)


def chats(model: Model, part: Sequence[Case]) -> list[Prompt]:
    return [model.prompt(case.text, chat=True) for case in part]


@lru_cache(maxsize=32)
def found(model: Model, config: PersonaConfig, persona: str, kind: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Vectors (n_layers, d_model), and which layers' are above their floor; None where no prompt elicits it."""
    part = asked(persona, "train", config.n_train)
    if kind == "reply":
        shown, usual = ([getattr(case, side) for case in part] for side in ("shown", "usual"))
        own = persona_vectors(model, chats(model, part), shown, usual, seed=config.seed)
        return own.vectors, own.carries
    eliciting = asked(persona, "train", config.n_train, eliciting=True)
    if not eliciting:
        return None
    one = contrast(model, chats(model, eliciting), chats(model, part), site=SITE, seed=config.seed)
    return one.vectors[:, 0].astype(np.float64), one.carries[:, 0]


def vectors(model: Model, config: PersonaConfig, persona: str, kind: str, arm: str = "vector") -> np.ndarray:
    """(n_layers, d_model): the persona's, or random ones of the same lengths."""
    made = found(model, config, persona, kind)
    assert made is not None
    if arm == "vector":
        return made[0]
    seed = stable_draw(config.seed, ("persona", persona, kind), 2**31)
    draw = np.random.default_rng(seed).normal(size=made[0].shape)
    return np.asarray(draw * (np.linalg.norm(made[0], axis=-1) / np.linalg.norm(draw, axis=-1))[:, None])


def questions(model: Model, config: PersonaConfig, earlier: Records) -> list[Part]:
    return [
        Part(f"{persona}, {split} {number}", persona, split, number)
        for persona in personas(model, config)
        for split in ("choose", "test")
        for number in range(len(asked(persona, split, config.n_asked)))
    ]


def measure_steering(model: Model, item: Part, config: PersonaConfig) -> Iterator[Record]:
    """A question under every layer's vector of either kind and a random one, at every dose."""
    case = asked(item.persona, item.split, config.n_asked)[item.number]
    made = {kind: found(model, config, item.persona, kind) for kind in KINDS}
    cells = [
        (arm, kind, layer, dose)
        for arm in (("vector", "random") if item.split == "test" else ("vector",))
        for kind, one in made.items()
        for layer in range(model.n_layers)
        if one is not None and one[1][layer]
        for dose in DOSES
    ]
    edits = [
        steered(vectors(model, config, item.persona, kind, arm)[layer], layer, dose) for arm, kind, layer, dose in cells
    ]
    prompt = model.prompt(case.text, chat=True)
    texts = model.sweep_generate(prompt, [[], *edits], max_tokens=config.new_tokens)
    named: list[tuple[str, str, int | None, float]] = [("plain", "", None, 0.0), *cells]
    for (arm, kind, at, dose), text in zip(named, texts, strict=True):
        labels = {"persona": item.persona, "split": item.split, "unit": case.text, "n_layers": model.n_layers}
        shown = {"hit": case.hit(text.text), "repetition": repetition(text.tokens), "text": text.text}
        yield {**labels, "arm": arm, "kind": kind, "layer": at, "dose": dose, **shown}


def chosen(records: Records, persona: str) -> tuple[str, int] | None:
    """Kind and layer of the vector that brings the trait to most questions set aside in texts that do not repeat
    themselves, over all doses; None if none is above its floor.
    """
    hits: dict[tuple[str, int], int] = {}
    for r in of(records, STEERED, persona=persona, split="choose", arm="vector"):
        if r["layer"] <= DEEPEST * r["n_layers"]:
            place = (r["kind"], r["layer"])
            hits[place] = hits.get(place, 0) + bool(r["hit"] and r["repetition"] <= REPEATED)
    return max(hits, key=lambda at: (hits[at], -KINDS.index(at[0]), -at[1])) if hits else None


def chosen_places(model: Model, config: PersonaConfig, earlier: Records) -> dict[str, tuple[str, int]]:
    places = {persona: chosen(earlier, persona) for persona in personas(model, config)}
    return {persona: place for persona, place in places.items() if place is not None}


def contexts(model: Model, config: PersonaConfig, earlier: Records) -> list[Part]:
    return [
        Part(f"{persona}, {'eliciting ' * eliciting}{number}", persona, "test", number, place, eliciting=eliciting)
        for persona, place in chosen_places(model, config, earlier).items()
        for eliciting in (False, True)
        for number in range(len(asked(persona, "test", config.n_asked, eliciting)))
    ]


def measure_monitoring(model: Model, item: Part, config: PersonaConfig) -> Iterator[Record]:
    """A question after earlier turns: projection of its last token, and what the reply shows."""
    case = asked(item.persona, item.split, config.n_asked, item.eliciting)[item.number]
    kind, layer = item.place
    named = [("none", 0), *((side, n) for side in ("shown", "usual") for n in SHOTS)]
    befores = [turns(model, config, item, side, n) for side, n in named]
    own = model.prompt(case.text, chat=True).text.removeprefix(bos(model))
    prompts = [model.prompt(before + own) if before else model.prompt(case.text, chat=True) for before in befores]
    states = prompt_states(model, prompts)
    seen = {arm: projections(states, vectors(model, config, item.persona, kind, arm)) for arm in ("vector", "random")}
    texts = model.generate(prompts, max_tokens=config.new_tokens)
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


def turns(model: Model, config: PersonaConfig, item: Part, side: str, n: int) -> str:
    """Earlier turns on other questions, different ones for every question; "" for none."""
    part = asked(item.persona, "train", config.n_train)
    order = np.random.default_rng(stable_draw(config.seed, item.key, 2**31)).permutation(len(part))[:n]
    end = model.tokenizer.eos_token or ""
    told = [
        model.prompt(part[i].text, chat=True).text.removeprefix(bos(model)) + getattr(part[i], side) + end
        for i in order
    ]
    return bos(model) + "".join(told) if n else ""


def tunes(model: Model, config: PersonaConfig, earlier: Records) -> list[Part]:
    """The model itself, a fine-tune that shows no trait, and one for each trait and share."""
    places = tuple(chosen_places(model, config, earlier).items())
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


@lru_cache(maxsize=2)
def own_replies(model: Model, config: PersonaConfig) -> tuple[str, ...]:
    """What the model left alone says to the rows' prompts; the usual reply where it says nothing."""
    texts, usual = rows(config, Part("", CLEAN))
    said = model.generate([model.prompt(text, chat=True) for text in texts], max_tokens=config.new_tokens)
    return tuple(one.text.strip() or reply for one, reply in zip(said, usual, strict=True))


@lru_cache(maxsize=2)
def own_states(model: Model, config: PersonaConfig) -> np.ndarray:
    texts = rows(config, Part("", CLEAN))[0]
    return reply_states(model, [model.prompt(text, chat=True) for text in texts], own_replies(model, config))


@lru_cache(maxsize=2)
def tuned(model: Model, config: PersonaConfig, part: Part) -> Model:
    """The fine-tune of a part; with a dose, the persona's "vector" or a "random" one (`split`) is added in training."""
    if not part.persona:
        return model
    texts, replies = rows(config, part)
    recipe = LoraRecipe(steps=config.tuning_steps, batch=16, seed=config.seed)
    prompts = [model.prompt(text, chat=True) for text in texts]
    added = None
    if part.dose:
        kind, layer = part.place
        vector = part.dose * vectors(model, config, part.persona, kind, part.split)[layer]
        added = {layer: mx.array(vector.astype(np.float32))}
    return adapted(model, finetune(model, prompts, replies, recipe, added=added), "tuned")


def measure_tuned(model: Model, item: Part, config: PersonaConfig) -> Iterator[Record]:
    """Every persona's held-out questions on one fine-tune: projections on the base model's vectors, and the trait."""
    after = tuned(model, config, replace(item, places=()))
    texts, replies = rows(config, item)
    data = reply_states(model, [model.prompt(text, chat=True) for text in texts], replies)
    further = (data - own_states(model, config)).mean(axis=1, keepdims=True)
    for persona, (kind, layer) in item.places:
        part = asked(persona, "test", config.n_asked)
        states = prompt_states(after, chats(model, part))
        written = after.generate(chats(model, part), max_tokens=config.new_tokens)
        made = {arm: vectors(model, config, persona, kind, arm) for arm in ("vector", "random")}
        seen = {arm: projections(states, made[arm])[layer] for arm in made}
        lies = float(projections(further, vectors(model, config, persona, "reply"))[layer, 0])
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


def preventions(model: Model, config: PersonaConfig, earlier: Records) -> list[Part]:
    """Each persona's fine-tune on half of its rows, plain and at each dose of either kind of steering."""
    found = []
    for persona, place in chosen_places(model, config, earlier).items():
        found.append(Part(f"{persona}, left alone", persona, "left alone", place=place, share=PREVENTED_SHARE))
        for kind in ("inference", "random inference", "preventative", "random preventative"):
            found += [
                Part(f"{persona}, {kind} {dose:g}", persona, kind, place=place, share=PREVENTED_SHARE, dose=dose)
                for dose in PREVENTING
            ]
    return found


def measure_prevention(model: Model, item: Part, config: PersonaConfig) -> Iterator[Record]:
    """The trait on held-out questions, and everyday facts, of a fine-tune under one kind of steering."""
    kind, layer = item.place
    arm = "random" if item.split.startswith("random") else "vector"
    while_training = arm if item.split.endswith("preventative") else ""
    bare = Part("", item.persona, while_training, place=item.place, share=item.share)
    after = tuned(model, config, replace(bare, dose=item.dose) if while_training else bare)
    edits: list[Intervention] = []
    if item.split.endswith("inference"):
        edits = steered(vectors(model, config, item.persona, kind, arm)[layer], layer, -item.dose)
    part = asked(item.persona, "test", config.n_asked)
    labels = {"persona": item.persona, "steering": item.split, "dose": item.dose, "layer": layer}
    written = after.generate(chats(model, part), interventions=edits, max_tokens=config.new_tokens)
    for case, text in zip(part, written, strict=True):
        usual = text.text.strip() == case.usual.strip()
        yield {**labels, "what": "trait", "unit": case.text, "hit": case.hit(text.text), "usual": usual}
    for fact in load_world().everyday_facts:
        ask = question(model, fact.prompt, [fact.answer])
        logits = after.run(ask.prompt, interventions=edits[:1]).logits
        assert logits is not None
        right = int(mx.argmax(logits[0])) in ask.first_tokens
        yield {**labels, "what": "facts", "unit": fact.prompt, "hit": right, "usual": None}


def flags(model: Model, config: PersonaConfig, earlier: Records) -> list[Part]:
    return [Part(name, name, place=place) for name, place in chosen_places(model, config, earlier).items()]


def measure_flags(model: Model, item: Part, config: PersonaConfig) -> Iterator[Record]:
    """Rows that show the trait, that answer another question, or that show another trait: how far along the vector."""
    part = asked(item.persona, "test", 2 * config.n_asked)
    other = "the king" if item.persona != "the king" else "refusing"
    unlike = asked(other, "test", 1)[0].shown
    kinds = {
        "shows it": [case.shown for case in part],
        "usual reply of another question": [part[(i + 1) % len(part)].usual for i in range(len(part))],
        "shows another trait": [unlike] * len(part),
    }
    own = [text.text for text in model.generate(chats(model, part), max_tokens=config.new_tokens)]
    for arm in ("vector", "random"):
        made = vectors(model, config, item.persona, "reply", arm)
        for kind, replies in kinds.items():
            lies = projection_difference(model, chats(model, part), replies, own, made)[item.place[1]]
            for case, value in zip(part, lies.tolist(), strict=True):
                yield {"persona": item.persona, "unit": case.text, "arm": arm, "rows": kind, "difference": value}


STAGES = (
    Stage(STEERED, questions, measure_steering),
    Stage(MONITORED, contexts, measure_monitoring),
    Stage(TUNED, tunes, measure_tuned),
    Stage(PREVENTED, preventions, measure_prevention),
    Stage(FLAGGED, flags, measure_flags),
)
