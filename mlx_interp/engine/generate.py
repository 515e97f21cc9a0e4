"""Generation under interventions: one padded pass over the prompts, then one token for every row at a time.

Keys and values are cached as they were after all edits. Prompts are padded on the right, so the slots behind a short
prompt stay empty: a mask hides them, and each row's tokens carry on at its own positions. Edits of prompt positions
act in the first pass, edits of "generated" positions in the later ones, edits of every position in both. Prompts that
begin alike and to which nothing is done are read as one prefix tree (shared_prefill.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.block import block
from mlx_interp.engine.forward import Pass, Prompts, forward
from mlx_interp.engine.host import on_host
from mlx_interp.engine.mixers import Visit
from mlx_interp.engine.network import Mask, Network
from mlx_interp.engine.plan import EditPlan, plan_edits
from mlx_interp.engine.shared_prefill import read_shared
from mlx_interp.interventions import Interventions

STEP = 256
"""Slots by which a cache grows."""

Sampler: TypeAlias = "Callable[[mx.array, int], mx.array]"
"""Logits (batch, d_vocab) and the number of the step -> token ids (batch,)."""


@dataclass
class Cache:
    """Keys and values of every layer, (batch, kv head, slot, d_head); prompt slots first, then generated ones.

    In their place, of a mixer that is no attention: the last inputs of its convolution and its state, (batch, ...).
    """

    lengths: Sequence[int]
    n_prompt: int
    """Slots of the prompts: the length of the longest."""
    room: int = STEP
    """Slots by which it grows, where fewer tokens than a whole step will be written."""
    n_generated: int = 0
    """Tokens generated so far, the one under way included."""
    k: dict[int, mx.array] = field(default_factory=dict)
    v: dict[int, mx.array] = field(default_factory=dict)
    positions: int | mx.array = 0
    """Where in its own text each row's current token stands; one number where all prompts are of one length."""
    masks: dict[int | None, mx.array | None] = field(default_factory=dict)
    """By window: bool (batch, 1, 1, slot): no empty slot, nothing beyond the window; None where all is allowed."""

    def keep(self, layer: int, k: mx.array, v: mx.array) -> None:
        """The prompts' keys and values, or what a mixer has in their place."""
        self.k[layer], self.v[layer] = k, v

    def advance(self, windows: Collection[int | None]) -> None:
        """Makes room for one more token of every row."""
        self.n_generated += 1
        even = len(set(self.lengths)) == 1
        now = self.n_generated - 1
        self.positions = self.lengths[0] + now if even else mx.array([length + now for length in self.lengths])
        self.masks = {window: self._mask(window) for window in windows}

    # As the text that a pass over one more token reads.

    def rotated(self, net: Network, layer: int, x: mx.array, name: str) -> mx.array:
        return net.rotate(layer, x, self.positions, of=name)

    def mask(self, net: Network, layer: int, n_queries: int) -> Mask:
        return self.masks[net.window(layer)]

    def seen(self, layer: int, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """Adds one token's keys and values (batch, kv head, 1, d_head); returns all so far."""
        slot = self.n_prompt + self.n_generated - 1
        for held, new in ((self.k, k), (self.v, v)):
            if held[layer].shape[2] <= slot:
                room = mx.zeros((*new.shape[:2], min(self.room, STEP), new.shape[3]), dtype=new.dtype)
                held[layer] = mx.concatenate([held[layer], room], axis=2)
            held[layer][:, :, slot : slot + 1] = new
        return self.k[layer][:, :, : slot + 1], self.v[layer][:, :, : slot + 1]

    def convolved(self, net: Network, layer: int, x: mx.array) -> mx.array:
        made, inputs = net.convolved(layer, self.k[layer], x)
        self.k[layer] = inputs[:, x.shape[1] :]
        return made

    def recurred(self, net: Network, layer: int, inputs: Sequence[mx.array], visit: Visit | None) -> mx.array:
        mixed, self.v[layer] = (
            net.recurred(layer, inputs, self.v[layer])
            if visit is None
            else net.visited(layer, inputs, self.v[layer], visit)
        )
        return mixed

    def _mask(self, window: int | None) -> mx.array | None:
        n_slots = self.n_prompt + self.n_generated
        if len(set(self.lengths)) == 1 and (window is None or n_slots <= window):
            return None
        slots = np.arange(n_slots)[None]
        lengths = np.array(self.lengths)[:, None]
        allowed = (slots < lengths) | (slots >= self.n_prompt)
        if window is not None:
            positions = np.where(slots < self.n_prompt, slots, lengths + slots - self.n_prompt)
            allowed &= positions > lengths + self.n_generated - 1 - window
        return mx.array(allowed[:, None, None])


def decode(
    net: Network, prompts: Sequence[Sequence[int]], plan: EditPlan, sample: Sampler, *, room: int = STEP
) -> Iterator[list[int]]:
    """The next token of every row, without end; `room` is how many are expected."""
    lengths = [len(tokens) for tokens in prompts]
    cache = Cache(lengths, max(lengths), room=room)
    reading = plan.for_prompt()
    shared = None if reading.edits or reading.blocked else read_shared(net, prompts)
    if shared is not None:
        kept, logits = shared
        for layer, (k, v) in kept.items():
            cache.keep(layer, k, v)
        return go_on(net, cache, logits, plan.for_generated(), sample)
    padded = mx.array([list(tokens) + [0] * (cache.n_prompt - len(tokens)) for tokens in prompts])
    found = forward(Pass(net, reading, lengths, text=Prompts(lengths, cache.keep)), padded, "last")
    assert found is not None
    return go_on(net, cache, found, plan.for_generated(), sample)


def go_on(net: Network, cache: Cache, logits: mx.array, plan: EditPlan, sample: Sampler) -> Iterator[list[int]]:
    """The next token of every row after a cached prompt; the next step is under way while the caller looks at one.

    plan: what acts on generated tokens; its rows are those of the cache.
    """
    net = on_host(net)
    run = Pass(net, plan, [1] * len(cache.lengths), text=cache)
    windows = {net.window(layer) for layer in range(net.n_layers)}
    token = sample(logits, 0)
    step = 0
    while True:
        mx.async_eval(token)  # type: ignore[no-untyped-call]
        step += 1
        cache.advance(windows)
        following = sample(step_of(run, cache, token), step)
        mx.async_eval(following)  # type: ignore[no-untyped-call]
        yield token.tolist()  # type: ignore[misc]
        token = following


class Stream:
    """One model's side of a decode in which somebody else chooses the tokens: the next logits of every row.

    logits: (batch, d_vocab), after the prompts, and then after each `advance`.
    """

    def __init__(
        self,
        net: Network,
        prompts: Sequence[Sequence[int]],
        *,
        each: int = 1,
        room: int = STEP,
        interventions: Interventions = (),
    ) -> None:
        """each: rows of every prompt, next to each other; the prompts themselves are read once.

        interventions: of all rows. Raises what planning them raises, NeverFired in `check_fired`.
        """
        lengths = [len(tokens) for tokens in prompts]
        net.refuse_rereading(lengths, room - 1)
        plan = plan_edits(net, [interventions] * len(lengths), lengths, shared=True, decodes=True)
        rows = [length for length in lengths for _ in range(each)]
        self._plan = plan_edits(net, [interventions] * len(rows), rows, shared=True, decodes=True)
        plan.fired = self._plan.fired
        self._cache = Cache(rows, max(lengths), room=room)
        self._run = Pass(on_host(net), self._plan.for_generated(), [1] * len(rows), text=self._cache)
        self._windows = {net.window(layer) for layer in range(net.n_layers)}

        def keep(layer: int, k: mx.array, v: mx.array) -> None:
            self._cache.keep(layer, *(x if each == 1 else mx.repeat(x, each, axis=0) for x in (k, v)))

        padded = mx.array([list(tokens) + [0] * (self._cache.n_prompt - len(tokens)) for tokens in prompts])
        logits = forward(Pass(net, plan.for_prompt(), lengths, text=Prompts(lengths, keep)), padded, "last")
        assert logits is not None
        self.logits = logits if each == 1 else mx.repeat(logits, each, axis=0)

    def advance(self, tokens: mx.array) -> None:
        """Reads one more token of every row (batch,)."""
        self._cache.advance(self._windows)
        self.logits = step_of(self._run, self._cache, tokens)

    def check_fired(self) -> None:
        """Raises NeverFired for an intervention that has touched nothing."""
        self._plan.check_fired()


def collect(
    steps: Iterator[list[int]], n_rows: int, max_tokens: int, stop: Collection[int]
) -> tuple[list[list[int]], list[bool]]:
    """Each row's tokens up to, not including, its stop token; and whether it met one."""
    tokens: list[list[int]] = [[] for _ in range(n_rows)]
    going = set(range(n_rows))
    for _, drawn in zip(range(max_tokens), steps, strict=False):
        for row in sorted(going):
            if drawn[row] in stop:
                going.discard(row)
            else:
                tokens[row].append(drawn[row])
        if not going:
            break
    return tokens, [row not in going for row in range(n_rows)]


def step_of(run: Pass, cache: Cache, tokens: mx.array) -> mx.array:
    """One token of every row (batch,) -> logits (batch, d_vocab); `run` reads the cache."""
    net = run.network
    x = net.embed(tokens[:, None], cache.positions)
    run.own = net.own_inputs(tokens[:, None], x)
    for layer in range(net.n_layers):
        x = block(run, layer, x)
    return net.unembed(run.site("final", -1, net.final(x))[:, 0])
