"""Patching: activations of one run written into another, and attention knocked out.

`activation_patching`, `head_patching`, `path_patching`, `back_patching_grid`, `attention_knockout`: each is one sweep,
and returns the logits of every counterfactual or a metric of them. `patching_grid` reads one as shares, with what
each cell says; `mean_ablation` gives interventions for any of them.
`distributed_alignment_search` learns which subspace carries what two prompts differ by.
"""

from mlx_interp.patching.ablations import mean_ablation
from mlx_interp.patching.activation_patches import activation_patching, head_patching, logit_difference
from mlx_interp.patching.alignment import (
    Exchange,
    Subspace,
    distributed_alignment_search,
    interchange_accuracy,
    interchanged,
    random_subspace,
    search_cost,
)
from mlx_interp.patching.back_patching import back_patching_grid, back_patching_pairs, same_layer_pairs
from mlx_interp.patching.knockout import attention_knockout
from mlx_interp.patching.path_patches import path_patching
from mlx_interp.patching.recovered import PatchingGrid, patching_grid

__all__ = [
    "Exchange",
    "PatchingGrid",
    "Subspace",
    "activation_patching",
    "attention_knockout",
    "back_patching_grid",
    "back_patching_pairs",
    "distributed_alignment_search",
    "head_patching",
    "interchange_accuracy",
    "interchanged",
    "logit_difference",
    "mean_ablation",
    "patching_grid",
    "path_patching",
    "random_subspace",
    "same_layer_pairs",
    "search_cost",
]
