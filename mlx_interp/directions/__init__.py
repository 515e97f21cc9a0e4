"""Directions: found, tested, selected, added, ablated, written into the weights.

Found by `difference_of_means`, `contrast` (every layer), `probe`, `refusal_direction`, `persona_vectors`,
`prompt_difference`, `assistant_axis`, `concept_vectors`; applied by `steer`, `ablate`, `orthogonalize`, or as
interventions (`Direction.added`, `Clamp`). `expert_differences` steers by the experts that tokens take.
"""

from mlx_interp.directions.ablation_search import AblationSearch, AblationTrial, ablation_effect, search_ablation
from mlx_interp.directions.capping import assistant_axis, projection_quantile
from mlx_interp.directions.concepts import concept_vectors
from mlx_interp.directions.contrasts import Contrast, contrast
from mlx_interp.directions.control_vector import ControlVector, load_control_vector, save_control_vector
from mlx_interp.directions.direction import Direction, diff_of_means, load_direction, save_direction
from mlx_interp.directions.direction_test import DifferenceTest, difference_test
from mlx_interp.directions.expert_steering import ExpertDifferences, expert_differences
from mlx_interp.directions.orthogonalization import orthogonalize, orthogonalized, save_checkpoint
from mlx_interp.directions.persona import PersonaVectors, persona_vectors
from mlx_interp.directions.probes import Probe, load_probe, probe, save_probe
from mlx_interp.directions.prompt_addition import PromptDifference, prompt_difference
from mlx_interp.directions.refusal import refusal_direction, refusal_selection
from mlx_interp.directions.state_classifier import StateClassifier, fit_state_classifier
from mlx_interp.directions.states import states_of
from mlx_interp.directions.steering import ablate, added_at_strength, steer, stream_norm
from mlx_interp.directions.strengths import SteeredTexts, steered_texts

difference_of_means = diff_of_means
"""By its long name."""

__all__ = [
    "AblationSearch",
    "AblationTrial",
    "Contrast",
    "ControlVector",
    "DifferenceTest",
    "Direction",
    "ExpertDifferences",
    "PersonaVectors",
    "Probe",
    "PromptDifference",
    "StateClassifier",
    "SteeredTexts",
    "ablate",
    "ablation_effect",
    "added_at_strength",
    "assistant_axis",
    "concept_vectors",
    "contrast",
    "diff_of_means",
    "difference_of_means",
    "difference_test",
    "expert_differences",
    "fit_state_classifier",
    "load_control_vector",
    "load_direction",
    "load_probe",
    "orthogonalize",
    "orthogonalized",
    "persona_vectors",
    "probe",
    "projection_quantile",
    "prompt_difference",
    "refusal_direction",
    "refusal_selection",
    "save_checkpoint",
    "save_control_vector",
    "save_direction",
    "save_probe",
    "search_ablation",
    "states_of",
    "steer",
    "steered_texts",
    "stream_norm",
]
