"""Faults that only show where a model behaves as real ones do: saturated predictions, BOS in every turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from mlx_interp import model as model_module
from mlx_interp import wrapped
from mlx_interp.engine import forward, plan, sweep
from mlx_interp.engine.forward import Pass
from mlx_interp.interventions import Add, Patch
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.sites import Site
from tests.validation.faults import fault, wrap

CHANGES = "steering changes the output"
LANDS = "steering lands where it says"
TURNS = (
    "{% for message in messages %}{{ bos_token }}{{ '<user>' if message['role'] == 'user' else '<assistant>' }}"
    "{{ message['content'] }}<end_of_turn>{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }}<assistant>{% endif %}"
)
"""A template that opens every turn with the BOS token, as SmolLM2's does."""


def saturate(patch: pytest.MonkeyPatch, model: Model) -> None:
    """Logits a hundred times as large: every prediction gives everything to one token."""
    norm = model.network.decoder.norm
    patch.setitem(norm, "weight", norm.weight * 100)


def open_turns_with_bos(patch: pytest.MonkeyPatch, model: Model) -> None:
    patch.setattr(model.tokenizer._tokenizer, "chat_template", TURNS)


def readdress(patch: pytest.MonkeyPatch, change: Callable[[Add], Add]) -> None:
    """Every vector that is added is added as `change` says, whatever was asked."""

    def edit(original: Any, planner: Any, intervention: Any, owner: Any) -> None:
        original(planner, change(intervention) if isinstance(intervention, Add) else intervention, owner)

    wrap(patch, plan._RowPlanner, "edit", edit)


def late_heads(patch: pytest.MonkeyPatch, last: int) -> None:
    """What is patched into heads lands one layer late."""

    def edit(original: Any, planner: Any, intervention: Any, owner: Any) -> None:
        if isinstance(intervention, Patch) and intervention.site.startswith("z.") and layer_of(intervention) < last:
            intervention = replace(intervention, site=f"z.{layer_of(intervention) + 1}")
        original(planner, intervention, owner)

    wrap(patch, plan._RowPlanner, "edit", edit)


def layer_of(intervention: Add | Patch) -> int:
    return int(str(intervention.site).partition(".")[2])


@fault("steering of one layer is ignored", CHANGES)
def ignored(patch: pytest.MonkeyPatch, model: Model) -> None:
    last = model.n_layers - 1
    readdress(patch, lambda add: replace(add, scale=0.0) if layer_of(add) == last else add)


@fault("steering of one layer is ignored, predictions saturated", CHANGES)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    saturate(patch, model)
    ignored(patch, model)


@fault("every layer's steering lands on the last, predictions saturated", CHANGES)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    saturate(patch, model)
    readdress(patch, lambda add: replace(add, site=f"resid_post.{model.n_layers - 1}"))


@fault("patches of heads land one layer late", "patching with itself")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    late_heads(patch, model.n_layers - 1)


@fault("scale 0 still rounds, in one layer of all that are steered", "steering at 0")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def edits(original: Any, x: mx.array, edits: Any, *args: Any, **kwargs: Any) -> mx.array:
        new = original(x, edits, *args, **kwargs)
        return new * (1 + 1e-6) if any("resid_post.5" in str(edit.intervention) for edit in edits) else new

    wrap(patch, forward, "apply_edits", edits)


@fault("an edit of one layer reaches back by a position", "earlier positions untouched")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def edits(original: Any, x: mx.array, edits: Any, *args: Any, **kwargs: Any) -> mx.array:
        back = [
            replace(edit, positions=tuple(position - 1 for position in edit.positions))
            if edit.positions and "resid_post.6" in str(edit.intervention)
            else edit
            for edit in edits
        ]
        return original(x, back, *args, **kwargs)

    wrap(patch, forward, "apply_edits", edits)


@fault("sweep: two of many variants change places", "sweep is each variant alone")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def exchanged(values: Any, *args: Any) -> mx.array:
        found = values(*args)
        order = list(range(found.shape[0]))
        order[1], order[2] = order[2], order[1]  # neither has a run of its own
        return found[mx.array(order)]

    wrap(patch, sweep, "_values", exchanged)


@fault("one prompt's text in a batch has another second token", "a batch of texts is each alone")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    def collected(original: Any, steps: Any, n_rows: int, *args: Any) -> Any:
        tokens, stopped = original(steps, n_rows, *args)
        if n_rows > 2 and len(tokens[1]) > 1:
            tokens[1][1] = (tokens[1][1] + 1) % model.d_vocab
        return tokens, stopped

    wrap(patch, model_module, "collect", collected)


@fault("steering lands one layer too early", LANDS)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    readdress(patch, lambda add: replace(add, site=f"resid_post.{max(layer_of(add) - 1, 0)}"))


@fault("steering is a tenth of a percent too strong", LANDS)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    readdress(patch, lambda add: replace(add, scale=add.scale * 1.001))


@fault("steering goes unit by unit to the wrong place", LANDS)
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    readdress(patch, lambda add: replace(add, vector=mx.roll(mx.array(add.vector), 1)))


@fault("BOS doubled where a template opens every turn with it", "one BOS")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    open_turns_with_bos(patch, model)

    def doubled(original: Any, tokenizer: Any, text: str, *, chat: bool = False, **kwargs: Any) -> Prompt:
        prompt: Prompt = original(tokenizer, text, chat=chat, **kwargs)
        return replace(prompt, tokens=[prompt.tokens[0], *prompt.tokens]) if chat else prompt

    wrap(patch, wrapped, "make_prompt", doubled)


@fault("BOS left out of the first turn only", "one BOS")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    open_turns_with_bos(patch, model)

    def left_out(original: Any, tokenizer: Any, text: str, *, chat: bool = False, **kwargs: Any) -> Prompt:
        prompt: Prompt = original(tokenizer, text, chat=chat, **kwargs)
        return replace(prompt, tokens=prompt.tokens[1:], spans=prompt.spans[1:]) if chat else prompt

    wrap(patch, wrapped, "make_prompt", left_out)


@fault("a thousandth is lost behind a massive first position", "padding is invisible")
def _(patch: pytest.MonkeyPatch, model: Model) -> None:
    """In a batch, at every position but the first, which is ten thousand times as long: nothing of the whole."""

    def site(original: Any, run: Pass, name: str, layer: int, x: mx.array) -> mx.array:
        x = original(run, name, layer, x)
        key = Site(name, layer)
        if name == "resid_post" and key in run.captured:
            kept = run.captured[key]
            first = mx.arange(kept.shape[1])[None, :, None] == 0
            lost = 1.0 if kept.shape[0] == 1 else 0.999
            run.captured[key] = mx.where(first, kept * 1e4, kept * lost)
        return x

    wrap(patch, Pass, "site", site)
