"""Stores of activations: `collect` writes one, `ActivationStore` (or `open`) reads it."""

from __future__ import annotations

from pathlib import Path

from mlx_interp.store.collect import collect
from mlx_interp.store.estimate import Estimate, Size, estimate, size
from mlx_interp.store.reader import ActivationStore, SiteArray

__all__ = ["ActivationStore", "Estimate", "SiteArray", "Size", "collect", "estimate", "open", "size"]


def open(path: Path | str, *, verify: bool = False) -> ActivationStore:
    """The store in a folder. Raises what `ActivationStore` raises."""
    return ActivationStore(path, verify=verify)
