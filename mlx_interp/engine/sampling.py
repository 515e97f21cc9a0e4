"""How the next token is drawn."""

from __future__ import annotations

import mlx.core as mx
from mlx_lm.sample_utils import apply_top_p

from mlx_interp.engine.decode import Sampler


def sampler(temperature: float, top_p: float, seed: int) -> Sampler:
    """Arg-max at temperature 0; else sampling from the most likely tokens that make up `top_p` of the probability.

    A row's draws depend on seed, row and step alone, not on what else is in the batch.
    """
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature is 0 or more and top_p in (0, 1], not {temperature} and {top_p}")
    if temperature == 0:
        return lambda logits, step: mx.argmax(logits, axis=-1)

    def sample(logits: mx.array, step: int) -> mx.array:
        logits = logits.astype(mx.float32)
        log_probs = (logits - mx.logsumexp(logits, axis=-1, keepdims=True)) / temperature
        if top_p < 1:
            log_probs = apply_top_p(log_probs - mx.logsumexp(log_probs, axis=-1, keepdims=True), top_p)
        keys = [mx.random.key(hash((seed, row, step)) % 2**63) for row in range(logits.shape[0])]
        return mx.stack([mx.random.categorical(log_probs[row], key=key) for row, key in enumerate(keys)])

    return sample
