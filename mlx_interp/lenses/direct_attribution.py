"""Direct logit attribution: what each part of a model adds to a logit by itself (Elhage et al. 2021; Wang et al. 2023).

1. The last residual stream is a sum: the embedding, what each head writes, biases, what each MLP writes.
2. The last norm is frozen at the scale that it has on this prompt, so that it maps each summand by itself.
3. A logit is linear in what the norm gives: each summand has its share, and the shares add up to the logit.

Shares are of the logit before a soft-cap (Gemma 2), which is no sum. What a head does through later layers is no share
of its own: `path_patching` measures that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlx_interp.behaviour.answers import continuation
from mlx_interp.deferred import mx, nn
from mlx_interp.engine.positions import resolve_positions
from mlx_interp.errors import DataError
from mlx_interp.in_context.function_vectors import as_written
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt, Prompt
from mlx_interp.shapes import ShapesShown


@dataclass(frozen=True, eq=False, repr=False)
class LogitAttribution(ShapesShown):
    """Shares of one logit, or of the difference of two, in logits."""

    embedding: float
    """Positional embeddings included, where a model has them."""
    heads: np.ndarray
    """(n_layers, n_heads)."""
    attn: np.ndarray
    """(n_layers,): what attention adds: its heads and its output bias."""
    mlp: np.ndarray
    """(n_layers,)."""
    constant: float
    """Of the last norm's bias and the unembedding's, which belong to no layer; 0 in most models."""

    @property
    def total(self) -> float:
        """The logit (difference) itself: the sum of all shares."""
        return self.embedding + float(self.attn.sum()) + float(self.mlp.sum()) + self.constant


def direct_logit_attribution(
    model: Model, prompt: AnyPrompt, answer: int | str, wrong: int | str | None = None, *, position: int = -1
) -> LogitAttribution:
    """Direct logit attribution at one position, to an answer's logit or to its difference from a wrong answer's.

    answer, wrong: token ids, or texts whose first token counts, as it continues the prompt.
    Raises DataError for a token outside the vocabulary, PositionError for a position that the prompt does not have.
    """
    asked = model.prompts(prompt)[0]
    (position,) = resolve_positions(position, len(asked), "direct logit attribution") or [position]
    tokens = [_token(model, asked, one) for one in (answer, wrong) if one is not None]
    last = f"resid_post.{model.n_layers - 1}"
    out = model.run(asked, capture=["resid_pre.0", "attn_out", "head_out", "mlp_out", last], logits="none")
    written, attn, mlp = (
        out.stack(name)[:, :, position].astype(mx.float32) for name in ("head_out", "attn_out", "mlp_out")
    )
    heads = as_written(model, written, attn)  # (n_layers, 1, n_heads, d_model)
    direction, constant = _reading(model, out[last][0, position], tokens)
    of_heads, of_attn, of_mlp = (
        np.asarray(x @ direction, dtype=np.float64) for x in (heads[:, 0], attn[:, 0], mlp[:, 0])
    )
    embedding = float(out["resid_pre.0"][0, position].astype(mx.float32) @ direction)
    return LogitAttribution(embedding, of_heads, of_attn, of_mlp, constant)


def _token(model: Model, prompt: Prompt, answer: int | str) -> int:
    token = continuation(model, prompt, answer)[0] if isinstance(answer, str) else answer
    if not 0 <= token < model.d_vocab:
        raise DataError(f"token {token} is outside the vocabulary of {model.d_vocab}")
    return token


def _reading(model: Model, state: mx.array, tokens: list[int]) -> tuple[mx.array, float]:
    """The direction (d_model,) of the stream that the logit is read along on this prompt, float32, and its constant."""
    net = model.network

    def logit(normed: mx.array) -> mx.array:
        logits = net.unembed(normed[None])[0]
        return logits[tokens[0]] - (logits[tokens[1]] if len(tokens) > 1 else 0.0)

    constant, unembedding = mx.value_and_grad(logit)(mx.zeros((model.d_model,), net.dtype))  # at 0 a cap has slope 1
    unembedding = unembedding.astype(mx.float32)
    norm = getattr(net.decoder, net.family.norm)
    x = state.astype(mx.float32)
    if isinstance(norm, nn.LayerNorm):
        along = unembedding * norm.weight.astype(mx.float32) * mx.rsqrt(mx.var(x) + norm.eps)
        bias = float(norm.bias.astype(mx.float32) @ unembedding) if "bias" in norm else 0.0
        return along - along.mean(), float(constant) + bias
    normed = net.final(state[None])[0].astype(mx.float32)
    factor = mx.where(x == 0, 0.0, normed / mx.where(x == 0, 1.0, x))  # an RMS norm scales each channel by a number
    return unembedding * factor, float(constant)
