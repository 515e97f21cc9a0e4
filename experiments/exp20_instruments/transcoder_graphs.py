"""Attribution graphs with transcoders trained in the run: do edges and influences say what ablation in the model does?

Small transcoders read the project's texts (of embedded models, the world's), without those that begin with a question
that is traced; some are held out for variance explained. Kinds: per-layer, of all layers; cross-layer, of the last
ones; per-layer, of the same last ones. Each question's graph is judged by the model as it is: features drawn at random
are ablated at their position, and what the likeliest token's logit loses is correlated with the graph's total and
direct effects, and over all its tokens with influence; edges are ablated with all other MLPs between held. Controls:
the length of what a feature writes, as an estimate; features of equal length outside the pruned graph; random
directions of equal length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict, cast, get_args

import numpy as np
import scipy

from experiments.exp20_instruments.hop_pairs import PairConfig, hop_pairs
from experiments.harness.state import Run, of_run
from experiments.shared.project_texts import sentences
from experiments.shared.two_hop.question_pairs import known_queries
from mlx_interp.circuits import (
    AttributionGraph,
    attribution_graph,
    edge_ablations,
    feature_ablations,
    graph_scores,
    node_influence,
    page_graph,
    prune,
    random_ablations,
)
from mlx_interp.circuits.graph import as_json
from mlx_interp.deferred import mx
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.pages import CircuitGraph
from mlx_interp.prompts import Prompt
from mlx_interp.reporting import finite
from mlx_interp.sae import TrainConfig, TranscoderSet, train_transcoders, transcoded, transcoder_rows
from mlx_interp.sae.transcoder import of_layers
from mlx_interp.stats import stable_draw

STAGE = "transcoders"
Kind = Literal["per-layer", "cross-layer, last layers", "per-layer, last layers"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PER_LAYER, CROSS, LAST = KINDS
HELD_OUT = 8
"""One text of so many is not trained on."""
SHOWN_GRAPHS, SHOWN_EDGES = 2, 60
"""Graphs that are kept as pictures, and edges of each."""


@dataclass(frozen=True)
class TranscoderConfig(PairConfig):
    """Fields of attribution graphs."""

    n_graphs: int = 8
    """Questions that are traced."""
    n_transcoder_texts: int = 800
    """Texts that transcoders are trained on and measured on."""
    transcoder_features: int = 512
    """Features of each layer."""
    transcoder_k: int = 16
    """Features of a layer that are active on a token, on average."""
    transcoder_steps: int = 200
    """Steps of training each."""
    transcoder_batch: int = 256
    """Tokens of a step."""
    transcoder_rate: float = 3e-3
    """Learning rate."""
    cross_layers: int = 4
    """Layers of the cross-layer transcoder, the last ones; 0: none is trained."""
    n_ablated: int = 96
    """Features of a graph that are ablated, drawn at random."""
    n_largest: int = 24
    """Features of the largest influence that are ablated beside those of equal length."""
    n_cut: int = 96
    """Edges of a pruned graph that are ablated."""


@dataclass(frozen=True)
class Traced:
    """One question's graph, or all layers of a kind (number -1), as an item."""

    key: str
    kind: Kind
    number: int


class Graphed(TypedDict):
    """A layer's transcoder on held-out texts, or a graph against ablations."""

    kind: str
    layer: NotRequired[int]
    fve: NotRequired[float]
    l0: NotRequired[float]
    dead: NotRequired[float]
    tokens: NotRequired[int]
    prompt: NotRequired[str]
    active: NotRequired[int]
    nodes: NotRequired[int]
    edges: NotRequired[int]
    explained: NotRequired[float]
    """Share of the squared length of MLP outputs that features write on the prompt."""
    sums: NotRequired[float]
    """Largest difference of a node's incoming edges and biases from its value, by the largest value."""
    replacement: NotRequired[float]
    completeness: NotRequired[float]
    ablated: NotRequired[int]
    total: NotRequired[float | None]
    """Pearson correlation of estimates with real effects on the likeliest token's logit; so for direct ones."""
    direct: NotRequired[float | None]
    ranked: NotRequired[float | None]
    """Rank correlation of influence with real effects, over all tokens; so for the length of what features write."""
    length: NotRequired[float | None]
    cut: NotRequired[int]
    edge: NotRequired[float | None]
    """Pearson correlation of edge weights with real effects."""
    slope: NotRequired[float | None]
    largest: NotRequired[float]
    """Mean size of the real effects of the most influential features, in logits."""
    matched: NotRequired[float]
    random: NotRequired[float]
    estimates: NotRequired[list[float]]
    effects: NotRequired[list[float]]
    graph: NotRequired[str]


