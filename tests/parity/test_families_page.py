"""docs/families.md says what is: every family, every site, and errors of the size that they have."""

from __future__ import annotations

import re

import pytest

from mlx_interp.architectures import FAMILIES
from tests.parity.families_page import COLUMNS, OF_MIXERS, PAGE, errors, page
from tests.parity.test_sites_equal_transformers import BOUND

TEXT = PAGE.read_text(encoding="utf-8")


def without_numbers(text: str) -> str:
    """The page with its errors left out: their last digit differs from machine to machine."""
    return re.sub(r"\b\d+e[-+]?\d+\b", "#", text)


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    return {family: errors(family) for family in FAMILIES}


def test_the_page_is_what_its_script_makes(measured: dict[str, dict[str, float]]) -> None:
    assert without_numbers(page(measured)) == without_numbers(TEXT), "python -m tests.parity.families_page"


def test_its_errors_are_of_the_size_that_is_measured(measured: dict[str, dict[str, float]]) -> None:
    found: dict[str, dict[str, str]] = {}
    for block in re.findall(r"^\| family \|.*?(?=\n\n)", TEXT, re.DOTALL | re.MULTILINE):
        head, _, *rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for family, *cells in rows:
            found.setdefault(family, {}).update(zip(head[1:], cells, strict=True))
    assert found.keys() == FAMILIES.keys()
    for family, cells in found.items():
        assert cells.keys() | set(OF_MIXERS) == {*COLUMNS, "logits"}
        for site in (*COLUMNS, "logits"):
            cell = cells.get(site, "-")
            if cell == "-":
                assert site not in measured[family]
                continue
            assert measured[family][site] < BOUND
            assert float(cell) / 30 < measured[family][site] + 1e-8 < float(cell) * 30 + 1e-7, (family, site)
