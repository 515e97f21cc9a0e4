"""Fidelity of an autoencoder: to the activations, and to what the model makes of them.

Reconstruction is measured over the whole sample at once: explained variance is 1 - sum_d Var(x - x^) / sum_d Var(x),
and a mean over batches would differ. Loss is measured with the reconstruction spliced in at every position but BOS,
beside the clean run, the site set to zero, and the site set to its mean: against zero nearly everything recovers 98 %,
so the difference in nats is the honest figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mlx_interp import sites
from mlx_interp.deferred import mx
from mlx_interp.errors import SAEError, SiteError
from mlx_interp.interventions import ArrayLike, Intervention, Patch
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.sae.sae import SAE
from mlx_interp.sae.streams import Batches, Floats, activations, first_position, source_of
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


def loss(
    model: Model,
    sae: SAE,
    prompts: Sequence[Prompt],
    mean: ArrayLike,
    *,
    starts: Sequence[int] | None = None,
    per_run: int = 32,
) -> Loss:
    """Spliced cross-entropy: what the model loses on texts when the reconstruction stands in for its activation.

    mean: the site's mean activation (d_model,). starts: of each prompt, the first position whose next token is scored;
    by default the first that is not BOS. Raises SAEError for an autoencoder that does not fit.
    """
    name = str(sites.parse_one(sae.site, model.n_layers))
    centre = mx.array(np.asarray(mean, dtype=np.float32))
    if name.startswith("z."):
        centre = centre.reshape(model.n_heads, model.d_v)
    order = sorted(range(len(prompts)), key=lambda i: (first_position(model, prompts[i]), len(prompts[i])))
    found: dict[int, tuple[float, ...]] = {}
    for chosen in _runs(model, prompts, order, per_run):
        where = slice(first_position(model, prompts[chosen[0]]), None)
        edits: list[list[Intervention]] = [
            [],
            [sae.splice(positions=where)],
            [Patch(name, 0.0, positions=where)],
            [Patch(name, centre, positions=where)],
        ]
        logs = [_log_probs(model, [prompts[i] for i in chosen], edit) for edit in edits]
        for row, i in enumerate(chosen):
            start = starts[i] if starts is not None else first_position(model, prompts[i])
            found[i] = _of_prompt([log[row] for log in logs], prompts[i].tokens, start)
    columns = np.array([found[i] for i in range(len(prompts))], dtype=np.float64).T
    return Loss(columns[0].astype(np.int64), *columns[1:])


def _runs(model: Model, prompts: Sequence[Prompt], order: Sequence[int], per_run: int) -> list[list[int]]:
    """Prompts that run together: as many as asked for, all with BOS or all without."""
    runs: list[list[int]] = []
    for i in order:
        if len(prompts[i]) < 2 + first_position(model, prompts[i]):
            raise SAEError(f"a text of {len(prompts[i])} tokens has none to score: {prompts[i].text!r}")
        first = first_position(model, prompts[i])
        if runs and len(runs[-1]) < per_run and first_position(model, prompts[runs[-1][0]]) == first:
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def _log_probs(model: Model, prompts: Sequence[Prompt], edits: Sequence[Intervention]) -> npt.NDArray[np.float32]:
    logits = model.run(prompts, interventions=edits, logits="all").logits
    assert logits is not None
    wide = logits.astype(mx.float32)
    return np.asarray(wide - mx.logsumexp(wide, axis=-1, keepdims=True))


def _of_prompt(logs: Sequence[npt.NDArray[np.float32]], tokens: Sequence[int], start: int) -> tuple[float, ...]:
    """(tokens scored, cross-entropy of each arm, KL of the second from the first)."""
    rows, following = np.arange(start, len(tokens) - 1), np.asarray(tokens)[start + 1 :]
    losses = [float(-np.mean(log[rows, following])) for log in logs]
    clean, spliced = logs[0][rows].astype(np.float64), logs[1][rows].astype(np.float64)
    kl = float(np.mean(np.sum(np.exp(clean) * (clean - spliced), axis=-1)))
    return (float(len(rows)), *losses, kl)


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


def fidelity(
    model: Model, sae: SAE, prompts: Sequence[Prompt], *, starts: Sequence[int] | None = None, per_run: int = 32
) -> Fidelity:
    """Reconstruction and loss of an autoencoder on a model's texts. Raises SAEError where it does not fit the site."""
    check_fits(sae, model)
    x = activations(model, prompts, sae.site)
    return Fidelity(
        f"{model.name} ({model.quantization or 'unquantised'})",
        reconstruction(sae, x),
        loss(model, sae, prompts, x.mean(0), starts=starts, per_run=per_run),
    )
