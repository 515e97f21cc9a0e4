"""Configs of which mlx-lm's classes of recent families compute one half only: refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_interp.architectures import family_of
from mlx_interp.errors import UnsupportedModel
from mlx_interp.loading.configs import normalised
from tests.tiny import FAMILY_CONFIGS, MINISTRAL3_ROPE

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "windows in every layer": ("ministral3", {"sliding_window": 4}, "a window of 4 in every layer"),
    "queries that grow by nothing": (
        "ministral3",
        {"rope_parameters": {k: v for k, v in MINISTRAL3_ROPE.items() if k != "llama_4_scaling_beta"}},
        "no llama_4_scaling_beta",
    ),
    "another language model inside": (
        "mistral3",
        {"text_config": {**FAMILY_CONFIGS["llama"], "model_type": "mistral"}},
        "of type 'mistral'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_computed_by_half_is_refused_by_name(name: str) -> None:
    family, fields, message = REFUSED[name]
    with pytest.raises(UnsupportedModel, match=message):
        family_of(normalised({**FAMILY_CONFIGS[family], **fields}, ["lm_head.weight"]))


@pytest.mark.parametrize("family", {family for family, _, _ in REFUSED.values()})
def test_without_that_they_are_not(family: str) -> None:
    assert family_of(normalised(FAMILY_CONFIGS[family], ["lm_head.weight"])).model_type == family
