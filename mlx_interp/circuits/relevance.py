"""RelP: attribution patching by relevance propagation (Rezaei Jafari et al. 2025, arXiv 2508.21258).

1. Attribution patching estimates a node's effect by the change of its output times the metric's slope at it. A slope is
   true of small changes alone; exchanging a node's output is a large one.
2. The slope is replaced by a propagation coefficient: the backward pass holds norms' divisors, takes act(x) for
   act(x) / x times x, and gives each factor of a gated product half. The rules stand in `engine.relevance`.
3. Nodes and edges are scored as by attribution: `relevance_model` is the model with that backward pass, and whatever
   takes gradients of it follows the rules.

Default rules are norm, activation and half, as in the example of the published code; "attention" (patterns as
constants) is its fourth. Where no bias is added, all four conserve: at any layer the stream's states times their
coefficients add up to the logit. Cost: that of attribution, two forward passes and one backward pass a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from mlx_interp.circuits.attribution import Floats, node_scores
from mlx_interp.circuits.pairs import Metric, Pair
from mlx_interp.engine.relevance import RULES, RelevanceNetwork, Rule
from mlx_interp.errors import CircuitError, UnsupportedModel, nearest
from mlx_interp.model import Model

DEFAULT_RULES: tuple[Rule, ...] = ("norm", "activation", "half")


def relevance_scores(
    model: Model,
    pairs: Sequence[Pair],
    *,
    metric: Metric | None = None,
    rules: Sequence[Rule] = DEFAULT_RULES,
    positions: bool = False,
) -> Floats:
    """Estimated effect of every node on every pair by RelP: shapes, units and errors as of `node_scores`.

    Raises CircuitError and UnsupportedModel as `relevance_model`.
    """
    ruled = relevance_model(model, rules)
    return node_scores(ruled, pairs, metric=metric, method="attribution", positions=positions)


def relevance_model(model: Model, rules: Sequence[Rule] = DEFAULT_RULES) -> Model:
    """The same model, on the same weights, whose gradients are propagation coefficients; what it computes is unchanged.

    For edges: `edge_scores(relevance_model(model), pairs, method="attribution")`. Raises CircuitError for a rule that
    there is not or none at all, UnsupportedModel where the MLP is no known product and activation (experts), and
    where other parts have no rule (gates of attention, mixers in its place, embeddings of each layer's own).
    """
    if unknown := [rule for rule in rules if rule not in RULES]:
        raise CircuitError(f"no rule {unknown[0]!r}: {nearest(unknown[0], RULES)}there are {', '.join(RULES)}")
    if not rules:
        raise CircuitError("no rules: that is attribution patching, node_scores(..., method='attribution')")
    net = model.network
    if net.family.form is None or net.family.experts is not None:
        what = "is made of experts" if net.family.experts is not None else "is described as one function"
        raise UnsupportedModel(
            f"the MLP of {net.family.model_type} {what}: relevance is propagated through MLPs of a known activation "
            "and product (architectures.Form); take node_scores, which needs gradients alone"
        )
    if net.family.mixer is not None or net.family.attn_gate or net.family.own_inputs or net.family.latent:
        raise UnsupportedModel(
            f"{net.family.model_type} has parts that no rule is for (mixers in attention's place, gates, embeddings of "
            "each layer's own): take node_scores, which needs gradients alone"
        )
    found = copy(model)
    found.network = RelevanceNetwork(net.mlx_model, net.family, net.config, frozenset(rules))
    return found
