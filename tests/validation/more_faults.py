"""Faults of generation, tokens, numbers and directions; those of the forward pass and sweeps are in faults.py."""

from __future__ import annotations

import itertools
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import continuations, wrapped
from mlx_interp import model as model_module
from mlx_interp.architectures import understood
from mlx_interp.controls import shuffled_labels
from mlx_interp.directions import contrasts as contrast_module
from mlx_interp.directions.contrasts import Contrast
from mlx_interp.directions.direction import Direction
from mlx_interp.engine import apply_edits, generate
from mlx_interp.engine.forward import Pass
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import EditPlan
from mlx_interp.interventions import Add
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from tests.validation.faults import FORWARD, SWEEP, fault, wrap
from validation import directions, knowledge, tokens

CACHE = "cache is recomputing"
BATCH = "a batch of texts is each alone"
SOUND = "a direction is above noise and stable"
MOVES = "a direction moves refusals both ways"
BFLOAT16 = "tiny-gemma2, bfloat16"


@fault("mask of allowed edges added to the scores as numbers", FORWARD)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Network, "mask", lambda net, layer, length: mx.tril(mx.ones((length, length))))


@fault("last norm computed in float16", FORWARD)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Network, "final", lambda final, net, x: final(net, x.astype(mx.float16)).astype(mx.float32))


@fault("learned positions start at 1", FORWARD, "tiny-gpt2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Network, "embed", lambda embed, net, x, offset=0: embed(net, x, offset + 1))


@fault("heads in another order before the output projection", FORWARD)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Network, "attn_out", lambda out, net, layer, z: out(net, layer, z[..., ::-1, :]))


@fault("heads that share keys and values grouped the other way round", FORWARD, "tiny-gemma2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def interleaved(attend: Any, net: Network, layer: int, q: mx.array, *rest: Any) -> mx.array:
        order = np.arange(net.n_heads).reshape(-1, net.n_heads // net.n_kv_heads).T.reshape(-1)
        return attend(net, layer, q[:, mx.array(order)], *rest)[:, mx.array(np.argsort(order))]

    wrap(patch, Network, "attend", interleaved)


@fault("biases of attention left out", FORWARD, "tiny-qwen2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def without(qkv: Any, net: Network, layer: int, x: mx.array) -> Any:
        attention = net.layers[layer].self_attn
        with pytest.MonkeyPatch.context() as inner:
            inner.setitem(attention.q_proj, "bias", mx.zeros_like(attention.q_proj.bias))
            return qkv(net, layer, x)

    wrap(patch, Network, "qkv", without)


@fault("sweep: edits of one variant reach its neighbour", SWEEP)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def leaking(original: Any, x: mx.array, *rest: Any) -> mx.array:
        new = original(x, *rest)
        return mx.maximum(new, mx.roll(new, 1, axis=0)) if new.shape[0] > 1 else new

    wrap(patch, apply_edits, "_apply_bucket", leaking)


@fault("cached generation: RoPE one position late", CACHE)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def late(advance: Any, cache: generate.Cache, windows: Any) -> None:
        advance(cache, windows)
        cache.positions = cache.positions + 1

    wrap(patch, generate.Cache, "advance", late)


@fault("cached generation: steering stops after the prompt", CACHE)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    empty = EditPlan()
    patch.setattr(EditPlan, "for_generated", lambda plan: EditPlan(owners=plan.owners, fired=plan.fired))
    assert empty.for_generated().edits == {}


@fault("cached generation: empty slots behind short prompts are attended to", BATCH)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(generate.Cache, "_mask", lambda cache, window: None)


@fault("cached generation: all rows continue at the longest prompt's position", CACHE)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def longest(advance: Any, cache: generate.Cache, windows: Any) -> None:
        advance(cache, windows)
        cache.positions = max(cache.lengths) + cache.n_generated - 1

    wrap(patch, generate.Cache, "advance", longest)


@fault("edits of generated tokens act on the prompt as well", "edits act where they say")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(EditPlan, "for_prompt", lambda plan: plan.for_generated())


@fault("the seed is ignored", "same seed, same text")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, model_module, "sampler", lambda sampler, t, p, seed, rows: sampler(t, p, 0, rows))


@fault("sampling depends on what was drawn before", "same seed, same text")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    count = itertools.count()
    wrap(patch, model_module, "sampler", lambda sampler, t, p, seed, rows: sampler(t, p, seed + next(count), rows))


@fault("chats are asked without their template", "chat template present")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, wrapped, "make_prompt", lambda make, tokenizer, text, **_: make(tokenizer, text))


@fault("the tokenizer's wrapper is called instead of the tokenizer", "words are found where they stand")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def uncallable(*_: Any, **__: Any) -> Any:
        raise TypeError("'TokenizerWrapper' object is not callable")

    patch.setattr(wrapped, "make_prompt", uncallable)


@fault("positions of words forget the BOS token", "words are found where they stand")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Prompt, "find", lambda find, *args, **named: [max(0, p - 1) for p in find(*args, **named)])


