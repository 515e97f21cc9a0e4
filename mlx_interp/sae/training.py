"""Training an autoencoder: Adam on shuffled batches, resumable at any moment.

1. A first sample gives the scale (E ||x||^2 = 1) and b_dec (mean or geometric median); the encoder starts as the
   decoder transposed, at the length at which the first reconstruction is best.
2. Each step: loss of the kind (`losses`); the decoder's gradient loses its part along each feature; Adam; decoder rows
   back to norm 1. The learning rate warms up and decays to 0 over the last fifth; the penalty warms up too.
3. A feature silent for `dead_after` tokens is dead. AuxK lets dead ones explain the error; or they are resampled to
   inputs that are reconstructed badly (Bricken et al. 2023).
4. At the end the scale is folded into the weights, and BatchTopK's threshold becomes the mean smallest kept value.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlx_interp.deferred import mx, optim
from mlx_interp.errors import SAEError
from mlx_interp.massive_activations import MASSIVE
from mlx_interp.sae.checkpoints import read_state, write_state
from mlx_interp.sae.kinds import Weights
from mlx_interp.sae.losses import Objective, geometric_median, with_unit_rows, without_parallel
from mlx_interp.sae.sae import SAE, kind_of
from mlx_interp.sae.streams import Batches, Floats, endless, source_of

FEW = 0.2
"""Share of the activations up to which massive ones are the exception."""
SAMPLE = 16_384
"""Tokens that scale, centre and the encoder's first length are taken from."""
Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (steps done, steps in all, figures) now and then."""


@dataclass(frozen=True)
class TrainConfig:
    """Training settings. Raises SAEError for what cannot be."""

    kind: str = "topk"
    """A name of `kinds.BY_NAME`."""
    d_sae: int | None = None
    """Features; 16 for each of d_model by default."""
    k: int = 32
    """Active features: of each token (topk), on average (batchtopk)."""
    sparsity: float = 0.02
    """Weight of the penalty of relu, gated and jumprelu."""
    target_l0: float | None = None
    """jumprelu: aim at this L0 instead of the least."""
    steps: int = 10_000
    batch_size: int = 4096
    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    """Of Adam; (0, 0.999) is usual for jumprelu."""
    warm_up: int = 1000
    """Steps until the learning rate is whole."""
    sparsity_warm_up: int = 5000
    """Steps until the penalty is whole."""
    decay: float = 0.2
    """Share of the steps, at the end, in which the learning rate falls to 0."""
    centre: Literal["mean", "median"] = "median"
    """What b_dec starts from."""
    dead: Literal["aux", "resample", "none"] = "aux"
    dead_after: int = 10_000_000
    """Tokens without firing after which a feature is dead."""
    aux_k: int = 512
    aux_weight: float = 1 / 32
    resample_every: int = 2500
    """Steps between two resamplings, in the first half of training."""
    bandwidth: float = 0.001
    """jumprelu: width of the ramp that stands for the step's gradient."""
    threshold: float = 0.001
    """jumprelu: where thresholds start."""
    nested: tuple[float, ...] = ()
    """Matryoshka: shares of the features, the first ones, that must reconstruct by themselves too."""
    seed: int = 0
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        kind_of(self.kind)
        if min(self.steps, self.batch_size, self.k) < 1 or self.learning_rate <= 0 or self.sparsity < 0:
            raise SAEError(f"steps, batch_size, k and learning_rate must be positive, sparsity not negative: {self}")
        if any(not 0 < share < 1 for share in self.nested):
            raise SAEError(f"nested: shares of the features lie between 0 and 1, not {self.nested}")


