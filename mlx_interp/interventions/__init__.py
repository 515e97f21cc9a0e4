"""Interventions as data: what is changed, where, at which positions; the engine reads them, no hook hides them.

`site` is a selector (see `sites`); one that names several layers is applied at each. `positions` is an int, a slice, a
list of ints (negative ones count from the prompt's end), "generated" (generated tokens only), or None: every position,
generated ones too. `heads` is an int or a list of them, at sites that have heads. Arrays broadcast against
(batch, n_positions, ...) of their site: (d_model,), (n_positions, d_model), (batch, n_positions, d_model); at q k v z
(d_head,), (n_heads, d_head), (n_positions, n_heads, d_head), ... without the head axis when `heads` is an int.
A vector that knows its site, a `Direction` above all, stands for its array. The stream keeps its dtype. Several
interventions at one site apply in the order given.
"""

from mlx_interp.interventions.clamp import Clamp
from mlx_interp.interventions.edits import Ablate, Add, Apply, Knockout, Patch, Scale
from mlx_interp.interventions.features import Dictionary, Features
from mlx_interp.interventions.intervention import (
    ArrayLike,
    Heads,
    Intervention,
    Interventions,
    Planner,
    Positions,
    SteeringVector,
    Steers,
    Variants,
    column,
)
from mlx_interp.interventions.routes import Route
from mlx_interp.interventions.subspace import Interchange

__all__ = [
    "Ablate",
    "Add",
    "Apply",
    "ArrayLike",
    "Clamp",
    "Dictionary",
    "Features",
    "Heads",
    "Interchange",
    "Intervention",
    "Interventions",
    "Knockout",
    "Patch",
    "Planner",
    "Positions",
    "Route",
    "Scale",
    "SteeringVector",
    "Steers",
    "Variants",
    "column",
]
