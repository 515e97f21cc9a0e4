"""Does a prompt longer than the sliding window of some layers see what mlx-lm lets it see, in every kind of pass?"""

from __future__ import annotations

from mlx_interp import Add, Intervention, Patch
from mlx_interp.deferred import mx
from validation.alone import from_each_alone
from validation.check import Check, Finding, Subject, bitwise, relative, rounding, unit_vector, worst
from validation.generation import logits_under_cache, unembedded
from validation.numerics import off_one

BEYOND = 40
"""Tokens by which the prompt is longer than the widest window."""
LONGEST = 1100
"""Tokens up to which whole attention patterns are held; beyond, they are left out, and the note does not list them."""
WRITTEN = 6
"""Tokens after a prompt that ends just before the window is full."""


def beyond_the_window(subject: Subject) -> Finding:
    """A prompt of window + 40 tokens: forward and patterns, a sweep with edits on both sides, a cache that fills."""
    network = subject.model.network
    windows = {layer: window for layer in range(network.n_layers) if (window := network.window(layer))}
    if not windows:
        return Finding("not applicable", "-", "-", "every layer attends to the whole prompt")
    widest = max(windows.values())
    tokens = _tokens(subject, widest + BEYOND)
    if tokens is None:
        return Finding("not applicable", "-", "-", f"the window of {widest} is as long as the longest prompt")
    if (forward := _forward(subject, tokens)).status != "passed":
        return forward
    errors = {
        "sweep": _sweep(subject, tokens, widest),
        "cache": _cache(subject, tokens[: widest - WRITTEN // 2], tokens[-WRITTEN:]),
    }
    if len(tokens) <= LONGEST:
        errors["patterns"] = _patterns(subject, tokens, windows)
    note = f"{len(windows)} of {network.n_layers} layers, windows up to {widest}, prompt of {len(tokens)}; "
    note += ", ".join(f"{name} {error:.2g}" for name, error in errors.items())
    return subject.within(worst(list(errors.values())), note)


def _tokens(subject: Subject, length: int) -> list[int] | None:
    """The facts one after another, again and again, up to a length; None where the model reads no prompt so long."""
    text = [token for fact in subject.facts for token in subject.model.prompt(f" {fact.prompt} {fact.answer}.").tokens]
    limit = subject.model.network.max_positions
    if limit is not None and length + WRITTEN > limit:
        return None
    return (text * (length // len(text) + 1))[:length]


def _forward(subject: Subject, tokens: list[int]) -> Finding:
    """The last norm's output at every position against mlx-lm's own decoder."""
    model = subject.model
    ours = model.run(tokens, capture="final", logits="none")["final"]
    theirs = model.network.decoder(mx.array([tokens]))
    found = bitwise([("the last norm", ours, theirs.astype(ours.dtype))])
    return Finding(found.status, found.measured, found.bound, f"{len(tokens)} tokens; {found.note}".rstrip("; "))


def _patterns(subject: Subject, tokens: list[int], windows: dict[int, int]) -> float:
    """The largest attention to what lies behind the window, in the first and the last layer that has one."""
    worst_seen = []
    for layer in sorted({min(windows), max(windows)}):
        pattern = subject.model.run(tokens, capture=f"pattern.{layer}", logits="none")[f"pattern.{layer}"][0]
        places = mx.arange(len(tokens))
        behind = places[None] <= places[:, None] - windows[layer]
        worst_seen.append(float(mx.max(mx.where(behind, pattern.astype(mx.float32), 0.0))))
        worst_seen.append(off_one(subject.model, pattern))
    return worst(worst_seen)


def _sweep(subject: Subject, tokens: list[int], window: int) -> float:
    """Edits before, at and behind where the last token's window begins, each alone and in one sweep."""
    model, length = subject.model, len(tokens)
    vector, middle = unit_vector(subject), model.n_layers // 2
    places = [0, length - window - 1, length - window, length - 1]
    variants: list[list[Intervention]] = [[]]
    variants += [[Patch(f"resid_post.{middle}", vector * 3, place)] for place in places]
    variants += [[Add("resid_pre.0", vector, 5.0, slice(length // 2, None))]]
    return from_each_alone(model, model.sweep(tokens, variants), [(tokens, variant) for variant in variants])


def _cache(subject: Subject, tokens: list[int], forced: list[int]) -> float:
    """Logits of tokens read one at a time over the end of the window, and those of one pass over all."""
    cached = logits_under_cache(subject, [(tokens, [])], forced)[0]
    whole = subject.model.run(tokens + forced, capture="final", logits="none")["final"][0, len(tokens) - 1 : -1]
    return relative(cached, unembedded(subject.model, whole))


CHECKS = [
    Check(
        "beyond the window",
        "sliding windows that are a token too wide or narrow, or are forgotten by the sweep or the cache",
        rounding,
        "mlx_interp/engine/network.py: window, mask; sweep_batch.py: _mask; generate.py: Cache",
        beyond_the_window,
        "full",
    ),
]
