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

from mlx_interp.circuits.graph_influence import influence
from mlx_interp.deferred import mx
from mlx_interp.engine.held_stream import HeldStream, captured_sites, check_held
from mlx_interp.errors import CircuitError, SAEError
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt, Prompt
from mlx_interp.sae.transcoder import TranscoderSet
from mlx_interp.shapes import ShapesShown

MASS, TOKENS = 0.95, 10
"""Probability of the tokens that are nodes, and how many at most, as in the published code."""
ROW_BYTES = 200_000_000
"""Of slopes held at once."""
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
        return self.logits.stop

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
    traced = _Traced(model, asked, transcoders, first)
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
    return traced.graph(mass, n_tokens, most)


class _Traced:
    """One prompt's run, its held stream, active features and errors."""

    def __init__(self, model: Model, prompt: Prompt, transcoders: TranscoderSet, first: int) -> None:
        self.model, self.prompt, self.set = model, prompt, transcoders
        net, reads = model.network, transcoders.reads
        out = model.run(prompt, capture=captured_sites(net), logits="last")
        assert out.logits is not None
        self.said = out.logits[0].astype(mx.float32)
        self.stream = HeldStream.of(net, out)
        self.embedding = out["resid_pre.0"][0].astype(mx.float32)
        self.last = out[f"resid_post.{net.n_layers - 1}"][0, -1].astype(mx.float32)
        before = "resid_pre" if net.parallel else "resid_mid"
        self.at_mlp = {layer: out[f"{before}.{layer}"] for layer in transcoders.layers}
        self.read = {layer: self.stream.read(layer, x, reads)[0].astype(mx.float32) for layer, x in self.at_mlp.items()}
        active = mx.array(np.arange(len(prompt)) >= first)[:, None]
        self.coded = {
            one.layer: mx.where(active, one.encode(self.read[one.layer]), 0.0) for one in transcoders.transcoders
        }
        made = transcoders.written(self.coded, self.read)
        outs = {layer: out[f"mlp_out.{layer}"][0].astype(mx.float32) for layer in range(net.n_layers)}
        self.errors = mx.stack([outs[layer] - made.get(layer, 0.0) for layer in range(net.n_layers)])
        here = [layer for layer in transcoders.layers if len(prompt) > first]
        missed, whole = (sum(float(mx.square(x[layer][first:]).sum()) for layer in here) for x in (self.errors, outs))
        self.explained = 1 - missed / max(whole, 1e-30)
        found = []
        for layer in transcoders.layers:
            positions, numbers = np.nonzero(np.asarray(self.coded[layer]))
            found.append(np.stack([np.full_like(positions, layer), positions, numbers], axis=1))
        self.features = np.concatenate(found)
        self.activations = np.concatenate(
            [np.asarray(self.coded[f])[tuple(one[:, 1:].T)] for f, one in self._by_layer()]
        )

    def _by_layer(self) -> list[tuple[int, np.ndarray]]:
        return [(layer, self.features[self.features[:, 0] == layer]) for layer in self.set.layers]

    def graph(self, mass: float, n_tokens: int, most: int) -> AttributionGraph:
        tokens, probabilities = self._likeliest(mass, n_tokens)
        n, others = len(self.features), self.errors.shape[0] * self.errors.shape[1] + self.embedding.shape[0]
        if n > most:
            chosen, of_features, of_logits = self._most_influential(tokens, probabilities, most)
        else:
            chosen = np.arange(n)
            of_features, of_logits = self._rows(chosen), self._logit_rows(tokens)
        kept = np.concatenate([chosen, np.arange(n, n + others)])
        effects = np.zeros((len(kept) + len(tokens),) * 2)
        effects[: len(chosen), : len(kept)] = of_features[:, kept]
        effects[len(kept) :, : len(kept)] = of_logits[:, kept]
        dropped = np.setdiff1d(np.arange(n), chosen)
        nothing = np.zeros(others)
        left_out = np.concatenate([of_features[:, dropped].sum(1), nothing, of_logits[:, dropped].sum(1)])
        values, constant = self._values(tokens)
        of_nodes = np.concatenate([chosen, np.arange(n, n + others + len(tokens))])
        return AttributionGraph(
            self.prompt,
            self.features[chosen],
            self.activations[chosen].astype(np.float64),
            self.model.n_layers,
            tuple(tokens),
            probabilities,
            effects,
            values[of_nodes],
            constant[of_nodes],
            left_out,
            self.explained,
            self.set,
        )

    def _likeliest(self, mass: float, n_tokens: int) -> tuple[list[int], np.ndarray]:
        probabilities = np.asarray(mx.softmax(self.said), np.float64)
        order = np.argsort(-probabilities, kind="stable")[:n_tokens]
        enough = int(np.searchsorted(np.cumsum(probabilities[order]), mass)) + 1
        return order[:enough].tolist(), probabilities[order[:enough]]

    def _most_influential(
        self, tokens: list[int], probabilities: np.ndarray, most: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of features (most,), and the rows of these and of the logits, over all sources."""
        of_logits = self._logit_rows(tokens)
        n, width = len(self.features), of_logits.shape[1]
        chosen: list[int] = []
        rows: list[np.ndarray] = []
        while len(chosen) < most:
            known = np.concatenate([np.array(rows).reshape(-1, width), of_logits])
            places = np.array([*chosen, *range(width, width + len(tokens))])
            seen = influence(known, places, np.concatenate([np.zeros(len(chosen)), probabilities]))[:n]
            seen[chosen] = -1
            step = min(max(most // 8, 1), most - len(chosen))
            following = np.argsort(-seen, kind="stable")[:step]
            rows += list(self._rows(following))
            chosen += following.tolist()
        order = np.argsort(chosen)
        return np.array(chosen)[order], np.array(rows)[order], of_logits

    # Rows: direct effects of all sources (features, errors, embeddings) on each target.

    def _rows(self, which: np.ndarray) -> np.ndarray:
        """(n, n_sources) of features, by number."""
        found = np.zeros((len(which), self._n_sources()), np.float32)
        for one in self.set.transcoders:
            mine = np.flatnonzero(self.features[which, 0] == one.layer)
            for start in range(0, len(mine), self._at_once()):
                some = mine[start : start + self._at_once()]
                _, positions, numbers = self.features[which[some]].T
                slope = np.zeros((len(some), len(self.prompt), self.model.d_model), np.float32)
                slope[np.arange(len(some)), positions] = np.asarray(one.weights["W_enc"].T[mx.array(numbers)])
                at_mlp = self.stream.of_read(one.layer, mx.array(slope), self.set.reads)
                found[some] = self._pulled(at_mlp, one.layer)
        return found

    def _logit_rows(self, tokens: list[int]) -> np.ndarray:
        wanted = np.full((len(tokens), self.model.d_vocab), -1 / self.model.d_vocab, np.float32)
        wanted[np.arange(len(tokens)), tokens] += 1
        end = self.stream.of_logits(mx.array(wanted))
        slope = mx.concatenate([mx.zeros((len(tokens), len(self.prompt) - 1, end.shape[1])), end[:, None]], axis=1)
        return self._pulled(slope, self.model.n_layers)

    def _pulled(self, slope: mx.array, layer: int) -> np.ndarray:
        """(n, n_sources): what all sources below contribute to what has these slopes by the stream at a layer's MLP."""
        n_layers, n_pos = self.errors.shape[:2]
        at: dict[int, mx.array] = {}
        found = np.zeros((slope.shape[0], self._n_sources()), np.float32)
        errors = found[:, len(self.features) : -n_pos].reshape(-1, n_layers, n_pos)
        skips = any("W_skip" in one.weights for one in self.set.transcoders)
        for below, here in self.stream.below(slope, layer, self._across if skips else None):
            if below < 0:
                found[:, -n_pos:] = np.asarray((here * self.embedding).sum(-1))
                continue
            at[below] = here
            errors[:, below] = np.asarray((here * self.errors[below]).sum(-1))
            mx.eval(here)
        place = 0
        for one, (_, mine) in zip(self.set.transcoders, self._by_layer(), strict=True):
            columns = slice(place, place + len(mine))
            place += len(mine)
            positions, numbers = mx.array(mine[:, 1]), mx.array(mine[:, 2])
            for step in range(one.n_written):
                if (here := at.get(one.layer + step)) is not None and len(mine):
                    written = one.weights["W_dec"][:, step][numbers] * mx.array(self.activations[columns])[:, None]
                    found[:, columns] += np.asarray(_by_position(here, written, positions))
        return found

    def _across(self, layer: int, slope: mx.array) -> mx.array | None:
        """What comes back through a layer's skip connection."""
        one = self.set.of(layer)
        if one is None or "W_skip" not in one.weights:
            return None
        return self.stream.of_read(layer, slope @ one.weights["W_skip"].T, self.set.reads)

    def _n_sources(self) -> int:
        return len(self.features) + self.errors.shape[0] * self.errors.shape[1] + self.embedding.shape[0]

    def _at_once(self) -> int:
        net = self.model.network
        each = 4 * len(self.prompt) * (self.model.d_model * (self.model.n_layers + 4) + net.n_heads * len(self.prompt))
        return max(1, ROW_BYTES // each)

    def _values(self, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of all features, errors, embeddings, logits: values, and the share of biases in them."""

        def biases(layer: int, x: mx.array) -> mx.array:
            one = self.set.of(layer)
            if one is None:
                return mx.zeros((1,))
            return one.weights["b_dec"] + self.set.skipped(layer, self.stream.read(layer, x, self.set.reads))

        empty = [*self.stream.forward(mx.zeros((1, *self.embedding.shape), self.model.network.dtype), biases)]
        found: list[list[np.ndarray]] = [[], []]
        for one, (layer, mine) in zip(self.set.transcoders, self._by_layer(), strict=True):
            for rows, x in zip(found, (self.at_mlp[layer], empty[layer]), strict=True):
                made = one.pre_activations(self.stream.read(layer, x, self.set.reads)[0])
                rows.append(np.asarray(made, np.float64)[tuple(mine[:, 1:].T)])
        for rows, end in zip(found, (self.last, empty[-1][0, -1]), strict=True):
            logits = np.asarray(
                self.stream.logits(end[None].astype(self.model.network.dtype))[0].astype(mx.float32), np.float64
            )
            rows += [np.zeros(self._n_sources() - len(self.features)), (logits - logits.mean())[tokens]]
        return np.concatenate(found[0]), np.concatenate(found[1])


def _by_position(slope: mx.array, written: mx.array, positions: mx.array) -> mx.array:
    """Slopes (row, pos, d_model) along what sources (n, d_model) write, each at its position: (row, n)."""
    found = []
    order = np.asarray(positions)
    for position in np.unique(order):
        found.append(slope[:, int(position)] @ written[mx.array(np.flatnonzero(order == position))].T)
    # Sources of one layer come sorted by position.
    return mx.concatenate(found, axis=1)
