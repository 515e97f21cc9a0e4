"""Attribution graphs of one prompt, with transcoders in the place of MLPs (Ameisen et al. 2025, "Circuit Tracing").

1. The prompt is run once. Attention patterns and norms' divisors are held as they are on it (`engine.held_stream`), so
   that embeddings, what features write, and errors (MLP output less what transcoders write) reach all that is read
   later by a linear map.
2. Nodes: active features by layer and position, an error for each layer and position, the embedding of each position,
   and the likeliest next tokens up to a probability mass.
3. An edge is the direct effect of a node on another: source's value times slope. Into a feature it is a share of its
   pre-activation, into a logit of that logit less the mean of all. One backward pass through attention alone for each
   feature or logit: MLPs, queries and keys are not computed again.
4. With what biases make of nothing (`constant`) and what active features that are no nodes add (`left_out`), the edges
   into a node add up to its value.

Features at the first position are left to its error, as in the published code: its activations are of another size.
Where there are more active features than `most`, those with the largest influence on the logits are taken, as found
so far, a batch at a time. Differs from the paper: a layer without a transcoder is not refused, its MLP is all error.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mlx_interp.circuits.traced_prompt import TracedPrompt
from mlx_interp.engine.held_stream import check_held
from mlx_interp.errors import CircuitError, SAEError
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt, Prompt
from mlx_interp.sae.transcoder import TranscoderSet
from mlx_interp.shapes import ShapesShown

MASS, TOKENS = 0.95, 10
"""Probability of the tokens that are nodes, and how many at most, as in the published code."""
FIRST = 1
"""The first position with features."""


@dataclass(frozen=True, eq=False, repr=False)
class AttributionGraph(ShapesShown):
    """A prompt's graph. Nodes in order: features, errors by layer and position, embeddings, tokens that may follow."""

    prompt: Prompt
    features: np.ndarray
    """(n_features, 3) of int: layer, position, number."""
    activations: np.ndarray
    """(n_features,)."""
    n_layers: int
    tokens: tuple[int, ...]
    """Of the logits, likeliest first."""
    probabilities: np.ndarray
    """Of these tokens."""
    effects: np.ndarray = field(repr=False)
    """Direct effects (n_nodes, n_nodes): of the column's node on the row's."""
    values: np.ndarray = field(repr=False)
    """(n_nodes,): pre-activations; of logits, less the mean logit, before a cap; 0 of nodes that nothing leads into."""
    constant: np.ndarray = field(repr=False)
    """(n_nodes,): share of biases in them."""
    left_out: np.ndarray = field(repr=False)
    """(n_nodes,): share of active features that are no nodes."""
    explained: float
    """Share of the MLP outputs' squared length that transcoders write, over layers that have one."""
    transcoders: TranscoderSet = field(repr=False)

    @property
    def n_positions(self) -> int:
        return len(self.prompt)

    @property
    def n_features(self) -> int:
        return len(self.features)

    @property
    def errors(self) -> slice:
        """Places of the error nodes."""
        return slice(self.n_features, self.n_features + self.n_layers * self.n_positions)

    @property
    def embeddings(self) -> slice:
        return slice(self.errors.stop, self.errors.stop + self.n_positions)

    @property
    def logits(self) -> slice:
        return slice(self.embeddings.stop, self.embeddings.stop + len(self.tokens))

    @property
    def n_nodes(self) -> int:
        return int(self.logits.stop)

    @property
    def weights(self) -> np.ndarray:
        """(n_nodes,): probabilities at the logits, 0 elsewhere: what influence is counted from."""
        found = np.zeros(self.n_nodes)
        found[self.logits] = self.probabilities
        return found

    @property
    def total_effects(self) -> np.ndarray:
        """(n_logits, n_features): what each logit would lose without a feature, along all paths of the linear map.

        A feature is taken to shrink in proportion to what it loses: true while it stays active.
        """
        n = self.n_features
        value = np.where(self.values[:n] != 0, self.values[:n], 1.0)
        # A feature's activation is its pre-activation (kinds here jump to it), so its loss is the lost edges' sum.
        share = self.effects[:n, :n] / value[:, None]
        direct = self.effects[self.logits, :n]
        found: np.ndarray = np.linalg.solve(np.eye(n) - share.T, direct.T).T
        return found

    def node(self, place: int) -> str:
        """A node's name: `4/17@3` for feature 17 of layer 4 at position 3, `4/error@3`, `embed@3`, `logit Paris`."""
        if place < self.n_features:
            layer, position, number = self.features[place]
            return f"{layer}/{number}@{position}"
        if place < self.errors.stop:
            layer, position = divmod(place - self.errors.start, self.n_positions)
            return f"{layer}/error@{position}"
        if place < self.embeddings.stop:
            return f"embed@{place - self.embeddings.start}"
        return f"logit {self.tokens[place - self.logits.start]}"


