"""The causal basis of lenses: do they read the directions that the model reads, and are they moved alike?

At a quarter, the half and three quarters of the depth, the most influential directions of tuned and logit lens are
found on states of the training texts. On held-out texts each is ablated in the lens and, by a sweep, in the model at
the same position. Faithful: the directions' influence ranks alike in both. Aligned: what an ablation does to the lens's
log-probabilities points where it points in the model. Controls: principal components and random directions read by the
tuned lens; for the alignment the response to another direction of the same basis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.exp19_lenses.lens_texts import Text, TextConfig, held_out, read_states, text_lens, training_states
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from experiments.harness.state import Run, of_run
from experiments.shared.two_hop.tuned import LOGIT, TUNED
from mlx_interp.deferred import mx, nn
from mlx_interp.lenses.causal_bases import (
    CausalBasis,
    Reading,
    ablated,
    ablations,
    aitchison_cosine,
    causal_basis,
    lens_reading,
    principal_directions,
    random_directions,
)
from mlx_interp.lenses.tuned import identity_lens
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import Estimate, spearman_of_means, stable_draw

STAGE = "causal basis"
PRINCIPAL, RANDOM = "principal components", "random directions"
ARMS = (TUNED, LOGIT, PRINCIPAL, RANDOM)


@dataclass(frozen=True)
class BasisConfig(TextConfig):
    """Fields of the causal basis."""

    n_directions: int = 8
    """Directions of each causal basis."""
    n_basis_states: int = 96
    """States that directions are searched on."""
    basis_steps: int = 10
    """Steps of L-BFGS for each direction, at most."""
    n_basis_texts: int = 40
    """Held-out texts in which the directions are ablated."""


@dataclass(frozen=True, eq=False)
class Arm:
    """A basis, and the lens that reads it."""

    name: str
    basis: CausalBasis
    reading: Reading


def layers(model: Model) -> list[int]:
    """A quarter, the half and three quarters of the depth."""
    return sorted({max(0, round(model.n_layers * part) - 1) for part in (0.25, 0.5, 0.75)})


@of_run(2)
def arms(run: Run[BasisConfig]) -> dict[int, list[Arm]]:
    """By layer the four bases, each with its lens."""
    model, config = run.model, run.config
    states = training_states(run)
    chosen = mx.array(np.random.default_rng(config.seed).permutation(states.shape[1])[: config.n_basis_states])
    n, steps = config.n_directions, config.basis_steps
    lenses = {TUNED: text_lens(run), LOGIT: identity_lens(model, embedding=True)}
    found: dict[int, list[Arm]] = {}
    for layer in layers(model):
        some = states[layer + 1, chosen].astype(mx.float32)
        mean = some.mean(axis=0)
        readings = {name: lens_reading(model, lens, layer + 1) for name, lens in lenses.items()}
        found[layer] = [Arm(name, causal_basis(one, some, n, steps=steps), one) for name, one in readings.items()]
        controls = {
            PRINCIPAL: principal_directions(some, n),
            RANDOM: random_directions(model.d_model, n, config.seed),
        }
        found[layer] += [Arm(name, CausalBasis(rows, (), mean), readings[TUNED]) for name, rows in controls.items()]
    return found


def some_texts(run: Run[BasisConfig]) -> list[Text]:
    texts = held_out(run)
    return texts[:: max(1, len(texts) // run.config.n_basis_texts)][: run.config.n_basis_texts]


ByDirection = TypedDict(
    "ByDirection",
    {
        "on lens": list[float],
        "on model": list[float],
        "aligned": list[float],
        "aligned with another": list[float],
        "aligned, unweighted": list[float],
    },
)
"""Of each direction: what its ablation does to the lens's and the model's prediction, nats, and their cosine."""


class Influence(ByDirection):
    """The directions of one layer and basis, at one position of a text."""

    layer: int
    arm: str


def measure(run: Run[BasisConfig], text: Text) -> Iterator[Influence]:
    """Influence of every direction on lens and model at one position of a text, and how far they move alike."""
    which = stable_draw(run.config.seed, text.key, len(text.read))
    position = text.read[which]
    prompt = list(text.tokens[: position + 1])
    states = read_states(run.model, [text])[:, which : which + 1]
    for layer, bases in arms(run).items():
        variants = [
            variant
            for arm in bases
            for variant in ablations(f"resid_post.{layer}", position, arm.basis.directions, arm.basis.mean)
        ]
        logits = run.model.sweep(prompt, [[], *variants]).astype(mx.float32)
        clean, moved = (nn.log_softmax(rows, axis=-1) for rows in (logits[:1], logits[1:]))
        n = run.config.n_directions
        for number, arm in enumerate(bases):
            response = moved[number * n : (number + 1) * n] - clean
            stimulus, on_lens = _stimulus(arm, states[layer + 1])
            weights = mx.broadcast_to(mx.exp(clean), response.shape)
            yield {
                "layer": layer,
                "arm": arm.name,
                "on lens": _numbers(on_lens),
                "on model": _numbers(-(mx.exp(clean) * response).sum(axis=-1)),
                "aligned": _numbers(aitchison_cosine(stimulus, response, weights)),
                "aligned with another": _numbers(
                    aitchison_cosine(stimulus, mx.concatenate([response[-1:], response[:-1]]), weights)
                ),
                "aligned, unweighted": _numbers(aitchison_cosine(stimulus, response)),
            }


def _stimulus(arm: Arm, states: mx.array) -> tuple[mx.array, mx.array]:
    """How each ablation moves the lens's log-probabilities (k, d_vocab), and the KL divergence that it makes (k,)."""
    before = nn.log_softmax(arm.reading(states).astype(mx.float32), axis=-1)
    rows = ablated(states, arm.basis.directions, arm.basis.mean)[:, 0]
    change = nn.log_softmax(arm.reading(rows).astype(mx.float32), axis=-1) - before
    return change, -(mx.exp(before) * change).sum(axis=-1)


