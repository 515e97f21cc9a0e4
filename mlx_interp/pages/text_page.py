"""Text page: rows of texts in columns, chosen by filters and by words in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlx_interp.errors import PageError
from mlx_interp.pages.page import Page, page


def texts(
    rows: Sequence[Mapping[str, str]],
    *,
    filters: Sequence[str] = (),
    start: Mapping[str, str] | None = None,
    title: str = "Texts",
    about: str = "",
) -> Page:
    """Text page. rows: a text for each column, the same columns in each row; "" where there is none.

    filters: columns that are chosen from by value, and stand in front. start: what is chosen first; a view has an
    address of its own (`texts.html#scale=1`). Raises PageError for rows of different columns, and for filters or a
    start that name none.
    """
    columns = list(rows[0]) if rows else []
    for number, row in enumerate(rows):
        if list(row) != columns:
            raise PageError(f"row {number} has columns {list(row)}, the first one {columns}: give all rows the same")
    foreign = [name for name in (*filters, *(start or {})) if rows and name not in columns]
    if foreign:
        raise PageError(f"no column {foreign[0]!r} to choose by: columns are {', '.join(columns)}")
    return page(
        "texts",
        title=title,
        about=about,
        columns=columns,
        filters=list(filters),
        start=dict(start or {}),
        rows=[list(row.values()) for row in rows],
    )
