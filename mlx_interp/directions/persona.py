"""Persona vectors: a trait as the difference between replies that show it and replies that do not (Chen et al. 2025).

1. The same questions with a reply that shows the trait and with the usual one; the state after every block, averaged
   over the reply's tokens. The vector of a layer is the mean difference over questions, not normalised.
2. Monitoring: the projection of the prompt's last token, before any reply, says whether the trait will show.
3. Steering: the vector added from the prompt's last token on. Preventative: added while the model is fine-tuned
   (behaviour.finetuning), and left away afterwards, so that the weights need not learn the trait.
4. Data: how much further along the vector a row's reply lies than the model's own reply to the same prompt.

The paper has the model write both kinds of replies under opposite system prompts and keeps those that a judge rates so;
here replies are given, the model's own or others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.directions.direction_test import paired_test
from mlx_interp.directions.states import rounding
from mlx_interp.errors import DataError, DirectionError
from mlx_interp.interventions import Add, Intervention
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt
from mlx_interp.shapes import ShapesShown
from mlx_interp.stats.distance import LEVEL

SITE = "resid_post"
LEAST = 8
"""Questions: of fewer, random signs are all equal too often for a test."""


@dataclass(frozen=True, eq=False, repr=False)
class PersonaVectors(ShapesShown):
    """One trait's vectors; arrays are (n_layers, ...), float64."""

    vectors: np.ndarray
    """(n_layers, d_model)"""
    p_values: np.ndarray
    """(n_layers,): of the differences against random signs, for all layers together (directions.direction_test)."""
    stream: np.ndarray
    """(n_layers,): mean norm of the replies' states."""
    n: int
    """Questions."""

    @property
    def norms(self) -> np.ndarray:
        return np.asarray(np.linalg.norm(self.vectors, axis=-1))

    @property
    def carries(self) -> np.ndarray:
        """(n_layers,), bool: whether the vector is more than chance, at 5 % for all layers together."""
        return np.asarray(self.p_values <= LEVEL)


def persona_vectors(
    model: Model, prompts: Sequence[AnyPrompt], shown: Sequence[str], usual: Sequence[str], *, seed: int = 0
) -> PersonaVectors:
    """Vectors of every layer. Raises DataError for fewer than eight questions, or replies of another number."""
    if len(prompts) < LEAST:
        raise DataError(f"{LEAST} questions or more are needed, found {len(prompts)}")
    above, below = (reply_states(model, prompts, replies) for replies in (shown, usual))
    apart = above - below
    stream = np.linalg.norm(np.concatenate([above, below], axis=1), axis=-1).mean(axis=1)
    test = paired_test(apart.swapaxes(0, 1), rounding(model) * stream, seed=seed)
    return PersonaVectors(apart.mean(axis=1), test.p_values, stream, apart.shape[1])


def reply_states(model: Model, prompts: Sequence[AnyPrompt], replies: Sequence[str]) -> np.ndarray:
    """(n_layers, n, d_model) in float64: the state after every block, mean over the tokens of each reply.

    Raises DataError for an empty reply, or another number of replies than prompts.
    """
    chosen = model.prompts(prompts)
    encoded = [model.tokenizer.encode(reply, add_special_tokens=False) for reply in replies]
    if len(chosen) != len(encoded) or not all(encoded):
        raise DataError(f"every prompt needs a reply of a token or more: {len(chosen)} prompts, {len(encoded)} replies")
    rows = [[*prompt.tokens, *reply] for prompt, reply in zip(chosen, encoded, strict=True)]
    return _means(model, rows, [len(prompt) for prompt in chosen])


def prompt_states(model: Model, prompts: Sequence[AnyPrompt]) -> np.ndarray:
    """(n_layers, n, d_model) in float64: the state after every block at each prompt's last token."""
    rows = [prompt.tokens for prompt in model.prompts(prompts)]
    return _means(model, rows, [len(row) - 1 for row in rows])


def _means(model: Model, rows: Sequence[list[int]], begins: Sequence[int]) -> np.ndarray:
    found: list[np.ndarray] = []
    for out in model.batches(rows, capture=SITE):
        held = np.asarray(out.stack(SITE).astype(mx.float32))
        for row, length in enumerate(out.lengths):
            found.append(held[:, row, begins[len(found)] : length].mean(axis=1, dtype=np.float64))
    return np.stack(found, axis=1)


def projections(states: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(n_layers, n) of states (n_layers, n, d_model) along each layer's vector (n_layers, d_model).

    Raises DirectionError for a vector without length.
    """
    lengths = np.linalg.norm(vectors, axis=-1)
    if not np.all(lengths > 0):
        raise DirectionError(f"layer {int(np.argmin(lengths))}: the vector has no length, so nothing lies along it")
    return np.asarray(np.einsum("lnd,ld->ln", states, vectors / lengths[:, None]))


def projection_difference(
    model: Model, prompts: Sequence[AnyPrompt], replies: Sequence[str], own: Sequence[str], vectors: np.ndarray
) -> np.ndarray:
    """(n_layers, n): how much further along the vectors each row's reply lies than the model's own reply."""
    return projections(reply_states(model, prompts, replies) - reply_states(model, prompts, own), vectors)


def steered(vector: np.ndarray, layer: int, scale: float) -> list[Intervention]:
    """A vector added after a block, at the prompt's last token and at every token that is written."""
    value = mx.array(vector.astype(np.float32))
    return [Add(f"{SITE}.{layer}", value, scale, -1), Add(f"{SITE}.{layer}", value, scale, "generated")]
