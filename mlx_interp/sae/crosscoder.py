"""Crosscoders: one dictionary of two models' activations, to see what a fine-tune has that its base has not.

Lindsey et al. 2024 (transformer-circuits.pub/2024/crosscoders); Minder et al. 2025 (arXiv 2504.02922).
1. Both models read the same texts; a row is the one's activation beside the other's, each scaled to E ||x||^2 = 1.
2. An autoencoder of these rows has one encoder over both and, for each latent, a decoder vector in either model. Which
   of the two is longer says whose latent it is (`relative_norms`: 0 the first's, .5 both's, 1 the second's).
3. Lengths alone mislead: sparsity shrinks a short part to nothing (complete shrinkage), or two latents share one
   concept (decoupling). Latent scaling asks the activations: by how much of the latent's vector in its own model are
   the errors, and the rest of the reconstruction, of either model explained best? The other model's amount over its
   own is near 0 for what is its own alone, and near 1 for what both have (`latent_scaling`).

4. Where what is new is small beside what both have, some latents are dedicated to each model (`dedicated`; Jiralerspong
   and Bricken 2026, arXiv 2602.11729).

Batch top-k, the default here, is the paper's remedy for shrinkage. Latents are chosen by activation, with decoder rows
of norm 1 over both models; the paper weighs them by the sum of both norms.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mlx_interp.deferred import mx
from mlx_interp.errors import SAEError
from mlx_interp.interventions import ArrayLike
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt
from mlx_interp.reporting.files import write_atomically
from mlx_interp.sae.files import load, save
from mlx_interp.sae.sae import SAE
from mlx_interp.sae.streams import Floats, activations
from mlx_interp.sae.training import Progress, TrainConfig, train

ABOUT = "crosscoder.json"
"""Beside the files of an autoencoder: what makes it a crosscoder."""
AT_ONCE = 4096
"""Rows whose latents are held at once."""
OWN_NORM, OWN_ERROR, OWN_REST = 0.9, 0.2, 0.5
"""Bounds within which a latent is one model's own: relative norm, and both ratios of latent scaling (Minder et al.)."""


@dataclass(frozen=True, eq=False)
class Crosscoder:
    """A dictionary of two models at one site. Raises SAEError for widths that are not the autoencoder's."""

    sae: SAE
    """Of both models' scaled activations side by side: its width is the sum of theirs."""
    names: tuple[str, str]
    widths: tuple[int, int]
    scales: tuple[float, float]
    """By which each model's activations are multiplied before they stand beside the other's."""

    def __post_init__(self) -> None:
        if sum(self.widths) != self.sae.d_model:
            raise SAEError(f"{self.sae} is no dictionary of widths {self.widths[0]} and {self.widths[1]}")

    def __repr__(self) -> str:
        first, second = self.names
        return f"Crosscoder({first!r}, {second!r}, {self.sae.site!r}, {self.widths} -> {self.sae.d_sae})"

    @property
    def d_sae(self) -> int:
        return self.sae.d_sae

    def encode(self, first: ArrayLike, second: ArrayLike) -> mx.array:
        """Latents (n, d_sae) of both models' activations (n, width) of the same tokens. Raises SAEError for others."""
        return self.sae.encode(self._rows(first, second))

    def decode(self, latents: ArrayLike) -> tuple[mx.array, mx.array]:
        """Reconstructions (n, width) of both models, in their own units."""
        one, other = _halves(self.sae.decode(latents), self.widths)
        return one / self.scales[0], other / self.scales[1]

    def direction(self, latent: int, model: int) -> mx.array:
        """What an activation of 1 writes in one model (0 or 1), (width,), in its own units."""
        return _halves(self.sae.directions[latent], self.widths)[model] / self.scales[model]

    @property
    def relative_norms(self) -> npt.NDArray[np.float64]:
        """(d_sae,): the second decoder's share of both norms, of scaled activations. 0: the first model's alone."""
        first, second = (np.linalg.norm(np.asarray(d, np.float64), axis=-1) for d in self._decoders())
        return np.asarray(second / np.maximum(first + second, 1e-30))

    def _decoders(self) -> tuple[mx.array, mx.array]:
        return _halves(self.sae.directions, self.widths)

    def _rows(self, first: ArrayLike, second: ArrayLike) -> mx.array:
        parts = [mx.array(np.asarray(x, dtype=np.float32)) for x in (first, second)]
        if parts[0].shape[:-1] != parts[1].shape[:-1] or tuple(x.shape[-1] for x in parts) != self.widths:
            raise SAEError(
                f"{self}: activations are {tuple(parts[0].shape)} and {tuple(parts[1].shape)}; both models' rows of "
                "the same tokens are needed, as paired_activations gives them"
            )
        return mx.concatenate([x * scale for x, scale in zip(parts, self.scales, strict=True)], axis=-1)


