"""Pipeline by layers: each process holds some consecutive layers, and hands the residual stream to the next one.

1. Every process runs the whole program. A matrix that it does not hold is a `HeldLinear` or `HeldEmbedding` without
   rows: the process that holds it computes the result and sends it round the ring to all. So whatever anybody computes
   of the model, gradients included, is what one process computes.
2. A pass through a layer (`block`) sends less. Inside it the others put `blank` values in place of what they cannot
   compute; only the stream is sent, to the process that holds the next layers, and each site at which somebody reads
   or writes, to all, before what is done there. Behind the last layer all have the stream.
3. Passes with gradients, and models whose layers read what other layers made (keys of another layer, embeddings of
   their own, a state), take the first way alone.
4. What is sent is sent in the order of the program, on a stream of its own: MLX evaluates independent operations in an
   order of its own, and what a process does not compute differs between them. While one process waits for a result,
   it computes what its program asks for next; nothing waits until a value is read.

Imported only where a model is split so: its classes need MLX, which is slow to import.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

from mlx_interp.deferred import mx, nn, trees
from mlx_interp.engine.network import Network
from mlx_interp.engine.split import Rows, SplitEmbedding, SplitLinear, copied, embeds, splittable
from mlx_interp.errors import ConfigError
from mlx_interp.ranks import Ranks, link

T = TypeVar("T")
Compute: TypeAlias = "Callable[..., mx.array]"


class Relay:
    """Who holds which layer, and what processes send each other."""

    def __init__(self, ranks: Ranks, stages: Sequence[int]) -> None:
        self.group, self.rank, self.size = ranks.group, ranks.rank, ranks.size
        self.stages = tuple(stages)
        self.owners = tuple(rank for rank, n in enumerate(stages) for _ in range(n))
        """By layer: the process that holds it."""
        self.staged: int | None = None
        """Inside a layer's pass: the process that holds it."""
        self.received = 0
        """Bytes received from other processes, but for gradients."""
        self._last: mx.array | None = None
        """Of exchanges that are still to be evaluated: the last one."""

    @property
    def absent(self) -> bool:
        """Whether this is inside the pass through a layer that another process holds."""
        return self.staged is not None and self.staged != self.rank

    def holds(self, layer: int) -> bool:
        """Whether a layer is this process's."""
        return self.owners[layer] == self.rank

    def ends_stage(self, layer: int) -> bool:
        """Whether the next layer is another process's."""
        return layer + 1 < len(self.owners) and self.owners[layer] != self.owners[layer + 1]

    @contextmanager
    def inside(self, layer: int) -> Iterator[None]:
        """Within it matrices that are not held give blanks, and nothing is sent for those that are."""
        self.staged = self.owners[layer]
        try:
            yield
        finally:
            self.staged = None

    def departed(self, layer: int, x: T) -> T:
        """The stream behind a layer, sent on at once where it is another process's turn: there where the next layer is
        held, behind the last one on all; elsewhere blank."""
        owner = self.owners[layer]
        if layer == len(self.owners) - 1:
            return _each(lambda a: self.relayed(a, owner), x)
        if self.ends_stage(layer):
            return _each(lambda a: self._handed(a, owner, self.owners[layer + 1]), x)
        return x if owner == self.rank else self.blanked(x)

    def shown(self, x: T) -> T:
        """A site's activation, everywhere: what is done there is then done by all alike."""
        owner = self.staged
        return x if owner is None else _each(lambda a: self.relayed(a, owner), x)

    def blanked(self, x: T) -> T:
        """Nothing in place of values that only another process has."""
        return _each(lambda a: blank(a.shape, a.dtype), x)

    def relayed(self, y: mx.array, owner: int, given: mx.array | None = None) -> mx.array:
        """What one process has, on all; others come with an array of its shape. Round the ring: each receives it once.

        given: what it is computed of, if it may have to be differentiated.
        """
        if not y.size:
            return y
        if given is not None and traced(given):
            mine = y if self.rank == owner else mx.zeros_like(y)
            return self._in_turn(lambda a: mx.distributed.all_sum(a, group=self.group, stream=link()), mine)
        self._catch_up()
        right, left = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        if self.rank == owner:
            self._send(y, right)
            return y
        y = self._received(y, left)
        if right != owner:
            self._send(y, right)
        else:
            mx.async_eval(y)  # type: ignore[no-untyped-call]
        return y

    def sum(self, y: mx.array) -> mx.array:
        """The sum of what all processes have."""
        found = self._in_turn(lambda a: mx.distributed.all_sum(a, group=self.group, stream=link()), y)
        self._catch_up()
        return found

    def computed(
        self, owner: int, x: mx.array, compute: Compute, outline: Compute, chosen: Sequence[mx.array] = ()
    ) -> mx.array:
        """compute(x, *chosen), which its owner alone can: on all processes, or inside a layer's pass on that one.

        outline: gives the others a blank of its shape. chosen: whole numbers that it takes beside x, named so
        that the backward pass meets the same operations in the same order on all processes.
        """
        here = owner == self.rank
        if self.staged is not None:
            return compute(x, *chosen) if here else outline(x, *chosen)

        @mx.custom_function
        def made(x: mx.array, *chosen: mx.array) -> mx.array:
            return self.relayed(compute(x, *chosen) if here else outline(x, *chosen), owner, x)

        @made.vjp
        def backwards(given: Any, slope: mx.array, _: mx.array) -> Any:
            x, *others = given if chosen else (given,)
            found = blank(x.shape, x.dtype)
            if here:
                found = mx.vjp(lambda x: compute(x, *others), [x], [slope])[1][0]
            found = self.relayed(found, owner, slope)
            return (found, *map(mx.zeros_like, others)) if chosen else found

        found: Any = made(x, *chosen)
        return found  # type: ignore[no-any-return]

    def _in_turn(self, exchange: Callable[[mx.array], mx.array], y: mx.array) -> mx.array:
        """An exchange that waits for the one before it, where nothing may be evaluated yet: all processes then have the
        same operations. What is received has no input that could wait, so all send, zeros but one."""
        found = exchange(y if self._last is None else mx.depends(y, self._last))
        self._last = found.reshape(-1)[:1] + 0  # one number: a view would keep all of it in memory
        return found

    def _catch_up(self) -> None:
        """Under way with what is still to be exchanged, on all processes: what follows is sent at once."""
        if self._last is not None:
            mx.async_eval(self._last)  # type: ignore[no-untyped-call]
            self._last = None

    def _handed(self, x: mx.array, before: int, there: int) -> mx.array:
        if not x.size:
            return x
        self._catch_up()
        if self.rank == before:
            self._send(x, there)
        elif self.rank == there:
            x = self._received(x, before)
            mx.async_eval(x)  # type: ignore[no-untyped-call]
            return x
        return blank(x.shape, x.dtype)

    def _received(self, like: mx.array, source: int) -> mx.array:
        self.received += like.nbytes
        return mx.distributed.recv(like.shape, like.dtype, source, group=self.group, stream=link())

    def _send(self, x: mx.array, to: int) -> None:
        mx.async_eval(mx.distributed.send(x, to, group=self.group, stream=link()))  # type: ignore[no-untyped-call]