@fault("answers are scored without their leading space", "answers continue prompts", "tiny-gpt2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def bare(model: Model, prompt: Prompt, name: str) -> tuple[int, ...]:
        return tuple(model.tokenizer.encode("s" + name, add_special_tokens=False)[1:])

    patch.setattr(tokens, "continuation", bare)


@fault("replies are scored with a space behind the mark of their turn", "answers continue prompts")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(continuations, "_ends_in_mark", lambda tokenizer, prompt: False)


@fault("the lens reads the last layer, whatever it is asked for", "early layers differ")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def last(lenses: Any, *args: Any) -> list[mx.array]:
        return [mx.broadcast_to(lens[-1:], lens.shape) for lens in lenses(*args)]

    wrap(patch, knowledge, "logit_lenses", last)


@fault("the lens reads the embedding, whatever layer it is asked for", "two-hop entities appear")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def embedding(lenses: Any, *args: Any) -> list[mx.array]:
        return [mx.broadcast_to(lens[:1], lens.shape) for lens in lenses(*args, site="resid_pre")]

    wrap(patch, knowledge, "logit_lenses", embedding)


@fault("keys and values are captured in another order of heads", "patterns make z", "tiny-gemma2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def reversed_heads(head_site: Any, run: Pass, name: str, layer: int, x: mx.array) -> mx.array:
        if name == "v" and run.touched(name, layer):
            head_site(run, name, layer, x[:, ::-1])
            return x
        return head_site(run, name, layer, x)

    wrap(patch, Pass, "head_site", reversed_heads)


@fault("patterns without the attention scale", "patterns make z")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Network, "scores", lambda scores, net, layer, q, k: scores(net, layer, q, k) * 2)


@fault("a float32 vector widens a half-precision stream", "dtype is kept", "tiny-llama, float16")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def wide(original: Any, x: mx.array, bucket: Any, *rest: Any) -> mx.array:
        new = original(x, bucket, *rest)
        return new.astype(mx.float32) if isinstance(bucket[0].intervention, Add) else new

    wrap(patch, apply_edits, "_apply_bucket", wide)


@fault("the lens computes in float32 what the model computes in bfloat16", "lens ends in the prediction", BFLOAT16)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Model, "unembed", lambda self, x: self.network.unembed(self.network.final(x)))


@fault("activations near the end of float16's range", "range of the dtype", "tiny-llama, float16")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    norm = model.network.layers[-1].post_attention_layernorm
    patch.setitem(norm, "weight", norm.weight * 200)


@fault("the memory plan forgets what is captured", "memory estimate holds")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, model_module, "bytes_of_run", lambda bytes_of, *args: bytes_of(*args) // 4)


@fault("a direction's sign is flipped", MOVES)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Direction, "added", lambda added, self, scale, **named: added(self, -scale, **named))


@fault("ablation removes another direction", MOVES)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    from dataclasses import replace

    def other(ablated: Any, self: Direction, **named: Any) -> Any:
        return ablated(replace(self, vector=mx.roll(self.vector, 1)), **named)

    wrap(patch, Direction, "ablated_everywhere", other)


@fault("labels of the two classes are mixed up", SOUND)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def mix_up(contrast: Any, model: Model, positive: Any, negative: Any, **named: Any) -> Contrast:
        return contrast(model, *shuffled_labels(positive, negative, seed=0), **named)

    wrap(patch, directions, "contrast", mix_up)


@fault("norms of activations overflow", SOUND)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def overflow(summed: Any, *args: Any) -> Any:
        found = summed(*args)
        found.mean[...] = np.inf
        return found

    wrap(patch, contrast_module, "_summed", overflow)


@fault("directions are read one position late", "no direction before the contrast")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def late(summed: Any, model: Model, prompts: Any, site: str, positions: Any, rng: Any) -> Any:
        return summed(model, prompts, site, [min(position + 1, -1) for position in positions], rng)

    wrap(patch, contrast_module, "_summed", late)


@fault("negative positions count from the end of the batch", "edits count from each prompt's ends")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def of_the_longest(plan: Any, net: Network, edits: Any, lengths: list[int], **named: Any) -> EditPlan:
        return plan(net, edits, [max(lengths)] * len(lengths), **named)

    wrap(patch, model_module, "plan_edits", of_the_longest)


@fault("answers are scored with a space too many", "answers are spelled as the model writes them")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def spaced(model: Model, prompt: Prompt, name: str) -> tuple[int, ...]:
        return tuple(model.tokenizer.encode(" " + name, add_special_tokens=False))

    patch.setattr(tokens, "continuation", spaced)


@fault("config keys that nothing reads are let through", "config is understood")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(understood, "_refuse_unknown_keys", lambda config, family: None)
