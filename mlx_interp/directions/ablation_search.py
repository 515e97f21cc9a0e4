"""Ablation by search: how much of a direction to ablate in each layer, so that a behaviour goes and all else stays.

As heretic 1.4 does (P. E. Weidmann, github.com/p-e-w/heretic, 2025), for any behaviour that texts show:
1. One direction for all layers, or each layer's own. Attention and MLP have a profile each over the layers: most at one
   layer, falling in a straight line to less at a distance, nothing beyond.
2. A trial is measured on prompts that show the behaviour, by how many replies still do, and on others, by the KL
   divergence of the next token from the plain model's.
3. The first trials ablate the same fraction in all layers: plain directional ablation at several strengths, the
   comparison. Half of the others are drawn at random, the rest are changes of the best so far.
4. Chosen: of the trials within a budget of divergence the one with the fewest such replies, then the least divergence.
heretic searches by Optuna's sampler and edits weights; here a run's own interventions are the edit, exact for any
family, and 4-bit weights stay as they are. What was chosen is to be measured on prompts that nothing was chosen on
(`ablation_effect`), beside the best plain trial.

Cost: for each trial one generation for each prompt that shows the behaviour, one forward pass for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlx_interp.behaviour.detectors import refusal
from mlx_interp.deferred import mx
from mlx_interp.directions.candidates import divergence, log_probs_of
from mlx_interp.engine.sweep import Progress
from mlx_interp.errors import DataError, DirectionError
from mlx_interp.interventions import Ablate
from mlx_interp.model import Model
from mlx_interp.progress import reported
from mlx_interp.prompts import AnyPrompt
from mlx_interp.shapes import ShapesShown

PLAIN = (1.0, 0.8, 0.6, 0.4, 0.3, 0.2)
"""Fractions of the plain trials."""
STRONGEST = 1.5
NOTHING = 1e-5
"""A layer whose direction is shorter than this, beside the longest, has none: the prompts do not differ there yet."""
SITES = ("attn_out", "mlp_out")


@dataclass(frozen=True)
class Profile:
    """Fractions over the layers: `most` at layer `peak`, in a line to `least` at `distance` layers, 0 beyond."""

    most: float
    peak: float
    least: float
    distance: float

    def fractions(self, n_layers: int) -> np.ndarray:
        """(n_layers,)"""
        away = np.abs(np.arange(n_layers) - self.peak)
        line = self.most + (self.least - self.most) * away / self.distance
        return np.where(away <= self.distance, line, 0.0)


@dataclass(frozen=True)
class AblationTrial:
    """One way to ablate, and what it did on the prompts that the search looks at."""

    layer: int | None
    """Whose direction is ablated everywhere; None: each layer's own."""
    profiles: tuple[Profile, Profile]
    """Of attention and MLP."""
    plain: bool
    """Whether the same fraction is ablated in all layers."""
    rate: float = 1.0
    """Share of replies that show the behaviour."""
    kl: float = 0.0
    """Mean KL divergence of the next token from the plain model's on the other prompts, nats."""


@dataclass(frozen=True, eq=False, repr=False)
class AblationSearch(ShapesShown):
    """All trials of a search, with the directions that they ablate."""

    directions: np.ndarray
    """(n_layers, d_model)"""
    trials: tuple[AblationTrial, ...]
    kl_budget: float
    unedited_rate: float
    """Share of replies that show the behaviour without any edit."""

    @property
    def best(self) -> AblationTrial:
        """The chosen trial. Raises DirectionError where none is within the budget."""
        return self._best(self.trials)

    @property
    def best_plain(self) -> AblationTrial:
        """The best of the plain trials: the comparison. Raises DirectionError where none is within the budget."""
        return self._best([trial for trial in self.trials if trial.plain])

    def interventions(self, trial: AblationTrial) -> list[Ablate]:
        """A trial's edits."""
        return edits_of(trial, self.directions)

    def _best(self, among: Sequence[AblationTrial]) -> AblationTrial:
        within = [trial for trial in among if trial.kl <= self.kl_budget]
        if not within:
            least = min(trial.kl for trial in among)
            raise DirectionError(
                f"none of {len(among)} trials stays within {self.kl_budget:g} nats, the nearest has {least:.3g}: allow "
                "more by kl_budget, or search longer by trials"
            )
        return min(within, key=lambda trial: (trial.rate, trial.kl))


def edits_of(trial: AblationTrial, directions: np.ndarray) -> list[Ablate]:
    """The edits of a trial, without those of fraction 0 and of layers that have no direction."""
    n_layers = len(directions)
    chosen = [mx.array(directions[layer if trial.layer is None else trial.layer]) for layer in range(n_layers)]
    return [
        Ablate(f"{site}.{layer}", chosen[layer], fraction=part)
        for site, profile in zip(SITES, trial.profiles, strict=True)
        for layer, part in enumerate(profile.fractions(n_layers).tolist())
        if part and np.any(directions[layer if trial.layer is None else trial.layer])
    ]


def ablation_effect(
    model: Model,
    edits: Sequence[Ablate],
    showing: Sequence[AnyPrompt],
    others: Sequence[AnyPrompt],
    *,
    shows: Callable[[str], object] = refusal,
    max_tokens: int = 16,
) -> tuple[list[bool], list[float]]:
    """Which replies to the first prompts show the behaviour, and the KL divergence (nats) on each of the others.

    shows: reply -> something true where the behaviour is in it; a phrase of refusal by default.
    """
    texts = model.generate(showing, interventions=list(edits), max_tokens=max_tokens)
    return [bool(shows(text.text)) for text in texts], _divergences(model, edits, others)


