"""`ActivationStore`: a folder of shards as one array a site, memory-mapped, and as shuffled batches."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import CheckpointError, DataError, SiteError, StoreError, nearest
from mlx_interp.model import Model
from mlx_interp.sites import parse_one
from mlx_interp.store.manifest import Sample, read_description, read_samples, read_shards, weights_of
from mlx_interp.store.shards import check_bytes, decoded, map_shard


@dataclass(frozen=True, eq=False)
class SiteArray:
    """One site's rows over all shards, (n_rows, ...), float32 when read; nothing is read before it is indexed.

    `array[i]`, `array[a:b]` and `array[indices]` read those rows; `numpy.asarray(array)` reads all of them. A slice
    within one shard of a float32 store is a view of the file.
    """

    parts: tuple[np.ndarray, ...]
    """Memory-mapped, as stored."""
    scales: tuple[float, ...]
    row_shape: tuple[int, ...]

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each part, and the number of rows at the end."""
        return np.cumsum([0, *(len(part) for part in self.parts)])

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.row_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        return 1 + len(self.row_shape)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice) and rows.step in (None, 1):
            return self._span(*rows.indices(len(self))[:2])
        if isinstance(rows, tuple):
            raise IndexError("rows are indexed alone: write array[rows][:, columns] for some of the columns")
        chosen = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise IndexError(f"a mask of {chosen.shape} for {len(self)} rows")
            chosen = np.flatnonzero(chosen)
        return self._gathered(chosen.astype(np.int64))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (row for part, scale in zip(self.parts, self.scales, strict=True) for row in decoded(part, scale))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self[:]
        return np.array(whole, dtype=dtype or whole.dtype, copy=True) if copy else np.asarray(whole, dtype=dtype)

    def _span(self, start: int, stop: int) -> np.ndarray:
        found = [
            decoded(part[max(start - first, 0) : max(stop - first, 0)], scale)
            for part, first, scale in zip(self.parts, self.starts[:-1], self.scales, strict=True)
            if first < stop and start < first + len(part)
        ]
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.empty((0, *self.row_shape), np.float32)

    def _gathered(self, rows: np.ndarray) -> np.ndarray:
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a site with {len(self)}")
        flat = np.where(rows < 0, rows + len(self), rows).ravel()
        out = np.empty((len(flat), *self.row_shape), np.float32)
        owner = np.searchsorted(self.starts, flat, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            out[mine] = decoded(self.parts[number][flat[mine] - self.starts[number]], self.scales[number])
        return out.reshape(*rows.shape, *self.row_shape)


class ActivationStore:
    """A store that `collect` wrote, whole or cut off: every shard that is marked and undamaged is read."""

    def __init__(self, path: Path | str, *, verify: bool = False) -> None:
        """Opens a folder; maps its shards, reads none. A damaged shard is named in a warning and in `damaged`.

        verify: read every shard once, so that one whose bytes have changed is left out as well.

        Raises StoreError for a folder without a store, of another version, or in which no shard can be read.
        """
        self.path = Path(path)
        self.description = read_description(self.path)
        self.damaged: dict[str, str] = {}
        """Name of each shard that cannot be read, with the reason."""
        self.shards = read_shards(self.path)
        self._mapped: list[tuple[dict[str, np.ndarray], dict[str, str]]] = []
        for info in self.shards:
            try:
                mapped = map_shard(self.path / info.shard)
                check_bytes(self.path / info.shard, info.checksum if verify else "")
                self._mapped.append(mapped)
            except CheckpointError as error:
                self.damaged[info.shard] = str(error)
        self.shards = [info for info in self.shards if info.shard not in self.damaged]
        for name, reason in self.damaged.items():
            warnings.warn(
                f"{self.path}: shard {name} is left out, the rest is used: {reason} (or collect into this folder "
                "again: damaged shards are made anew)",
                RuntimeWarning,
                stacklevel=2,
            )
        if self.damaged and not self.shards:
            raise StoreError(f"{self.path}: no shard can be read: collect into this folder again")

    def verify(self) -> dict[str, str]:
        """Every shard that is missing, truncated, or has other bytes than were written, with the reason; reads all.

        This store goes on using what it has mapped: open it anew with `verify=True` to leave those out.
        """
        found = dict(self.damaged)
        for info in self.shards:
            try:
                check_bytes(self.path / info.shard, info.checksum)
            except CheckpointError as error:
                found[info.shard] = str(error)
        return found

    def __repr__(self) -> str:
        model, d = self.description["model"], self.description
        return f"ActivationStore({str(self.path)!r}, {model}, {len(self.sites)} sites, {len(self)} rows, {d['dtype']})"

    def __len__(self) -> int:
        """Rows: stored positions of all prompts."""
        return sum(info.n_rows for info in self.shards)

    @property
    def n_tokens(self) -> int:
        return len(self)

    @property
    def n_bytes(self) -> int:
        """Of all readable shards on disk."""
        return sum(info.n_bytes for info in self.shards)

    @property
    def sites(self) -> list[str]:
        """Names, e.g. "resid_post.3", in the order of the forward pass."""
        return list(self.description["sites"])

    @property
    def manifest(self) -> dict[str, Any]:
        """What the store says of itself: model, weights_hash, sites with shapes, positions, dtype, shards."""
        return {**self.description, "shards": [asdict(info) for info in self.shards]}

    @cached_property
    def samples(self) -> list[Sample]:
        """All prompts that are in readable shards."""
        held = self._held
        return [sample for sample in read_samples(self.path) if sample.sample in held]

    @cached_property
    def _held(self) -> set[int]:
        return {number for info in self.shards for number in range(info.first, info.first + info.n_samples)}

    @cached_property
    def category_of(self) -> dict[int, str]:
        """Category of each prompt in readable shards, by its number; holds no tokens."""
        held = self._held
        return {sample.sample: sample.category for sample in read_samples(self.path) if sample.sample in held}

    @property
    def categories(self) -> dict[str, int]:
        """Prompts of each category."""
        return dict(Counter(self.category_of.values()))

    @cached_property
    def tokens(self) -> np.ndarray:
        """(n_rows,) int32: the token at each row's position."""
        return self._about("tokens")

    @cached_property
    def positions(self) -> np.ndarray:
        """(n_rows,) int32: each row's position in its prompt."""
        return self._about("positions")

    @cached_property
    def sample_numbers(self) -> np.ndarray:
        """(n_rows,) int64: number of each row's prompt."""
        return self._about("samples")

    def array(self, site: str) -> SiteArray:
        """One site, (n_rows, d), memory-mapped. Raises SiteError for a site that the store does not hold."""
        name = self._site(site)
        scales = tuple(float(metadata.get(f"scale.{name}", 1.0)) for _, metadata in self._mapped)
        return SiteArray(
            tuple(tensors[name] for tensors, _ in self._mapped), scales, tuple(self.description["sites"][name])
        )

    def rows(self, category: str | Sequence[str] | None = None) -> np.ndarray:
        """Indices of rows of one category or several; None: all. Raises DataError for a category that is not there."""
        if category is None:
            return np.arange(len(self), dtype=np.int64)
        wanted = {category} if isinstance(category, str) else set(category)
        known = self.categories
        for name in wanted - known.keys():
            raise DataError(f"{self.path}: no category {name!r}: {nearest(name, known)}there are {', '.join(known)}")
        numbers = [number for number, name in self.category_of.items() if name in wanted]
        return np.flatnonzero(np.isin(self.sample_numbers, numbers))

    def batches(
        self,
        site: str,
        size: int,
        *,
        seed: int = 0,
        category: str | Sequence[str] | None = None,
        rows: np.ndarray | None = None,
        epochs: int = 1,
    ) -> Iterator[np.ndarray]:
        """Every row once an epoch, shuffled over all prompts: float32 (size, d); the last of an epoch may be smaller.

        category: of these alone; rows: of these indices alone. The order depends on seed and epoch.
        """
        array = self.array(site)
        chosen = self.rows(category) if rows is None else np.asarray(rows)
        if size < 1:
            raise ValueError(f"a batch has 1 row or more, not {size}")
        return self._drawn(array, chosen.astype(np.uint32 if len(self) < 2**32 else np.int64), size, seed, epochs)

    def mlx_batches(
        self, site: str, size: int, *, seed: int = 0, category: str | Sequence[str] | None = None, epochs: int = 1
    ) -> Iterator[mx.array]:
        """`batches`, as mlx arrays."""
        return map(mx.array, self.batches(site, size, seed=seed, category=category, epochs=epochs))

    def check_model(self, model: Model) -> None:
        """Raises StoreError if the store was not collected from this model's weights."""
        theirs, ours = self.description["weights_hash"], weights_of(model)
        if theirs != ours:
            raise StoreError(
                f"{self.path}: holds activations of {self.description['model']} (weights {theirs[:12]}), not of "
                f"{model.name} (weights {ours[:12]}): load that model, or collect anew from this one"
            )

    def _site(self, site: str) -> str:
        name = str(parse_one(site, self.description["n_layers"]))
        if name not in self.description["sites"]:
            raise SiteError(
                f"{self.path}: no site {name!r}: {nearest(name, self.sites)}there are {', '.join(self.sites)}"
            )
        return name

    def _about(self, name: str) -> np.ndarray:
        parts = [tensors[name] for tensors, _ in self._mapped]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    @staticmethod
    def _drawn(array: SiteArray, rows: np.ndarray, size: int, seed: int, epochs: int) -> Iterator[np.ndarray]:
        for epoch in range(epochs):
            order = np.random.default_rng([seed, epoch]).permutation(rows)
            for start in range(0, len(order), size):
                yield array[order[start : start + size]]
