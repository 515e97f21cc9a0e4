"""Behaviours that nobody named, in exp18: prompts of all tasks clustered by the features of their predictions.

No label enters: the metric is the log-odds of the model's own top token, a feature's effect is that of zeroing it.
Clusters are fitted to the pairs for discovery and met by the others, where they are compared with the tasks and
families that the prompts are from, and where each cluster's own circuit (its strongest features) is evaluated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NotRequired, TypedDict

import numpy as np

from experiments.exp18_discover_circuits.config import (
    CircuitConfig,
    Floats,
    Item,
    done,
    rounded,
    split,
)
from experiments.exp18_discover_circuits.features import autoencoders, dictionaries
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from mlx_interp.behaviour.text_classifier import features as words_of
from mlx_interp.circuits import Pair, faithfulness, top
from mlx_interp.circuits.clusters import adjusted_rand, nearest, spherical_means
from mlx_interp.circuits.features import feature_circuits, feature_scores, n_features
from mlx_interp.deferred import mx
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.sae import SAE
from mlx_interp.stats import function_interval, jackknife_interval

CLUSTERS = "clusters"
KEPT = 50
"""Nodes of a cluster's circuit, of which its errors are none: they stay in every circuit."""
BASES = ("effects of features", "effects, random directions", "features, last token", "stream, last token", "words")
RANDOM: Final = "random"


def items(run: Run[CircuitConfig], earlier: Records) -> list[Item]:
    return [Item(CLUSTERS, CLUSTERS)] if run.config.saes and "clusters" in run.config.parts else []


class Clustered(TypedDict):
    """Prompts clustered by one basis; or the circuit of one cluster, m in nats on prompts that it was not fitted to."""

    what: str
    """agreement or circuit."""
    n_train: int
    """Prompts that clusters, or this one, are fitted to."""
    basis: NotRequired[str]
    """Agreement; so for the fields up to families."""
    clusters: NotRequired[list[int]]
    """Of every prompt met."""
    tasks: NotRequired[list[str]]
    families: NotRequired[list[str]]
    cluster: NotRequired[int]
    """Circuit; so for the following fields."""
    common: NotRequired[list[list[str | int]]]
    """The families that most of its prompts are of, and how many."""
    latents: NotRequired[list[str]]
    """The strongest."""
    full: NotRequired[list[float]]
    """m with all latents."""
    empty: NotRequired[list[float]]
    """With none."""
    random: NotRequired[list[float]]
    """With as many at random."""
    own: NotRequired[list[float]]
    others: NotRequired[list[float]]
    """Mean over the other clusters' circuits."""


def measure(run: Run[CircuitConfig], item: Item) -> Iterator[Clustered]:
    """Clusters of every way to write the prompts, and the circuits of those by effects of features."""
    known, met = (_unlabelled(run, part) for part in (0, 1))
    saes = autoencoders(run, run.config.saes)
    effects: dict[str, Any] = {}
    for basis in BASES:
        train, test = (_vectors(run, basis, [pair for _, pair in part]) for part in (known, met))
        centroids = spherical_means(train, run.config.n_clusters, run.config.seed)
        labels = [nearest(x, centroids) for x in (train, test)]
        yield {
            "what": "agreement",
            "basis": basis,
            "n_train": len(known),
            "clusters": labels[1].tolist(),
            "tasks": [task for task, _ in met],
            "families": [f"{task}: {_family(pair)}" for task, pair in met],
        }
        if basis == BASES[0]:
            effects = {"train": train, "labels": labels}
    yield from _circuits(run, saes, met, effects["train"], effects["labels"], known)


def _unlabelled(run: Run[CircuitConfig], part: int) -> list[tuple[str, Pair]]:
    """Each task's clean prompts, asked for the model's own top token; a prompt that two tasks share counts once."""
    found: dict[str, tuple[str, Pair]] = {}
    for task in done(run):
        for pair in split(run, task)[part]:
            found.setdefault(pair.clean.text, (task, pair))
    made = []
    for task, pair in found.values():
        logits = run.model.run(pair.clean).logits
        assert logits is not None
        made.append((task, replace(pair, answers=(int(mx.argmax(logits[0])),), wrong=())))
    return made


def _family(pair: Pair) -> str:
    """Pairs of one group share their template; its last word is a length."""
    return pair.group.rpartition(" ")[0] or pair.group


def _vectors(run: Run[CircuitConfig], basis: str, pairs: Sequence[Pair]) -> Floats:
    """(prompt, number): what prompts are clustered by."""
    if basis == "words":
        return np.asarray(words_of([pair.clean.text for pair in pairs]).todense())
    saes = dictionaries(run)["random directions" if "random" in basis else "trained"]
    if basis.startswith("effects"):
        scores = feature_scores(run.model, pairs, saes, steps=run.config.steps, baseline="zero")
        return np.concatenate([mine[:, :-1] for mine in scores], axis=1)
    rows = []
    for pair in pairs:
        out = run.model.run(pair.clean, capture=[sae.site for sae in saes], logits="none")
        last = [out[sae.site][0, -1].reshape(1, -1) for sae in saes]
        parts = [sae.encode(x) for sae, x in zip(saes, last, strict=True)] if basis.startswith("features") else last
        rows.append(np.concatenate([np.asarray(x, dtype=np.float64)[0] for x in parts]))
    return np.stack(rows)


