"""Logit lens page: the likeliest token of every layer at every position, its alternatives where the pointer rests."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_interp.errors import PageError
from mlx_interp.pages.page import Page, page, shares


def lens(
    readings: Sequence[Sequence[Sequence[tuple[str, float]]]],
    *,
    tokens: Sequence[str],
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    title: str = "Logit lens",
    about: str = "",
) -> Page:
    """Logit lens page. readings: by layer and position, the likeliest tokens with their probabilities, best first.

    tokens: of the positions shown. layers, positions: their numbers, from 0 where left out.
    Raises PageError for readings of another shape, and for a page that would be too large.
    """
    if not readings or any(len(row) != len(tokens) for row in readings) or not all(all(row) for row in readings):
        raise PageError(
            f"a lens of {len(readings)} layers over {len(tokens)} tokens needs a reading for each of them: found rows "
            f"of {sorted({len(row) for row in readings})}"
        )
    return page(
        "lens",
        title=title,
        about=about,
        tokens=list(tokens),
        layers=list(layers if layers is not None else range(len(readings))),
        positions=list(positions if positions is not None else range(len(tokens))),
        readings=[[shares(one) for one in row] for row in readings],
        k=max(len(one) for row in readings for one in row),
    )
