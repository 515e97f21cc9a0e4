"""The study's test of the logit lens: it ends in the prediction, and finds what the model knows."""

from __future__ import annotations

import numpy as np

from mlx_interp.behaviour.answers import continuation
from mlx_interp.deferred import mx
from mlx_interp.lenses.logit import lens_ranks, logit_lens, logit_lenses
from validation.check import SAME_KERNELS, Check, Finding, Status, Subject, bitwise
from validation.worlds import ask, two_hops

TOP = 30
"""Ranks of the lens in which an entity counts as visible, as in the study."""
KNOWN = 0.25
"""Share of the everyday facts below which a model does not know enough of them to be judged by its lens."""


def lens_ends_in_the_prediction(subject: Subject) -> Finding:
    """Equal to the last bit: the lens of the last layer takes the path that the logits take, in a batch and alone."""
    model, prompts = subject.model, subject.prompts
    pairs, tops = [], []
    for batch in (prompts, [subject.prompt]):
        out = model.run(batch, capture="resid_post.-1")
        assert out.logits is not None
        ends = mx.array([length - 1 for length in out.lengths])
        states = out["resid_post.-1"][mx.arange(len(batch)), ends]
        pairs.append((f"of {len(batch)} prompts", model.unembed(states), out.logits))
        tops.append(np.asarray(mx.argmax(out.logits, axis=-1)).tolist())
    for prompt, lens, top in zip(prompts, logit_lenses(model, prompts), tops[0], strict=True):
        if int(mx.argmax(lens[-1])) != top:
            return Finding("failed", "another top token", "the model's own top token", f"at {prompt.text!r}")
    if int(mx.argmax(logit_lens(model, subject.prompt)[-1])) != tops[1][0]:
        return Finding("failed", "another top token", "the model's own top token", f"at {subject.prompt.text!r}, alone")
    return bitwise(pairs)


def lens_finds_known_facts(subject: Subject) -> Finding:
    """On facts that the model answers: the answer's rank improves from the first to the last layer, on most of them."""
    model, world = subject.model, subject.worlds.best
    note = str(subject.worlds)
    if world.share < KNOWN:
        reason = f"the model does not know the facts to be found; {note}"
        return Finding("not applicable", str(world), f">= {KNOWN:.0%}", reason)
    refined = early = 0
    known = [asked.question for asked in world.known]
    for item, lens in zip(known, logit_lenses(model, [item.prompt for item in known]), strict=True):
        ranks = lens_ranks(lens, item.first_tokens)
        refined += ranks[-1] == 0 and ranks[0] > 0
        early += ranks[0] == 0
    passed: Status = "passed" if refined > early and refined >= 0.5 * len(world.known) else "failed"
    return Finding(passed, f"{refined} of {len(world.known)} refined", ">= half of the known facts", note)


def early_layers_differ(subject: Subject) -> Finding:
    """The lens of an early layer says something else than the model: a lens that always reads the end says the same."""
    same = 0
    for lens in logit_lenses(subject.model, subject.prompts):
        top = mx.argmax(lens, axis=-1)
        same += int(top[0] == top[-1])
    n = len(subject.prompts)
    return Finding("passed" if same <= n / 2 else "failed", f"{same} of {n} the same", "<= half", "first layer, last")


def two_hop_entities_appear(subject: Subject) -> Finding:
    """Bridge or answer is in the lens's top 30 at some layer below the last, on most of the two-hop prompts answered.

    At the last token: over all positions and layers, chance alone shows most names somewhere.
    """
    model, seen = subject.model, 0
    hops = two_hops(subject.worlds.best, 4 if subject.level == "quick" else 12)
    world = ask(model, "answered", [(text, answer) for text, _, answer in hops])
    answered = [(item.question.prompt, hop) for item, hop in zip(world.asked, hops, strict=True) if item.known]
    if not answered:
        return Finding("not applicable", str(world), f"most, in the top {TOP}", "the model composes none of them")
    lenses = logit_lenses(model, [prompt for prompt, _ in answered])
    for (prompt, (_, bridge, answer)), logits in zip(answered, lenses, strict=True):
        names = [[continuation(model, prompt, name)[0]] for name in (bridge, answer)]
        seen += any(min(lens_ranks(logits[:-1], tokens)) < TOP for tokens in names)
    n = len(answered)
    passed: Status = "passed" if seen > n / 2 else "failed"
    bound = f"most, in the top {TOP} below the last layer"
    return Finding(passed, f"{seen} of {n}", bound, f"{world}, in the words of its {subject.worlds.best.name}")


CHECKS = [
    Check(
        "lens ends in the prediction",
        "a lens without the last norm, the soft-cap or the logit scale",
        SAME_KERNELS,
        "mlx_interp/engine/network.py: unembed",
        lens_ends_in_the_prediction,
    ),
    Check(
        "lens finds known facts",
        "a lens that reads the wrong layers or positions; a model that is broken",
        "fixed before any model was looked at: a majority, so that single facts known early do not decide",
        "mlx_interp/lenses/logit.py; then what the model answers to the facts of validation/worlds.py",
        lens_finds_known_facts,
    ),
    Check(
        "early layers differ",
        "a lens that reads the last layer whatever it is asked for",
        "fixed before any model was looked at: a model does work between its first layer and its last",
        "mlx_interp/lenses/logit.py",
        early_layers_differ,
    ),
    Check(
        "two-hop entities appear",
        "a lens, or positions, with which no intermediate result could ever be seen",
        "the study's own criterion: never in the top 30 at any layer is a fault of the instrument",
        "mlx_interp/lenses/logit.py: logit_lenses",
        two_hop_entities_appear,
        "standard",
    ),
]
