"""Path patching: one edge between two parts of a model carries what its sender wrote on another prompt.

1. Run the clean and the corrupted prompt; keep what every node (embedding, head, MLP) writes to the residual stream.
2. For each sender, run the clean prompt anew, put together from what nodes write: the receivers read the sender's
   output of the corrupted run, all else reads what is written now. What the receivers then do flows on to the logits.
3. What the metric changes by is what goes from the sender to the receivers directly, and by no other way.

The graph is that of Goldowsky-Dill et al. (2023), whose nodes are heads and MLPs: a path through an MLP in between is
another path. Wang et al. (2023) count it as direct.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.edge_pass import Written, patched, wiring, written
from mlx_interp.engine.memory import bytes_per_position, default_budget
from mlx_interp.errors import CircuitError
from mlx_interp.model import Model
from mlx_interp.patching.activation_patches import equal_lengths
from mlx_interp.patching.nodes import input_number, node_number
from mlx_interp.prompts import AnyPrompt


def path_patching(
    model: Model,
    clean: AnyPrompt,
    corrupted: AnyPrompt,
    senders: Sequence[str],
    receivers: Sequence[str] = ("logits",),
    *,
    metric: Callable[[mx.array], mx.array] | None = None,
) -> mx.array:
    """Path patching from each sender to all receivers together: (n_senders, d_vocab), the clean prompt's last logits.

    senders: "embed", "z.LAYER.HEAD", "mlp.LAYER". receivers: inputs, "q.LAYER.HEAD" (or k, v), "mlp.LAYER", "logits".
    metric: last logits (n, d_vocab) -> numbers (n, ...), in whose place they are returned.
    Raises DataError for prompts of unequal lengths, CircuitError for a name that there is not, no names at all, and a
    receiver that does not come after its sender.
    """
    here, there = equal_lengths(model, clean, corrupted)
    wires = wiring(model.network)
    if not senders or not receivers:
        raise CircuitError("path patching needs senders and receivers, e.g. ['z.0.2'] and ['q.3.1'], or ['logits']")
    nodes = [node_number(wires, name) for name in senders]
    inputs = [input_number(wires, name) for name in receivers]
    weights = np.ones((len(nodes), wires.n_inputs, wires.n_nodes), np.float32)
    for row, (node, sender) in enumerate(zip(nodes, senders, strict=True)):
        for number, receiver in zip(inputs, receivers, strict=True):
            if node >= wires.sources(number):
                raise CircuitError(f"there is no path from {sender} to {receiver}: {receiver} comes first")
        weights[row, inputs, node] = 0
    now, _ = written(model.network, mx.array([here.tokens]))
    other, _ = written(model.network, mx.array([there.tokens]))
    return edge_logits(model, now.embedding, other, mx.array(weights), metric)


def edge_logits(
    model: Model,
    embedding: mx.array,
    other: Written,
    weights: mx.array,
    metric: Callable[[mx.array], mx.array] | None = None,
) -> mx.array:
    """Last logits, or a metric of them, under weights of edges: 1 for what is written now, 0 for the other run's.

    embedding: (1, pos, d_model). weights: (n_variants, n_inputs, n_nodes). Returns (n_variants, ...); as many variants
    at once as the memory allows.
    """
    step = _variants_at_once(model, embedding.shape[1])
    found = []
    for start in range(0, len(weights), step):
        logits = patched(model.network, embedding, other, weights[start : start + step])
        found.append(logits if metric is None else metric(logits))
        mx.eval(found[-1])
    return mx.concatenate(found)


def _variants_at_once(model: Model, length: int) -> int:
    net = model.network
    held = length * (4 * net.n_heads * bytes_per_position(net) + 8 * wiring(net).n_nodes * net.d_model * 4)
    return max(1, min(64, default_budget() // held))
