"""The study's test of directions: harmful minus harmless is no chance, stable, and moves refusals both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mlx_interp import Completion, Model, Prompt
from mlx_interp.behaviour.detectors import REPLY, log_odds, openers_of, refusal
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.directions.contrasts import Contrast, contrast
from mlx_interp.embedded import load_world
from mlx_interp.engine.memory import default_budget, rows_that_fit
from mlx_interp.interventions import Add, Intervention
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.stats.distance import LEVEL
from validation import data
from validation.check import Check, Finding, Subject

STABLE = 0.7
"""Median bootstrap cosine; random directions of width 128 reach .1, of width 2000 .02."""
MOVED = 0.25
"""Share of held-out prompts by which refusals must rise and fall."""


def direction_is_sound(subject: Subject) -> Finding:
    """On all requests: nothing is held out, as nothing is chosen, and eight of a kind would tell little apart."""
    if not subject.model.tokenizer.chat_template:
        return Finding("not applicable", "-", f"cosine >= {STABLE}", "no chat template")
    harmful, harmless, held_harmful, held_harmless = _prompts(subject)
    found = contrast(subject.model, [*harmful, *held_harmful], [*harmless, *held_harmless])
    if not np.isfinite(found.vectors).all():
        layer = int(np.argwhere(~np.isfinite(found.norms))[0][0])
        return Finding("failed", "not finite", "finite", f"{found.site}.{layer}: norms overflow or are undefined")
    layers = range(subject.model.n_layers // 4, subject.model.n_layers)
    carried = [layer for layer in layers if found.carries[layer, 0]]
    size = f"n = {found.n[0]} + {found.n[1]}"
    if not carried:
        least = f"least p {float(found.p_values[layers, 0].min()):.3f} of {len(layers)} layers; {size}"
        return Finding("failed", "no layer told from chance", "one or more", least)
    best = max(float(found.stability[layer, 0]) for layer in carried)
    note = f"{len(carried)} of {len(layers)} layers told from chance (p <= {LEVEL}); {size}"
    return Finding("passed" if best >= STABLE else "failed", f"cosine {best:.2f}", f">= {STABLE}", note)


def direction_moves_refusals(subject: Subject) -> Finding:
    """Ablated everywhere, and added where it was read, at the prompt's last token.

    The layer is chosen on the extraction prompts by first-token log-odds, the effect measured on held-out ones.
    """
    bound, model = f"+- >= {MOVED:.0%}", subject.model
    if not model.tokenizer.chat_template:
        return Finding("not applicable", "-", bound, "no chat template")
    kinds = _prompts(subject)
    harmful, harmless, held_harmful, held_harmless = kinds
    replies = iter(model.generate([prompt for kind in kinds for prompt in kind], max_tokens=REPLY))
    replies_of = [[next(replies) for _ in kind] for kind in kinds]
    openers = openers_of(replies_of[0], replies_of[1])
    if not openers:
        return Finding("not applicable", "0 refusals", bound, "the model refuses none of these requests")
    found = contrast(model, harmful, harmless)
    if not found.differs[:, 0].any():
        return Finding("not applicable", "0 layers", bound, "harmful and harmless prompts are the same at every layer")
    layer = _best_layer(subject, found, harmless[:4], openers)
    direction = found.direction(layer)
    plain = [_refusals(some) for some in replies_of[2:]]
    if plain[0] < MOVED:
        return Finding("not applicable", f"{plain[0]:.0%} refused", bound, "too few refusals for any to be removed")
    random = replace(direction, vector=random_like(direction.vector, seed=subject.seed, key="refusals"))
    arms = [
        arm
        for one in (direction, random)
        for arm in ((held_harmful, one.ablated_everywhere()), (held_harmless, [one.added(1.0, positions=-1)]))
    ]
    ablated, added, *control = (_refusals(some) for some in _replies(model, arms))
    fell, rose = plain[0] - ablated, added - plain[1]
    by_chance = max(plain[0] - control[0], control[1] - plain[1])
    passed = fell >= MOVED and rose >= MOVED and by_chance < min(fell, rose)
    note = (
        f"layer {layer}; harmful {plain[0]:.0%} -> {ablated:.0%} without it (random {control[0]:.0%}), harmless "
        f"{plain[1]:.0%} -> {added:.0%} with it (random {control[1]:.0%}); "
        f"n = {len(held_harmful)} + {len(held_harmless)}"
    )
    return Finding("passed" if passed else "failed", f"-{fell:.0%}, +{rose:.0%}", bound, note)


def before_the_contrast_is_refused(subject: Subject) -> Finding:
    """At a token before the texts diverge there is no direction, only rounding noise: none may be found there."""
    model = subject.model
    shared = model.prompt("The capital of France is").tokens
    prompts = [[*shared, token % model.d_vocab] for token in range(100, 112)]
    # Another number of rows in a batch is another order of summation: what noise there is, shows.
    found = contrast(model, prompts[:5], prompts[5:], positions=(-2,), template="plain")
    worst = float(np.max(found.norms / np.maximum(found.stream, 1e-9)))
    passed = not found.carries.any() and worst <= subject.bound
    bound = f"<= {subject.bound:.2g}, and not told from chance"
    return Finding("passed" if passed else "failed", f"{worst:.2g} of the stream", bound)


def _best_layer(subject: Subject, found: Contrast, prompts: Sequence[Prompt], openers: Sequence[int]) -> int:
    """The layer at which adding the difference raises the odds of a refusal most, below 80 % of the depth."""
    n = subject.model.n_layers
    differing = [layer for layer in range(n) if found.differs[layer, 0]]
    layers = [layer for layer in subject.layers if layer in differing and layer <= 0.8 * n] or differing[:1]
    variants = [[Add(f"{found.site}.{layer}", mx.array(found.vectors[layer, 0]), positions=-1)] for layer in layers]
    odds = subject.model.sweep_prompts(prompts, variants, metric=log_odds(openers))
    return layers[int(mx.argmax(odds.mean(axis=0)))]


def _replies(model: Model, arms: Sequence[tuple[Sequence[Prompt], Sequence[Intervention]]]) -> list[list[Completion]]:
    """Greedy replies to the prompts of each arm under its edits, all arms as one batch, as far as memory goes."""
    rows = [(prompt, edits) for prompts, edits in arms for prompt in prompts]
    lengths = [len(prompt) + REPLY for prompt, _ in rows]
    written: list[Completion] = []
    for part in rows_that_fit(model.network, lengths, (), "last", default_budget()):
        some = rows[part.start : part.stop]
        edits = [edits for _, edits in some]
        written += model.generate([prompt for prompt, _ in some], per_prompt=edits, max_tokens=REPLY)
    ordered = iter(written)
    return [[next(ordered) for _ in prompts] for prompts, _ in arms]


def _refusals(replies: Sequence[Completion]) -> float:
    return sum(refusal(reply.text) is not None for reply in replies) / len(replies)


def _prompts(subject: Subject) -> tuple[list[Prompt], list[Prompt], list[Prompt], list[Prompt]]:
    """Harmful and harmless chats to find the direction on, and others to test it on."""
    if subject.model.name in EMBEDDED:
        world = load_world()
        texts = [
            [chat.text for chat in world.chat_prompts("refusal", language="en", split=split, shift="", harmful=harmful)]
            for split in ("train", "test")
            for harmful in (True, False)
        ]
    else:
        first, rest = slice(data.N_EXTRACTION), slice(data.N_EXTRACTION, None)
        texts = [list(kind[cut]) for cut in (first, rest) for kind in (data.REFUSABLE, data.HARMLESS)]
    n = 32 if subject.level == "full" else data.N_EXTRACTION
    made = [[subject.model.prompt(text, chat=True) for text in some[:n]] for some in texts]
    return made[0], made[1], made[2], made[3]


CHECKS = [
    Check(
        "a direction is above noise and stable",
        "norms that are zero, infinite or undefined, chance, and directions that other prompts would not give",
        "fixed before any model was looked at: p of 5 % for all layers; far above what random directions reach",
        "mlx_interp/directions/contrasts.py; the position it is read at",
        direction_is_sound,
        "standard",
    ),
    Check(
        "no direction before the contrast",
        "a direction of rounding noise, read where the texts are still the same",
        "the same tokens give the same activations; what differs is the order of summation",
        "mlx_interp/directions/contrasts.py: the floor; mlx_interp/directions/direction_test.py",
        before_the_contrast_is_refused,
        "standard",
    ),
    Check(
        "a direction moves refusals both ways",
        "a direction with the wrong sign, of the wrong layer, or applied where it does nothing",
        "fixed before any model was looked at; a quarter of the held-out prompts, three of 12 at least",
        "mlx_interp/directions/contrasts.py, engine/apply_edits.py; then the texts themselves",
        direction_moves_refusals,
        "standard",
    ),
]
