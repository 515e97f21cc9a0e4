"""Small trained models of a synthetic world whose ground truth is known: data, training, checkpoints."""

from mlx_interp.embedded.world import (
    REFUSAL_LAYER,
    ChatPrompt,
    Fact,
    InContextTask,
    World,
    load_world,
    trained_refusal_direction,
)

__all__ = ["REFUSAL_LAYER", "ChatPrompt", "Fact", "InContextTask", "World", "load_world", "trained_refusal_direction"]
