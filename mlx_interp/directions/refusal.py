"""The refusal direction: difference of means, selected by what it does (Arditi et al. 2024).

1. Half of the harmful and of the harmless instructions, through the chat template, give a difference of means at every
   layer and at every token of the template behind the instruction.
2. Each is tried on the other half: ablated from everything that is written to the stream (refusals must go), and added
   on harmless instructions (refusals must come), while what the model otherwise says stays (`directions.candidates`).
"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_interp.behaviour.detectors import opener_tokens
from mlx_interp.directions.candidates import KL_BOUND, Selection, select
from mlx_interp.directions.contrasts import LEAST, contrast, template_positions
from mlx_interp.directions.direction import Direction
from mlx_interp.errors import DataError, DirectionError
from mlx_interp.model import Model
from mlx_interp.stats import split_halves


def refusal_direction(
    model: Model, harmful: Sequence[str], harmless: Sequence[str], *, kl_bound: float = KL_BOUND, seed: int = 0
) -> Direction:
    """Refusal direction of a chat model: the selected difference of means, with its length.

    harmful, harmless: instructions as plain texts, eight of each or more. Found on one half and selected on the other.
    kl_bound: what its ablation may change of the next token after harmless instructions, in nats.
    Raises DataError for fewer, or a model that refuses none of them; DirectionError where no candidate passes.
    """
    found = refusal_selection(model, harmful, harmless, seed=seed)
    cells = found.within(kl_bound)
    if not cells:
        raise DirectionError(
            f"{model.name}: none of {len(found.candidates.cells)} candidates passes: refusals must come with it added, "
            f"and a KL divergence below {kl_bound:g} nats with it ablated; `refusal_selection` has all their scores"
        )
    return found.candidates.contrast.direction(*cells[0])


def refusal_selection(model: Model, harmful: Sequence[str], harmless: Sequence[str], *, seed: int = 0) -> Selection:
    """Candidates for the refusal direction, all with their bypass, induce and KL scores; as `refusal_direction`."""
    if min(len(harmful), len(harmless)) < 2 * LEAST:
        raise DataError(
            f"{2 * LEAST} instructions of each kind or more are needed, found {len(harmful)} and {len(harmless)}"
        )
    halves = [split_halves(list(texts), seed) for texts in (harmful, harmless)]
    finding, choosing = ([[model.prompt(text, chat=True) for text in half[part]] for half in halves] for part in (0, 1))
    openers = opener_tokens(model, *finding)
    if not openers:
        raise DataError(f"{model.name} opens no reply to the harmful instructions as a refusal: nothing to select by")
    candidates = contrast(model, *finding, positions=template_positions(model), seed=seed)
    harmful_rest, harmless_rest = choosing
    return select(model, candidates, harmful_rest, harmless_rest, openers)
