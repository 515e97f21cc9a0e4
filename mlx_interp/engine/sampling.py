"""How the next token is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
from mlx_lm.sample_utils import apply_top_p

from mlx_interp.engine.decode import Sampler


def check_sampling(temperature: float, top_p: float, max_tokens: int) -> None:
    """Raises ValueError for settings out of range."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens is 1 or more, not {max_tokens}")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature is 0 or more and top_p in (0, 1], not {temperature} and {top_p}")


def sampler(temperature: float, top_p: float, seed: int, rows: Sequence[int]) -> Sampler:
    """Arg-max at temperature 0; else sampling from the most likely tokens that make up `top_p` of the probability.

    rows: which row of all that are drawn each row of the batch is. A row's draws depend on seed, row and step alone,
    not on what else is in the batch.
    """
    if temperature == 0:
        return lambda logits, step: mx.argmax(logits, axis=-1)

    def sample(logits: mx.array, step: int) -> mx.array:
        logits = logits.astype(mx.float32)
        log_probs = (logits - mx.logsumexp(logits, axis=-1, keepdims=True)) / temperature
        if top_p < 1:
            log_probs = apply_top_p(log_probs - mx.logsumexp(log_probs, axis=-1, keepdims=True), top_p)
        drawn: mx.array = mx.vmap(lambda row, key: mx.random.categorical(row, key=key))(log_probs, _keys(step))
        return drawn

    def _keys(step: int) -> mx.array:
        numbers = np.array([hash((seed, row, step)) % 2**63 for row in rows], dtype=np.uint64)
        return mx.array(np.stack([numbers >> np.uint64(32), numbers & np.uint64(2**32 - 1)], axis=1).astype(np.uint32))

    return sample
