"""Old names of modules: what `mlx_interp.methods` held lies in rooms by field since, and is found here all the same.

`mlx_interp.methods.answers` is `mlx_interp.behaviour.answers`, with a warning; code written before goes on working.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module

ROOMS = {
    "behaviour": {
        "amplification": "amplification",
        "answers": "answers",
        "detectors": "detectors",
        "finetuning": "finetuning",
        "judge": "judge",
        "phrases": "phrases",
        "suffix": "suffix",
        "text_classifier": "text_classifier",
        "two_hop": "two_hop",
    },
    "directions": {
        "candidates": "candidates",
        "contrast": "contrasts",
        "direction_test": "direction_test",
        "directions": "direction",
        "orthogonalization": "orthogonalization",
        "persona": "persona",
        "probes": "probes",
        "prompt_addition": "prompt_addition",
        "set_states": "state_sets",
        "state_classifier": "state_classifier",
        "states": "states",
        "steering": "steering",
        "steering_chat": "steering_chat",
    },
    "in_context": {
        "function_vectors": "function_vectors",
        "in_context": "demonstrations",
    },
    "lenses": {
        "affine": "affine",
        "causal_basis": "causal_bases",
        "lens": "logit",
        "lens_measures": "lens_measures",
        "patchscopes": "patchscopes",
        "trajectories": "trajectories",
        "tuned_lens": "tuned",
    },
    "patching": {
        "knockout": "knockout",
        "patching": "back_patching",
    },
    "stats": {
        "selection": "held_out",
    },
}
"""By room: the module's old name, and its name there."""

warnings.warn(
    "mlx_interp.methods became mlx_interp.lenses, patching, directions, in_context and behaviour; import from there",
    DeprecationWarning,
    stacklevel=2,
)
for room, modules in ROOMS.items():
    for old, new in modules.items():
        sys.modules[f"{__name__}.{old}"] = globals()[old] = import_module(f"mlx_interp.{room}.{new}")