def attribution_graph(
    model: Model,
    prompt: AnyPrompt,
    transcoders: TranscoderSet,
    *,
    mass: float = MASS,
    n_tokens: int = TOKENS,
    most: int = 4096,
    first: int = FIRST,
    least_explained: float = 0.0,
) -> AttributionGraph:
    """Attribution graph of a prompt's next token.

    mass, n_tokens: the likeliest tokens are nodes until they have this probability, or are so many. most: features that
    are nodes. first: position before which features are left to the errors. least_explained: share of the MLP outputs'
    squared length that transcoders must write on the prompt; those of another model write worse than nothing.

    Raises SAEError for transcoders of another model, layer or width, or that explain less; UnsupportedModel as
    `check_held`; CircuitError for a prompt on which no feature is active, or settings that leave no node.
    """
    if not 0 < mass <= 1 or min(n_tokens, most) < 1:
        raise CircuitError(f"mass {mass}, n_tokens {n_tokens}, most {most}: a share up to 1 and positive numbers")
    check_held(model.network)
    transcoders.check_fits(model)
    asked = model.prompts(prompt)[0]
    traced = TracedPrompt(model, asked, transcoders, first)
    if traced.explained < least_explained:
        said = transcoders.transcoders[0].meta.get("model")
        raise SAEError(
            f"{transcoders}{f' of {said}' if said else ''} explains {traced.explained:.2f} of what MLPs of "
            f"{model.name} add on this prompt, {least_explained:.2f} is asked for: of another model, or of other "
            f"things read than {transcoders.reads!r}; least_explained= takes it as it is"
        )
    if not len(traced.features):
        raise CircuitError(
            f"no feature of {transcoders} is active on the {len(asked)} tokens of {asked.text!r} from position "
            f"{first} on: nothing to trace; take other transcoders or a longer prompt"
        )
    return _graph(traced, mass, n_tokens, most)


def _graph(traced: TracedPrompt, mass: float, n_tokens: int, most: int) -> AttributionGraph:
    tokens, probabilities = traced.likeliest(mass, n_tokens)
    n, others = len(traced.features), traced.errors.shape[0] * traced.errors.shape[1] + traced.embedding.shape[0]
    if n > most:
        chosen, of_features, of_logits = traced.most_influential(tokens, probabilities, most)
    else:
        chosen = np.arange(n)
        of_features, of_logits = traced.feature_rows(chosen), traced.logit_rows(tokens)
    kept = np.concatenate([chosen, np.arange(n, n + others)])
    effects = np.zeros((len(kept) + len(tokens),) * 2)
    effects[: len(chosen), : len(kept)] = of_features[:, kept]
    effects[len(kept) :, : len(kept)] = of_logits[:, kept]
    dropped = np.setdiff1d(np.arange(n), chosen)
    nothing = np.zeros(others)
    left_out = np.concatenate([of_features[:, dropped].sum(1), nothing, of_logits[:, dropped].sum(1)])
    values, constant = traced.node_values(tokens)
    of_nodes = np.concatenate([chosen, np.arange(n, n + others + len(tokens))])
    return AttributionGraph(
        traced.prompt,
        traced.features[chosen],
        traced.activations[chosen].astype(np.float64),
        traced.model.n_layers,
        tuple(tokens),
        probabilities,
        effects,
        values[of_nodes],
        constant[of_nodes],
        left_out,
        traced.explained,
        traced.set,
    )
