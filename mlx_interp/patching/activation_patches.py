"""Activation patching: activations of one prompt written into the run of another, place by place.

1. Run the clean prompt and keep a site, at all layers.
2. For each layer and position (or head), run the corrupted prompt with that one activation replaced by the clean one.
   All of them are one sweep; what they have in common is computed once.
3. Read the logits, or a metric of them: where the answer comes back, that activation carries what the prompts differ by
   (causal tracing, Meng et al. 2022; activation patching, Wang et al. 2023; Zhang and Nanda 2024 compare metrics).

This direction is denoising; exchange the two prompts for noising.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from mlx_interp import sites
from mlx_interp.deferred import mx
from mlx_interp.engine.positions import resolve_positions
from mlx_interp.errors import DataError, SiteError
from mlx_interp.interventions import Intervention, Patch
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt, Prompt
from mlx_interp.sites import Site


def activation_patching(
    model: Model,
    clean: AnyPrompt,
    corrupted: AnyPrompt,
    site: str = "resid_pre",
    *,
    positions: Sequence[int] | None = None,
    metric: Callable[[mx.array], mx.array] | None = None,
    progress: bool = False,
) -> mx.array:
    """Activation patching by layer and position: (n_layers, n_positions, d_vocab), the corrupted prompt's last logits.

    clean, corrupted: prompts of equally many tokens. site: what is replaced; "resid_pre" at all layers, "mlp_out.8-20"
    at some. positions: of both prompts; all by default. metric: last logits (n, d_vocab) -> numbers (n, ...), in whose
    place they are returned: (n_layers, n_positions, ...), e.g. `logit_difference`.
    Raises DataError for prompts of unequal lengths, SiteError for a site that has no positions or is only read,
    PositionError for a position that the prompts do not have.
    """
    from_prompt, prompt = equal_lengths(model, clean, corrupted)
    places = _writable(model, site)
    at = _places(positions, len(prompt))
    out = model.run(from_prompt, capture=site, logits="none")
    variants: list[list[Intervention]] = [
        [Patch(str(place), out[str(place)][0, position], position)] for place, position in product(places, at)
    ]
    found = model.sweep(prompt, variants, metric=metric, progress=progress)
    return found.reshape(len(places), len(at), *found.shape[1:])


def head_patching(
    model: Model,
    clean: AnyPrompt,
    corrupted: AnyPrompt,
    site: str = "z",
    *,
    positions: Sequence[int] | None = None,
    metric: Callable[[mx.array], mx.array] | None = None,
    progress: bool = False,
) -> mx.array:
    """Activation patching head by head: (n_layers, n_heads, d_vocab), the corrupted prompt's last logits.

    Each head's activation is replaced at all `positions` at once (by default at every one). site: "z", "q", or "k" and
    "v", which have as many heads as the model has key-value heads. Otherwise as `activation_patching`.
    """
    from_prompt, prompt = equal_lengths(model, clean, corrupted)
    places = _writable(model, site)
    if not places[0].kind.has_heads:
        raise SiteError(f"{site!r} has no heads: patch q, k, v or z by head, the other sites by `activation_patching`")
    at = _places(positions, len(prompt))
    out = model.run(from_prompt, capture=site, logits="none")
    n_heads = out[str(places[0])].shape[2]
    variants: list[list[Intervention]] = [
        [Patch(str(place), out[str(place)][0, mx.array(at), head], positions=at, heads=head)]
        for place, head in product(places, range(n_heads))
    ]
    found = model.sweep(prompt, variants, metric=metric, progress=progress)
    return found.reshape(len(places), n_heads, *found.shape[1:])


def logit_difference(right: int, wrong: int) -> Callable[[mx.array], mx.array]:
    """Logit difference as a metric: logits (n, d_vocab) -> (n,), of the right token over the wrong one, float32."""
    return lambda logits: (logits[:, right] - logits[:, wrong]).astype(mx.float32)


def equal_lengths(model: Model, clean: AnyPrompt, corrupted: AnyPrompt) -> tuple[Prompt, Prompt]:
    """Two prompts whose positions correspond. Raises DataError for unequal lengths, or several prompts."""
    one, two = (model.prompts(prompt) for prompt in (clean, corrupted))
    if len(one) != 1 or len(two) != 1:
        raise DataError(f"patching takes one prompt into another; given were {len(one)} and {len(two)}")
    if len(one[0]) != len(two[0]):
        raise DataError(
            f"{one[0].text!r} has {len(one[0])} tokens, {two[0].text!r} has {len(two[0])}: activations are exchanged "
            "position by position; choose prompts of equal length"
        )
    return one[0], two[0]


def _places(positions: Sequence[int] | None, length: int) -> list[int]:
    found = resolve_positions(positions, length, "patching")
    return list(range(length)) if found is None else found


def _writable(model: Model, site: str) -> list[Site]:
    """Sites of one kind that have a position axis and can be written."""
    places = sites.parse(site, model.n_layers)
    kind = places[0].kind
    if not kind.writable or "query" in kind.axes:
        raise SiteError(f"{kind.name!r} cannot be patched by position: take z for what heads write, or q, k and v")
    return places
