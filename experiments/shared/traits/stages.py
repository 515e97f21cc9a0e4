"""Directions of a trait measured: found at every layer, applied at every layer, strengths searched, side effects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.harness.experiment import ExperimentConfig, Records, Stage
from experiments.harness.state import Run, of_run
from experiments.shared.traits.asks import Ask
from experiments.shared.traits.layer_choice import chosen_layer
from experiments.shared.traits.sets import EVERYWHERE, Sets, sets_of
from experiments.shared.traits.trait_records import (
    DIRECTIONS,
    EFFECTS,
    OPENINGS,
    PROMPTS,
    SIDE,
    STRENGTHS,
    Affected,
    Dosed,
    Found,
    OfDose,
    Opened,
    SideEffect,
    Used,
)
from mlx_interp.behaviour.answers import Question, continuation, last_logits, name_scores, question, verdicts
from mlx_interp.behaviour.detectors import log_prob_per_token, repetition
from mlx_interp.controls import random_like, shuffled_labels
from mlx_interp.deferred import mx
from mlx_interp.directions.candidates import divergence, log_probs_of
from mlx_interp.directions.contrasts import Contrast, contrast
from mlx_interp.directions.direction import Direction
from mlx_interp.directions.steering import finite_under
from mlx_interp.embedded import load_world
from mlx_interp.errors import ConfigError
from mlx_interp.interventions import Add, Intervention, Positions
from mlx_interp.reporting import finite

ARMS = ("direction", "random", "shuffled labels")


@dataclass(frozen=True)
class TraitConfig(ExperimentConfig):
    """Fields of every study of a trait."""

    n_train: int = 64
    """Prompts of each kind from which directions are found."""
    n_test: int = 16
    """Prompts of each kind on which the layer is chosen, and as many others on which its effect is reported."""
    new_tokens: int = 12
    """Tokens of every reply."""
    strengths: tuple[float, ...] = (-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
    """Multiples of the difference of means that are added, for the curve."""
    language: str = "en"
    """Of the prompts; on embedded models requests alone are in several."""
    layers: tuple[int, ...] = ()
    """Layers whose directions are applied, for models on which all would take too long; by default all."""
    harmful: tuple[str, ...] = ()
    """Published sets in place of our own requests that are refused: one, or three for finding, choosing and test."""
    harmless: tuple[str, ...] = ()
    """The same in place of our own harmless requests."""
    judge: str = ""
    """A model that judges the replies of a study of refusal as well, beside the phrases."""


def of_trait(
    *names: str,
) -> tuple[
    Stage[TraitConfig, Item, Found],
    Stage[TraitConfig, Item, Affected],
    Stage[TraitConfig, Item, Opened],
    Stage[TraitConfig, Item, Used],
]:
    """The stages of every study: directions at all layers, what each does to replies and to the words that open them,
    and which prompts that was on."""
    return (
        Stage(DIRECTIONS, lambda run, earlier: layer_items(run, names), measure_direction, record=Found),
        Stage(EFFECTS, lambda run, earlier: prompt_items(run, names), measure_effect, record=Affected),
        Stage(OPENINGS, lambda run, earlier: graded_items(run, names), measure_openings, record=Opened),
        Stage(PROMPTS, lambda run, earlier: [Item(name, name) for name in names], measure_prompts, record=Used),
    )


def calibrated(*names: str) -> tuple[Stage[TraitConfig, Item, Dosed], Stage[TraitConfig, Item, SideEffect]]:
    """The strengths at the chosen layer, and side effects there."""
    return (
        Stage(STRENGTHS, lambda run, earlier: strength_items(run, earlier, names), measure_strength, record=Dosed),
        Stage(SIDE, lambda run, earlier: side_items(run, earlier, names), measure_side_effects, record=SideEffect),
    )


@dataclass(frozen=True)
class Item:
    """One prompt of one trait, in a split, of one of the two kinds; or a layer, or a strength."""

    key: str
    trait: str
    kind: str = ""
    split: str = ""
    number: int = 0
    layer: int = 0
    value: float = 0.0
    language: str = ""
    """Of the direction; the config's if empty."""


