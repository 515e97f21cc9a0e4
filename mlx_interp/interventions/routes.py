"""Interventions on which experts a token takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import ShapeError
from mlx_interp.interventions.intervention import Intervention, Planner, Positions


@dataclass(frozen=True, eq=False, repr=False)
class Route(Intervention):
    """Which experts a token takes: some by force, some never; all else as the router has it, the weights by its logits.

    layers: 7, "8-20", [3, 4] or "all". force, forbid: numbers of experts.
    """

    layers: int | str | Sequence[int]
    force: int | Sequence[int] = ()
    forbid: int | Sequence[int] = ()
    positions: Positions = None

    @property
    def site(self) -> str:
        layers = self.layers
        return f"choice.{layers if isinstance(layers, (str, int, np.integer)) else ','.join(map(str, layers))}"

    @property
    def forced(self) -> tuple[int, ...]:
        return _numbers(self.force)

    @property
    def forbidden(self) -> tuple[int, ...]:
        return _numbers(self.forbid)

    def check(self) -> None:
        named = self.forced + self.forbidden
        if not named or len(set(named)) < len(named):
            raise ShapeError(f"{self}: name each expert once, in 'force' or in 'forbid', and one at least")

    def plan(self, planner: Planner, owner: tuple[int, int]) -> None:
        planner.edit(self, owner)
        n_experts, n_chosen = planner.routing
        if wrong := [i for i in self.forced + self.forbidden if not 0 <= i < n_experts]:
            raise ShapeError(f"{self}: no expert {wrong[0]}: a layer has experts 0 to {n_experts - 1}")
        if not len(self.forced) <= n_chosen <= n_experts - len(self.forbidden):
            raise ShapeError(
                f"{self}: a token takes {n_chosen} of {n_experts} experts; {len(self.forced)} are forced and "
                f"{len(self.forbidden)} forbidden: force at most {n_chosen}, forbid at most {n_experts - n_chosen}"
            )

    @classmethod
    def changed(cls, edits: Sequence[Route], old: mx.array, value: mx.array | None) -> mx.array:
        pull = np.zeros((len(edits), *(1,) * (old.ndim - 2), old.shape[-1]), dtype=np.float32)
        for row, edit in enumerate(edits):
            pull[row, ..., list(edit.forced)] = np.inf
            pull[row, ..., list(edit.forbidden)] = -np.inf
        return old + mx.array(pull).astype(old.dtype)


def _numbers(named: int | Sequence[int]) -> tuple[int, ...]:
    return (int(named),) if isinstance(named, (int, np.integer)) else tuple(int(i) for i in named)
