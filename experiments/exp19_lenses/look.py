"""A look at the lenses (--limit up to 32): fields of the study at which every part is over in a minute."""

from __future__ import annotations

from typing import Any

LOOK: dict[str, Any] = {
    "n_train_texts": 60,
    "lens_steps": 5,
    "n_transfer": 1,
    "tuning_steps": 10,
    "n_directions": 2,
    "n_basis_states": 24,
    "basis_steps": 1,
    "n_basis_texts": 2,
    "n_depth": 24,
    "n_tuned": 12,
    "n_queries": 1,
    "n_ordinary": 12,
    "n_injected": 4,
    "n_subjects": 2,
}
