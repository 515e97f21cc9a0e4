"""Copying and composition by weights, against what heads do on random tokens that come twice.

Prompts are random tokens, then the same again. A head copies if what it writes raises the token that it attends to
most: that token's logit through the frozen last norm, in standard deviations over the vocabulary. A head induces if it
attends to what followed the first time. Copying by weights is compared with copying as measured; K-composition with the
earlier head that attends most to the previous token is compared with induction. Controls: the token that the head
attends to in another prompt, and K-composition with all other earlier heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from experiments.exp20_instruments.hop_pairs import PairConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from mlx_interp.circuits import chance_composition, composition_scores, copying_scores
from mlx_interp.deferred import mx
from mlx_interp.in_context.function_vectors import as_written
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.stats import spearman_interval

STAGE = "weights"
HALF = 12
"""Random tokens, before they come again."""
READ = (-2, -5, -8)
"""Positions of the second half at which what heads write is read."""
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True)
class WeightConfig(PairConfig):
    """Fields of circuits from weights."""

    n_repeated: int = 6
    """Prompts of random tokens that come twice."""


@dataclass(frozen=True)
class Layer:
    """A layer, as an item."""

    number: int

    @property
    def key(self) -> str:
        return f"layer {self.number}"


class Head(TypedDict):
    """One head, by weights and as measured."""

    layer: int
    head: int
    copying: float
    """By the eigenvalues of its circuit from embedding to logits, -1 to 1."""
    copied: float
    """Logit of the token that it attends to, in standard deviations over the vocabulary; mean over prompts."""
    copied_other: float
    """The same of the token that it attends to in another prompt."""
    induction: float
    """Attention to what followed the same token the first time."""
    composed: float | None
    """K-composition with the strongest head of the previous token in an earlier layer; None in the first layer."""
    composed_others: float | None
    """Mean K-composition with all other earlier heads."""
    chance: float
    """Composition of random matrices of these shapes."""


@dataclass(frozen=True)
class Behaviour:
    """What heads do on random tokens, (n_layers, n_heads) each."""

    copied: Floats
    copied_other: Floats
    previous: Floats
    induction: Floats


def layers(run: Run[WeightConfig]) -> list[Layer]:
    return [Layer(number) for number in range(run.model.n_layers)]


@of_run(1)
def behaviour(run: Run[WeightConfig]) -> Behaviour:
    """Attention and writing of every head on prompts of random tokens that come twice."""
    model, rng = run.model, np.random.default_rng(run.seed)
    n = run.config.at_most(run.config.n_repeated)
    halves = np.stack([rng.choice(model.d_vocab, HALF, replace=False) for _ in range(n)])
    found = [_of_prompt(model, np.tile(half, 2), halves[(at + 1) % n]) for at, half in enumerate(halves)]
    return Behaviour(*(np.mean([getattr(one, name) for one in found], axis=0) for name in Behaviour.__annotations__))


def _of_prompt(model: Model, tokens: Floats, others: Floats) -> Behaviour:
    out = model.run(tokens.tolist(), capture=["pattern", "head_out", "attn_out", "resid_post"], logits="none")
    patterns = np.asarray(out.stack("pattern")[:, 0].astype(mx.float32))  # layer head query key
    queries = np.arange(HALF, 2 * HALF - 1)
    previous = patterns[:, :, queries, queries - 1].mean(-1)
    induction = patterns[:, :, queries, queries - HALF + 1].mean(-1)
    written, attn = (out.stack(name).astype(mx.float32) for name in ("head_out", "attn_out"))
    raised = [_raised(model, out, written, attn, patterns, tokens, others, at) for at in READ]
    own, other = (np.mean([pair[k] for pair in raised], axis=0) for k in (0, 1))
    return Behaviour(own, other, previous, induction)


def _raised(
    model: Model, out: Any, written: mx.array, attn: mx.array, patterns: Floats, tokens: Floats, others: Floats, at: int
) -> tuple[Floats, Floats]:
    """By how much each head raises the token that it attends to most, and the one in its place in another prompt."""
    net = model.network
    heads = as_written(model, written[:, :, at], attn[:, :, at])[:, 0]  # (layer, head, d_model)
    last = out[f"resid_post.{model.n_layers - 1}"][0, at].astype(mx.float32)

    def logits(x: mx.array) -> mx.array:
        return net.unembed(net.final((last + x).astype(net.dtype)), capped=False).astype(mx.float32)

    attended = patterns[:, :, at].argmax(-1)
    own, other = (np.zeros(attended.shape) for _ in range(2))
    for layer in range(model.n_layers):
        _, (moved,) = mx.jvp(logits, [mx.zeros_like(heads[layer])], [heads[layer]])
        by_token = np.asarray(moved)
        standard = (by_token - by_token.mean(-1, keepdims=True)) / by_token.std(-1, keepdims=True)
        rows = np.arange(model.n_heads)
        own[layer] = standard[rows, tokens[attended[layer]]]
        other[layer] = standard[rows, others[attended[layer] % HALF]]
    return own, other


@of_run(1)
def by_weights(run: Run[WeightConfig]) -> tuple[Floats, Floats, float]:
    """Copying of every head, K-composition of every two, and what is chance."""
    model = run.model
    return copying_scores(model), composition_scores(model, "k"), float(chance_composition(model, seed=run.seed).mean())


def measure(run: Run[WeightConfig], item: Layer) -> Iterator[Head]:
    """Each head of a layer, by weights and as measured."""
    did, (copying, composed, chance) = behaviour(run), by_weights(run)
    layer = item.number
    for head in range(run.model.n_heads):
        found: Head = {
            "layer": layer,
            "head": head,
            "copying": float(copying[layer, head]),
            "copied": float(did.copied[layer, head]),
            "copied_other": float(did.copied_other[layer, head]),
            "induction": float(did.induction[layer, head]),
            "composed": None,
            "composed_others": None,
            "chance": chance,
        }
        if layer:
            earlier = composed[:layer, :, layer, head]
            strongest = np.unravel_index(did.previous[:layer].argmax(), earlier.shape)
            rest = (earlier.sum() - earlier[strongest]) / max(earlier.size - 1, 1)
            found |= {"composed": float(earlier[strongest]), "composed_others": float(rest)}
        yield found


def table(records: Records, config: WeightConfig) -> Table | None:
    """Rank correlations over heads of what weights say with what heads do."""
    heads = of(records, STAGE)
    if len(heads) < 3:
        return None
    later = heads.measured("composed")
    rows: list[list[Cell]] = []
    for name, mine, weights, measured in (
        ("copying", heads, "copying", "copied"),
        ("copying, control: token of another prompt", heads, "copying", "copied_other"),
        ("K-composition with the head of the previous token", later, "composed", "induction"),
        ("K-composition, control: all other earlier heads", later, "composed_others", "induction"),
    ):
        x, y = mine.values(weights), mine.values(measured)
        rows.append([name, len(mine), float(np.mean(x)), float(np.mean(y)), spearman_interval(x, y, seed=config.seed)])
    columns: list[Column | str] = [
        "by weights",
        "n heads",
        Column("mean by weights"),
        Column("mean as measured"),
        Column("rank correlation"),
    ]
    note = (
        "Copying: eigenvalues of the circuit from embedding to logits, against the logit of the token attended to (in "
        "standard deviations over the vocabulary). Composition: against attention to what followed the first time. "
        f"Random matrices of these shapes compose by {heads[0]['chance']:.3f}. Heads depend on each other: intervals "
        "are too narrow."
    )
    return Table("Circuits from weights against what heads do", columns, rows, [note])