def train(
    data: Floats | Batches,
    site: str,
    config: TrainConfig | None = None,
    *,
    mask: Floats | None = None,
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
) -> SAE:
    """An autoencoder of one site, trained on its activations.

    data: (n_tokens, d_model), an activation store, or `Streamed`. site: e.g. "resid_post.3".
    mask: (d_sae, d_model), 0 where a feature neither reads nor writes, 1 elsewhere; it holds at every step.
    checkpoint: a file that training is resumed from where it exists, and that is replaced as training goes on; a run
    killed at any moment and started again ends with the same weights.
    Raises SAEError for data that do not fit or are not finite, and for a checkpoint of another configuration.
    """
    config = config or TrainConfig()
    trainer = Trainer(config, source_of(data), site, mask)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        trainer.restore(path)
    trainer.run(path, progress)
    return trainer.finished()


class Trainer:
    """Training state: all that changes while training; `_arrays` and `_numbers` are what a checkpoint holds of it."""

    def __init__(self, config: TrainConfig, source: Batches, site: str, mask: Floats | None = None) -> None:
        self.config, self.source, self.site = config, source, site
        sample = self._sample()
        self.d_model = sample.shape[1]
        self.d_sae = config.d_sae or 16 * self.d_model
        if mask is not None and mask.shape != (self.d_sae, self.d_model):
            raise SAEError(f"a mask of {mask.shape} for {self.d_sae} features of width {self.d_model}")
        self.mask = None if mask is None else mx.array(np.asarray(mask, dtype=np.float32))
        self.kind = kind_of(config.kind)
        if self.kind.needs_k and config.k > self.d_sae:
            raise SAEError(f"k = {config.k} active features of {self.d_sae}: take fewer")
        self.scale = float(1 / np.sqrt(np.mean(np.sum(sample.astype(np.float64) ** 2, axis=-1))))
        self.objective = Objective(
            config.kind,
            config.k,
            config.target_l0,
            config.bandwidth,
            min(config.aux_k, self.d_sae),
            config.aux_weight,
            config.nested,
        )
        self.weights = self._first_weights(mx.array(sample) * self.scale)
        self.adam = optim.Adam(learning_rate=config.learning_rate, betas=list(config.betas), bias_correction=True)
        self.adam.init(self.weights)
        self.step = 0
        self.silent = np.zeros(self.d_sae, dtype=np.int64)
        """Tokens since each feature fired."""
        self.smallest = (0.0, 0.0)
        """Sum of weights and weighted sum of what the kind keeps of each batch (batchtopk: the smallest value kept)."""
        self.log: list[dict[str, float]] = []
        self._update = self._compiled()

    def _sample(self) -> Floats:
        size = self.config.batch_size
        batches = endless(self.source, self.site, size, self.config.seed)
        rows = np.concatenate(list(itertools.islice(batches, max(1, SAMPLE // size))))
        if not np.isfinite(rows).all():
            raise SAEError(f"{self.site}: activations to train on are not all finite; float16 overflows at this site?")
        if not rows.any():
            raise SAEError(f"{self.site}: activations to train on are all zero")
        self._warn_of_massive_rows(rows)
        return rows

    def _warn_of_massive_rows(self, rows: Floats) -> None:
        """A few rows that are most of the data's energy set its scale: of all others nothing is learnt."""
        squared = np.sum(rows.astype(np.float64) ** 2, axis=-1)
        massive = squared > MASSIVE**2 * np.median(squared)
        if 0 < massive.mean() < FEW and squared[massive].sum() > squared[~massive].sum():
            warnings.warn(
                f"{self.site}: {massive.mean():.1%} of the activations have {MASSIVE:.0f} times the usual norm or "
                "more, and most of the variance: an autoencoder of all fits these alone. Leave the first position of "
                "every text out (mi.sae.activations does)",
                RuntimeWarning,
                stacklevel=4,
            )

    def _first_weights(self, x: mx.array) -> Weights:
        config = self.config
        key = mx.random.key(config.seed)
        decoder = mx.random.normal((self.d_sae, self.d_model), key=key)
        decoder = with_unit_rows(decoder if self.mask is None else decoder * self.mask)
        weights = {"W_dec": decoder, "W_enc": decoder.T}
        weights["b_dec"] = geometric_median(x) if config.centre == "median" else mx.mean(x, axis=0)
        weights |= self.kind.first(self.d_sae, config.threshold)
        # Random directions overlap: at full length their sum would be many times as long as what it stands for.
        f = self.objective.features(weights, x[:1024])
        centred, out = x[:1024] - weights["b_dec"], f @ decoder
        weights["W_enc"] = decoder.T * (mx.sum(centred * out) / mx.maximum(mx.sum(out * out), 1e-12))
        mx.eval(weights)
        return weights

    def run(self, path: Path | None, progress: Progress | None) -> None:
        config = self.config
        every = max(1, config.steps // 20)
        for rows in self._batches():
            figures = self._one_step(mx.array(rows) * self.scale)
            self.step += 1
            if self.step % every == 0 or self.step == config.steps:
                found = {"step": float(self.step), **{name: float(value) for name, value in figures.items()}}
                if not math.isfinite(found["squared"]):
                    raise SAEError(f"{self.site}: training diverged at step {self.step}; take a smaller learning_rate")
                self.log.append(found | {"dead": float(np.mean(self.silent >= config.dead_after))})
                if progress is not None:
                    progress(self.step, config.steps, self.log[-1])
            if path is not None and (self.step % config.checkpoint_every == 0 or self.step == config.steps):
                write_state(path, self._arrays(), self._numbers())

    def _batches(self) -> Iterator[Floats]:
        batches = endless(self.source, self.site, self.config.batch_size, self.config.seed)
        return itertools.islice(batches, self.step, self.config.steps)

    def _one_step(self, x: mx.array) -> dict[str, mx.array]:
        config, step = self.config, self.step
        dead = self.silent >= config.dead_after
        sparsity = mx.array(config.sparsity * min(1.0, (step + 1) / max(1, config.sparsity_warm_up)))
        use_aux = config.dead == "aux" and bool(dead.any())
        self.adam.learning_rate = mx.array(config.learning_rate * self._rate(step))
        kept = self._update(x, sparsity, mx.array(dead) if use_aux else None)
        mx.eval(self.weights, self.adam.state, kept)
        fired = np.asarray(kept.pop("fired"))
        self.silent = np.where(fired, 0, self.silent + len(x))
        if (smallest := kept.pop("smallest", None)) is not None and math.isfinite(float(smallest)):
            weight, total = self.smallest
            self.smallest = (0.99 * weight + 0.01, 0.99 * total + 0.01 * float(smallest))
        due = (step + 1) % config.resample_every == 0 and step + 1 <= config.steps // 2
        if config.dead == "resample" and due:
            self._resample(x)
        return kept

    def _compiled(self) -> Callable[[mx.array, mx.array, mx.array | None], dict[str, mx.array]]:
        """One update of weights and Adam's moments, in place: (batch, weight of the penalty, dead) -> figures."""
        state = [self.weights, self.adam.state]
        slopes = mx.value_and_grad(self.objective, argnums=0)

        def update(x: mx.array, sparsity: mx.array, dead: mx.array | None) -> dict[str, mx.array]:
            (_, kept), gradients = slopes(self.weights, x, sparsity, dead)
            gradients["W_dec"] = without_parallel(gradients["W_dec"], self.weights["W_dec"])
            self.weights.update(self.adam.apply_gradients(gradients, self.weights))
            self._mask()
            self.weights["W_dec"] = with_unit_rows(self.weights["W_dec"])
            found: dict[str, mx.array] = kept
            return found

        compiled: Callable[..., dict[str, mx.array]] = mx.compile(update, inputs=state, outputs=state)
        return compiled

    def _mask(self) -> None:
        if self.mask is not None:
            self.weights["W_dec"] = self.weights["W_dec"] * self.mask
            self.weights["W_enc"] = self.weights["W_enc"] * self.mask.T

    def _rate(self, step: int) -> float:
        config = self.config
        left = (config.steps - step) / max(1.0, config.decay * config.steps)
        return min(1.0, (step + 1) / max(1, config.warm_up), left)

    def _resample(self, x: mx.array) -> None:
        """Features that did not fire since the last resampling point to inputs reconstructed badly."""
        dead = np.flatnonzero(self.silent >= min(self.config.dead_after, self.config.resample_every * len(x)))
        if not len(dead):
            return
        weights = self.weights
        f = self.objective.features(weights, x)
        error = np.asarray(x - f @ weights["W_dec"] - weights["b_dec"], dtype=np.float64)
        chance = np.sum(error**2, axis=-1) ** 2
        rng = np.random.default_rng([self.config.seed, self.step])
        rows = rng.choice(len(error), size=len(dead), p=chance / chance.sum())
        where = mx.array(dead)
        reads = mx.array(error[rows].astype(np.float32))
        directions = with_unit_rows(reads if self.mask is None else reads * self.mask[where])
        length = mx.mean(mx.linalg.norm(weights["W_enc"], axis=0))
        weights["W_dec"][where] = directions
        weights["W_enc"][:, where] = 0.2 * length * directions.T
        for name, value in self.kind.first(self.d_sae, self.config.threshold).items():
            weights[name][where] = value[where]
        for name in weights.keys() - {"b_dec"}:
            for moment in ("m", "v"):
                held = self.adam.state[name][moment]
                if name == "W_enc":
                    held[:, where] = 0.0
                else:
                    held[where] = 0.0
        self.silent[dead] = 0

    def finished(self) -> SAE:
        """The autoencoder, its scale folded in: features become 1 / scale as large, directions stay."""
        config = self.config
        weight, total = self.smallest
        weights = self.kind.finished(self.weights, self.scale, total / max(weight, 1e-12))
        mx.eval(weights)
        meta = {
            "training": {**asdict(config), "d_sae": self.d_sae},
            "tokens": config.steps * config.batch_size,
            "mean_norm": 1 / self.scale,
            "log": self.log,
        }
        return SAE(config.kind, self.site, weights, k=config.k if self.kind.needs_k else None, meta=meta)

    # What a checkpoint holds.

    def _identity(self) -> dict[str, Any]:
        identity = {
            "config": {**asdict(self.config), "checkpoint_every": 0},
            "site": self.site,
            "d_model": self.d_model,
        }
        if self.mask is not None:
            identity["mask"] = hashlib.sha256(np.asarray(self.mask).tobytes()).hexdigest()
        return identity

    def _arrays(self) -> dict[str, Any]:
        return {"weights": self.weights, "adam": self.adam.state, "silent": mx.array(self.silent)}

    def _numbers(self) -> dict[str, Any]:
        return {
            "identity": self._identity(),
            "step": self.step,
            "scale": self.scale,
            "smallest": self.smallest,
            "log": self.log,
        }

    def restore(self, path: Path) -> None:
        """Goes on where a checkpoint stands. Raises SAEError for one of another configuration or of other data."""
        arrays, numbers = read_state(path)
        mine = json.loads(json.dumps({**self._identity(), "scale": self.scale}))
        theirs = {**numbers["identity"], "scale": numbers["scale"]}
        if theirs != mine:
            differ = [name for name in mine if mine[name] != theirs.get(name)]
            raise SAEError(
                f"{path}: a checkpoint of another run ({', '.join(differ)} differ); delete it, or give another file"
            )
        self.weights, self.adam.state = arrays["weights"], arrays["adam"]
        self.silent = np.array(arrays["silent"])
        self.step, self.log = numbers["step"], numbers["log"]
        self.smallest = (numbers["smallest"][0], numbers["smallest"][1])
        self._update = self._compiled()  # it holds on to the very dicts that it changes
