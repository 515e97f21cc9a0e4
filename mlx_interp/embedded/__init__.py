"""Small trained models of a synthetic world whose ground truth is known: data, training, checkpoints."""

from mlx_interp.embedded.world import ChatPrompt, Fact, InContextTask, World, load_world

__all__ = ["ChatPrompt", "Fact", "InContextTask", "World", "load_world"]
