"""Contrasts of two sets of prompts: the difference of means at every layer and several positions, from one pass.

1. Prompts run in batches; at each position of interest every layer's activation is summed in float64, and kept in
   float32 in the host's memory: n_prompts x n_layers x n_positions x d_model numbers. The device's does not grow.
2. The difference of means (diff-of-means; Arditi et al. 2024) is a candidate direction for every layer and position.
3. Test: do the classes differ by more than chance, over all layers and positions (direction_test)? A candidate
   that does not is a direction all the same; its p value goes with it. One no longer than rounding is none.
4. Stability: the contrast from resampled prompts (bootstrap with Poisson weights, which need no second pass), as
   cosines to the contrast itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.directions.direction import Direction
from mlx_interp.directions.direction_test import difference_test
from mlx_interp.directions.states import refuse_equal, rounding
from mlx_interp.errors import DataError
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt, Prompt
from mlx_interp.shapes import ShapesShown
from mlx_interp.stats.distance import LEVEL

DRAWS = 20
"""Bootstrap samples for the stability."""
AT_ONCE = 32
"""Prompts whose states are held in float64."""
LEAST = 4
"""Prompts of a class: with fewer no test can tell classes apart at 5 %."""


@dataclass(frozen=True, eq=False, repr=False)
class Contrast(ShapesShown):
    """Differences of means over all layers and some positions; arrays are (n_layers, n_positions, ...), float32."""

    model: Model
    site: str
    """A residual site's name without layer: "resid_pre", "resid_mid" or "resid_post"."""
    positions: tuple[int, ...]
    """Counted from the prompts' ends, e.g. (-3, -2, -1)."""
    template: str
    n: tuple[int, int]
    """Prompts of either class."""
    vectors: np.ndarray
    """(n_layers, n_positions, d_model): mean over the positive prompts minus that over the negative ones."""
    floor: np.ndarray
    """Noise floor, (n_layers, n_positions): the length that rounding alone may give a candidate."""
    p_values: np.ndarray
    """P values of a difference of the classes, (n_layers, n_positions), for the family of all of them."""
    squared: np.ndarray
    """(n_layers, n_positions): cross-validated squared length, which noise does not lengthen; below 0 at times."""
    stream: np.ndarray
    """(n_layers, n_positions): mean norm of the activations, the unit of relative strengths."""
    resampled: np.ndarray
    """(DRAWS, n_layers, n_positions, d_model): the same from resampled prompts."""
    means: np.ndarray
    """(2, n_layers, n_positions, d_model): of the positive and of the negative prompts."""

    @property
    def norms(self) -> np.ndarray:
        """(n_layers, n_positions): lengths of the candidates."""
        return np.asarray(np.linalg.norm(self.vectors, axis=-1))

    @property
    def differs(self) -> np.ndarray:
        """(n_layers, n_positions), bool: whether there is a candidate: a finite difference, longer than rounding."""
        return np.asarray(np.greater(self.norms, self.floor) & np.isfinite(self.norms))

    @property
    def carries(self) -> np.ndarray:
        """(n_layers, n_positions), bool: whether the classes differ by more than chance, at 5 % for the family."""
        return np.asarray(self.differs & (self.p_values <= LEVEL))

    @property
    def stability(self) -> np.ndarray:
        """(n_layers, n_positions): median cosine of a resampled candidate to the candidate."""
        return np.asarray(np.median(cosines(self.resampled, self.vectors[None]), axis=0))

    def direction(self, layer: int, position: int = -1, *, method: str = "") -> Direction:
        """The candidate of one layer and position, with its p value. Raises DirectionError if it is mere rounding."""
        at = self.positions.index(position)
        length, floor = float(self.norms[layer, at]), float(self.floor[layer, at])
        refuse_equal(length, floor, f"{self.site}.{layer} at position {position}")
        return Direction(
            vector=mx.array(self.vectors[layer, at]),
            site=f"{self.site}.{layer}",
            position=position,
            method=method or f"difference of means of {self.n[0]} and {self.n[1]} prompts",
            template=self.template,
            model_id=self.model.model_id,
            weights_hash=self.model.weights_hash,
            quantization=self.model.quantization or "",
            n_layers=self.model.n_layers,
            floor=floor,
            p_value=float(self.p_values[layer, at]),
        )


