"""Feature page: what a feature of a sparse autoencoder is active on, how often, what it writes, and what is like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mlx_interp.pages.page import Page, page

Named = tuple[str, float]


@dataclass(frozen=True)
class Example:
    """One text: its tokens, and the feature at each (0 at BOS, which is left out)."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class FeaturePage:
    """Dashboard of one feature."""

    feature: int
    title: str
    n_tokens: int
    n_active: int
    largest: float
    histogram: tuple[int, ...]
    """Active tokens in 20 equal bins from 0 to the largest activation."""
    examples: tuple[Example, ...]
    raised: tuple[Named, ...]
    """Tokens whose logits the feature raises most when added to the mean last state, in logits."""
    lowered: tuple[Named, ...]
    nearest: tuple[tuple[int, float], ...]
    """Features whose directions are most alike, by cosine."""


def features(pages: Sequence[FeaturePage], *, title: str = "Features", note: str = "") -> Page:
    """Feature page: a list to choose from, and the chosen feature's texts, histogram, tokens and neighbours."""
    return page("features", title=title, about=note, features=[asdict(one) for one in pages])
