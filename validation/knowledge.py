"""The study's test of the logit lens: it ends in the prediction, and finds what the model knows."""

from __future__ import annotations

import mlx.core as mx

from mlx_interp.embedded import load_world
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.methods.answers import continuation, question, verdicts
from mlx_interp.methods.lens import lens_at, lens_logits, lens_ranks
from validation import data
from validation.check import SAME_KERNELS, Check, Finding, Status, Subject, bitwise

TOP = 30
"""Ranks of the lens in which an entity counts as visible, as in the study."""
KNOWN = 0.25
"""Share of the everyday facts below which a model does not know enough of them to be judged by its lens."""


def lens_ends_in_the_prediction(subject: Subject) -> Finding:
    """Equal to the last bit: the lens of the last layer takes the path that the logits take."""
    pairs = []
    for prompt in subject.prompts:
        logits = subject.model.run(prompt).logits
        assert logits is not None
        lens = lens_logits(subject.model, prompt)
        states = subject.model.run(prompt, capture="resid_post.-1")["resid_post.-1"][:, -1]
        pairs += [(prompt.text, subject.model.unembed(states), logits)]
        if int(mx.argmax(lens[-1])) != int(mx.argmax(logits[0])):
            return Finding("failed", "another top token", "the model's own top token", f"at {prompt.text!r}")
    return bitwise(pairs)


def lens_finds_known_facts(subject: Subject) -> Finding:
    """On facts that the model answers: the answer's rank improves from the first to the last layer, on most of them."""
    model = subject.model
    asked = [question(model, fact.prompt, [fact.answer]) for fact in subject.facts]
    known = [item for item, verdict in zip(asked, verdicts(model, asked), strict=True) if verdict.first_token]
    share = f"{len(known)} of {len(asked)} facts known"
    if len(known) < KNOWN * len(asked):
        return Finding("not applicable", share, f">= {KNOWN:.0%}", "the model does not know the facts to be found")
    refined = early = 0
    for item in known:
        ranks = lens_ranks(lens_logits(model, item.prompt), item.first_tokens)
        refined += ranks[-1] == 0 and ranks[0] > 0
        early += ranks[0] == 0
    passed: Status = "passed" if refined > early and refined >= 0.5 * len(known) else "failed"
    return Finding(passed, f"{refined} of {len(known)} refined", ">= half of the known facts", share)


def early_layers_differ(subject: Subject) -> Finding:
    """The lens of an early layer says something else than the model: a lens that always reads the end says the same."""
    model = subject.model
    same = 0
    for prompt in subject.prompts:
        top = mx.argmax(lens_logits(model, prompt), axis=-1)
        same += int(top[0] == top[-1])
    n = len(subject.prompts)
    return Finding("passed" if same <= n / 2 else "failed", f"{same} of {n} the same", "<= half", "first layer, last")


def two_hop_entities_appear(subject: Subject) -> Finding:
    """Bridge or answer is in the lens's top 30 at some layer below the last, on most of the two-hop prompts answered.

    At the last token: over all positions and layers, chance alone shows most names somewhere.
    """
    model = subject.model
    seen = asked = 0
    for text, bridge, answer in _two_hops(subject):
        item = question(model, text, [answer])
        if not verdicts(model, [item])[0].first_token:
            continue
        asked += 1
        (logits,) = lens_at(model, item.prompt, [-1])
        names = [[continuation(model, item.prompt, name)[0]] for name in (bridge, answer)]
        seen += any(min(lens_ranks(logits[:-1], tokens)) < TOP for tokens in names)
    if not asked:
        return Finding("not applicable", "0 answered", f"most, in the top {TOP}", "the model composes none of them")
    passed: Status = "passed" if seen > asked / 2 else "failed"
    return Finding(passed, f"{seen} of {asked}", f"most, in the top {TOP} below the last layer")


def _two_hops(subject: Subject) -> list[tuple[str, str, str]]:
    if subject.model.name not in EMBEDDED:
        return list(data.TWO_HOP)
    queries = load_world().two_hop_queries(split="trained")
    chosen = queries[:: max(1, len(queries) // (4 if subject.level == "quick" else 12))]
    return [(query.two_hop, query.bridge, query.answer) for query in chosen]


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
        "mlx_interp/methods/lens.py; then what the model answers to `validation` facts",
        lens_finds_known_facts,
    ),
    Check(
        "early layers differ",
        "a lens that reads the last layer whatever it is asked for",
        "fixed before any model was looked at: a model does work between its first layer and its last",
        "mlx_interp/methods/lens.py",
        early_layers_differ,
    ),
    Check(
        "two-hop entities appear",
        "a lens, or positions, with which no intermediate result could ever be seen",
        "the study's own criterion: never in the top 30 at any layer is a fault of the instrument",
        "mlx_interp/methods/lens.py: lens_at",
        two_hop_entities_appear,
        "standard",
    ),
]