def traced(run: Run[TranscoderConfig]) -> list[Traced]:
    """Each kind's layers, then its graphs."""
    kinds = [kind for kind in KINDS if kind == PER_LAYER or run.config.cross_layers > 1]
    n = len(questions(run))
    return [Traced(f"{kind} {at if at >= 0 else 'layers'}", kind, at) for kind in kinds for at in range(-1, n)]


def forward_passes(run: Run[TranscoderConfig]) -> float:
    """What the part costs: rows, training by its products, and graphs with their ablations."""
    config, model = run.config, run.model
    kinds = 3 if config.cross_layers > 1 else 1
    seen = config.transcoder_steps * config.transcoder_batch  # tokens of training, each three products of both halves
    weights = 2 * model.d_model * config.transcoder_features * (model.n_layers + config.cross_layers**2)
    each = 2 * config.n_largest + config.n_ablated + config.n_cut + config.n_largest
    # A graph's products are those of attention, for each active feature: as many as features of a prompt's positions.
    return (
        config.n_transcoder_texts
        + 3 * seen * weights / (model.network.n_parameters * 12)
        + kinds * each * config.at_most(config.n_graphs)
    )


@of_run(1)
def questions(run: Run[TranscoderConfig]) -> list[Prompt]:
    """Questions that are traced: clean prompts of the study's pairs, which the model answers."""
    wanted = run.config.at_most(run.config.n_graphs)
    return [pair.clean for pair in hop_pairs(run, most=max(wanted, 2))][:wanted]


