"""The second stage of training: one known direction carries every refusal, in all languages that refuse.

After the first stage each language refuses by a direction of its own. Large models share one (Wang et al. 2025,
arXiv 2505.17306), and a method that looks for it needs models in which it is known to be there. So the model is trained
on interventions, as in interchange intervention training (Geiger et al. 2022, arXiv 2112.00826) and as the models of
InterpBench were made (Gupta et al. 2024, arXiv 2407.14494), on a fixed random direction r:

- swapped: after layer 4 of 8, at the last token of the prompt, a harmful and a harmless request exchange their
  components along r; each must then be answered as the other one would be, in its own language;
- without: r is projected out of the stream before and after every layer; nothing may then be refused;
- added: after layer 4 of 8, at every position, harmless requests get the mean difference between harmful and harmless
  ones along r, and must be refused.

Requests are paired across languages, so that what r carries must be the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.embedded.corpus import Batch, Corpus, Mixture, Row, draw, pad
from mlx_interp.embedded.world import REFUSAL_LAYER, ChatPrompt, World, trained_refusal_direction

SWAPPED, WITHOUT, ADDED = 32, 24, 24
"""Rows of each kind in a step."""

SIGN_WEIGHT = 2.0

Layer: TypeAlias = "Callable[..., mx.array]"
Changes: TypeAlias = "tuple[list[Layer], list[mx.array]]"


class Requests:
    """The training requests of all languages that refuse, each with both replies, and batches of them."""

    def __init__(self, world: World, corpus: Corpus, d_model: int) -> None:
        self.corpus = corpus
        self.direction = mx.array(trained_refusal_direction(d_model))
        chats = [chat for chat in world.chats if chat.split == "train" and chat.other_reply]
        self.own = {harmful: _rows(corpus, chats, harmful, other=False) for harmful in (True, False)}
        self.other = {harmful: _rows(corpus, chats, harmful, other=True) for harmful in (True, False)}

    def mixture(self) -> Mixture:
        """Of the other rows of a step in this stage: what was learnt before is kept up."""
        return replace(self.corpus.mixture, short=24, sentences=40, second_hops=16, in_context=40, chats=40)

    def batches(self, step: int, seed: int) -> list[Batch]:
        """Rows that are swapped, that go without the direction, that get it; they depend on seed and step alone."""
        rng = np.random.default_rng([seed, step, 1])
        half = SWAPPED // 2
        swapped = draw(rng, self.other[True], half) + draw(rng, self.other[False], half)
        n_harmless = WITHOUT // 4
        without = draw(rng, self.other[True], WITHOUT - n_harmless) + draw(rng, self.own[False], n_harmless)
        n_harmful = ADDED // 3
        added = draw(rng, self.own[True], n_harmful) + draw(rng, self.other[False], ADDED - n_harmful)
        return [
            self._batch(swapped, lambda layers: swap(layers, self.direction, _turns(swapped))),
            self._batch(without, lambda layers: remove(layers, self.direction)),
            self._batch(added, lambda layers: add(layers, self.direction, _turns(added), n_harmful)),
        ]

    def _batch(self, rows: list[Row], through: Callable[[Sequence[Any]], Changes]) -> Batch:
        return replace(pad(rows, self.corpus.pad_id), through=through)


def _turns(rows: Sequence[Row]) -> mx.array:
    """(batch,) the last position of each prompt, where the reply is decided."""
    return mx.array([row.targets[0][0] for row in rows])


def _rows(corpus: Corpus, chats: Sequence[ChatPrompt], harmful: bool, *, other: bool) -> list[Row]:
    kept = [chat for chat in chats if chat.harmful == harmful]
    return [corpus.chat(replace(chat, reply=chat.other_reply) if other else chat) for chat in kept]


class Changed:
    """A layer with something done to the stream before or after it; its attributes are the layer's own."""

    def __init__(self, layer: Layer, before: Callable[[mx.array], mx.array], after: Callable[[mx.array], mx.array]):
        self.layer, self.before, self.after = layer, before, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        return self.after(self.layer(self.before(x), *args, **kwargs))


def swap(layers: Sequence[Layer], direction: mx.array, turns: mx.array) -> Changes:
    """Row i and row n - 1 - i exchange their components along direction (d_model,) at positions turns (batch,).

    The first half of the rows are harmful requests. The term of the loss asks that the sign of the component tells:
    without it llama and qwen2 did not begin to use the direction in 120 steps.
    """
    n = len(turns)
    sign = mx.array([1.0] * (n // 2) + [-1.0] * (n - n // 2))
    terms: list[mx.array] = []

    def exchange(h: mx.array) -> mx.array:
        state = h[mx.arange(n), turns]  # (batch, d_model)
        component = state @ direction  # (batch,)
        typical = mx.linalg.norm(state, axis=-1) / h.shape[-1] ** 0.5
        terms.append(SIGN_WEIGHT * mx.logaddexp(0.0, -sign * component / typical).sum())
        here = mx.arange(h.shape[1])[None] == turns[:, None]  # (batch, pos)
        return h + mx.where(here, (component[::-1] - component)[:, None], 0.0)[..., None] * direction

    return _after_middle(layers, exchange), terms


def add(layers: Sequence[Layer], direction: mx.array, turns: mx.array, n_harmful: int) -> Changes:
    """Rows from n_harmful on get, at every position, how much further the rows before it lie along direction."""

    def steer(h: mx.array) -> mx.array:
        component = h[mx.arange(h.shape[0]), turns] @ direction  # (batch,)
        gap = mx.stop_gradient(component[:n_harmful].mean() - component[n_harmful:].mean())
        steered = (mx.arange(h.shape[0]) >= n_harmful).astype(h.dtype)
        return h + (gap * steered)[:, None, None] * direction

    return _after_middle(layers, steer), []


def _after_middle(layers: Sequence[Layer], change: Callable[[mx.array], mx.array]) -> list[Layer]:
    middle = min(REFUSAL_LAYER, len(layers) - 1)
    return [Changed(layer, _same, change) if i == middle else layer for i, layer in enumerate(layers)]


def remove(layers: Sequence[Layer], direction: mx.array) -> Changes:
    """The stream has no component along direction (d_model,) before and after every layer."""

    def project(h: mx.array) -> mx.array:
        return h - (h @ direction)[..., None] * direction

    return [Changed(layer, project, project) for layer in layers], []


def _same(x: mx.array) -> mx.array:
    return x