def _numbers(values: mx.array) -> list[float]:
    return np.asarray(values).astype(np.float64).round(5).tolist()  # type: ignore[no-any-return]


def table(records: Records, config: BasisConfig) -> Table | None:
    """Influence, faithfulness and alignment, by layer and basis."""
    mine = of(records, STAGE)
    if not mine:
        return None
    rows: list[list[Cell]] = []
    for layer in dict.fromkeys(r["layer"] for r in mine):
        for arm in ARMS:
            own = of(records, STAGE, layer=layer, arm=arm)
            on_lens, on_model = (np.array([r[name] for r in own]) for name in ("on lens", "on model"))
            rows.append(
                [
                    layer,
                    arm,
                    len(own),
                    on_lens.shape[1],
                    _mean(on_lens, own, config),
                    _mean(on_model, own, config),
                    spearman_of_means(on_lens, on_model, seed=config.seed),
                    *(
                        _mean(np.array([r[name] for r in own]), own, config)
                        for name in ("aligned", "aligned with another", "aligned, unweighted")
                    ),
                ]
            )
    return Table(
        "Causal basis of lenses: influence on lens and model",
        [
            *("layer", "basis", "n texts", "directions"),
            Column("influence on the lens", "nats"),
            Column("influence on the model", "nats"),
            "rank correlation of both",
            *("alignment", "alignment with another's response", "alignment, tokens unweighted"),
        ],
        rows,
        [
            "Influence: KL divergence when a component goes to its mean at one position, over directions and texts. "
            "Rank correlation: Spearman's, over directions. Alignment: Aitchison cosine of what both do, tokens "
            "weighted by the model's prediction. Both controls are read by the tuned lens. "
            "Resampled means are noisier than the means, so that intervals of the rank correlation lie low."
        ],
    )


def figure(records: Records, config: BasisConfig) -> Iterator[Plot]:
    """Influence on the model of the directions of each basis, in the order found, at the middle layer."""
    mine = of(records, STAGE)
    if not mine:
        return
    depths = list(dict.fromkeys(r["layer"] for r in mine))
    layer = depths[len(depths) // 2]
    series = []
    for arm in ARMS:
        own = of(records, STAGE, layer=layer, arm=arm)
        found = np.array([r["on model"] for r in own])
        series.append(Series(arm, [_mean(found[:, i : i + 1], own, config) for i in range(found.shape[1])]))
    yield line_with_band(
        list(range(1, len(series[0].estimates) + 1)),
        series,
        name="causal_basis",
        title=f"Influence on the model, layer {layer}",
        x_label="direction, in the order found",
        y_label="KL from the clean prediction (nats)",
        caption=f"KL divergence of the model's prediction when one direction of a basis is ablated at layer {layer}, "
        f"at one position of each of {len(own)} held-out texts; 95 % intervals over texts.",
    )


def _mean(values: np.ndarray, own: list[Record], config: TextConfig) -> Estimate | None:
    return Frame(own).mean(values.mean(axis=1).tolist(), seed=config.seed)