def traced(x: mx.array) -> bool:
    """Whether an array is one by which MLX differentiates, or is part of a slope: it must not be evaluated yet."""
    try:
        mx.async_eval(x)  # type: ignore[no-untyped-call]
    except ValueError:
        return True
    return False


def blank(shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    """Zeros that take no memory, whatever their shape."""
    return mx.broadcast_to(mx.zeros((), dtype=dtype), shape)


def _each(change: Callable[[mx.array], mx.array], x: T) -> T:
    """What a carrier holds of one value: an array, or a list of them."""
    held: Any = x
    changed: Any = [change(a) for a in held] if isinstance(held, list) else change(held)
    return changed  # type: ignore[no-any-return]


class HeldLinear(SplitLinear):
    """A linear layer, or one of every expert, that one process holds."""

    def __init__(self, layer: nn.Module, relay: Relay, owner: int, read: Rows) -> None:
        rows = int(layer.weight.shape[-2])
        super().__init__(layer, relay, slice(0, rows if owner == relay.rank else 0), read)
        self.owner = owner

    def __call__(self, x: mx.array, *args: mx.array, **kwargs: Any) -> mx.array:
        def compute(x: mx.array, *args: mx.array) -> mx.array:
            y: mx.array = self.part(x, *args, **kwargs)
            return y + self.bias if "bias" in self else y

        def outline(x: mx.array, *args: mx.array) -> mx.array:
            like = compute(x, *args)[..., :1]  # of one row that stands in for those held elsewhere, never evaluated
            return blank((*like.shape[:-1], self.rows), like.dtype)

        found: mx.array = self.group.computed(self.owner, x, compute, outline, args)
        return found


class HeldEmbedding(SplitEmbedding):
    """An embedding that one process holds; as an unembedding it gives logits."""

    def __init__(self, layer: nn.Module, relay: Relay, owner: int, read: Rows) -> None:
        rows = int(layer.weight.shape[0])
        super().__init__(layer, relay, slice(0, rows if owner == relay.rank else 0), read)
        self.owner = owner

    def __call__(self, tokens: mx.array) -> mx.array:
        here = self.group.rank == self.owner
        rows = self.part(tokens if here else mx.zeros_like(tokens))
        found: mx.array = self.group.relayed(rows, self.owner, rows)
        return found

    def as_linear(self, x: mx.array) -> mx.array:
        def outline(x: mx.array) -> mx.array:
            like = self.part.as_linear(x)
            return blank((*like.shape[:-1], self.rows), like.dtype)

        found: mx.array = self.group.computed(self.owner, x, self.part.as_linear, outline)
        return found


def pipeline(net: Network, ranks: Ranks, stages: Sequence[int], read: Rows = copied) -> None:
    """Give each process its layers: `stages` says how many, by rank; in place, one matrix at a time.

    The first process also has the embedding, and with it a tied unembedding; the last one any other. Norms and what
    else is small stay whole everywhere. read: gives rows of a matrix (`loading/slices.py`).
    """
    relay, model = Relay(ranks, stages), net.mlx_model
    owners = owners_of(net, relay.owners)
    waiting = dict(splittable(model))
    while waiting:  # not a loop over it: what is done is to be forgotten
        path, layer = waiting.popitem()
        kind = HeldEmbedding if embeds(layer) else HeldLinear
        part = kind(layer, relay, owners[path], read)
        mx.eval(part.parameters())
        model.update_modules(trees.tree_unflatten([(path, part)]))
    model.relay = relay
    for known in ("relay", "staged"):  # a model that has computed as a whole has looked already
        net.__dict__.pop(known, None)


def owners_of(net: Network, by_layer: Sequence[int]) -> dict[str, int]:
    """By path of a matrix: the process that holds it."""
    layers = {id(part): layer for layer, each in enumerate(net.layers) for _, part in each.named_modules()}
    head = net.family.head_name
    last = by_layer[-1]
    return {
        path: by_layer[layers[id(part)]] if id(part) in layers else last if path.rpartition(".")[2] == head else 0
        for path, part in splittable(net.mlx_model)
    }


def weights_by_layer(net: Network) -> tuple[list[int], int, int]:
    """Bytes of each layer's matrices as stored, of those that the first process has beside, and of the last one's."""
    n = net.n_layers
    owners = owners_of(net, range(n))
    held = [0] * n
    first = last = 0
    inside = {id(part) for each in net.layers for _, part in each.named_modules()}
    for path, part in splittable(net.mlx_model):
        size = sum(part[name].nbytes for name in ("weight", "scales", "biases") if part.get(name) is not None)
        if id(part) in inside:
            held[owners[path]] += size
        elif owners[path]:
            last += size
        else:
            first += size
    return held, first, last


def stages_by_memory(net: Network, free: Sequence[int]) -> tuple[int, ...]:
    """Layers of each process such that the fullest one's weights take the least share of the memory it has free.

    free: bytes, by rank. Raises ConfigError for more processes than layers.
    """
    layers, first, last = weights_by_layer(net)
    n, count = len(free), len(layers)
    _refuse_too_many(n, count)
    sums = [sum(layers[:end]) for end in range(count + 1)]
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for rank in range(n):
        beside = (first if rank == 0 else 0) + (last if rank == n - 1 else 0)
        ends = range(rank + 1, count - (n - 1 - rank) + 1)
        following: dict[int, tuple[float, tuple[int, ...]]] = {}
        for end in ends if rank < n - 1 else (count,):
            following[end] = min(
                (max(load, (sums[end] - sums[start] + beside) / max(free[rank], 1)), (*stages, end - start))
                for start, (load, stages) in best.items()
                if start < end
            )
        best = following
    return best[count][1]


def check_stages(stages: Sequence[int], n_layers: int, n_processes: int) -> tuple[int, ...]:
    """Stages as given. Raises ConfigError where they are not one number a process, or do not sum to the layers."""
    _refuse_too_many(n_processes, n_layers)
    given = tuple(stages)
    if len(given) != n_processes:
        raise ConfigError(f"stages={given}: {len(given)} stages for {n_processes} processes: give one number each")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in given):
        raise ConfigError(f"stages={given}: every process holds one layer at least")
    if sum(given) != n_layers:
        raise ConfigError(f"stages={given}: {sum(given)} layers, and the model has {n_layers}")
    return given


def _refuse_too_many(n_processes: int, n_layers: int) -> None:
    if n_processes > n_layers:
        raise ConfigError(
            f"{n_processes} processes for a model of {n_layers} layers: each holds one at least; launch {n_layers} or "
            "fewer, or take shard=True, which splits every matrix"
        )
