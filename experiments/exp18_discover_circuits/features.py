"""Circuits of autoencoder features in exp18: their estimates checked by patching, their faithfulness by size.

Beside the trained autoencoders stand two dictionaries that nobody trained: random directions with as many latents and
as many of them active, and the site's own channels, each as two latents (its positive and its negative part).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments.exp18_discover_circuits import feature_edges
from experiments.exp18_discover_circuits.circuit_report import rows_of
from experiments.exp18_discover_circuits.config import (
    LARGE_EDGE,
    Bools,
    CircuitConfig,
    Floats,
    Item,
    done,
    items,
    rounded,
    split,
    tasks_of,
)
from experiments.exp18_discover_circuits.feature_edges import Featured
from experiments.harness.experiment import ExperimentConfig, Records
from experiments.harness.frame import Frame
from experiments.harness.state import Run, of_run
from mlx_interp.circuits import Pair, check, faithfulness, sample, top
from mlx_interp.circuits.features import Errors, feature_circuits, feature_effects, feature_scores, n_features
from mlx_interp.deferred import mx
from mlx_interp.errors import ConfigError
from mlx_interp.reporting import Cell, Column, Plot, Series, Table, finite, line_with_band
from mlx_interp.sae import SAE, load
from mlx_interp.stats import Estimate, function_interval, mean_or_none

DICTIONARIES = ("trained", "random directions", "channels")
ERRORS: dict[str, tuple[Errors, ...]] = {"trained": ("keep", "remove"), "random directions": ("remove",)}
"""What else is done with errors: they hold most of what a dictionary misses."""
SIZES = (0, 5, 10, 20, 50, 100, 200, 500)
CONFIG_FILE = "cfg.json"


def feature_items(run: Run[CircuitConfig], earlier: Records) -> list[Item]:
    return items(run, earlier) if run.config.saes and run.config.parts != ("clusters",) else []


@of_run(2)
def autoencoders(run: Run[ExperimentConfig], folder: str) -> tuple[SAE, ...]:
    """All autoencoders below a folder, in the order of their sites. Raises ConfigError where there is none."""
    root = Path(folder.replace("{model}", run.model.name))
    found = [load(path.parent) for path in sorted(root.rglob(CONFIG_FILE))]
    if not found:
        raise ConfigError(f"saes={folder!r}: no {CONFIG_FILE} in or below {root}; exp17 leaves autoencoders there")
    return tuple(sorted(found, key=lambda sae: (sae.site.partition(".")[0], int(sae.site.rpartition(".")[2]))))


def dictionaries(run: Run[CircuitConfig]) -> dict[str, tuple[SAE, ...]]:
    """The trained autoencoders and their controls, at the same sites."""
    trained = autoencoders(run, run.config.saes)
    train, _ = split(run, done(run)[0])
    random = []
    for number, sae in enumerate(trained):
        x = run.model.run([pair.clean for pair in train], capture=sae.site, logits="none")[sae.site]
        active = float((sae.encode(x.reshape(-1, sae.d_model)) > 0).sum(-1).astype(mx.float32).mean())
        random.append(random_dictionary(sae, max(1, round(active)), run.config.seed + number))
    channels = tuple(channel_dictionary(sae.site, sae.d_model) for sae in trained)
    return dict(zip(DICTIONARIES, (trained, tuple(random), channels), strict=True))


def random_dictionary(sae: SAE, k: int, seed: int) -> SAE:
    """As many unit directions at random, the k largest active."""
    rows = np.random.default_rng(seed).normal(size=(sae.d_sae, sae.d_model)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    weights = {"W_enc": mx.array(rows.T.copy()), "W_dec": mx.array(rows), "b_enc": mx.zeros((sae.d_sae,))}
    return SAE("topk", sae.site, {**weights, "b_dec": sae.weights["b_dec"]}, k=min(k, sae.d_sae))


def channel_dictionary(site: str, width: int) -> SAE:
    """Every channel as two latents: what it has above 0, and below. Its error is 0."""
    rows = np.concatenate([np.eye(width), -np.eye(width)]).astype(np.float32)
    zeros = {"b_enc": mx.zeros((2 * width,)), "b_dec": mx.zeros((width,))}
    return SAE("relu", site, {"W_enc": mx.array(rows.T.copy()), "W_dec": mx.array(rows), **zeros})


def measure(run: Run[CircuitConfig], item: Item) -> Iterator[Featured]:
    """Scores on the pairs for discovery, their check on some of these, faithfulness on others."""
    train, test = split(run, item.task)
    for name, saes in dictionaries(run).items():
        per_pair = feature_scores(run.model, train, saes)
        means = np.concatenate([scores.mean(0) for scores in per_pair])
        base: Featured = {"task": item.task, "dictionary": name}
        if name == "trained":
            yield from _checked(run, saes, train[: run.config.n_checked], per_pair, base)
            yield {**base, "strongest": _strongest(saes, means), "n": len(train)}
            yield from feature_edges.measure(run, saes, train, test, per_pair, item.task)
        masks = [_by_sae(top(means, size), saes) for size in SIZES]
        whole = [np.ones(n, bool) for n in n_features(saes)]
        found = feature_circuits(run.model, test, saes, [*masks, whole])
        yield {**base, "nodes": len(means), "sizes": list(SIZES), "features_m": [rounded(row) for row in found]}
        for errors in ERRORS.get(name, ()):
            found = feature_circuits(run.model, test, saes, [*masks, whole], errors=errors)
            yield {
                **base,
                "dictionary": f"{name}, errors: {errors}",
                "nodes": len(means),
                "sizes": list(SIZES),
                "features_m": [rounded(row) for row in found],
            }


def _by_sae(mask: Bools, saes: Sequence[SAE]) -> list[Bools]:
    return np.split(mask, np.cumsum(n_features(saes))[:-1])


def _checked(
    run: Run[CircuitConfig],
    saes: Sequence[SAE],
    pairs: Sequence[Pair],
    per_pair: Sequence[Floats],
    base: Featured,
) -> Iterator[Featured]:
    """Each autoencoder's largest latents and others at random, patched one by one."""
    whole = [np.ones(n, bool) for n in n_features(saes)]
    ends = feature_circuits(run.model, pairs, saes, [whole, [~mask for mask in whole]])
    for row, pair in enumerate(pairs):
        for sae, scores in zip(saes, per_pair, strict=True):
            half = run.config.n_sampled // 2
            chosen = sample(scores[row], top=half, random=half, seed=run.config.seed)
            exact = feature_effects(run.model, [pair], sae, chosen)[0]
            found = check(scores[row][chosen], exact, large=LARGE_EDGE * abs(ends[row, 0] - ends[row, 1]))
            yield {
                **base,
                "site": sae.site,
                "pair": pair.key,
                "spearman": finite(found.spearman),
                "missed": found.missed,
                "cells": found.n,
            }


