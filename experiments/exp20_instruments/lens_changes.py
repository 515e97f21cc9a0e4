"""Jacobian lens beside others: does what a lens says of a change come true when the state is really changed?

The state of a question's last token is replaced, layer by layer, by that of the other question (a sweep), which moves
the log-odds of the answer against the other's. A lens says by how much: its log-odds of the other state less those of
the own. Lenses: logit lens, tuned lens, least squares, Jacobian lens. Control: the Jacobian lens's matrices one layer
too low. Lenses are made from statements of the other facts, none of which is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from experiments.exp20_instruments.hop_pairs import PairConfig, hop_pairs
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from experiments.shared.two_hop.question_pairs import second_hops
from mlx_interp.circuits import Pair, log_odds
from mlx_interp.circuits.exact import sweep_metric
from mlx_interp.deferred import mx
from mlx_interp.interventions import Patch
from mlx_interp.lenses import affine_lens, jacobian_lens
from mlx_interp.lenses.tuned import TunedLens, exchanged, identity_lens, kl_to_last, positions_of, train_on_states
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.stats import function_interval, mean_or_none, stable_draw

STAGE = "lenses"
LENSES = ("logit lens", "tuned lens", "least squares", "Jacobian lens", "Jacobian lens, a layer too low")
THIRDS = ("first", "middle", "last")
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]


@dataclass(frozen=True)
class LensConfig(PairConfig):
    """Fields of the lenses."""

    n_statements: int = 160
    """Texts that lenses are made from."""
    n_jacobian: int = 16
    """Texts that the Jacobian lens is the mean over, of these."""
    jacobian_dimensions: int = 0
    """Output dimensions that each of them is asked for, in turn; 0 for all."""
    lens_steps: int = 200
    """Training steps of the tuned lens."""
    lens_batch: int = 64
    """States in each of them."""


class Changed(TypedDict):
    """What a lens says of exchanged states, and what exchanging them does, by layer but the last."""

    lens: str
    said: list[float]
    """Change of the lens's log-odds, nats."""
    done: list[float]
    """Change of the model's."""
    hit: list[bool]
    """Whether the model's own prediction is on top."""
    kl: list[float]
    """KL of the model's distribution from the lens's, nats."""


@of_run(1)
def lenses(run: Run[LensConfig]) -> dict[str, TunedLens]:
    """All lenses, made from the same statements."""
    model, config = run.model, run.config
    joined, skip = (1, 1) if model.name in EMBEDDED else (4, 8)
    texts = statements(run, joined)
    parts = [positions_of(model, texts[at : at + 32], massive=False) for at in range(0, len(texts), 32)]
    states = mx.concatenate(parts, axis=1)
    long = [text for text in texts if len(model.prompt(text)) > skip + 1][: config.n_jacobian]
    jacobian = jacobian_lens(model, long, skip=skip, per_prompt=config.jacobian_dimensions or None)
    tuned = train_on_states(model, states, steps=config.lens_steps, batch=config.lens_batch, seed=config.seed)
    made = (identity_lens(model), tuned, affine_lens(model, states), jacobian, exchanged(jacobian))
    return dict(zip(LENSES, made, strict=True))


def statements(run: Run[LensConfig], joined: int) -> list[str]:
    """Facts that are not asked, as sentences, `joined` of them to a text."""
    asked = {pair.clean.text for pair in hop_pairs(run)} | {pair.counterfactual.text for pair in hop_pairs(run)}
    facts = [f"{one.text} {one.answer}" for one in second_hops(run.model) if one.text not in asked]
    facts.sort(key=lambda text: stable_draw(run.seed, text, 2**62))
    most = joined * run.config.at_most(run.config.n_statements)
    facts = facts[:most]
    return [". ".join(facts[at : at + joined]) for at in range(0, len(facts) - joined + 1, joined)]


def pairs_asked(run: Run[LensConfig]) -> list[Pair]:
    return hop_pairs(run)


def measure(run: Run[LensConfig], pair: Pair) -> Iterator[Changed]:
    """Every layer's state exchanged, and what each lens says of it."""
    model = run.model
    own, other = (
        model.run(prompt, capture="resid_post", logits="none").stack("resid_post")[:, 0, -1]
        for prompt in (pair.clean, pair.counterfactual)
    )
    variants = [[], *([Patch(f"resid_post.{layer}", other[layer], -1)] for layer in range(model.n_layers - 1))]
    measured = sweep_metric(model, pair, variants, log_odds(model))
    for name, lens in lenses(run).items():
        logits = lens.logits(model, mx.stack([own, other], axis=1))
        odds = np.asarray(log_odds(model)([pair] * 2 * model.n_layers)(logits.reshape(-1, model.d_vocab)), np.float64)
        said = odds.reshape(model.n_layers, 2)
        tops = np.array(mx.argmax(logits[:, 0], axis=-1))
        yield {
            "lens": name,
            "said": (said[:-1, 1] - said[:-1, 0]).tolist(),
            "done": (measured[1:] - measured[0]).tolist(),
            "hit": (tops[:-1] == tops[-1]).tolist(),
            "kl": np.asarray(kl_to_last(logits[:, :1])[:, 0], np.float64).tolist(),
        }


def table(records: Records, config: LensConfig) -> Table | None:
    """Agreement with real patching, and with the model's prediction, by third of the depth."""
    rows: list[list[Cell]] = []
    for number, third in enumerate(THIRDS):
        for name in LENSES:
            mine = of(records, STAGE, lens=name)
            if len(mine) < 2:
                return None
            said, done, hit, kl = (
                np.array_split(np.array([row[field] for row in mine], float), 3, axis=1)[number]
                for field in ("said", "done", "hit", "kl")
            )

            def agreement(draws: Any, said: Floats = said, done: Floats = done) -> Floats:
                return np.array([np.corrcoef(said[units].ravel(), done[units].ravel())[0, 1] for units in draws])

            means = [mean_or_none(x.mean(1).tolist(), unit=list(range(len(mine))), seed=config.seed) for x in (hit, kl)]
            rows.append([third, name, len(mine), function_interval(agreement, len(mine), seed=config.seed), *means])
    columns: list[Column | str] = [
        *("third of the layers", "lens", "n pairs", Column("Pearson of what it says with what patching does")),
        *(Column("the model's prediction on top", "%"), Column("KL from the model", "nats")),
    ]
    note = (
        f"Tuned lens: {config.lens_steps} steps of {config.lens_batch} states. Jacobian lens: mean over at most "
        f"{config.n_jacobian} texts, {config.jacobian_dimensions or 'all'} dimensions each."
    )
    return Table("Lenses against real patching of the last token's state", columns, rows, [note])
