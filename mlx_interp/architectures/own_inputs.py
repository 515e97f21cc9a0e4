"""Inputs of a layer's own, beside the residual stream: each layer's embedding of the token (Gemma 4, Gemma 3n)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OwnInputs:
    """Where mlx-lm's model keeps them: a layer's gate reads the stream, and what it lets through is projected back."""

    width: str = "hidden_size_per_layer_input"
    """Config key of their width; 0 where a model of the family has none."""
    gate: str = "per_layer_input_gate"
    project: str = "per_layer_projection"
    norm: str = "post_per_layer_input_norm"