def _strongest(saes: Sequence[SAE], means: Floats, n: int = 10) -> list[list[str | int | float]]:
    """Site, number (or "error") and mean score of the largest nodes."""
    names = [(sae.site, i if i < sae.d_sae else "error") for sae in saes for i in range(sae.d_sae + 1)]
    return [[*names[i], float(f"{means[i]:.4g}")] for i in np.argsort(-np.abs(means))[:n]]


def _curves(records: Records, task: str, dictionary: str, seed: int) -> list[Estimate | None]:
    """f at every size, with intervals over test pairs; m(0) is the circuit of no node, m(M) that of all."""
    found = [r for r in rows_of(records, task=task, dictionary=dictionary) if "features_m" in r]
    ends = [r for r in rows_of(records, task=task, dictionary="trained") if "features_m" in r]
    if not found:
        return []
    m, bounds = np.array(found[0]["features_m"]), np.array(ends[0]["features_m"])

    def at(size: int) -> Estimate | None:
        return function_interval(
            lambda pairs: faithfulness(m[pairs][..., [size]], bounds[pairs, -1], bounds[pairs, 0])[..., 0],
            len(m),
            seed=seed,
        )

    return [at(size) for size in range(len(SIZES))]


def check_table(records: Records, config: CircuitConfig) -> Table | None:
    """Estimates of latents against patching them."""
    rows: list[list[Cell]] = []
    for task in tasks_of(records):
        found = [
            r for r in rows_of(records, task=task, dictionary="trained") if "site" in r and r["spearman"] is not None
        ]
        units = [r["pair"] for r in found]
        if len(set(units)) >= 2:
            rho = mean_or_none([r["spearman"] for r in found], unit=units, seed=config.seed)
            large = [r for r in found if r["missed"] is not None]
            missed = Frame(large).rate("missed", unit="pair", seed=config.seed)
            rows.append([task, len(set(units)), len({r["site"] for r in found}), rho, missed])
    if not rows:
        return None
    heads = [Column("rank correlation"), Column("large effects missed", "%")]
    return Table(
        "Features: estimates against real patching",
        ["task", "pairs", "sites", *heads],
        rows,
        [f"{config.n_sampled} latents of each site and pair: half of them the largest estimates, half others."],
    )


def size_table(records: Records, config: CircuitConfig) -> Table | None:
    """Faithfulness of circuits of features by size, beside dictionaries that nobody trained."""
    rows: list[list[Cell]] = []
    for task in tasks_of(records):
        for name in (*DICTIONARIES, *(f"{kind}, errors: {errors}" for kind, some in ERRORS.items() for errors in some)):
            if values := _curves(records, task, name, config.seed):
                row = next(r for r in rows_of(records, task=task, dictionary=name) if "features_m" in r)
                rows.append([task, name, len(row["features_m"]), row["nodes"], *values[1:]])
    if not rows:
        return None
    return Table(
        "Faithfulness of circuits of features",
        ["task", "dictionary", "pairs", "nodes in all", *(Column(f"f of {size}") for size in SIZES[1:])],
        rows,
        [
            "All other latents and errors take their value on the counterfactual prompt, at their site. Channels: the "
            "site's own, each as its positive and its negative part. Errors are nodes unless said otherwise.",
        ],
    )


def strongest_table(records: Records, config: CircuitConfig) -> Table | None:
    rows: list[list[Cell]] = []
    for r in records:
        if "strongest" in r:
            shown = ", ".join(f"{site} {number} ({score:.2f})" for site, number, score in r["strongest"][:6])
            rows.append([r["task"], r["n"], shown])
    return Table("Strongest features", ["task", "pairs", "features (estimated effect, nats)"], rows) if rows else None


def curves(records: Records, config: CircuitConfig) -> Iterator[Plot]:
    for task in tasks_of(records):
        series = [
            Series(name, values) for name in DICTIONARIES if (values := _curves(records, task, name, config.seed))
        ]
        if series:
            yield line_with_band(
                [float(np.log10(max(size, 1))) for size in SIZES],
                series,
                name=f"features_{task}",
                title=f"Circuits of features: {task}",
                x_label="nodes kept (log10)",
                y_label="f",
                caption=f"f over the number of latents and errors kept; {task}; bands: 95 % intervals over test pairs. "
                "The leftmost point keeps none.",
            )
