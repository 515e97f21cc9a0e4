"""What is collected: prompts as they come, with their labels, and what of each one is stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import cast

import numpy as np

from mlx_interp import sites as site_names
from mlx_interp.errors import DataError, SiteError
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt, Prompt
from mlx_interp.sites import Site
from mlx_interp.store.positions import PositionRule, positions_of
from mlx_interp.store.shards import ROWS, item_bytes

END = object()


@dataclass(frozen=True)
class Item:
    """A prompt as it was given."""

    number: int
    prompt: AnyPrompt
    id: str
    category: str


@dataclass(frozen=True)
class Entry:
    """A prompt as it is run: its tokens, and which of its positions are stored."""

    item: Item
    prompt: Prompt
    n_prompt: int
    rows: list[int]


@dataclass(frozen=True)
class Job:
    """Sites and positions to collect from each prompt."""

    model: Model
    sites: tuple[Site, ...]
    rule: PositionRule
    dtype: str = "float32"
    max_new_tokens: int = 0
    chat: bool = False
    batch_size: int | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one row of each site."""
        return {str(site): row_shape(self.model, site) for site in self.sites}

    @property
    def row_bytes(self) -> int:
        """Of one position, all sites together."""
        numbers = sum(int(np.prod(shape)) for shape in self.shapes.values())
        return numbers * item_bytes(self.dtype) + sum(map(item_bytes, ROWS.values()))

    def entry(self, item: Item) -> Entry:
        raw = item.prompt
        prompt = self.model.prompt(raw, chat=True) if self.chat and isinstance(raw, str) else _one(self.model, raw)
        return Entry(item, prompt, len(prompt), positions_of(self.rule, prompt))


def storable(model: Model, sites: str | Sequence[str]) -> tuple[Site, ...]:
    """Sites by selectors. Raises SiteError for those that have no fixed width a position, and for none at all."""
    chosen = tuple(site_names.parse_all(sites, model.n_layers))
    if not chosen:
        raise SiteError("a store needs a site or more: give sites=['resid_post.3'], or 'all'")
    for site in chosen:
        if site.kind.of_edges:
            raise SiteError(f"{site} has a row as long as each prompt and cannot be stored: read it by `batches`")
    return chosen


def row_shape(model: Model, site: Site) -> tuple[int, ...]:
    """Shape of a site at one position: (d_model,), or (head, d_head)."""
    n_heads, width = model.network.site_shape(site, 1)
    return (n_heads, width) if n_heads else (width,)


def numbered(
    model: Model, prompts: AnyPrompt | Iterable[AnyPrompt], labels: Iterable[str] | None, ids: Iterable[str] | None
) -> Iterator[Item]:
    """Prompts with their labels and names, as they come. Raises DataError where there are not as many of each."""
    many = cast(Iterable[AnyPrompt], [prompts] if is_one(prompts) else prompts)
    for name, given in (("labels", labels), ("ids", ids)):
        if isinstance(given, Sized) and isinstance(many, Sized) and len(given) != len(many):
            raise DataError(f"{len(given)} {name} for {len(many)} prompts: give one for each")
    return _zipped(many, labels, ids)


def _zipped(prompts: Iterable[AnyPrompt], labels: Iterable[str] | None, ids: Iterable[str] | None) -> Iterator[Item]:
    given = [iter(some) for some in (labels, ids) if some is not None]
    number = -1
    for number, prompt in enumerate(prompts):
        row = [next(some, END) for some in given]
        if END in row:
            raise DataError(f"labels or ids end before prompt {number}: give one for each prompt")
        texts = iter(map(str, row))
        category = next(texts) if labels is not None else ""
        yield Item(number, prompt, next(texts, str(number)), category)
    if any(next(some, END) is not END for some in given):
        raise DataError(f"more labels or ids than the {number + 1} prompts: give one for each")


def bytes_of(item: Item) -> bytes:
    raw = item.prompt
    content = raw if isinstance(raw, str) else raw.tokens if isinstance(raw, Prompt) else [int(token) for token in raw]
    return (json.dumps([content, item.id, item.category]) + "\n").encode()


def first(items: Iterator[Item], n: int) -> Iterator[Item]:
    return (item for _, item in zip(range(n), items, strict=False))


def _one(model: Model, prompt: AnyPrompt) -> Prompt:
    return model.prompts([prompt])[0]


def is_one(prompts: object) -> bool:
    """Whether what was given is a single prompt, not several."""
    if isinstance(prompts, (str, Prompt)):
        return True
    return isinstance(prompts, Sequence) and bool(prompts) and all(isinstance(token, int) for token in prompts)


def natural(number: int) -> int:
    if number < 0:
        raise ValueError(f"max_new_tokens is 0 or more, not {number}")
    return number