def paired_activations(models: tuple[Model, Model], texts: Sequence[AnyPrompt], site: str) -> tuple[Floats, Floats]:
    """One site of two models on the same tokens: two arrays (n_tokens, width), row for row; BOS is left out.

    Raises SAEError for models that read the texts as different tokens, SiteError for a site of several layers.
    """
    read = [model.prompts(texts) for model in models]
    if [prompt.tokens for prompt in read[0]] != [prompt.tokens for prompt in read[1]]:
        raise SAEError(f"{models[0].name} and {models[1].name} read the texts as different tokens")
    first, second = (activations(model, prompts, site) for model, prompts in zip(models, read, strict=True))
    return first, second


def train_crosscoder(
    first: Floats,
    second: Floats,
    site: str,
    config: TrainConfig | None = None,
    *,
    names: tuple[str, str] = ("base", "tuned"),
    dedicated: float = 0.0,
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
) -> Crosscoder:
    """A crosscoder of two models' activations (n_tokens, width) of the same tokens; batch top-k unless told otherwise.

    dedicated: share of the latents that are kept for each model alone, which neither read nor write in the other: the
    dedicated feature crosscoder (Jiralerspong and Bricken 2026, arXiv 2602.11729), for differences that are small
    beside what both have. Their norms say nothing then, and latent scaling says whether they hold what is new.
    checkpoint: as in `train`. Raises SAEError for arrays that are not of the same tokens, or zero, for shares that
    leave nothing to both, and what `train` raises.
    """
    if not 0 <= dedicated < 0.5:
        raise SAEError(f"dedicated = {dedicated}: a share below .5 for each model, so that latents are left for both")
    first, second = (np.asarray(x, dtype=np.float32) for x in (first, second))
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second):
        raise SAEError(f"activations of the same tokens are needed, (n, width) each, not {first.shape}, {second.shape}")
    if not (first.any() and second.any()):
        raise SAEError(f"{site}: one model's activations are all zero")
    scales = tuple(float(1 / np.sqrt(np.mean(np.sum(x.astype(np.float64) ** 2, axis=-1)))) for x in (first, second))
    rows = np.concatenate([first * scales[0], second * scales[1]], axis=-1)
    config = config or TrainConfig(kind="batchtopk")
    widths = (first.shape[1], second.shape[1])
    mask = _dedicated(config.d_sae or 16 * sum(widths), widths, dedicated) if dedicated else None
    sae = train(rows, site, config, mask=mask, checkpoint=checkpoint, progress=progress)
    return Crosscoder(sae, names, widths, (scales[0], scales[1]))


def _dedicated(d_sae: int, widths: tuple[int, int], share: float) -> Floats:
    """(d_sae, both widths): the first latents are the first model's alone, the last ones the second's."""
    mask, n = np.ones((d_sae, sum(widths)), np.float32), round(share * d_sae)
    mask[:n, widths[0] :] = 0
    mask[d_sae - n :, : widths[0]] = 0
    return mask


@dataclass(frozen=True, eq=False)
class LatentScaling:
    """Whose each latent is, by the activations: nan for a latent that never fires, or explains nothing of its own."""

    model: int
    """The model whose decoder vectors were asked for: 0 or 1."""
    error: npt.NDArray[np.float64]
    """(d_sae,): the other model's share in its error over the model's own; near 1 where the part was shrunk away."""
    rest: npt.NDArray[np.float64]
    """(d_sae,): the other model's share in what its other latents reconstruct, over the model's own in all it has; near
    1 where they share the concept."""
    n_active: npt.NDArray[np.int64]
    """(d_sae,): tokens on which each fires."""


