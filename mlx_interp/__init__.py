"""mlx_interp: look inside language models that run under MLX, change what is there, measure what that does."""

# First of all imports: `mlx_interp.loading` opens a fast BLAS before anything imports mlx.core (loading/blas.py).
from mlx_interp.loading import load  # isort: split

from mlx_interp import (
    behaviour,
    circuits,
    controls,
    directions,
    errors,
    in_context,
    lenses,
    pages,
    patching,
    reporting,
    sae,
    sharing,
    stats,
    store,
)
from mlx_interp.activations import Activations, Gradients
from mlx_interp.architectures import Family, register
from mlx_interp.directions.contrasts import Contrast, contrast
from mlx_interp.directions.direction import Direction, diff_of_means, load_direction, save_direction
from mlx_interp.directions.orthogonalization import orthogonalize, orthogonalized, save_checkpoint
from mlx_interp.in_context.demonstrations import FunctionTask
from mlx_interp.in_context.function_vectors import FunctionVector, function_vector
from mlx_interp.interventions import (
    Ablate,
    Add,
    Apply,
    Clamp,
    Features,
    Interchange,
    Intervention,
    Knockout,
    Patch,
    Route,
    Scale,
)
from mlx_interp.model import Completion, Model
from mlx_interp.patching.ablations import mean_ablation
from mlx_interp.prompts import Prompt
from mlx_interp.reporting import heat_map, line_with_band
from mlx_interp.store import ActivationStore, collect

__all__ = [
    "Ablate",
    "ActivationStore",
    "Activations",
    "Add",
    "Apply",
    "Clamp",
    "Completion",
    "Contrast",
    "Direction",
    "Family",
    "Features",
    "FunctionTask",
    "FunctionVector",
    "Gradients",
    "Interchange",
    "Intervention",
    "Knockout",
    "Model",
    "Patch",
    "Prompt",
    "Route",
    "Scale",
    "behaviour",
    "circuits",
    "collect",
    "contrast",
    "controls",
    "diff_of_means",
    "directions",
    "errors",
    "function_vector",
    "heat_map",
    "in_context",
    "lenses",
    "line_with_band",
    "load",
    "load_direction",
    "mean_ablation",
    "orthogonalize",
    "orthogonalized",
    "pages",
    "patching",
    "register",
    "reporting",
    "sae",
    "save_checkpoint",
    "save_direction",
    "sharing",
    "stats",
    "store",
]
