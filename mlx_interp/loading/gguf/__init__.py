"""GGUF, the file format of llama.cpp: one file with weights, configuration and tokenizer, read as a checkpoint."""

from mlx_interp.loading.gguf.checkpoint import read_gguf

__all__ = ["read_gguf"]
