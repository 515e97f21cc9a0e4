"""Steered texts: what a model writes at each of several strengths of a direction, beside what it writes without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlx_interp import pages
from mlx_interp.behaviour.detectors import repetition
from mlx_interp.deferred import mx
from mlx_interp.directions.direction import Direction
from mlx_interp.directions.steering import Unit, added_at_strength
from mlx_interp.errors import DirectionError
from mlx_interp.interventions import Add, Intervention, Positions
from mlx_interp.model import Completion, Model
from mlx_interp.prompts import AnyPrompt, Prompt

STRENGTHS = (-0.4, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.4)
"""In shares of the stream's norm: from hardly seen to what breaks most models' texts."""
UNITS = {"stream": "of the stream's norm", "difference": "times the difference of means", "absolute": "long"}


@dataclass(frozen=True, eq=False)
class SteeredTexts(pages.AsPage):
    """Texts by prompt and strength; `to_html` writes a page with a slider."""

    site: str
    unit: Unit
    strengths: tuple[float, ...]
    plain: tuple[Completion, ...]
    """Of each prompt, without the direction."""
    steered: tuple[tuple[Completion, ...], ...]
    """Of each prompt, at each strength."""

    def page(self) -> pages.Page:
        """Each prompt's texts side by side; repetition is the share of three tokens in a row that came before."""
        rows = [
            pages.Steered(
                plain.prompt.text,
                plain.text,
                [one.text for one in texts],
                {"repetition": [repetition(one.tokens) for one in texts]},
            )
            for plain, texts in zip(self.plain, self.steered, strict=True)
        ]
        return pages.steering(
            rows,
            strengths=self.strengths,
            unit=UNITS[self.unit],
            title=f"Steering at {self.site}",
            start=0.1 if self.unit == "stream" else None,
        )


def steered_texts(
    model: Model,
    prompts: AnyPrompt | Sequence[AnyPrompt],
    direction: Direction,
    strengths: Sequence[float] = STRENGTHS,
    *,
    unit: Unit = "stream",
    positions: Positions = None,
    max_tokens: int = 48,
) -> SteeredTexts:
    """Steered texts: greedy texts after each prompt at every strength of a direction; all of a prompt are one sweep.

    strengths, unit, positions: as in `steer`. Raises what `steer` raises; PageError, from its page, for strengths that
    do not rise.
    """
    asked = model.prompts(prompts)
    whole = added_at_strength(model, direction, 1.0, asked, unit=unit, positions=positions)
    edits = [_at(whole, strength) for strength in strengths]
    plain, steered = [], []
    for prompt in asked:
        _refuse_overflow(model, prompt, edits, strengths)
        first, *others = model.sweep_generate(prompt, [[], *edits], max_tokens=max_tokens)
        plain.append(first)
        steered.append(tuple(others))
    return SteeredTexts(direction.site, unit, tuple(map(float, strengths)), tuple(plain), tuple(steered))


def _at(whole: Add, strength: float) -> list[Intervention]:
    return [replace(whole, scale=whole.scale * strength)] if strength else []


def _refuse_overflow(
    model: Model, prompt: Prompt, edits: Sequence[list[Intervention]], strengths: Sequence[float]
) -> None:
    """Raises DirectionError for the first strength at which the model's activations are not finite."""
    last = f"resid_post.{model.n_layers - 1}"
    out = model.sweep(prompt, edits, capture=last)
    lengths = np.asarray(mx.linalg.norm(out[last].astype(mx.float32), axis=-1)).sum(axis=-1)
    for strength, length, logits in zip(strengths, lengths, np.asarray(out.logits), strict=True):
        if not np.isfinite(length) or not np.isfinite(logits).all():
            raise DirectionError(
                f"activations after {prompt.text!r} are not finite at strength {strength}: give smaller ones"
            )
