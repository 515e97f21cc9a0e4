"""Records of a run as tables read them: filtered by label, and summed up with an interval over what is resampled.

Frame(records).where(arm="patched").rate("hit", unit="item", seed=0)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

from mlx_interp.reporting import Record
from mlx_interp.stats import Estimate, mean_or_none

T = TypeVar("T")
RecordT = TypeVar("RecordT", bound=Mapping[str, Any])


class Frame(list[Record]):
    """A list of records that knows how tables filter and sum up."""

    def of(self, stage: str, **labels: object) -> Frame:
        """A stage's records that carry these labels, in order."""
        return self.where(stage=stage, **labels)

    def where(self, **labels: object) -> Frame:
        """The records that carry these labels, in order; a label that a record lacks is None there."""
        return Frame(r for r in self if all(r.get(name) == value for name, value in labels.items()))

    def measured(self, field: str) -> Frame:
        """The records in which a field is not None."""
        return Frame(r for r in self if r[field] is not None)

    def values(self, field: str) -> list[Any]:
        """A field of every record."""
        return [r[field] for r in self]

    def rate(self, field: str = "hit", *, unit: str = "item", seed: int) -> Estimate | None:
        """Mean of a field, or share of the records where it is true, with an interval over units.

        unit: the field that says which records are resampled together (a prompt, a fact). None for fewer than two
        units: a cell that a table leaves empty.
        """
        return self.mean([float(value) for value in self.values(field)], unit=unit, seed=seed)

    def amount(self, field: str, *, unit: str = "item", seed: int) -> Estimate | None:
        """As `rate`, of an amount (nats, tokens): 0 in all records is no rate of 0 %."""
        return mean_or_none(self.values(field), unit=self.values(unit), seed=seed, hits=False)

    def mean(self, values: Iterable[float], *, unit: str = "item", seed: int) -> Estimate | None:
        """As `rate`, of one value for each record."""
        return mean_or_none(list(values), unit=self.values(unit), seed=seed)


def of(records: Iterable[Record], stage: str, **labels: object) -> Frame:
    """A stage's records that carry these labels, in order."""
    return Frame(records).of(stage, **labels)


def typed(records: Iterable[Record], stage: str, kind: type[RecordT], **labels: object) -> list[RecordT]:
    """A stage's records that carry these labels, as its record type has them: what the runner held them to."""
    return cast("list[RecordT]", of(records, stage, **labels))


def spread(items: Sequence[T], n: int) -> list[T]:
    """At most n items, evenly over a list whose order has a structure."""
    return [items[i * len(items) // n] for i in range(n)] if len(items) > n else list(items)
