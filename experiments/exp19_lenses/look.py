"""A look at the lenses (--limit up to 32): fields of the study at which every part is over in a minute."""

from __future__ import annotations

from typing import Any

LOOK: dict[str, Any] = {
    "n_train_texts": 100,
    "lens_steps": 40,
    "tuning_steps": 10,
    "n_directions": 3,
    "n_basis_states": 24,
    "basis_steps": 3,
    "n_basis_texts": 4,
    "n_depth": 24,
    "n_tuned": 12,
    "n_queries": 2,
    "n_ordinary": 30,
    "n_injected": 10,
    "n_subjects": 2,
}