@of_run(16)
def sets(run: Run[TraitConfig], trait: str, language: str = "") -> Sets:
    """A trait's prompts; --limit cuts those that are measured on (to four at least), not those of the direction."""
    config = run.config
    return sets_of(
        run.model,
        trait,
        config.n_train,
        config.at_most(config.n_test),
        language or config.language,
        harmful=config.harmful,
        harmless=config.harmless,
        seed=config.seed,
    )


@of_run(16)
def found(run: Run[TraitConfig], trait: str, arm: str = "direction", language: str = "") -> Contrast:
    """The trait's contrast at the last prompt token of every layer; or one of the same prompts with shuffled labels."""
    of = sets(run, trait, language)
    kinds = [[run.model.prompt(ask.text, chat=True) for ask in part["train"]] for part in (of.positive, of.negative)]
    if arm == "shuffled labels":
        kinds = list(shuffled_labels(*kinds, seed=run.config.seed, key=(trait, language)))
    return contrast(run.model, kinds[0], kinds[1], seed=run.config.seed)


def vector(run: Run[TraitConfig], item: Item, layer: int, arm: str) -> Direction:
    """A layer's direction, or a control of the same length and place."""
    model = run.model
    real = found(run, item.trait, language=item.language)
    values = real.vectors[layer, 0]
    if arm == "random":
        values = random_like(values, seed=run.seed, key=(item.trait, layer)).astype(np.float32)
    elif arm != "direction":
        other = found(run, item.trait, arm, item.language).vectors[layer, 0]
        values = other * (np.linalg.norm(values) / max(float(np.linalg.norm(other)), 1e-9))
    return Direction(
        vector=mx.array(values),
        site=f"{real.site}.{layer}",
        position=-1,
        method=arm,
        template="chat",
        model_id=model.model_id,
        weights_hash=model.weights_hash,
        quantization=model.quantization or "",
        n_layers=model.n_layers,
        floor=float(real.floor[layer, 0]),
        p_value=float(real.p_values[layer, 0]) if arm == "direction" else None,
    )


def measure_prompts(run: Run[TraitConfig], item: Item) -> Iterator[Used]:
    """Where the prompts of each kind and split are from, and how many there are."""
    of = sets(run, item.trait, item.language)
    for (kind, split), origin in of.origins.items():
        yield {
            "trait": item.trait,
            "language": item.language or run.config.language,
            "kind": kind,
            "split": split,
            "n": len(getattr(of, kind)[split]),
            "name": origin.name,
            "revision": origin.revision,
            "part": origin.part,
            "licence": origin.licence,
            "reference": origin.reference,
            "sha256": origin.sha256,
            "known": origin.known,
        }


def layer_items(run: Run[TraitConfig], traits: Sequence[str]) -> list[Item]:
    return [Item(f"{trait}, layer {n}", trait, layer=n) for trait in traits for n in range(run.model.n_layers)]


def measure_direction(run: Run[TraitConfig], item: Item) -> Iterator[Found]:
    """Length, p value and stability of a layer's direction, and the same of shuffled labels."""
    for arm in ("direction", "shuffled labels"):
        of = found(run, item.trait, arm, item.language)
        stream = float(of.stream[item.layer, 0])
        yield {
            "trait": item.trait,
            "language": item.language or run.config.language,
            "arm": arm,
            "layer": item.layer,
            "n_layers": run.model.n_layers,
            "norm": float(of.norms[item.layer, 0]),
            "relative_norm": float(of.norms[item.layer, 0]) / stream if stream else None,
            "squared": finite(float(of.squared[item.layer, 0])),
            "p_value": float(of.p_values[item.layer, 0]),
            "differs": bool(of.differs[item.layer, 0]),
            "carries": bool(of.carries[item.layer, 0]),
            "stability": float(of.stability[item.layer, 0]),
        }


