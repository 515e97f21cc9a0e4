"""gpt-oss's RoPE: YaRN whose limits are not rounded (`truncate: false`), which mlx-lm leaves out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlx_interp.loading.configs import normalised
from mlx_interp.loading.rope import put_ropes_right
from tests.parity.reference import TOKENS, reference
from tests.tiny import FAMILY_CONFIGS, tiny_model

YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def test_it_is_computed_as_transformers_does_and_not_as_mlx_lm_would() -> None:
    pytest.importorskip("torch", reason="compares with transformers; `pip install torch` to run it")
    wide = {"head_dim": 32, "hidden_size": 60, "rope_theta": 150000.0, "rope_scaling": YARN}
    config = {**FAMILY_CONFIGS["gpt_oss"], **wide, "max_position_embeddings": 131072}
    expected = reference(config, TOKENS)["logits"]
    model = tiny_model("gpt_oss", **normalised(config, ["lm_head.weight"]))

    def error() -> float:
        found = np.asarray(model.run(TOKENS, logits="all").logits)[0]
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    assert error() > 1e-4
    assert put_ropes_right(model.network) == "yarn"
    assert error() < 1e-5
