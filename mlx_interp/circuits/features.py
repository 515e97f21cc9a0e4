"""Circuits of features: latents of sparse autoencoders as nodes, and an error node at each site (Marks et al. 2025).

1. At each autoencoder's site the activation is its reconstruction plus an error: both are kept, so that nothing changes
   until something is replaced.
2. A latent's estimated effect is the change of its activation, counterfactual minus clean, times the gradient along its
   decoder direction; the error's is its change times the gradient itself. Summed over positions. "ig-activations" takes
   the mean gradient along the site's way from clean to counterfactual, j = 0 ... steps - 1.
3. A circuit is a set of latents and errors. All others take their value on the counterfactual prompt (or 0), at their
   site, as the run goes: what lies between and below the sites is given for free.

The latents of a site and its error add up to the site: so do their estimates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from mlx_interp.circuits.attribution import require_slope
from mlx_interp.circuits.exact import sweep_metric
from mlx_interp.circuits.pairs import Metric, Pair, log_odds
from mlx_interp.deferred import mx
from mlx_interp.errors import CircuitError
from mlx_interp.interventions import Apply, Intervention, Patch
from mlx_interp.model import Model
from mlx_interp.sae import SAE

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
FeatureMethod = Literal["attribution", "ig-activations"]
FeatureBaseline = Literal["counterfactual", "zero"]
Errors = Literal["scored", "keep", "remove"]
"""What becomes of error nodes: they are nodes as others are, stay in every circuit, or are never in one."""
IG_STEPS = 10


def check_saes(model: Model, saes: Sequence[SAE]) -> None:
    """Raises CircuitError for autoencoders that cannot be nodes: none, two at one site, another width, own scales."""
    if not saes:
        raise CircuitError("no autoencoders: feature circuits need at least one, e.g. mi.sae.load(folder)")
    sites = [sae.site for sae in saes]
    if len(set(sites)) < len(sites):
        raise CircuitError(f"two autoencoders of one site ({', '.join(sites)}): their features would be counted twice")
    for sae in saes:
        name = sae.site.partition(".")[0]
        width = {"mlp_act": model.d_mlp, "z": model.n_heads * model.d_v}.get(name, model.d_model)
        if sae.d_model != width:
            raise CircuitError(f"{sae}: its width is {sae.d_model}, {sae.site} of {model.name} is {width} wide")
        if sae.normalize != "none":
            raise CircuitError(
                f"{sae}: inputs are normalised by {sae.normalize!r}; a feature has no fixed direction then"
            )


def n_features(saes: Sequence[SAE]) -> list[int]:
    """How many nodes each autoencoder has: its latents, and the error, which comes last."""
    return [sae.d_sae + 1 for sae in saes]


def feature_scores(
    model: Model,
    pairs: Sequence[Pair],
    saes: Sequence[SAE],
    *,
    metric: Metric | None = None,
    method: FeatureMethod = "ig-activations",
    steps: int = IG_STEPS,
    baseline: FeatureBaseline = "counterfactual",
) -> list[Floats]:
    """Estimated effect of every latent and error: one (n_pairs, d_sae + 1) for each autoencoder.

    baseline: what a node is replaced by, its value on the counterfactual prompt or 0 (for prompts without one).

    Raises CircuitError for a metric without gradient, an unknown method, and as `check_saes`.
    """
    check_saes(model, saes)
    steps = gradients_of(method, steps)
    metric = metric or log_odds(model)
    found = [np.zeros((len(pairs), n), np.float32) for n in n_features(saes)]
    for row, pair in enumerate(pairs):
        here, there = (
            model.run(prompt, capture=[sae.site for sae in saes], logits="none")
            for prompt in (pair.clean, pair.counterfactual)
        )
        for place, sae in enumerate(saes):
            a, b = here[sae.site], there[sae.site]
            if baseline == "zero":
                b = mx.broadcast_to(sae.weights["b_dec"], flat(a).shape).reshape(a.shape)  # no latent, no error
            slope = mean_slope(model, pair, sae, a, b, metric, steps)
            found[place][row] = node_changes(sae, flat(a), None if baseline == "zero" else flat(b), flat(slope))
    require_slope(np.concatenate([scores.ravel() for scores in found]))
    return found


def gradients_of(method: str, steps: int) -> int:
    """How many gradients a method takes. Raises CircuitError for an unknown one."""
    if method not in get_args(FeatureMethod):
        raise CircuitError(f"no method {method!r} for features: there are {', '.join(get_args(FeatureMethod))}")
    return 1 if method == "attribution" else steps


def flat(x: mx.array) -> mx.array:
    """(1, pos, [head], width) -> (pos, width)."""
    return x.reshape(x.shape[1], -1)


def mean_slope(model: Model, pair: Pair, sae: SAE, a: mx.array, b: mx.array, metric: Metric, steps: int) -> mx.array:
    """The mean gradient at a site along its way from clean to counterfactual: (1, pos, ...)."""
    shares = mx.array([j / steps for j in range(steps)]).reshape(-1, *[1] * (a.ndim - 1))
    edits: list[Intervention] = [Patch(sae.site, a + shares * (b - a))] if steps > 1 else []
    rows = [pair] * steps
    found = model.gradients([p.clean for p in rows], metric(rows), [sae.site], interventions=edits)
    return found[sae.site].mean(0, keepdims=True)


def node_changes(sae: SAE, a: mx.array, b: mx.array | None, slope: mx.array) -> Floats:
    """(d_sae + 1,): latents, then the error, from activations a to b (None: to 0); summed over positions."""
    f, error_here = parts(sae, a)
    g, error_there = (mx.zeros_like(f), mx.zeros_like(error_here)) if b is None else parts(sae, b)
    latents = ((g - f) * (slope @ sae.directions.T)).sum(0)
    error = ((error_there - error_here) * slope).sum()
    return np.asarray(mx.concatenate([latents, error[None]]))


def feature_effects(
    model: Model, pairs: Sequence[Pair], sae: SAE, features: Sequence[int], *, metric: Metric | None = None
) -> Floats:
    """Exact effect of giving one latent (or the error, number d_sae) its counterfactual value: (n_pairs, n)."""
    n = n_features([sae])[0]
    if outside := [i for i in features if not 0 <= i < n]:
        raise CircuitError(f"{sae} has nodes 0 to {n - 1} (the last one is its error), not {outside[0]}")
    metric = metric or log_odds(model)
    rows = []
    for pair in pairs:
        latents, error = parts(sae, flat(model.run(pair.counterfactual, capture=sae.site, logits="none")[sae.site]))
        only_error = np.arange(n) < n - 1
        variants: list[list[Intervention]] = [
            [sae.patch([i], latents[:, i : i + 1])] if i < n - 1 else [replaced(sae, only_error, latents, error)]
            for i in features
        ]
        measured = sweep_metric(model, pair, [[], *variants], metric)
        rows.append(measured[1:] - measured[0])
    return np.array(rows)


def feature_circuits(
    model: Model,
    pairs: Sequence[Pair],
    saes: Sequence[SAE],
    circuits: Sequence[Sequence[Bools]],
    *,
    metric: Metric | None = None,
    errors: Errors = "scored",
    baseline: FeatureBaseline = "counterfactual",
) -> Floats:
    """The metric with every latent and error outside a circuit replaced: (n_pairs, n_circuits).

    circuits: for each, one mask (d_sae + 1,) for each autoencoder.
    """
    check_saes(model, saes)
    metric = metric or log_odds(model)
    rows = []
    for pair in pairs:
        there = model.run(pair.counterfactual, capture=[sae.site for sae in saes], logits="none")
        others = [parts(sae, flat(there[sae.site])) for sae in saes]
        if baseline == "zero":
            others = [(mx.zeros_like(f), mx.zeros_like(e)) for f, e in others]
        variants = [
            [
                replaced(sae, _with_errors(mask, errors), *other)
                for sae, mask, other in zip(saes, c, others, strict=True)
            ]
            for c in circuits
        ]
        rows.append(sweep_metric(model, pair, variants, metric))
    return np.array(rows)


def parts(sae: SAE, x: mx.array) -> tuple[mx.array, mx.array]:
    """Latents and error of activations (pos, width)."""
    f = sae.encode(x)
    return f, x.astype(mx.float32) - sae.decode(f)


def _with_errors(mask: Bools, errors: Errors) -> Bools:
    if errors == "scored":
        return mask
    mask = mask.copy()
    mask[-1] = errors == "keep"
    return mask


def replaced(sae: SAE, mask: Bools, latents: mx.array, error: mx.array) -> Intervention:
    """The site's activation with what is outside the mask replaced; everything inside is as the run has it."""
    change = mx.array((~mask[:-1]).astype(np.float32))

    def function(x: mx.array) -> mx.array:
        rows = x.reshape(*x.shape[:2], -1).astype(mx.float32)
        f = sae.encode(rows)
        length = x.shape[1]
        other = latents[-length:]  # a sweep may have dropped positions that nothing reads
        moved = rows + ((other - f) * change) @ sae.directions
        if not mask[-1]:
            moved = moved + (error[-length:] - (rows - sae.decode(f)))
        return moved.reshape(x.shape).astype(x.dtype)

    return Apply(sae.site, function)
