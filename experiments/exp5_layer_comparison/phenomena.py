"""What is compared by depth, and its options."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.shared.traits.stages import TraitConfig

TRAITS = ("refusal", "stance", "confidence")
BRIDGE = "bridge"
VECTOR = "function vector"
PHENOMENA = (*TRAITS, BRIDGE, VECTOR)
REPORTED = {"refusal": 0.64, "stance": 0.80, "confidence": 0.96}
"""Depth in the first round, on Gemma 2 2B, by the length of the direction (stance: there called sycophancy)."""


@dataclass(frozen=True)
class PhenomenaConfig(TraitConfig):
    """Fields of the study."""

    max_queries: int = 120
    """Two-hop queries, evenly over the data."""
    max_tasks: int = 6
    """In-context tasks, evenly over those that there are."""
    queries_per_task: int = 6
    """Held-out queries of each task."""
    n_heads: int = 10
    """Heads of a function vector."""
