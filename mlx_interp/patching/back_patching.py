"""Back-patching: a later layer's residual stream written into an earlier layer (Biran et al. 2024, "Hopping Too Late").

1. Run the source prompt and keep `resid_post` of every layer at one position.
2. For each pair source layer > target layer, run the target prompt with `resid_post` of the target layer replaced, at
   its own position. All pairs are one sweep.
3. `raw` writes the state as it is, as in the paper. `rescaled` gives it the length of the state that it replaces: a
   late state is many times longer than an early one.

Beyond the paper: the target EMBEDDING is the input of layer 0. Patching across prompts uses the same functions, with
pairs of any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.interventions import Intervention, Patch
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt

Pair = tuple[int, int]
"""(source layer, target layer)."""
Length = Literal["raw", "rescaled"]

EMBEDDING = -1
"""As a target layer: what enters layer 0."""


def back_patching_pairs(n_layers: int, *, embedding: bool = True) -> list[Pair]:
    """All pairs with the source above the target; with `embedding`, also from every layer into the embedding."""
    lowest = EMBEDDING if embedding else 0
    return [(source, target) for target in range(lowest, n_layers) for source in range(target + 1, n_layers)]


def same_layer_pairs(n_layers: int) -> list[Pair]:
    """Every layer into itself: from another prompt it is activation patching, from the same prompt the identity."""
    return [(layer, layer) for layer in range(n_layers)]


def target_site(target: int) -> str:
    return "resid_pre.0" if target == EMBEDDING else f"resid_post.{target}"


def states_at(model: Model, prompt: AnyPrompt, position: int) -> mx.array:
    """States of one position, all layers: resid_post, (n_layers + 1, d_model); row EMBEDDING (-1) is the embedding."""
    out = model.run(prompt, capture=["resid_post", "resid_pre.0"], logits="none")
    return mx.concatenate([out.stack("resid_post")[:, 0, position], out["resid_pre.0"][:, position]])


def random_states(states: mx.array, seed: int) -> mx.array:
    """Directions drawn at random, with the length of each of the states: the control for what length alone does."""
    return random_like(states, seed=seed)


def patches(
    states: mx.array, replaced: mx.array, pairs: Sequence[Pair], position: int, length: Length
) -> list[list[Intervention]]:
    """One variant a pair: the source layer's state written into the target layer.

    states: (n_layers + 1, d_model) of the source prompt. replaced: the same of the target prompt at `position`.
    """
    lengths = _length(replaced)
    unit = states / _length(states)
    return [[Patch(target_site(t), states[s] if length == "raw" else unit[s] * lengths[t], position)] for s, t in pairs]


def back_patching_grid(
    model: Model,
    prompt: AnyPrompt,
    position: int = -1,
    *,
    source: AnyPrompt | None = None,
    source_position: int | None = None,
    pairs: Sequence[Pair] | None = None,
    length: Length = "raw",
    metric: Callable[[mx.array], mx.array] | None = None,
    progress: bool = False,
) -> mx.array:
    """Back-patching grid: last logits (n_pairs, d_vocab) for each (source layer, target layer), one sweep.

    pairs: `back_patching_pairs` by default, all with the source above the target. source, source_position: another
    prompt to take the states from (cross-prompt patching), by default the same prompt and position. length: "raw", or
    "rescaled" to the norm that is replaced. metric: as in `Model.sweep`; (n_pairs, ...).
    """
    kept = model.keep(prompt)
    replaced, at = kept.states(position), position if source_position is None else source_position
    states = kept.states(at) if source is None else states_at(model, source, at)
    chosen = back_patching_pairs(model.n_layers) if pairs is None else pairs
    variants = patches(states, replaced, chosen, position, length)
    return model.sweep(prompt, variants, metric=metric, progress=progress, kept=kept)


def _length(states: mx.array) -> mx.array:
    return mx.linalg.norm(states.astype(mx.float32), axis=-1, keepdims=True)
