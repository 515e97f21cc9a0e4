"""Quantises a trained model and writes it in the Hub layout, with mlx-lm's own utilities."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx_lm.utils import quantize_model, save_config, save_model
from transformers import PreTrainedTokenizerFast

from mlx_interp.embedded.tokenizer import save_tokenizer

BITS, GROUP_SIZE = 4, 64


def export(model: nn.Module, config: dict[str, Any], tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The model in 4 bits (in place), its config and its tokenizer; `folder` is replaced when all is written."""
    quantised, quantised_config = quantize_model(model, copy.deepcopy(config), GROUP_SIZE, BITS)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_model(part, quantised)
    save_config(quantised_config, part / "config.json")
    save_tokenizer(tokenizer, part, config["model_type"])
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)