def search_ablation(
    model: Model,
    directions: np.ndarray | mx.array,
    showing: Sequence[AnyPrompt],
    others: Sequence[AnyPrompt],
    *,
    kl_budget: float = 0.1,
    trials: int = 60,
    shows: Callable[[str], object] = refusal,
    max_tokens: int = 16,
    seed: int = 0,
    progress: Progress | bool = False,
) -> AblationSearch:
    """Ablation found by search; the same seed tries the same.

    directions: (n_layers, d_model), as `contrast(...).vectors[:, -1]`. showing, others: prompts, best in the chat
    template. kl_budget: nats. trials: in all, the plain ones among them.
    Raises DataError without prompts, for fewer trials than plain ones, or where no reply shows the behaviour unedited;
    DirectionError for directions of another shape, or without length in all layers. A layer without one is left alone.
    """
    table = np.array(directions, dtype=np.float32)
    if table.shape != (model.n_layers, model.d_model) or not np.isfinite(table).all():
        raise DirectionError(
            f"directions {table.shape}: {model.name} needs ({model.n_layers}, {model.d_model}), all of them finite"
        )
    lengths = np.linalg.norm(table, axis=-1)
    if not lengths.any():
        raise DirectionError("the directions have no length in any layer: nothing to ablate")
    table[lengths < NOTHING * lengths.max()] = 0
    if not showing or not others or trials < len(PLAIN):
        raise DataError(
            f"{len(showing)} and {len(others)} prompts, {trials} trials: give prompts of both kinds, and "
            f"{len(PLAIN)} trials or more, so many are plain"
        )
    before = [bool(shows(text.text)) for text in model.generate(showing, max_tokens=max_tokens)]
    if not any(before):
        raise DataError(f"{model.name}: no reply to {len(before)} prompts shows the behaviour: nothing to ablate")
    rng = np.random.default_rng(seed)
    found: list[AblationTrial] = []
    with reported(progress, trials, "trials") as report:
        for number in range(trials):
            trial = _next(number, trials, found, kl_budget, model.n_layers, rng)
            hits, divergences = ablation_effect(
                model, edits_of(trial, table), showing, others, shows=shows, max_tokens=max_tokens
            )
            found.append(replace(trial, rate=float(np.mean(hits)), kl=float(np.mean(divergences))))
            if report is not None:
                report(number + 1, trials)
    return AblationSearch(table, tuple(found), kl_budget, float(np.mean(before)))


def _next(
    number: int, trials: int, found: Sequence[AblationTrial], kl_budget: float, n_layers: int, rng: np.random.Generator
) -> AblationTrial:
    """What to try next: plain, at random, or a change of the best so far."""
    if number < len(PLAIN):
        flat = Profile(PLAIN[number], 0.0, PLAIN[number], float(n_layers))
        return AblationTrial(None, (flat, flat), plain=True)
    searched = [trial for trial in found if not trial.plain]
    if not searched or number < (len(PLAIN) + trials) / 2:
        return _drawn(n_layers, rng)
    best = min(searched, key=lambda trial: (trial.kl > kl_budget, trial.rate, trial.kl))
    attention, mlp = (_changed(profile, n_layers, rng) for profile in best.profiles)
    return AblationTrial(best.layer, (attention, mlp), plain=False)


def _drawn(n_layers: int, rng: np.random.Generator) -> AblationTrial:
    last = n_layers - 1

    def profile() -> Profile:
        most, peak = rng.uniform(0.3, STRONGEST), rng.uniform(0.3 * last, last)
        return Profile(most, peak, most * rng.uniform(), rng.uniform(1.0, max(2.0, 0.8 * last)))

    own = bool(rng.integers(2))
    layer = None if own else int(rng.integers(int(0.3 * last), int(0.9 * last) + 1))
    return AblationTrial(layer, (profile(), profile()), plain=False)


def _changed(profile: Profile, n_layers: int, rng: np.random.Generator) -> Profile:
    """A profile not far from another one."""
    step = rng.normal(0.0, 0.15, 4)
    most = float(np.clip(profile.most + step[0], 0.0, STRONGEST))
    return Profile(
        most,
        float(np.clip(profile.peak + step[1] * n_layers, 0.0, n_layers - 1)),
        float(np.clip(profile.least + step[2], 0.0, most)),
        float(np.clip(profile.distance * np.exp(step[3] * 2), 1.0, n_layers)),
    )


def _divergences(model: Model, edits: Sequence[Ablate], prompts: Sequence[AnyPrompt]) -> list[float]:
    """KL divergence of the next token's distribution from the plain model's, nats, prompt by prompt."""
    before, after = _logits(model, (), prompts), _logits(model, edits, prompts)
    return [float(one) for one in np.asarray(divergence(log_probs_of(before), after))]


def _logits(model: Model, edits: Sequence[Ablate], prompts: Sequence[AnyPrompt]) -> mx.array:
    """Logits (n_prompts, d_vocab) of the next token."""
    rows = []
    for out in model.batches(prompts, logits="last", interventions=list(edits)):
        assert out.logits is not None
        rows.append(out.logits.reshape(len(out.lengths), -1))
    return mx.concatenate(rows)
