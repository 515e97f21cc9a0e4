"""One layer's steps, as functions of a family: the arithmetic of mlx-lm's own modules, opened where the sites are.

Every step does what the module of mlx-lm does, operation by operation, so that the wrapped forward is bitwise the
model's own. Shapes: batch pos d_model, inside attention batch head pos d_head. All steps but attention treat each
position by itself, so `sweep_batch` may call them on rows of any prompt and position.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from mlx_interp.architectures.own_inputs import OwnInputs
from mlx_interp.deferred import mlx_lm, mx, nn
from mlx_interp.engine.latent import LatentAttention
from mlx_interp.engine.modules import bias_of, part_of
from mlx_interp.engine.rope import LengthRoPE
from mlx_interp.errors import PromptError

Mask: TypeAlias = "mx.array | str | None"


@dataclass(frozen=True)
class Network(LatentAttention):
    """mlx-lm's model of a described family, taken apart into the steps of its forward pass."""

    @cached_property
    def dtype(self) -> mx.Dtype:
        """The dtype of the residual stream."""
        return self.embed(mx.array([[0]])).dtype

    # The steps of a forward pass, in order.

    def embed(self, tokens: mx.array, offset: int | mx.array = 0) -> mx.array:
        """(batch, pos) token ids, the first at position `offset` (one number, or (batch,)) -> `resid_pre.0`."""
        x: mx.array = getattr(self.decoder, self.family.embed)(tokens)
        if self.family.embed_scale is not None:
            x = x * self.family.embed_scale(self.args)
        if self.family.positions is not None:
            positions = mx.arange(tokens.shape[1]) + mx.array(offset)[..., None]
            x = x + getattr(self.decoder, self.family.positions)(positions)
        return x

    def own_inputs(self, tokens: mx.array, x: mx.array) -> mx.array | None:
        """(batch, pos) token ids and what `embed` made of them -> each layer's own input (batch, pos, layer, d_ple)."""
        if not self.d_ple:
            return None
        made: mx.array = self.decoder._project_per_layer_inputs(x, self.decoder._get_per_layer_inputs(tokens))
        return made

    def ple_gate(self, layer: int, x: mx.array) -> mx.array:
        """Residual stream after the MLP (..., d_model) -> the gate on the layer's own input (..., d_ple)."""
        gate: mx.array = getattr(self.layers[layer], self._own.gate)(x)
        return gate

    def ple_out(self, layer: int, gate: mx.array, ple: mx.array) -> mx.array:
        """The gate and the layer's own input -> what it adds to the stream (..., d_model)."""
        block = self.layers[layer]
        out: mx.array = getattr(block, self._own.norm)(getattr(block, self._own.project)(nn.gelu_approx(gate) * ple))
        return out

    @property
    def _own(self) -> OwnInputs:
        assert self.family.own_inputs is not None
        return self.family.own_inputs

    def add_scaled(self, layer: int, x: mx.array, update: mx.array) -> mx.array:
        """The same, where a layer multiplies all that it gives by a factor."""
        assert self.family.layer_scalar is not None
        scaled: mx.array = self.add(layer, x, update) * getattr(self.layers[layer], self.family.layer_scalar)
        return scaled

    def add(self, layer: int, x: mx.array, update: mx.array) -> mx.array:
        """The residual stream with what attention or the MLP adds to it."""
        if self.family.residual_sum == "plain" or x.dtype != mx.float16:
            return x + update
        bound = mx.finfo(mx.float16).max
        return mx.clip(x.astype(mx.float32) + update.astype(mx.float32), -bound, bound).astype(mx.float16)

    def attn_in(self, layer: int, x: mx.array) -> mx.array:
        """Residual stream (..., d_model) -> what attention reads: the stream after the norm before it."""
        return self._before(layer, self.family.norms.before_attn, x)

    def add_both(self, layer: int, x: mx.array, attn_out: mx.array, mlp_out: mx.array) -> mx.array:
        """The residual stream with what attention and the MLP add to it, side by side."""
        return attn_out + mlp_out + x

    def qkv(self, layer: int, x: mx.array) -> tuple[mx.array, ...]:
        """What attention reads (..., d_model) -> queries, keys, values (..., head, d_head) before RoPE, any gate."""
        q, k, v, *gate = self.qkv_pre(layer, x)
        return self.q_normed(layer, q), self.k_normed(layer, k), v, *gate

    def q_alone(self, layer: int, x: mx.array) -> mx.array:
        """What attention reads -> queries, before RoPE, where keys and values are an earlier layer's."""
        return self.q_normed(layer, self.q_pre(layer, x))

    def q_pre(self, layer: int, x: mx.array) -> mx.array:
        """What attention reads -> queries alone (..., head, d_head), as their matrix gives them."""
        q: mx.array = self._attention(layer).q_proj(x)
        return q.reshape(*x.shape[:-1], self.n_heads, self.d_head_at(layer))

    def q_normed(self, layer: int, q: mx.array) -> mx.array:
        """Queries (..., head, d_head) after the norm that some families have before RoPE."""
        return self._normed(getattr(self._attention(layer), self.family.q_norm), q) if self.qk_norm else q

    def k_normed(self, layer: int, k: mx.array) -> mx.array:
        """Keys (..., kv head, d_head) after their norm, if there is one."""
        return self._normed(getattr(self._attention(layer), self.family.k_norm), k) if self.qk_norm else k

    def _normed(self, norm: Any, heads: mx.array) -> mx.array:
        """(..., head, d_head) after a norm of each head, or of all heads as one vector."""
        if self.qk_norm != "all heads":
            return norm(heads)  # type: ignore[no-any-return]
        normed: mx.array = norm(heads.reshape(*heads.shape[:-2], -1))
        return normed.reshape(heads.shape)

    def qkv_pre(self, layer: int, x: mx.array) -> tuple[mx.array, ...]:
        """What attention reads -> queries, keys, values (..., head, d_head), any gate, as their matrices give them."""
        attention = self._attention(layer)
        if self.family.qkv == "fused":
            widths = [self.n_heads * self.d_head, (self.n_heads + self.n_kv_heads) * self.d_head]
            q, k, v = mx.split(getattr(attention, self.family.qkv_name)(x), widths, axis=-1)
        elif self.family.qkv == "fused by head":
            by_head = getattr(attention, self.family.qkv_name)(x).reshape(*x.shape[:-1], self.n_heads, -1)
            q, k, v = mx.split(by_head, 3, axis=-1)
        else:
            q, k, v = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
        rows = x.shape[:-1]
        gate: list[mx.array] = []
        if self.family.attn_gate:
            q, *gate = mx.split(q.reshape(*rows, self.n_heads, -1), 2, axis=-1)
        heads = (self.n_heads, self.n_kv_heads, self.n_kv_heads)
        d_head = self.d_head_at(layer)
        q, k, v = (a.reshape(*rows, n, d_head) for a, n in zip((q, k, v), heads, strict=True))
        if self.family.v_norm is not None:
            v = getattr(attention, self.family.v_norm)(v)
        return q, k, v, *gate

    def rotate(
        self,
        layer: int,
        x: mx.array,
        offset: int | mx.array = 0,
        lengths: Sequence[int] | mx.array | None = None,
        *,
        of: str = "k",
    ) -> mx.array:
        """RoPE on (batch, head, pos, d_head), whose first position is `offset` in its prompt.

        lengths: tokens of each row's prompt, where padding makes x longer; None where the prompt ends with x.
        of: "q" where these are queries: some families make those of late positions larger.
        """
        if not self.turns(layer):
            return x
        rope = self._attention(layer).rope
        plain = None
        if self.d_plain:
            plain, x = mx.split(x, [self.d_plain], axis=-1)
        rotated: mx.array = (
            rope(x, offset=offset, lengths=lengths) if isinstance(rope, LengthRoPE) else rope(x, offset=offset)
        )
        if of == "q" and self.family.query_scale is not None:
            positions = mx.arange(x.shape[2]) + (
                offset[:, None] if isinstance(offset, mx.array) and offset.ndim else offset
            )
            by = self.family.query_scale(self.args, positions).astype(x.dtype)
            rotated = rotated * (by[:, None, :, None] if by.ndim == 2 else by[:, None])
        return mx.concatenate([plain, rotated], axis=-1) if plain is not None else rotated

    def turns(self, layer: int) -> bool:
        """Whether RoPE turns a layer's queries and keys."""
        return self.family.rope and not self.family.unturned(self.decoder, layer)

    @cached_property
    def length_ropes(self) -> list[LengthRoPE]:
        """The layers' RoPEs that depend on the number of tokens; mostly none."""
        attending = [layer for layer in range(self.n_layers) if self.attends(layer)]
        ropes = [getattr(self._attention(layer), "rope", None) for layer in attending]
        return list({id(rope): rope for rope in ropes if isinstance(rope, LengthRoPE)}.values())

    def rope_regime(self, length: int) -> Hashable:
        """Equal for prompts whose equal beginnings have equal activations: RoPE may depend on a prompt's length."""
        return tuple(rope.regime(length) for rope in self.length_ropes)

    def refuse_rereading(self, lengths: Sequence[int], new: int) -> None:
        """Raises PromptError if `new` tokens read one at a time would take a prompt to where its RoPE becomes another.

        transformers then reads the whole text anew (Phi-3), for which a cache of edited keys has no counterpart.
        """
        for beyond in {rope.rereads_beyond for rope in self.length_ropes if rope.rereads_beyond is not None}:
            if crossing := [length for length in lengths if length <= beyond < length + new]:
                raise PromptError(
                    f"a prompt of {crossing[0]} tokens and {new} new ones go beyond {beyond}, where this model's RoPE "
                    f"changes and the text would be read anew: max_tokens is at most {beyond - crossing[0] + 1} here"
                )

    def attend(self, layer: int, q: mx.array, k: mx.array, v: mx.array, mask: Mask) -> mx.array:
        """Attention as the family computes it: (batch, head, pos, d_head or d_v) each -> z."""
        says = self.family.wide_scores
        if says is True or (says and q.dtype == mx.float16):
            wide = q.astype(mx.float32)
            return mx.fast.scaled_dot_product_attention(wide, k, v, scale=self.scale(layer), mask=mask).astype(v.dtype)
        if self.softcap_scores is None:
            sinks = self.sinks(layer)
            return mx.fast.scaled_dot_product_attention(q, k, v, scale=self.scale(layer), mask=mask, sinks=sinks)
        return _mix(self.masked_softmax(self.scores(layer, q, k), mask, self.sinks(layer)), v)

    def scores(self, layer: int, q: mx.array, k: mx.array) -> mx.array:
        """Scaled and soft-capped scores: (batch, kv head, heads a kv head, query, key)."""
        batch, n_heads, length, d_head = q.shape
        n_kv = k.shape[1]
        q = (q * self.scale(layer)).reshape(batch, n_kv, n_heads // n_kv, length, d_head)
        scores = q @ mx.expand_dims(k, 2).swapaxes(-1, -2)
        return self.capped(scores)

    def capped(self, scores: mx.array) -> mx.array:
        if self.softcap_scores is None:
            return scores
        return mx.tanh(scores / self.softcap_scores) * self.softcap_scores

    def pattern(self, layer: int, q: mx.array, k: mx.array, mask: Mask, allowed: mx.array | None = None) -> mx.array:
        """Attention probabilities (batch, head, query, key), rebuilt from what enters attention.

        allowed: bool (batch, head, query, key), a further mask; None forbids nothing more.
        """
        return self.softmax(layer, self.scores(layer, q, k), seen(mask, q.shape[2], allowed))

    def softmax(self, layer: int, scores: mx.array, sees: mx.array | None) -> mx.array:
        """Scores (batch, kv head, heads a kv head, query, key) -> the pattern (batch, head, query, key)."""
        pattern = self.masked_softmax(scores, sees, self.sinks(layer))
        return pattern.reshape(scores.shape[0], self.n_heads, *scores.shape[3:])

    def masked_softmax(self, scores: mx.array, mask: Mask, sinks: mx.array | None) -> mx.array:
        """Scores (batch, kv head, heads a kv head, query, key) -> shares of what a query sees, of the same shape.

        mask: bool, (query, key), (batch, head or 1, query, key), or what broadcasts to the scores; "causal" is none.
        sinks: scores (head,) beside the keys, which take their part.
        """
        if isinstance(mask, mx.array):
            if mask.ndim == 4:
                heads = scores.shape[1:3] if mask.shape[1] > 1 else (1, 1)
                mask = mask.reshape(mask.shape[0], *heads, *mask.shape[2:])
            scores = mx.where(mask, scores, mx.array(mx.finfo(scores.dtype).min, scores.dtype))
        if sinks is None:
            return self.softmax_of_rows(scores)
        column = sinks.astype(scores.dtype).reshape(*scores.shape[1:3], 1, 1)
        column = mx.broadcast_to(column, (*scores.shape[:-1], 1))
        return self.softmax_of_rows(mx.concatenate([scores, column], axis=-1))[..., :-1]

    def softmax_of_rows(self, scores: mx.array) -> mx.array:
        return mx.softmax(scores, precise=True, axis=-1)

    def sinks(self, layer: int) -> mx.array | None:
        """Scores (head,) of something that holds nothing, beside the keys; None where there is no such thing."""
        name = self.family.sinks
        return getattr(self._attention(layer), name) if name else None

    def mix(self, pattern: mx.array, v: mx.array) -> mx.array:
        """pattern (batch, head, query, key) and v (batch, kv head, key, d_v) -> z (batch, head, query, d_v)."""
        batch, n_heads, n_query, n_key = pattern.shape
        return _mix(pattern.reshape(batch, v.shape[1], n_heads // v.shape[1], n_query, n_key), v)

    def attn_out(self, layer: int, z: mx.array, gate: mx.array | None = None) -> mx.array:
        """z (..., head, d_head), and a gate on it -> what attention adds to the stream (..., d_model)."""
        z = z if gate is None else z * mx.sigmoid(gate)
        out: mx.array = getattr(self._attention(layer), self.family.out)(z.reshape(*z.shape[:-2], -1))
        return self._after(layer, self.family.norms.after_attn, out)

    def after_attn(self, layer: int, out: mx.array) -> mx.array:
        """What the output projection gave (..., d_model) -> what attention adds to the stream: norm, multiplier."""
        return self._after(layer, self.family.norms.after_attn, out)

    def with_attn_bias(self, layer: int, out: mx.array) -> mx.array:
        """The sum of what heads write (..., d_model) -> what the output projection gives."""
        bias = bias_of(getattr(self._attention(layer), self.family.out))
        return out if bias is None else out + bias

    def head_out(self, layer: int, z: mx.array, gate: mx.array | None = None) -> mx.array:
        """Each head's share of the output projection: (..., head, d_model); biases belong to no head."""
        z = z if gate is None else z * mx.sigmoid(gate)
        project = getattr(self._attention(layer), self.family.out)
        eye = mx.eye(self.n_heads, dtype=z.dtype)[:, :, None]
        alone = mx.expand_dims(z, -3) * eye  # (..., head, head, d_head): each head with all others at zero
        out: mx.array = project(alone.reshape(*alone.shape[:-2], -1))
        bias = bias_of(project)
        return out if bias is None else out - bias

    def mlp_in(self, layer: int, x: mx.array) -> mx.array:
        """Residual stream (..., d_model) -> what the MLP reads: the stream after the norm before it."""
        return self._before(layer, self.family.norms.before_mlp, x)

    def mlp_act(self, layer: int, x: mx.array) -> mx.array:
        """What the MLP reads (..., d_model) -> its hidden activations (..., d_mlp)."""
        if self.family.form is not None:
            return self.combined(layer, *self.gate_up(layer, x))
        act: mx.array = self.family.activation(self._mlp(layer), x)  # type: ignore[operator]
        return act

    def gate_up(self, layer: int, x: mx.array) -> tuple[mx.array, ...]:
        """What the MLP reads (..., d_model) -> gate and up, or up alone, (..., d_mlp) each."""
        assert self.family.form is not None
        return self.family.form.opened(self._mlp(layer), x)

    def combined(self, layer: int, *gate_up: mx.array) -> mx.array:
        """Gate and up, or up alone -> hidden activations (..., d_mlp)."""
        assert self.family.form is not None
        return self.family.form.combine(*gate_up)

    def mlp_out(self, layer: int, act: mx.array) -> mx.array:
        """Hidden activations -> what the MLP adds to the stream (..., d_model)."""
        out: mx.array = getattr(self._mlp(layer), self.family.down)(act)
        return self._after(layer, self.family.norms.after_mlp, out)

    def final(self, x: mx.array) -> mx.array:
        """The last norm."""
        normed: mx.array = getattr(self.decoder, self.family.norm)(x)
        return normed

    def unembed(self, x: mx.array, *, capped: bool = True) -> mx.array:
        """What the last norm gave (..., d_model) -> logits (..., d_vocab), soft-capped or scaled as the model's.

        capped: with the model's soft-cap, if it has one; without it logits are linear in x.
        """
        logits: mx.array = (
            getattr(self.decoder, self.family.embed).as_linear(x)
            if self.tied
            else part_of(self.language_model, self.family.head)(x)
        )
        cap = getattr(self.args, self.family.softcap_logits) if self.family.softcap_logits else None
        if cap is not None and capped:
            logits = mx.tanh(logits / cap) * cap
        if self.family.logits_factor:
            logits = logits * getattr(self.args, self.family.logits_factor)
        if self.family.logits_divisor:
            logits = logits / getattr(self.args, self.family.logits_divisor)
        return logits

    def mask(self, layer: int, length: int) -> Mask:
        """The mask that mlx-lm gives a layer for a prompt without cache."""
        window = self.window(layer)
        if length == 1:
            return None
        if self.softcap_scores is not None or (window and length > window):
            causal: mx.array = mlx_lm.models.base.create_causal_mask(length, window_size=window)
            return causal
        return "causal"

    def _before(self, layer: int, norm: str | None, x: mx.array) -> mx.array:
        return x if norm is None else getattr(self.layers[layer], norm)(x)


def seen(mask: Mask, length: int, allowed: mx.array | None = None) -> mx.array | None:
    """A mask as bool, and what else is allowed; None where every query sees every key."""
    sees = mlx_lm.models.base.create_causal_mask(length) if isinstance(mask, str) else mask
    if allowed is None:
        return sees
    return sees & allowed if isinstance(sees, mx.array) else allowed


def _mix(weights: mx.array, v: mx.array) -> mx.array:
    batch, n_kv, repeats, length, _ = weights.shape
    return (weights @ mx.expand_dims(v, 2)).reshape(batch, n_kv * repeats, length, v.shape[-1])
