"""Steering: a direction applied at a strength that means the same in every model, and texts with and without it.

1. A strength is a share of the mean norm of the residual stream where the direction is added ("stream", the one that
   compares across models and layers), a multiple of the direction's own length ("difference": 1 moves from one class's
   mean to the other's), or a length ("absolute").
2. The edit is activation addition at the direction's own site (Turner et al. 2023), at all positions unless said
   otherwise, or directional ablation of all that is written to the stream (Arditi et al. 2024).
3. A strength at which the model's output is not finite is an error, never a text of token 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from mlx_interp.deferred import mx
from mlx_interp.directions.direction import Direction
from mlx_interp.errors import ConfigError, DirectionError
from mlx_interp.interventions import Add, Interventions, Positions
from mlx_interp.model import Completion, Model
from mlx_interp.prompts import AnyPrompt, Prompt

Unit: TypeAlias = Literal["stream", "difference", "absolute"]
UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True)
class Pair:
    """Texts of a model after one prompt, left alone and steered."""

    plain: Completion
    steered: Completion


def stream_norm(model: Model, prompts: Sequence[AnyPrompt], site: str) -> float:
    """Mean norm of one residual site over all positions of the prompts but the first, in float32.

    The first position is left out: in many models it holds an attention sink a hundred times as long as the rest.
    """
    total, count = 0.0, 0
    for out in model.batches(prompts, capture=site):
        norms = mx.linalg.norm(out[site].astype(mx.float32), axis=-1)
        for row, length in enumerate(out.lengths):
            kept = norms[row, min(1, length - 1) : length]
            total, count = total + float(kept.sum()), count + kept.size
    return total / count


def added_at_strength(
    model: Model,
    direction: Direction,
    alpha: float,
    prompts: Sequence[AnyPrompt],
    *,
    unit: Unit = "stream",
    positions: Positions = None,
) -> Add:
    """The activation addition of strength `alpha`; `prompts` are what the stream's norm is read from.

    Raises ConfigError for a strength that is not a number, or an unknown unit.
    """
    if not math.isfinite(alpha):
        raise ConfigError(f"strength {alpha}: give a finite number, 0 for no steering")
    if unit not in UNITS:
        raise ConfigError(f"unknown unit {unit!r} of a strength: one of {', '.join(UNITS)}")
    lengths = {"stream": lambda: stream_norm(model, prompts, direction.site), "absolute": lambda: 1.0}
    scale = alpha if unit == "difference" else alpha * lengths[unit]() / direction.norm
    return Add(direction.site, direction.vector, scale, positions)


def finite_under(model: Model, prompt: AnyPrompt, interventions: Interventions) -> bool:
    """Whether the model's activations and logits are numbers under interventions."""
    last = f"resid_post.{model.n_layers - 1}"
    out = model.run(prompt, interventions=interventions, capture=last)
    assert out.logits is not None
    # A stream whose squares overflow is normed to zeros: finite logits that say nothing. So its norm is looked at too.
    lengths = mx.linalg.norm(out[last].astype(mx.float32), axis=-1)
    return bool(mx.isfinite(out.logits).all() & mx.isfinite(lengths).all())


def side_by_side(model: Model, prompt: AnyPrompt, interventions: Interventions, *, max_tokens: int = 64) -> Pair:
    """Greedy texts after one prompt without and with interventions, decoded as one batch.

    Raises DirectionError if the steered output is not finite.
    """
    if not finite_under(model, prompt, interventions):
        raise DirectionError("at this strength the model's activations are not finite: give a smaller one")
    plain, steered = model.sweep_generate(prompt, [[], interventions], max_tokens=max_tokens)
    return Pair(plain, steered)


def steer(
    model: Model,
    prompts: AnyPrompt | Sequence[AnyPrompt],
    direction: Direction,
    strength: float,
    *,
    unit: Unit = "stream",
    positions: Positions = None,
    max_tokens: int = 64,
) -> list[Completion]:
    """Activation addition: greedy texts after some prompts, with `strength` times the direction added at its site.

    unit: "stream" (a share of the stream's mean norm on these prompts, which compares across models), "difference" (of
    the direction's own length) or "absolute". positions: all by default, generated ones too.
    Raises ConfigError for a strength that is no number or an unknown unit, DirectionError where the model's activations
    are not finite at it.
    """
    asked = model.prompts(prompts)
    edit = added_at_strength(model, direction, strength, asked, unit=unit, positions=positions)
    return _written_under(model, asked, [edit], max_tokens)


def ablate(
    model: Model, prompts: AnyPrompt | Sequence[AnyPrompt], direction: Direction, *, max_tokens: int = 64
) -> list[Completion]:
    """Directional ablation: greedy texts after some prompts, the direction removed from all layers' writes.

    Raises DirectionError where the model's activations are not finite without it.
    """
    return _written_under(model, model.prompts(prompts), direction.ablated_everywhere(), max_tokens)


def _written_under(
    model: Model, prompts: Sequence[Prompt], interventions: Interventions, max_tokens: int
) -> list[Completion]:
    for prompt in prompts:
        if not finite_under(model, prompt, interventions):
            raise DirectionError(f"activations after {prompt.text!r} are not finite: give a smaller strength")
    return model.generate(prompts, interventions=interventions, max_tokens=max_tokens)
