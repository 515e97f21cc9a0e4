"""Steering of experts: which ones a kind of text takes more often than another, forced or forbidden.

Fayyaz et al. 2025, "Steering MoE LLMs via Expert (De)Activation" (arXiv 2509.09660).
1. In each layer, the share of tokens that take an expert, in texts of either kind.
2. The difference of the two shares ranks the experts, those of all layers together.
3. The first n are forced on every token where the difference points to the kind that is wanted, forbidden where it
   points away. The paper sets a router logit just above the highest or just below the lowest, which chooses the same
   experts; a forced one has here the weight that its own logit gives it (`Route`).
The control is as many experts forced and forbidden in each layer, drawn at random.

Cost: one forward pass for each text, in batches that fit the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.errors import DataError, UnsupportedModel
from mlx_interp.interventions import Route
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt
from mlx_interp.shapes import ShapesShown


@dataclass(frozen=True, eq=False, repr=False)
class ExpertDifferences(ShapesShown):
    """How often two kinds of text take each expert."""

    rates: np.ndarray
    """Shares of tokens (2, n_layers, n_experts), from 0 to 1."""
    layers: tuple[int, ...]
    """The layers that have experts, in the order of `rates`."""
    n_tokens: tuple[int, int]
    n_chosen: int
    """Experts that a token takes in a layer."""

    @property
    def differences(self) -> np.ndarray:
        """(n_layers, n_experts): share in the first kind less that in the second."""
        return np.asarray(self.rates[0] - self.rates[1])

    def ranked(self) -> list[tuple[int, int, float]]:
        """Layer, expert and difference of all of them, the largest differences first; none that is zero."""
        flat = self.differences.ravel()
        order = np.argsort(-np.abs(flat), kind="stable")
        n_experts = self.rates.shape[-1]
        return [(self.layers[i // n_experts], int(i % n_experts), float(flat[i])) for i in order if flat[i]]

    def interventions(self, n: int, *, towards: int = 0) -> list[Route]:
        """Steering by the n experts of the largest differences, towards the first kind of text (0) or the second (1).

        In a layer at most as many are forced as a token takes, and as many are left as it takes; what is beyond that
        gives way to the next in rank. Raises DataError for fewer than n.
        """
        if towards not in (0, 1):
            raise DataError(f"towards {towards}: 0 is the first kind of text, 1 the second")
        chosen: dict[int, tuple[list[int], list[int]]] = {}
        left = n
        for layer, expert, difference in self.ranked():
            force, forbid = chosen.get(layer, ([], []))
            wanted = (difference > 0) == (towards == 0)
            mine, most = (force, self.n_chosen) if wanted else (forbid, self.rates.shape[-1] - self.n_chosen)
            if left and len(mine) < most:
                mine.append(expert)
                chosen[layer] = (force, forbid)
                left -= 1
        if left or n < 1:
            raise DataError(f"{n} experts: there are {n - left} whose shares differ and that can be steered")
        return _routes(chosen)

    def random_interventions(self, like: Sequence[Route], *, seed: int) -> list[Route]:
        """The control: as many experts forced and forbidden in each layer as in `like`, drawn at random."""
        rng = np.random.default_rng(seed)
        chosen = {}
        for route in like:
            drawn = rng.permutation(self.rates.shape[-1]).tolist()
            forced = len(route.forced)
            chosen[int(str(route.layers))] = (drawn[:forced], drawn[forced : forced + len(route.forbidden)])
        return _routes(chosen)


def expert_differences(
    model: Model,
    texts: Sequence[AnyPrompt],
    others: Sequence[AnyPrompt],
    *,
    responses_from: tuple[Sequence[int], Sequence[int]] | None = None,
) -> ExpertDifferences:
    """Expert rates of two kinds of text, over all tokens, or for each text those from a position to the end.

    Raises UnsupportedModel for a model without experts, DataError for a kind without texts or a position that a text
    does not have.
    """
    layers = tuple(model.network.layers_with("experts")) if "experts" in model.sites else ()
    if not layers:
        raise UnsupportedModel(f"{model.name} ({model.family}) has no experts to steer by: take mi.directions.steer")
    starts = responses_from or ([0] * len(texts), [0] * len(others))
    counted = [_rates(model, kind, start, layers) for kind, start in zip((texts, others), starts, strict=True)]
    return ExpertDifferences(
        np.stack([rates for rates, _ in counted]), layers, (counted[0][1], counted[1][1]), model.network.n_chosen
    )


def _rates(
    model: Model, texts: Sequence[AnyPrompt], starts: Sequence[int], layers: Sequence[int]
) -> tuple[np.ndarray, int]:
    """The share of tokens that take each expert, (n_layers, n_experts), and how many tokens there are."""
    prompts = model.prompts(texts) if len(texts) else []
    if not prompts or len(starts) != len(prompts):
        raise DataError(f"{len(prompts)} texts of a kind, with {len(starts)} positions: give a text, and one for each")
    for prompt, start in zip(prompts, starts, strict=True):
        if not 0 <= start < len(prompt):
            raise DataError(f"position {start} of a text of {len(prompt)} tokens: {prompt.text!r}")
    taken, tokens, row = np.zeros((len(layers), model.network.n_experts)), 0, 0
    for out in model.batches(prompts, capture=[f"experts.{layer}" for layer in layers]):
        held = np.stack([np.asarray(out[f"experts.{layer}"]) for layer in layers])  # (layer, text, position, slot)
        for at in range(len(out.lengths)):
            mine = held[:, at, starts[row] : len(prompts[row])]
            tokens += mine.shape[1]
            for number, numbers in enumerate(mine):
                taken[number] += np.bincount(numbers.ravel(), minlength=taken.shape[1])
            row += 1
    return taken / tokens, tokens


def _routes(chosen: dict[int, tuple[list[int], list[int]]]) -> list[Route]:
    return [Route(layer, force=force, forbid=forbid) for layer, (force, forbid) in sorted(chosen.items())]
