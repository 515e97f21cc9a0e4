"""Direct logit attribution: what each part of a model adds to a logit by itself (Elhage et al. 2021; Wang et al. 2023).

1. The last residual stream is a sum: the embedding, what each head writes, biases, what each MLP writes.
2. The last norm is frozen at the scale that it has on this prompt, so that it maps each summand by itself.
3. A logit is linear in what the norm gives: each summand has its share, and the shares add up to the logit.

What is no sum has a name of its own: `softcap`, what a cap takes off the logit (Gemma 2), and `rounding`, what is lost
where the stream is held in few digits. What a head does through later layers is no share of its own: `path_patching`
measures that. Cost: one forward pass, and what heads write at every position, n_heads times the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mlx_interp.behaviour.answers import continuation
from mlx_interp.deferred import mx
from mlx_interp.engine.frozen import bias, centred, divisor, gain
from mlx_interp.engine.positions import resolve_positions
from mlx_interp.errors import DataError, UnsupportedModel
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
    rounding: float = 0.0
    """The logit (difference) before a cap that the model computes, less `total`: sums rounded on their way."""
    softcap: float = 0.0
    """The logit (difference) that the model says, less the one before its cap; 0 without a cap."""

    @property
    def total(self) -> float:
        """The logit (difference) before a cap: the sum of all shares."""
        return self.embedding + float(self.attn.sum()) + float(self.mlp.sum()) + self.constant

    @property
    def logit(self) -> float:
        """The model's own logit (difference)."""
        return self.total + self.rounding + self.softcap


def direct_logit_attribution(
    model: Model, prompt: AnyPrompt, answer: int | str, wrong: int | str | None = None, *, position: int = -1
) -> LogitAttribution:
    """Direct logit attribution at one position, to an answer's logit or to its difference from a wrong answer's.

    answer, wrong: token ids, or texts whose first token counts, as it continues the prompt.
    Raises DataError for a token outside the vocabulary, PositionError for a position that the prompt does not have, and
    UnsupportedModel where the stream is more than what embedding, heads and MLPs add (Gemma 4, mixers like LFM 2's).
    """
    _check_sum(model)
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
    shares = LogitAttribution(embedding, of_heads, of_attn, of_mlp, constant)
    uncapped, said = _logits(model, out[last][0, position], tokens)
    return replace(shares, rounding=uncapped - shares.total, softcap=said - uncapped)


def _check_sum(model: Model) -> None:
    family = model.network.family
    if family.mixer is not None or family.layer_scalar is not None or family.own_inputs is not None:
        raise UnsupportedModel(
            f"the stream of {family.model_type} is no sum of what its embedding, heads and MLPs write (a mixer without "
            "heads, a factor on each layer, or embeddings of each layer's own): patch, e.g. mi.patching.head_patching"
        )


def _token(model: Model, prompt: Prompt, answer: int | str) -> int:
    token = continuation(model, prompt, answer)[0] if isinstance(answer, str) else answer
    if not 0 <= token < model.d_vocab:
        raise DataError(f"token {token} is outside the vocabulary of {model.d_vocab}")
    return token


def _logits(model: Model, state: mx.array, tokens: list[int]) -> tuple[float, float]:
    """The logit (difference) before a cap, and as the model says it."""
    net = model.network
    normed = net.final(state.astype(net.dtype)[None])
    said = np.asarray(net.unembed(normed)[0].astype(mx.float32), dtype=np.float64)[tokens]
    uncapped = np.asarray(net.unembed(normed, capped=False)[0].astype(mx.float32), dtype=np.float64)[tokens]
    return tuple(float(row[0] - (row[1] if len(tokens) > 1 else 0.0)) for row in (uncapped, said))  # type: ignore[return-value]


def _reading(model: Model, state: mx.array, tokens: list[int]) -> tuple[mx.array, float]:
    """The direction (d_model,) of the stream that the logit is read along on this prompt, float32, and its constant."""
    net = model.network

    def logit(normed: mx.array) -> mx.array:
        logits = net.unembed(normed[None], capped=False)[0]
        return logits[tokens[0]] - (logits[tokens[1]] if len(tokens) > 1 else 0.0)

    constant, unembedding = mx.value_and_grad(logit)(mx.zeros((model.d_model,), net.dtype))
    unembedding = unembedding.astype(mx.float32)
    norm = getattr(net.decoder, net.family.norm)
    along = centred(norm, unembedding * gain(norm, model.d_model)) / divisor(norm, state)
    return along, float(constant) + float(bias(norm, model.d_model) @ unembedding)