def contrast(
    model: Model,
    positive: Sequence[AnyPrompt],
    negative: Sequence[AnyPrompt],
    *,
    site: str = "resid_pre",
    positions: Sequence[int] = (-1,),
    template: str = "chat",
    seed: int = 0,
) -> Contrast:
    """Contrast of two sets of prompts at every layer, from one pass over them.

    positions: negative, counted from each prompt's end. Raises DataError for fewer than four prompts of a class, a
    position that a prompt does not have, and prompts of which some went through the chat template and others did not,
    or some begin with the BOS token and others do not: their difference would be the template's.
    """
    if min(len(positive), len(negative)) < LEAST:
        raise DataError(f"{LEAST} prompts of each class or more are needed, found {len(positive)} and {len(negative)}")
    positive, negative = model.prompts(positive), model.prompts(negative)
    _refuse_mixed_templates(model, [*positive, *negative])
    rng = np.random.default_rng(seed)
    classes = [_summed(model, prompts, site, positions, rng) for prompts in (positive, negative)]
    means = np.stack([one.mean for one in classes])
    stream = np.mean([one.norm for one in classes], axis=0)
    floor = rounding(model) * stream
    above, below = (one.states.reshape(len(one.states), -1, model.d_model) for one in classes)
    test = difference_test(above, below, floor.ravel(), seed=seed)
    return Contrast(
        model=model,
        site=site,
        positions=tuple(positions),
        template=template,
        n=(len(positive), len(negative)),
        vectors=_difference(means),
        floor=_single(floor),
        p_values=test.p_values.reshape(floor.shape),
        squared=test.squared.reshape(floor.shape),
        stream=_single(stream),
        resampled=_single(classes[0].resampled - classes[1].resampled),
        means=_single(means),
    )


def template_positions(model: Model) -> tuple[int, ...]:
    """Positions of the chat template's tokens behind the instruction, e.g. (-2, -1): what all chats end with."""
    one, two = (model.prompt(text, chat=True).tokens for text in ("a b", "7?"))
    shared = 0
    while shared < min(len(one), len(two)) and one[-1 - shared] == two[-1 - shared]:
        shared += 1
    return tuple(range(-max(shared, 1), 0))


def _refuse_mixed_templates(model: Model, prompts: Sequence[Prompt]) -> None:
    checks: list[tuple[str, list[bool]]] = []
    if getattr(model.tokenizer, "chat_template", None):
        tail = [model.prompt("a", chat=True).tokens[position] for position in template_positions(model)]
        checks.append(("end as the chat template does", [prompt.tokens[-len(tail) :] == tail for prompt in prompts]))
    bos = getattr(model.tokenizer, "bos_token_id", None)
    if bos is not None:
        checks.append(("begin with the BOS token", [prompt.tokens[0] == bos for prompt in prompts]))
    for what, found in checks:
        if len(set(found)) > 1:
            texts = [prompts[found.index(value)].text for value in (True, False)]
            raise DataError(
                f"unequal templates: {sum(found)} of {len(found)} prompts {what}, such as {texts[0]!r}, the others do "
                f"not, such as {texts[1]!r}; make all by model.prompt(text, chat=True), or none"
            )


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine along the last axis; 0 where a vector has no length."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.asarray(np.sum(a * b, axis=-1) / np.where(lengths == 0, 1, lengths))


@dataclass(frozen=True, eq=False)
class _Class:
    """Statistics of one class, each (n_layers, n_positions, ...) in float64."""

    mean: np.ndarray
    norm: np.ndarray
    resampled: np.ndarray
    states: np.ndarray
    """(n, n_layers, n_positions, d_model), float32."""


def _summed(
    model: Model, prompts: Sequence[Prompt], site: str, positions: Sequence[int], rng: np.random.Generator
) -> _Class:
    """One pass over the prompts of a class; `weights` say how often a prompt counts in each of the sums."""
    shortest = min(prompts, key=len)
    if any(not -len(shortest) <= position < 0 for position in positions):
        raise DataError(
            f"positions {', '.join(map(str, positions))}: {shortest.text!r} has {len(shortest)} tokens, and positions "
            "of a contrast count from the end, -1 being the last"
        )
    n = len(prompts)
    bootstrap = rng.poisson(1.0, size=(DRAWS, n)).astype(np.float64)
    bootstrap[bootstrap.sum(axis=1) == 0] = 1.0
    weights = np.concatenate([np.ones((1, n)), bootstrap])
    kept = model.states(prompts, site, positions)
    sums = np.zeros((len(weights), *kept.shape[1:]))
    norms = np.zeros(kept.shape[1:3])
    for start in range(0, n, AT_ONCE):
        states = kept[start : start + AT_ONCE].astype(np.float64)
        sums += np.tensordot(weights[:, start : start + AT_ONCE], states, axes=(1, 0))
        norms += np.linalg.norm(states, axis=-1).sum(axis=0)
    means = sums / weights.sum(axis=1)[:, None, None, None]
    return _Class(means[0], norms / n, means[1:], kept)


def _difference(means: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # activations that overflowed stay what they are; who asks is told
        return _single(means[0] - means[1])


def _single(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)