@of_run(1)
def rows(run: Run[TranscoderConfig]) -> tuple[Any, Any]:
    """What transcoders read and what MLPs gave, by layer: of training texts, of held-out ones."""
    model = run.model
    if model.name in EMBEDDED:
        asked = known_queries(model)
        made = [f"{q} {query.answer}." for query in asked for q in (query.second_hop, query.two_hop)]
    else:
        made = [one.text for one in sentences()]
    starts = tuple(prompt.text for prompt in questions(run))
    texts = [text for text in dict.fromkeys(made) if not text.startswith(starts)]
    texts = sorted(texts, key=lambda text: stable_draw(run.seed, text, 2**62))[: run.config.n_transcoder_texts]
    prompts = [model.prompt(text) for text in texts]
    held_out = prompts[: max(1, len(prompts) // HELD_OUT)]
    layers = range(model.n_layers)
    return transcoder_rows(model, prompts[len(held_out) :], layers), transcoder_rows(model, held_out, layers)


@of_run(3)
def trained(run: Run[TranscoderConfig], kind: Kind) -> TranscoderSet:
    """The transcoders of a kind."""
    config, model = run.config, run.model
    last = range(model.n_layers - min(config.cross_layers, model.n_layers), model.n_layers)
    if kind == LAST:
        return of_layers(
            [one for one in trained(run, PER_LAYER).transcoders if one.layer in last], name=_name(run, kind)
        )
    (read, out), _ = rows(run)
    if kind == CROSS:
        read, out = ({layer: x[layer] for layer in last} for x in (read, out))
    settings = TrainConfig(
        kind="batchtopk",
        d_sae=config.transcoder_features,
        k=config.transcoder_k,
        steps=config.transcoder_steps,
        batch_size=min(config.transcoder_batch, min(map(len, read.values())) // 2),
        learning_rate=config.transcoder_rate,
        warm_up=max(1, config.transcoder_steps // 10),
        centre="mean",
        dead_after=100 * config.transcoder_batch,
        aux_k=config.transcoder_features // 8,
        seed=run.seed,
    )
    made = train_transcoders(read, out, settings, cross_layer=kind == CROSS, model=model.name)
    return of_layers(made.transcoders, name=_name(run, kind))


def _name(run: Run[TranscoderConfig], kind: Kind) -> str:
    return f"{run.model.name}, {kind}"


def measure(run: Run[TranscoderConfig], item: Traced) -> Iterator[Graphed]:
    """Every layer on held-out texts, or a question's graph against real ablations."""
    transcoders = trained(run, item.kind)
    if item.number < 0:
        found = transcoded(transcoders, *rows(run)[1])
        figures = zip(found.layers, found.fve, found.l0, found.dead, strict=True)
        for layer, fve, l0, dead in figures:
            numbers = {"fve": float(fve), "l0": float(l0), "dead": float(dead)}
            yield cast("Graphed", {"kind": item.kind, "layer": layer, "tokens": found.n_tokens, **numbers})
        return
    graph = attribution_graph(run.model, questions(run)[item.number], transcoders)
    of_graph = {"prompt": graph.prompt.text, "active": graph.n_features, "explained": graph.explained}
    measured = _of_graph(run, graph, item) | _of_features(run, graph) | _of_largest(run, graph)
    yield cast("Graphed", {"kind": item.kind, **of_graph, **measured})


def _of_graph(run: Run[TranscoderConfig], graph: AttributionGraph, item: Traced) -> dict[str, Any]:
    """Size, scores and sums, and edges against ablations of single ones."""
    pruned, scores = prune(graph), graph_scores(graph)
    summed = graph.effects.sum(1) + graph.constant + graph.left_out
    read = np.r_[: graph.n_features, graph.logits]
    missed = np.abs(summed - graph.values)[read].max() / np.abs(graph.values[read]).max()
    inside = [(int(t), int(s)) for t, s in np.argwhere(pruned.edges[:, : graph.n_features])]
    drawn = np.random.default_rng([run.seed, item.number]).permutation(len(inside))[: run.config.n_cut]
    edges = [inside[n] for n in drawn]
    real = edge_ablations(run.model, graph, edges)
    weights = np.array([graph.effects[edge] for edge in edges])
    found: dict[str, Any] = {
        "nodes": int(pruned.nodes.sum()),
        "edges": int(pruned.edges.sum()),
        "sums": float(missed),
        "replacement": scores.replacement,
        "completeness": scores.completeness,
        "cut": len(edges),
        "edge": _pearson(weights, real),
        "slope": float(weights @ real / (weights @ weights)) if len(edges) else None,
    }
    if item.number < SHOWN_GRAPHS:
        found["graph"] = as_json(
            _strongest(page_graph(run.model, graph, pruned, title=f"{graph.prompt.text} ({item.kind})"))
        )
    return found


def _of_features(run: Run[TranscoderConfig], graph: AttributionGraph) -> dict[str, Any]:
    """Estimates of features drawn at random against what the model does without them."""
    drawn = np.sort(np.random.default_rng(run.seed).permutation(graph.n_features)[: run.config.n_ablated])
    real = feature_ablations(run.model, graph, drawn.tolist())
    total, direct = graph.total_effects[0, drawn], graph.effects[graph.logits, :][0, drawn]
    whole = graph.probabilities @ np.abs(real)
    return {
        "ablated": len(drawn),
        "total": _pearson(total, real[0]),
        "direct": _pearson(direct, real[0]),
        "ranked": _spearman(node_influence(graph)[drawn], whole),
        "length": _spearman(_lengths(graph)[drawn], whole),
        "estimates": total.tolist(),
        "effects": real[0].tolist(),
    }


def _of_largest(run: Run[TranscoderConfig], graph: AttributionGraph) -> dict[str, Any]:
    """Real effects of the most influential features, of others that write as much, of random directions."""
    influence, lengths = node_influence(graph)[: graph.n_features], _lengths(graph)
    order = np.argsort(-influence, kind="stable")
    largest = order[: min(run.config.n_largest, graph.n_features // 4)]
    others = set(order[2 * len(largest) :].tolist())
    matched = []
    for place in largest:
        nearest = min(others, key=lambda other: abs(lengths[other] - lengths[place]))
        matched.append(nearest)
        others.discard(nearest)
    p = graph.probabilities / graph.probabilities.sum()
    random = random_ablations(run.model, graph, largest.tolist(), seed=run.seed)
    real = {"largest": feature_ablations(run.model, graph, largest.tolist())}
    real |= {"matched": feature_ablations(run.model, graph, matched), "random": random}
    return {name: float((p @ np.abs(effects)).mean()) for name, effects in real.items()}


def _lengths(graph: AttributionGraph) -> np.ndarray:
    """How much each feature writes (n_features,), over all layers."""
    found = []
    for (layer, _, number), activation in zip(graph.features, graph.activations, strict=True):
        one = graph.transcoders.of(int(layer))
        assert one is not None
        found.append(activation * float(mx.linalg.norm(one.weights["W_dec"][int(number)])))
    return np.array(found)


def _pearson(a: np.ndarray, b: np.ndarray) -> float | None:
    return finite(scipy.stats.pearsonr(a, b).statistic) if len(a) > 2 else None


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    return finite(scipy.stats.spearmanr(a, b).statistic) if len(a) > 2 else None


def _strongest(graph: CircuitGraph) -> CircuitGraph:
    """A graph's largest edges, and the nodes they join."""
    edges = tuple(sorted(graph.edges, key=lambda edge: -abs(edge.score))[:SHOWN_EDGES])
    ends = {end for edge in edges for end in (edge.source, edge.target)}
    return CircuitGraph(graph.title, tuple(node for node in graph.nodes if node.name in ends), edges)
