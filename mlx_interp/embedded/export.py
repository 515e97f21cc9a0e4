"""Quantises a trained model and writes it in the Hub layout, with mlx-lm's own utilities."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

from mlx_interp.deferred import mlx_lm, nn, transformers
from mlx_interp.embedded.tokenizer import save_tokenizer

BITS, GROUP_SIZE = 4, 64


def export(
    model: nn.Module, config: dict[str, Any], tokenizer: transformers.PreTrainedTokenizerFast, folder: Path
) -> None:
    """The model in 4 bits (in place), its config and its tokenizer; `folder` is replaced when all is written."""
    quantised, quantised_config = mlx_lm.utils.quantize_model(model, copy.deepcopy(config), GROUP_SIZE, BITS)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    mlx_lm.utils.save_model(part, quantised)
    mlx_lm.utils.save_config(quantised_config, part / "config.json")
    save_tokenizer(tokenizer, part, config["model_type"])
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
