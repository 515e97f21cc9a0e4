"""A checkpoint, whatever it is stored as: a folder of safetensors or one GGUF file."""

from __future__ import annotations

from pathlib import Path

from mlx_interp.loading.checkpoint import Checkpoint, read_checkpoint
from mlx_interp.loading.gguf import read_gguf


def open_checkpoint(path: Path) -> Checkpoint:
    """Config, tokenizer and headers, checked; no weight is read. Raises CheckpointError and UnsupportedModel."""
    return read_gguf(path) if path.is_file() else read_checkpoint(path)