def _circuits(
    run: Run[CircuitConfig],
    saes: Sequence[SAE],
    met: Sequence[tuple[str, Pair]],
    train: Floats,
    labels: Sequence[Any],
    known: Sequence[tuple[str, Pair]],
) -> Iterator[Clustered]:
    """m of every prompt under the circuit of each cluster; all other latents are 0, errors stay."""
    sizes = n_features(saes)
    made = [cluster for cluster in range(run.config.n_clusters) if (labels[0] == cluster).any()]
    rng = np.random.default_rng(run.config.seed)
    alive = np.abs(train).max(0) > 0
    random = np.zeros(train.shape[1], bool)
    random[rng.choice(np.flatnonzero(alive), min(KEPT, int(alive.sum())), replace=False)] = True
    flat = [top(train[labels[0] == cluster].mean(0), KEPT) for cluster in made]
    circuits = [_masks(mask, sizes) for mask in (np.ones_like(random), np.zeros_like(random), random, *flat)]
    m = feature_circuits(run.model, [pair for _, pair in met], saes, circuits, errors="keep", baseline="zero")
    for place, cluster in enumerate(made):
        mine = np.flatnonzero(labels[1] == cluster)
        tasks = Counter(
            f"{task}: {_family(pair)}" for (task, pair), at in zip(known, labels[0], strict=True) if at == cluster
        )
        strongest = np.argsort(-np.abs(train[labels[0] == cluster].mean(0)))[:5]
        yield {
            "what": "circuit",
            "cluster": cluster,
            "n_train": int((labels[0] == cluster).sum()),
            "common": [list(pair) for pair in tasks.most_common(3)],
            "latents": [_name(saes, int(i)) for i in strongest],
            "full": rounded(m[mine, 0]),
            "empty": rounded(m[mine, 1]),
            RANDOM: rounded(m[mine, 2]),
            "own": rounded(m[mine, 3 + place]),
            "others": rounded(np.delete(m[mine, 3:], place, axis=1).mean(1)) if len(made) > 1 else [],
        }


def _masks(mask: Any, sizes: Sequence[int]) -> list[Any]:
    """Latents of all autoencoders as one mask each, with a place for the error."""
    parts = np.split(mask, np.cumsum([size - 1 for size in sizes])[:-1])
    return [np.append(part, True) for part in parts]


def _name(saes: Sequence[SAE], number: int) -> str:
    for sae in saes:
        if number < sae.d_sae:
            return f"{sae.site} {number}"
        number -= sae.d_sae
    raise IndexError(number)


def agreement_table(records: Records, config: CircuitConfig) -> Table | None:
    """Do clusters that nobody named follow what the world's prompts are?"""
    rows: list[list[Cell]] = []
    for r in records:
        if r.get("what") != "agreement":
            continue
        values: list[Cell] = []
        for known in ("tasks", "families"):
            pairs = list(zip(r[known], r["clusters"], strict=True))

            def of(draws: Any, pairs: list[tuple[str, int]] = pairs) -> Floats:
                return np.array([_rand([pairs[i] for i in units]) for units in draws])

            # A bootstrap draws prompts twice, which always agree with themselves.
            values += [jackknife_interval(of, len(pairs)), len(set(r[known]))]
        rows.append([r["basis"], r["n_train"], len(r["clusters"]), len(set(r["clusters"])), *values])
    if not rows:
        return None
    return Table(
        "Prompts clustered by what their predictions come from",
        [
            *("clustered by", "fitted to", "prompts met", "clusters met"),
            *(Column("adjusted Rand, tasks"), "tasks", Column("adjusted Rand, families"), "families"),
        ],
        rows,
        [
            "No label enters: effects are those of zeroing each latent on the model's own top token. Agreement on "
            "prompts that clusters were not fitted to, intervals by the jackknife; 0 is chance, 1 the same partition."
        ],
    )


def _rand(pairs: Sequence[tuple[str, int]]) -> float:
    return adjusted_rand([known for known, _ in pairs], [cluster for _, cluster in pairs])


def cluster_table(records: Records, config: CircuitConfig) -> Table | None:
    """Each cluster's circuit, on prompts that it has not seen."""
    rows: list[list[Cell]] = []
    for r in records:
        if r.get("what") != "circuit" or len(r["full"]) < 2:
            continue
        full, empty = np.array(r["full"]), np.array(r["empty"])
        values: list[Cell] = []
        for name in ("own", "others", RANDOM):
            m = np.array(r[name])

            def f(units: Any, m: Floats = m, full: Floats = full, empty: Floats = empty) -> Floats:
                return np.asarray(faithfulness(m[units][..., None], full[units], empty[units])[..., 0])

            values.append(function_interval(f, len(m), seed=config.seed) if len(m) else None)
        common = ", ".join(f"{name} ({n})" for name, n in r["common"])
        rows.append([r["cluster"], r["n_train"], len(full), *values, common, ", ".join(r["latents"])])
    if not rows:
        return None
    return Table(
        f"Circuits of {KEPT} features of each cluster",
        [
            *("cluster", "fitted to", "prompts met", Column("f, its own"), Column("f, other clusters'")),
            *(Column("f, random"), "most of it", "strongest features"),
        ],
        rows,
        ["All other latents are 0, errors stay; f between that of no latent and that of all. Prompts not fitted to."],
    )
