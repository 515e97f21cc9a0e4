"""Training data of autoencoders: anything with `batches(site, size, seed=)`, in the same endless order every time.

An activation store has it; here are the two others: an array in memory, and a model that is run as rows are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_interp import sites
from mlx_interp.errors import SAEError
from mlx_interp.massive_activations import first_position
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt

Floats: TypeAlias = npt.NDArray[np.float32]


class Batches(Protocol):
    """Rows of activations (size, d_model), shuffled by the seed; one pass over all of them, the last batch smaller."""

    def batches(self, site: str, size: int, *, seed: int = 0) -> Iterator[Floats]: ...


@dataclass(frozen=True)
class InMemory:
    """An array (n_tokens, d_model) as a source of batches."""

    rows: Floats

    def batches(self, site: str, size: int, *, seed: int = 0) -> Iterator[Floats]:
        order = np.random.default_rng(seed).permutation(len(self.rows))
        for start in range(0, len(order), size):
            yield self.rows[order[start : start + size]]


@dataclass(frozen=True, eq=False)
class Streamed:
    """A model as a source of batches: prompts are run as rows are needed, and none are kept.

    Rows are drawn from a buffer of `buffer` tokens, refilled whenever half of it is used up, so that a batch mixes
    documents. BOS is left out.
    """

    model: Model
    prompts: Sequence[Prompt]
    buffer: int = 65_536
    per_run: int = 32
    """Prompts of one forward pass."""

    def batches(self, site: str, size: int, *, seed: int = 0) -> Iterator[Floats]:
        if self.buffer < 2 * size:
            raise SAEError(f"a buffer of {self.buffer} tokens mixes no batches of {size}: take at least {2 * size}")
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.prompts))
        held = np.zeros((0, 0), dtype=np.float32)
        for rows in self._runs(site, order):
            held = np.concatenate([held, rows]) if held.size else rows
            if len(held) < self.buffer:
                continue
            held = held[rng.permutation(len(held))]
            while len(held) >= self.buffer // 2 + size:
                yield held[:size]
                held = held[size:]
        held = held[rng.permutation(len(held))] if held.size else held
        for start in range(0, len(held), size):
            yield held[start : start + size]

    def _runs(self, site: str, order: npt.NDArray[np.int64]) -> Iterator[Floats]:
        for start in range(0, len(order), self.per_run):
            yield activations(self.model, [self.prompts[i] for i in order[start : start + self.per_run]], site)


def activations(model: Model, prompts: Sequence[Prompt], site: str, *, per_run: int = 64) -> Floats:
    """Activations of all prompts at every position but BOS, (n_tokens, width); heads side by side at sites with heads.

    Nor is the first position there where a model's activations are massive at any first token
    (`mlx_interp.massive_activations`). Prompts of equal length run together. Raises SiteError for a site of several
    layers.
    """
    name = str(sites.parse_one(site, model.n_layers))
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, Floats] = {}
    for start in range(0, len(order), per_run):
        chosen = order[start : start + per_run]
        out = model.run([prompts[i] for i in chosen], capture=[name], logits="none")
        x = np.asarray(out[name], dtype=np.float32)
        for row, i in enumerate(chosen):
            first = first_position(model, prompts[i])
            found[i] = x[row, first : out.lengths[row]].reshape(out.lengths[row] - first, -1)
    return np.concatenate([found[i] for i in range(len(prompts))])


def source_of(data: Floats | Batches) -> Batches:
    """An array as a source, a source as it is. Raises SAEError for an array that is no (n_tokens, d_model)."""
    if hasattr(data, "batches"):
        return data
    rows = np.asarray(data, dtype=np.float32)
    if rows.ndim != 2 or len(rows) < 2:
        raise SAEError(f"activations to train on are (n_tokens, d_model), not {rows.shape}")
    return InMemory(rows)


def endless(source: Batches, site: str, size: int, seed: int) -> Iterator[Floats]:
    """Full batches without end, pass after pass, each in an order of its own."""
    passes = 0
    while True:
        full = 0
        for rows in source.batches(site, size, seed=seed + passes):
            if len(rows) == size:
                full += 1
                yield np.asarray(rows, dtype=np.float32)
        if not full:
            raise SAEError(f"{site}: there are fewer activations than one batch of {size}; take a smaller batch_size")
        passes += 1
