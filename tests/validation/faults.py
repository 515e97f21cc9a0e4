"""Faults that the validation suite must catch: each breaks one thing, as a bug would, for as long as a test runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import pytest

from mlx_interp import prompts as prompts_module
from mlx_interp.engine import apply_edits, clean_run, forward, plan, sweep, sweep_batch, sweep_prompts
from mlx_interp.engine.forward import Pass
from mlx_interp.engine.network import Network
from mlx_interp.engine.prefix_tree import Layout
from mlx_interp.engine.sweep_batch import Sweep
from mlx_interp.interventions import Add
from mlx_interp.model import Model
from mlx_interp.sites import Site
from validation.check import Level

Inject = Callable[[pytest.MonkeyPatch, Model], None]


@dataclass(frozen=True)
class Fault:
    name: str
    model: str
    inject: Inject
    caught_by: str
    """The check that must fail; others may fail as well."""
    level: Level = "standard"
    """The level at which it is asked."""


FAULTS: list[Fault] = []


def fault(
    name: str, caught_by: str, model: str = "tiny-llama", level: Level = "standard"
) -> Callable[[Inject], Inject]:
    def keep(inject: Inject) -> Inject:
        FAULTS.append(Fault(name, model, inject, caught_by, level))
        return inject

    return keep


def wrap(patch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replaces a function by change(original, *args)."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: change(original, *args, **kwargs))


FORWARD = "forward is mlx-lm's own"


@fault("embedding scale missing", FORWARD, "tiny-gemma2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Network, "embed", lambda net, tokens: net.decoder.embed_tokens(tokens))


@fault("soft-cap of logits missing", FORWARD, "tiny-gemma2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Network, "unembed", lambda net, x: net.decoder.embed_tokens.as_linear(x))


@fault("soft-cap of attention scores missing", FORWARD, "tiny-gemma2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Network, "capped", lambda net, scores: scores)


@fault("post-norms skipped", FORWARD, "tiny-gemma2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Network, "_after", lambda net, layer, norm, x: x)


@fault("norm weight without its offset of 1", FORWARD, "tiny-gemma2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def final(net: Network, x: mx.array) -> mx.array:
        return mx.fast.rms_norm(x, net.decoder.norm.weight, net.decoder.norm.eps)

    patch.setattr(Network, "final", final)


@fault("mask missing: the future is seen", FORWARD)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Network, "mask", lambda net, layer, length: None)


@fault("mask cuts off the token itself", FORWARD)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def strict(net: Network, layer: int, length: int) -> mx.array:
        return mx.arange(length)[:, None] >= mx.maximum(mx.arange(length)[None] + 1, 1) * (mx.arange(length)[None] > 0)

    patch.setattr(Network, "mask", strict)


@fault("RoPE left out", FORWARD)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Network, "rotate", lambda net, layer, x, *rest, **of: x)


@fault("attention scale wrong", FORWARD)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Network, "scale", lambda scale, net, layer: scale(net, layer) * 1.01)


@fault("a layer is run twice", FORWARD)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, forward, "block", lambda block, run, layer, *rest: block(run, max(layer, 1), *rest))


@fault("capture keeps the stream in half precision", "capture changes nothing")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def site(original: Any, run: Pass, name: str, layer: int, x: mx.array) -> mx.array:
        kept = original(run, name, layer, x)
        return kept.astype(mx.float16).astype(mx.float32) if Site(name, layer) in run.wanted else kept

    wrap(patch, Pass, "site", site)


@fault("captured layer is off by one", "residual stream adds up")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def site(original: Any, run: Pass, name: str, layer: int, x: mx.array) -> mx.array:
        x = original(run, name, layer, x)
        shifted = Site(name, layer + 1)
        if name == "resid_mid" and shifted in run.wanted:
            run.captured[shifted] = x
            run.wanted = run.wanted - {shifted}
        return x

    wrap(patch, Pass, "site", site)


@fault("patches land one position too far", "patching with itself")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def changed(original: Any, old: mx.array, bucket: Any, ndim: int) -> mx.array:
        return mx.roll(original(old, bucket, ndim), 1, axis=1)

    wrap(patch, apply_edits, "_changed", changed)


@fault("interventions do nothing", "steering changes the output")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def ignored(x: mx.array, edits: Any, plan: Any, **_: Any) -> mx.array:
        for edit in edits:
            plan.fired[edit.owner] += 1
        return x

    patch.setattr(forward, "apply_edits", ignored)
    patch.setattr(sweep_batch, "apply_edits", ignored)


@fault("every layer's steering lands on layer 0", "steering changes the output")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, plan.sites, "parse", lambda parse, selector, n: parse(selector.partition(".")[0] + ".0", n))


@fault("scale 0 still rounds", "steering at 0")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def changed(original: Any, old: mx.array, bucket: Any, ndim: int) -> mx.array:
        new = original(old, bucket, ndim)
        return new.astype(mx.bfloat16) if isinstance(bucket[0].intervention, Add) else new

    wrap(patch, apply_edits, "_changed", changed)


@fault("an edit reaches back to earlier positions", "earlier positions untouched")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def everywhere(x: mx.array, edits: Any, plan: Any, **_: Any) -> mx.array:
        for edit in edits:
            plan.fired[edit.owner] += 1
            x = x + edit.value.reshape(-1)[: x.shape[-1]] if edit.value is not None else x
        return x

    patch.setattr(forward, "apply_edits", everywhere)


@fault("short prompts are read at the batch's last position", "padding is invisible")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(forward, "last_positions", lambda x, lengths: x[:, -1])


@fault("prompts are padded on the left without a mask", "padding is invisible")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Network, "embed", lambda embed, net, tokens: embed(net, _left_padded(tokens)))


def _left_padded(tokens: mx.array) -> mx.array:
    rows = [[t for t in row if t] for row in tokens.tolist()]
    return mx.array([[0] * (tokens.shape[1] - len(row)) + row for row in rows])


@fault("steering leaks into the next run", "nothing leaks into the next run")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    norm = model.network.decoder.norm
    patch.setitem(norm, "weight", norm.weight)  # restored when the test ends; MLX modules are dicts

    def apply(original: Any, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        norm.weight = norm.weight * 1.001
        return original(x, *args, **kwargs)

    wrap(patch, sweep_batch, "apply_edits", apply)


SWEEP = "sweep is each variant alone"


@fault("sweep: RoPE ignores where the suffix starts", SWEEP)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def rotated(original: Any, self: Sweep, name: str, layer: int, group: Any, a: mx.array) -> mx.array:
        if a.shape[0] == 0:
            return a
        return self.network.rotate(layer, a.transpose(0, 2, 1, 3), 0, of=name).transpose(0, 2, 1, 3)

    wrap(patch, Sweep, "_rotated", rotated)


@fault("sweep: a variant enters one layer late", SWEEP)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def late(original: Any, *args: Any) -> clean_run.Entry:
        entry = original(*args)
        return clean_run.Entry(entry.start, min(entry.layer + 1, model.n_layers), entry.join)

    wrap(patch, clean_run, "entry_of", late)


@fault("sweep: a variant starts one position late", SWEEP)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def late(original: Any, edits: Any, *args: Any) -> clean_run.Entry:
        entry = original(edits, *args)
        length = len(model.prompt("Yes").tokens)  # shorter than any prompt that is swept
        return clean_run.Entry(entry.start + (entry.start < length), entry.layer, entry.join)

    wrap(patch, clean_run, "entry_of", late)


@fault("sweep: heads in another order", SWEEP)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, Sweep, "_attend", lambda attend, *args: attend(*args)[:, :, ::-1])


@fault("sweep: results in another order", SWEEP)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, sweep, "_values", lambda values, *args: values(*args)[::-1])


TOGETHER = "prompts swept together are each alone"


@fault("prompts together: RoPE counts columns", TOGETHER)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def rotated(
        original: Any, self: Layout, net: Network, layer: int, x: mx.array, first: int = 0, **of: Any
    ) -> mx.array:
        return net.rotate(layer, x, first, **of)

    wrap(patch, Layout, "rotate", rotated)


@fault("prompts together: a token sees other prompts", TOGETHER)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def all_before(original: Any, *args: Any) -> Any:
        made, paths = original(*args)
        if made.sees is None:
            return made, paths
        earlier = made.positions[None] < made.positions[:, None]
        return replace(made, sees=earlier | made.sees), paths

    wrap(patch, sweep_prompts, "together", all_before)


@fault("prompts together: a token is shared that variants treat differently", TOGETHER)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, sweep_prompts, "_named", lambda named, plan: {})


@fault("prompts together: results in the order of the packs", TOGETHER)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    wrap(patch, sweep_prompts, "_sweep_pack", lambda swept, *args: swept(*args)[::-1])


@fault("lens without the last norm", "lens ends in the prediction")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Model, "unembed", lambda self, x: self.network.unembed(x))


@fault("lens without the soft-cap", "lens ends in the prediction", "tiny-gemma2")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(Model, "unembed", lambda self, x: self.network.decoder.embed_tokens.as_linear(self.network.final(x)))


@fault("BOS doubled", "one BOS")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def doubled(original: Any, tokenizer: Any, text: str, **kwargs: Any) -> Any:
        prompt = original(tokenizer, text, **kwargs)
        return prompts_module.Prompt(prompt.text, [prompt.tokens[0], *prompt.tokens], prompt.spans, tokenizer)

    from mlx_interp import wrapped

    wrap(patch, wrapped, "make_prompt", doubled)


@fault("BOS left out of chats", "one BOS")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def without(original: Any, tokenizer: Any, text: str, *, chat: bool = False, **kwargs: Any) -> Any:
        prompt = original(tokenizer, text, chat=chat, **kwargs)
        cut = slice(1, None) if chat else slice(None)
        return prompts_module.Prompt(prompt.text, prompt.tokens[cut], prompt.spans[cut], tokenizer)

    from mlx_interp import wrapped

    wrap(patch, wrapped, "make_prompt", without)


@fault("an infinite weight", "all activations are finite")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    norm = model.network.layers[-1].input_layernorm
    patch.setitem(norm, "weight", norm.weight * mx.array(float("inf")))


@fault("the lens reads a position too early", "lens finds known facts")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    from validation import knowledge

    wrap(patch, knowledge, "logit_lenses", lambda lenses, model, prompts: lenses(model, prompts, -2))
