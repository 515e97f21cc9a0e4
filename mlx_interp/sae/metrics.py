"""Fidelity of an autoencoder: to the activations, and to what the model makes of them.

Reconstruction is measured over the whole sample at once: explained variance is 1 - sum_d Var(x - x^) / sum_d Var(x),
and a mean over batches would differ. Loss is measured with the reconstruction spliced in at every position but BOS,
beside the clean run, the site set to zero, and the site set to its mean: against zero nearly everything recovers 98 %,
so the difference in nats is the honest figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_interp import sites
from mlx_interp.deferred import mx
from mlx_interp.engine.host import log_softmax
from mlx_interp.errors import SAEError, SiteError
from mlx_interp.interventions import ArrayLike, Intervention, Patch
from mlx_interp.massive_activations import first_position
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.sae.sae import SAE
from mlx_interp.sae.streams import Batches, Floats, activations, source_of
from mlx_interp.shapes import ShapesShown

DENSE = 0.1
"""A feature active on more than this share of tokens is called dense."""
ARMS = ("clean", "spliced", "zero", "mean")


@dataclass(frozen=True, repr=False)
class Reconstruction(ShapesShown):
    """An autoencoder beside the activations it was measured on."""

    n_tokens: int
    l0: float
    """Active features of a token, mean."""
    fve: float
    """Share of variance explained; below 0 where the reconstruction is worse than the mean."""
    cosine: float
    norm_ratio: float
    """Length of the reconstruction by that of the activation, mean over tokens."""
    relative_bias: float
    """E ||x^||^2 / E x . x^: 1 for a reconstruction that is as long as it should be, below 1 for a shrunken one."""
    mean_norm: float
    """Root of E ||x||^2."""
    frequency: npt.NDArray[np.float64] = field(repr=False)
    """Share of tokens on which each feature is active, (d_sae,)."""

    @property
    def dead(self) -> float:
        """Share of features silent on all `n_tokens` (on few tokens this overstates)."""
        return float(np.mean(self.frequency == 0))

    @property
    def dense(self) -> float:
        return float(np.mean(self.frequency > DENSE))


def reconstruction(sae: SAE, data: Floats | Batches, *, size: int = 4096) -> Reconstruction:
    """Reconstruction of all activations of a sample (n_tokens, d_model), or of one pass over a source of batches.

    Raises SAEError for another width, and for fewer than two tokens.
    """
    n = 0
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for rows in source_of(data).batches(sae.site, size, seed=0):
        x = mx.array(np.asarray(rows, dtype=np.float32))
        f, out = sae.encode(x), sae(x)
        found = _sums(np.asarray(x, dtype=np.float64), np.asarray(out, dtype=np.float64), np.asarray(f))
        sums = {name: sums[name] + value if sums else value for name, value in found.items()}
        n += len(rows)
    if n < 2:
        raise SAEError(f"{sae}: variance needs two tokens or more, found {n}")
    variances = [sums[f"{a}2"] - sums[a] ** 2 / n for a in ("error", "x")]
    return Reconstruction(
        n_tokens=n,
        l0=float(sums["l0"] / n),
        fve=float(1 - variances[0].sum() / max(variances[1].sum(), 1e-30)),
        cosine=float(sums["cosine"] / n),
        norm_ratio=float(sums["ratio"] / n),
        relative_bias=float(sums["out_out"] / sums["x_out"]) if sums["x_out"] else float("nan"),
        mean_norm=float(np.sqrt(sums["x2"].sum() / n)),
        frequency=sums["active"] / n,
    )


def _sums(x: npt.NDArray[np.float64], out: npt.NDArray[np.float64], f: Floats) -> dict[str, npt.NDArray[np.float64]]:
    error = x - out
    norm, out_norm, dot = np.linalg.norm(x, axis=-1), np.linalg.norm(out, axis=-1), np.sum(x * out, axis=-1)
    return {
        "x": x.sum(0),
        "x2": (x**2).sum(0),
        "error": error.sum(0),
        "error2": (error**2).sum(0),
        "active": (f > 0).sum(0).astype(np.float64),
        "l0": np.array(float((f > 0).sum())),
        "cosine": np.array(np.sum(dot / np.maximum(norm * out_norm, 1e-30))),
        "ratio": np.array(np.sum(out_norm / np.maximum(norm, 1e-30))),
        "out_out": np.array(np.sum(out_norm**2)),
        "x_out": np.array(np.sum(dot)),
    }


@dataclass(frozen=True, repr=False)
class Loss(ShapesShown):
    """Cross-entropy of the text, in nats a token, prompt by prompt; each array is (n_prompts,)."""

    n_tokens: npt.NDArray[np.int64]
    """Scored tokens of each prompt."""
    clean: npt.NDArray[np.float64]
    spliced: npt.NDArray[np.float64]
    zero: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    kl: npt.NDArray[np.float64]
    """KL(clean || spliced)."""

    def total(self, arm: str) -> float:
        """Mean over tokens of one arm, or of "kl"."""
        return float(np.average(getattr(self, arm), weights=self.n_tokens))

    @property
    def delta(self) -> float:
        """What splicing costs, in nats a token: spliced - clean."""
        return self.total("spliced") - self.total("clean")

    def recovered(self, against: str = "zero") -> float:
        """(ablated - spliced) / (ablated - clean), the site set to "zero" or its "mean"; nan if that costs nothing."""
        ablated = self.total(against)
        cost = ablated - self.total("clean")
        return (ablated - self.total("spliced")) / cost if cost > 1e-9 else float("nan")


@dataclass(frozen=True, repr=False)
class Baselines(ShapesShown):
    """Cross-entropy of texts without an autoencoder, in nats a token: the same for all of a site. (n_prompts,) each."""

    site: str
    clean: npt.NDArray[np.float64]
    zero: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]


def baselines(
    model: Model, site: str, prompts: Sequence[Prompt], mean: ArrayLike, *, starts: Sequence[int] | None = None
) -> Baselines:
    """Losses of the clean run, and with a site set to zero and to its mean; `loss` takes them where it is asked often.

    mean, starts: as for `loss`.
    """
    arms_of_site = [_clean, *_ablated(model, site, mean)]
    found = [
        [_cross_entropy(arm, following) for arm in arms]
        for arms, following in _log_probs(model, prompts, _starts(model, prompts, starts), arms_of_site)
    ]
    clean, zero, mean_loss = np.array(found, dtype=np.float64).reshape(-1, 3).T
    return Baselines(_site(model, site), clean, zero, mean_loss)


def loss(
    model: Model,
    sae: SAE,
    prompts: Sequence[Prompt],
    mean: ArrayLike,
    *,
    starts: Sequence[int] | None = None,
    known: Baselines | None = None,
) -> Loss:
    """Spliced cross-entropy: what the model loses on texts when the reconstruction stands in for its activation.

    mean: the site's mean activation (d_model,). starts: of each prompt, the first position whose next token is scored;
    by default the first that is not BOS. known: `baselines` of these prompts, which then are not computed again.
    Raises SAEError for an autoencoder that does not fit, for a text without a token to score, and for baselines of
    another site or of other texts.
    """
    name = _site(model, sae.site)
    if known is not None and (known.site, len(known.clean)) != (name, len(prompts)):
        raise SAEError(
            f"baselines of {known.site} on {len(known.clean)} texts, an autoencoder of {name} on {len(prompts)}"
        )
    arms_of_sae: list[Arm] = [_clean, lambda where: [sae.splice(positions=where)]]
    if known is None:
        arms_of_sae += _ablated(model, sae.site, mean)
    first = _starts(model, prompts, starts)
    rows = []
    for arms, following in _log_probs(model, prompts, first, arms_of_sae):
        kl = float(np.sum(np.exp(arms[0]) * (arms[0] - arms[1]), axis=-1, dtype=np.float64).mean())
        rows.append([*(_cross_entropy(arm, following) for arm in arms), kl])
    n_tokens = np.array([len(prompt) - 1 - start for prompt, start in zip(prompts, first, strict=True)], dtype=np.int64)
    found = np.array(rows, dtype=np.float64).reshape(len(prompts), -1).T
    if known is None:
        return Loss(n_tokens, *found)
    clean, spliced, kl_to_spliced = found
    if not np.allclose(clean, known.clean, atol=1e-3):
        raise SAEError(
            "the baselines are of other texts, or score other tokens: without an edit losses differ from theirs"
        )
    return Loss(n_tokens, clean, spliced, known.zero, known.mean, kl_to_spliced)


def _site(model: Model, selector: str) -> str:
    return str(sites.parse_one(selector, model.n_layers))


Arm: TypeAlias = "Callable[[slice], list[Intervention]]"
"""The interventions of an arm, given the positions that are not BOS."""


def _clean(where: slice) -> list[Intervention]:
    return []


def _ablated(model: Model, site: str, mean: ArrayLike) -> list[Arm]:
    """The arms in which a site is zero, and in which it is its mean."""
    name = _site(model, site)
    centre = mx.array(np.asarray(mean, dtype=np.float32))
    if name.startswith("z."):
        centre = centre.reshape(model.n_heads, model.d_v)
    return [
        lambda where: [Patch(name, 0.0, positions=where)],
        lambda where: [Patch(name, centre, positions=where)],
    ]


def _starts(model: Model, prompts: Sequence[Prompt], starts: Sequence[int] | None) -> list[int]:
    for prompt in prompts:
        if len(prompt) < 2 + first_position(model, prompt):
            raise SAEError(f"a text of {len(prompt)} tokens has none to score: {prompt.text!r}")
    return list(starts) if starts is not None else [first_position(model, prompt) for prompt in prompts]


def _log_probs(
    model: Model,
    prompts: Sequence[Prompt],
    starts: Sequence[int],
    arms: Sequence[Arm],
) -> Iterator[tuple[Floats, npt.NDArray[np.int64]]]:
    """Of each prompt log-probabilities (arm, scored token, d_vocab), and the tokens that follow (scored token,).

    The arms are a sweep: what lies before the site is computed once for all of them.
    """
    for prompt, start in zip(prompts, starts, strict=True):
        where = slice(first_position(model, prompt), None)
        logits = model.sweep(prompt, [arm(where) for arm in arms], logits=len(prompt) - start)
        yield np.asarray(log_softmax(logits[:, :-1].astype(mx.float32))), np.asarray(prompt.tokens[start + 1 :])


def _cross_entropy(log_probs: Floats, following: npt.NDArray[np.int64]) -> float:
    return float(-np.mean(log_probs[np.arange(len(following)), following], dtype=np.float64))


@dataclass(frozen=True)
class Fidelity:
    """Fidelity figures of an autoencoder on the model at hand."""

    model: str
    reconstruction: Reconstruction
    loss: Loss

    def __str__(self) -> str:
        r, cost = self.reconstruction, self.loss
        return (
            f"on {self.model}: FVE {r.fve:.3f}, L0 {r.l0:.1f}, loss recovered {cost.recovered():.3f} (against the mean "
            f"{cost.recovered('mean'):.3f}), delta CE {cost.delta:.3f} nats, KL {cost.total('kl'):.3f}, norm ratio "
            f"{r.norm_ratio:.2f}, norm {r.mean_norm:.3g}, over {r.n_tokens} tokens"
        )


@dataclass(frozen=True)
class Gate:
    """Bounds that an autoencoder must reach on the model at hand; `check` refuses it with the figures."""

    min_fve: float = 0.6
    min_recovered: float = 0.8
    """Of the loss, against zero ablation."""
    max_delta: float = 1.0
    """Nats a token."""
    l0_factor: float = 2.0
    """By how much L0 may differ from the one it was released with."""
    norm_factor: float = 1.5
    """By how much the activations' length may differ from the one it was trained on."""

    def faults(self, sae: SAE, found: Fidelity) -> list[str]:
        """What is wrong, with figures and likely causes; empty for an autoencoder that may be used."""
        r, cost = found.reconstruction, found.loss
        l0, norm = sae.meta.get("l0"), sae.meta.get("mean_norm")
        faults = []
        if norm and not 1 / self.norm_factor <= r.mean_norm / norm <= self.norm_factor:
            faults.append(
                f"activations are {r.mean_norm:.3g} long, it was trained on {norm:.3g}: another site or scale"
            )
        if l0 and not 1 / self.l0_factor <= r.l0 / l0 <= self.l0_factor:
            faults.append(f"L0 is {r.l0:.1f}, released with {l0:.1f}: wrong kind, threshold or scale")
        if not r.fve >= self.min_fve:
            faults.append(f"FVE {r.fve:.3f} is below {self.min_fve}: wrong layer, site or scale")
        if not cost.recovered() >= self.min_recovered:
            faults.append(f"loss recovered {cost.recovered():.3f} is below {self.min_recovered}")
        if not cost.delta <= self.max_delta:
            faults.append(f"splicing costs {cost.delta:.3f} nats a token, more than {self.max_delta}")
        return faults

    def check(self, sae: SAE, found: Fidelity) -> None:
        """Raises SAEError, with all figures, for an autoencoder that does not describe this model."""
        if faults := self.faults(sae, found):
            raise SAEError(f"{sae} does not describe this model: {'; '.join(faults)}. Measured {found}")


def check_fits(sae: SAE, model: Model) -> None:
    """Raises SAEError for an autoencoder of a layer or width that the model does not have."""
    try:
        site = sites.parse_one(sae.site, model.n_layers)
    except SiteError as error:
        raise SAEError(f"{sae} is of a site that {model.name} does not have: {error}") from error
    n_heads, width = model.network.site_shape(site, 1)
    if sae.d_model != (width := max(n_heads, 1) * width):
        raise SAEError(
            f"{sae} reads activations of width {sae.d_model}; {site} of {model.name} is {width} wide: it is of another "
            "model, or of another site"
        )


def fidelity(model: Model, sae: SAE, prompts: Sequence[Prompt], *, starts: Sequence[int] | None = None) -> Fidelity:
    """Reconstruction and loss of an autoencoder on a model's texts. Raises SAEError where it does not fit the site."""
    check_fits(sae, model)
    x = activations(model, prompts, sae.site)
    return Fidelity(
        f"{model.name} ({model.quantization or 'unquantised'})",
        reconstruction(sae, x),
        loss(model, sae, prompts, x.mean(0), starts=starts),
    )