def latent_scaling(crosscoder: Crosscoder, first: Floats, second: Floats, *, model: int = 1) -> LatentScaling:
    """How much of each latent, as the one model has it, is in the other model's activations after all.

    For each latent with vector d in the model, b minimises ||b f d - y||^2, with y the error of either model with the
    latent's own part added back, and the reconstruction by all others (without bias). `error` is b of the other model
    over b of this one. `rest` is b of the other model over the sum of this one's two: the paper divides by that of the
    reconstruction alone, a ratio of two small numbers where nothing is shared and vectors are not orthogonal.

    Vectors are compared as they stand: for a model and its fine-tune, which keep their concepts in one space.
    first, second: (n_tokens, width), held out best. Raises SAEError for models of different widths.
    """
    if crosscoder.widths[0] != crosscoder.widths[1]:
        raise SAEError(f"{crosscoder}: latent scaling compares vectors of one width")
    decoders = [np.asarray(d, np.float64) for d in crosscoder._decoders()]
    own = decoders[model]
    sums = np.zeros((2, 2, crosscoder.d_sae))  # (error, rest) x model
    squares, fired = np.zeros(crosscoder.d_sae), np.zeros(crosscoder.d_sae, dtype=np.int64)
    for start in range(0, len(first), AT_ONCE):
        rows = crosscoder._rows(first[start : start + AT_ONCE], second[start : start + AT_ONCE])
        latents = crosscoder.sae.encode(rows)
        f = np.asarray(latents, np.float64)
        written = [f @ d for d in decoders]
        actual = [np.asarray(x, np.float64) for x in _halves(rows - crosscoder.sae.weights["b_dec"], crosscoder.widths)]
        for which in (0, 1):
            for part, y in enumerate((actual[which] - written[which], written[which])):
                sums[part, which] += np.einsum("jd,jd->j", f.T @ y, own)
        squares += np.sum(f**2, axis=0)
        fired += np.count_nonzero(f, axis=0)
    for which in (0, 1):
        mine = squares * np.einsum("jd,jd->j", decoders[which], own)
        sums[0, which] += mine
        sums[1, which] -= mine
    other = 1 - model
    with np.errstate(divide="ignore", invalid="ignore"):
        error, everything = sums[0, model], sums[:, model].sum(axis=0)
        shares = [
            np.where((whole > 0) & (fired > 0), sums[part, other] / whole, np.nan)
            for part, whole in enumerate((error, everything))
        ]
    return LatentScaling(model, shares[0], shares[1], fired)


@dataclass(frozen=True, eq=False)
class OwnLatents:
    """Latents of one model alone: as their norms have it, and those of them that latent scaling confirms."""

    by_norm: npt.NDArray[np.int64]
    confirmed: npt.NDArray[np.int64]


def own_latents(crosscoder: Crosscoder, scaling: LatentScaling) -> OwnLatents:
    """Latents that are one model's own, that of the scaling; dead ones are nobody's."""
    norms = crosscoder.relative_norms if scaling.model == 1 else 1 - crosscoder.relative_norms
    by_norm = (norms > OWN_NORM) & (scaling.n_active > 0)
    confirmed = by_norm & (np.abs(scaling.error) < OWN_ERROR) & (np.abs(scaling.rest) < OWN_REST)  # nan is not below
    return OwnLatents(np.flatnonzero(by_norm), np.flatnonzero(confirmed))


def save_crosscoder(crosscoder: Crosscoder, folder: Path | str) -> Path:
    """Write a crosscoder: the autoencoder in SAELens's layout, and what makes it a crosscoder beside it."""
    path = save(crosscoder.sae, folder)
    about = {"names": crosscoder.names, "widths": crosscoder.widths, "scales": crosscoder.scales}
    write_atomically(path / ABOUT, json.dumps(about, indent=1) + "\n")
    return path


def load_crosscoder(folder: Path | str) -> Crosscoder:
    """Read what `save_crosscoder` wrote. Raises SAEError for a folder that holds none, or is damaged."""
    path = Path(folder) / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        names, widths, scales = (tuple(about[name]) for name in ("names", "widths", "scales"))
    except FileNotFoundError as error:
        raise SAEError(f"{path}: not there, so no crosscoder: an autoencoder is read with load") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SAEError(f"{path}: cannot be read: {error}") from error
    return Crosscoder(load(folder), names, widths, scales)


def _halves(rows: mx.array, widths: tuple[int, int]) -> tuple[mx.array, mx.array]:
    return rows[..., : widths[0]], rows[..., widths[0] :]