def prompt_items(run: Run[TraitConfig], traits: Sequence[str]) -> list[Item]:
    """Every prompt on which layers are chosen or reported."""
    return [
        Item(f"{trait}: {kind}, {split} {number}", trait, kind, split, number)
        for trait in traits
        for kind in ("positive", "negative")
        for split in ("choose", "test")
        for number in range(len(getattr(sets(run, trait), kind)[split]))
    ]


def measure_effect(run: Run[TraitConfig], item: Item) -> Iterator[Affected]:
    """One prompt, every layer: the direction ablated everywhere where the trait shows, added once where not.

    Ablated: from everything that is written to the stream, at all layers and positions. Added: at its own layer, once,
    at the prompt's last token, or at every position (see sets.EVERYWHERE). All layers and controls decode as one batch.
    """
    ask = asked(run, item)
    labels, variants = applied(run, item, added_at(item.trait))
    written = run.model.sweep_generate(
        run.model.prompt(ask.text, chat=True), variants, max_tokens=run.config.new_tokens
    )
    for (at, name), one in zip(labels, written, strict=True):
        yield {
            "trait": item.trait,
            "kind": item.kind,
            "split": item.split,
            "unit": ask.unit,
            "layer": at,
            "arm": name,
            "hit": ask.hit(one.text),
            "repetition": repetition(one.tokens),
            "text": one.text,
        }


def applied(
    run: Run[TraitConfig], item: Item, at: Positions
) -> tuple[list[tuple[int | None, str]], list[list[Intervention]]]:
    """Every layer and arm, nothing first, and its interventions: ablated on positive prompts, added `at` on others."""
    differs = found(run, item.trait, language=item.language).differs[:, 0]
    # Whatever their p values: those stand beside what they do.
    layers = [layer for layer in tried_layers(run) if layer and differs[layer]]
    labels: list[tuple[int | None, str]] = [(None, "none"), *((layer, arm) for layer in layers for arm in ARMS)]
    variants: list[list[Intervention]] = [[]]
    for layer in layers:
        for arm in ARMS:
            direction = vector(run, item, layer, arm)
            added: list[Intervention] = [direction.added(1.0, positions=at)]
            variants.append(direction.ablated_everywhere() if item.kind == "positive" else added)
    return labels, variants


def graded_items(run: Run[TraitConfig], traits: Sequence[str]) -> list[Item]:
    """The prompts of traits that are graded by the words that open a reply."""
    return [item for item in prompt_items(run, traits) if asked(run, item).openings]


def measure_openings(run: Run[TraitConfig], item: Item) -> Iterator[Opened]:
    """One prompt, every layer, edited as in `measure_effect`: the log-odds of opening the reply with the trait's words.

    A graded measure: it moves where no reply changes, as in a model that answers in sentences and says neither word.
    """
    ask = asked(run, item)
    if ask.openings is None:
        return
    prompt = run.model.prompt(ask.text, chat=True)
    at = added_at(item.trait)
    labels, variants = applied(run, item, None if at is None else len(prompt) - 1)
    names = [continuation(run.model, prompt, words) for words in ask.openings]
    with_it, without = (np.asarray(name_scores(run.model, Question(prompt, (name,)), variants))[:, 1] for name in names)
    for (layer, arm), log_odds in zip(labels, with_it - without, strict=True):
        yield {
            "trait": item.trait,
            "kind": item.kind,
            "split": item.split,
            "unit": ask.unit,
            "layer": layer,
            "arm": arm,
            "words": " / ".join(ask.openings),
            "log_odds": float(log_odds),
        }


def tried_layers(run: Run[TraitConfig]) -> list[int]:
    """The layers asked for, or all. Raises ConfigError for one that the model does not have."""
    model = run.model
    beyond = [layer for layer in run.config.layers if not 0 <= layer < model.n_layers]
    if beyond:
        raise ConfigError(f"layers {beyond[0]}: {model.name} has {model.n_layers}, counted from 0")
    return sorted(set(run.config.layers)) or list(range(model.n_layers))


