"""One prompt run for an attribution graph: its held stream, active features, errors, and direct effects of all of them.

Rows are targets (features, logits), columns sources: active features by layer, position and number, errors by layer and
position, embeddings by position. `attribution_graphs` says what they mean.
"""

from __future__ import annotations

import numpy as np

from mlx_interp.circuits.graph_influence import influence
from mlx_interp.deferred import mx
from mlx_interp.engine.held_stream import HeldStream, captured_sites
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.sae.transcoder import TranscoderSet

ROW_BYTES = 200_000_000
"""Of slopes held at once."""


class TracedPrompt:
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

    def likeliest(self, mass: float, n_tokens: int) -> tuple[list[int], np.ndarray]:
        probabilities = np.asarray(mx.softmax(self.said), np.float64)
        order = np.argsort(-probabilities, kind="stable")[:n_tokens]
        enough = int(np.searchsorted(np.cumsum(probabilities[order]), mass)) + 1
        return order[:enough].tolist(), probabilities[order[:enough]]

    def most_influential(
        self, tokens: list[int], probabilities: np.ndarray, most: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers of features (most,), and the rows of these and of the logits, over all sources."""
        of_logits = self.logit_rows(tokens)
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
            rows += list(self.feature_rows(following))
            chosen += following.tolist()
        order = np.argsort(chosen)
        return np.array(chosen)[order], np.array(rows)[order], of_logits

    # Rows: direct effects of all sources (features, errors, embeddings) on each target.

    def feature_rows(self, which: np.ndarray) -> np.ndarray:
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

    def logit_rows(self, tokens: list[int]) -> np.ndarray:
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
                if (read := at.get(one.layer + step)) is not None and len(mine):
                    written = one.weights["W_dec"][:, step][numbers] * mx.array(self.activations[columns])[:, None]
                    found[:, columns] += np.asarray(_by_position(read, written, positions))
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

    def node_values(self, tokens: list[int]) -> tuple[np.ndarray, np.ndarray]:
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
