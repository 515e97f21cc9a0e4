"""Sparse autoencoders: train, measure, splice, read and write them, and edit single features."""

from mlx_interp.sae.sae import KINDS, SAE, Kind
from mlx_interp.sae.streams import InMemory, Streamed, activations
from mlx_interp.sae.training import TrainConfig, train

__all__ = ["KINDS", "SAE", "InMemory", "Kind", "Streamed", "TrainConfig", "activations", "train"]
