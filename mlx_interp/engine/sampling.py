"""How the next token is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_interp.deferred import mlx_lm, mx
from mlx_interp.engine.generate import Sampler
from mlx_interp.errors import ConfigError


def check_sampling(temperature: float, top_p: float, max_tokens: int, seed: int = 0) -> None:
    """Raises ConfigError for settings that are no number of the right kind, or out of range."""
    if not _is_int(max_tokens) or max_tokens < 1:
        raise ConfigError(f"max_tokens is a whole number, 1 or more, not {max_tokens!r}")
    # Written so that NaN, of which every comparison is false, is refused.
    if not (_is_number(temperature) and 0 <= temperature < math.inf):
        raise ConfigError(f"temperature is a finite number, 0 or more, not {temperature!r}")
    if not (_is_number(top_p) and 0 < top_p <= 1):
        raise ConfigError(f"top_p is a number in (0, 1], not {top_p!r}")
    if not _is_int(seed):
        raise ConfigError(f"seed is a whole number, not {seed!r}")


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, (float, np.floating))


def sampler(temperature: float, top_p: float, seed: int, rows: Sequence[int]) -> Sampler:
    """Arg-max at temperature 0; else sampling from the most likely tokens that make up `top_p` of the probability.

    rows: which row of all that are drawn each row of the batch is. A row's draws depend on seed, row and step alone,
    not on what else is in the batch.
    """
    if temperature == 0:
        return lambda logits, step: mx.argmax(logits, axis=-1)

    def sample(logits: mx.array, step: int) -> mx.array:
        logits = logits.astype(mx.float32)
        # The largest at 0: divided by a tiny temperature, any other difference could overflow on every token.
        log_probs = (logits - mx.max(logits, axis=-1, keepdims=True)) / temperature
        if top_p < 1:
            log_probs = mlx_lm.sample_utils.apply_top_p(
                log_probs - mx.logsumexp(log_probs, axis=-1, keepdims=True), top_p
            )
        drawn: mx.array = mx.vmap(lambda row, key: mx.random.categorical(row, key=key))(log_probs, _keys(step))
        return drawn

    def _keys(step: int) -> mx.array:
        numbers = np.array([hash((seed, row, step)) % 2**63 for row in rows], dtype=np.uint64)
        return mx.array(np.stack([numbers >> np.uint64(32), numbers & np.uint64(2**32 - 1)], axis=1).astype(np.uint32))

    return sample