def strength_items(run: Run[TraitConfig], earlier: Records, traits: Sequence[str]) -> list[Item]:
    """Every strength at the chosen layer, for both rules of position."""
    items = []
    for trait in traits:
        layer = chosen_layer(earlier, trait)
        if layer is not None:
            items += [
                Item(f"{trait}: {rule}, {value:g}", trait, rule, "test", layer=layer, value=value)
                for rule in ("last prompt token", "every position")
                for value in run.config.strengths
            ]
    return items


def measure_strength(run: Run[TraitConfig], item: Item) -> Iterator[Dosed]:
    """A strength on the prompts of both kinds, direction and random: hits, and whether the texts are still fluent."""
    model = run.model
    of = sets(run, item.trait, item.language)
    asks = [(kind, ask) for kind in ("positive", "negative") for ask in getattr(of, kind)["test"]]
    prompts = [model.prompt(ask.text, chat=True) for _, ask in asks]
    positions = -1 if item.kind == "last prompt token" else None
    for arm in ("direction", "random"):
        direction = vector(run, item, item.layer, arm)
        steering = [Add(direction.site, direction.vector, item.value, positions)]
        labels: OfDose = {
            "trait": item.trait,
            "rule": item.kind,
            "layer": item.layer,
            "strength": item.value,
            "arm": arm,
        }
        if not finite_under(model, prompts[0], steering):  # what is decoded from nan is no text
            for kind, ask in asks:
                yield {
                    **labels,
                    "kind": kind,
                    "unit": ask.unit,
                    "finite": False,
                    "hit": False,
                    "repetition": 1.0,
                    "log_prob": None,
                    "text": "",
                }
            continue
        texts = model.generate(prompts, interventions=steering, max_tokens=run.config.new_tokens)
        fluency = log_prob_per_token(model, [p.tokens for p in prompts], [t.tokens for t in texts])
        for (kind, ask), text, log_prob in zip(asks, texts, fluency, strict=True):
            yield {
                **labels,
                "kind": kind,
                "unit": ask.unit,
                "finite": True,
                "hit": ask.hit(text.text),
                "repetition": repetition(text.tokens),
                "log_prob": finite(log_prob),
                "text": text.text,
            }


def side_items(run: Run[TraitConfig], earlier: Records, traits: Sequence[str]) -> list[Item]:
    layers = {trait: chosen_layer(earlier, trait) for trait in traits}
    return [
        Item(f"{trait}: {arm}", trait, arm, layer=layer)
        for trait, layer in layers.items()
        if layer is not None
        for arm in ("none", "ablated", "random ablated", "added", "random added")
    ]


def measure_side_effects(run: Run[TraitConfig], item: Item) -> Iterator[SideEffect]:
    """Facts that have nothing to do with the trait: is the first token still right, how far does the output move?"""
    facts = load_world().everyday_facts
    asks = [question(run.model, fact.prompt, [fact.answer]) for fact in facts]
    direction = vector(run, item, item.layer, "random" if "random" in item.kind else "direction")
    arms: dict[str, list[Intervention]] = {
        "none": [],
        "ablated": direction.ablated_everywhere(),
        "added": [direction.added(1.0, positions=added_at(item.trait))],
    }
    edits = arms[item.kind.removeprefix("random ")]
    prompts = [ask.prompt for ask in asks]
    clean, edited = (last_logits(run.model, prompts, given) for given in (list[Intervention](), edits))
    for fact, ask, known, p, q in zip(facts, asks, verdicts(run.model, asks), clean, edited, strict=True):
        yield {
            "trait": item.trait,
            "arm": item.kind,
            "layer": item.layer,
            "unit": fact.prompt,
            "known": known.first_token,
            "right": int(mx.argmax(q)) in ask.first_tokens,
            "kl": max(0.0, float(divergence(log_probs_of(p), q))),
        }


def added_at(trait: str) -> int | None:
    """The last prompt token, or None for every position."""
    return None if trait in EVERYWHERE else -1


def asked(run: Run[TraitConfig], item: Item) -> Ask:
    part: list[Ask] = getattr(sets(run, item.trait, item.language), item.kind)[item.split]
    return part[item.number]
