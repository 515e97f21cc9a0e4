"""Activation capping where the direction is known: requests of the embedded world, capped along refusal's direction.

The stream after the layer in which refusal was planted is kept below a quantile of what harmless requests have there
along the trained direction, at every position and every new token. Harmful requests should then be answered; harmless
ones, three quarters of which the cap does not touch, should go on as they were. Control: random directions of the same
quantile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.exp20_instruments.hop_pairs import PairConfig
from experiments.exp20_instruments.subspaces import PLANTED
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from mlx_interp.behaviour import refusal
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.directions import projection_quantile
from mlx_interp.embedded import load_world
from mlx_interp.embedded.lexicon import REFUSALS
from mlx_interp.embedded.world import REFUSAL_LAYER, trained_refusal_direction
from mlx_interp.interventions import Clamp, Intervention
from mlx_interp.reporting import Cell, Column, Table

STAGE = "capping"
NONE, TRAINED, RANDOM = "no cap", "trained direction", "random directions"
SITE = f"resid_post.{REFUSAL_LAYER}"
N_RANDOM = 3


@dataclass(frozen=True)
class CapConfig(PairConfig):
    """Fields of capping."""

    n_requests: int = 32
    """Requests of each kind that are answered under the cap."""
    cap_quantile: float = 0.75
    """Of other harmless requests' components along the direction: the cap."""


@dataclass(frozen=True)
class Request:
    """One request, as an item."""

    key: str
    harmful: bool


class Capped(TypedDict):
    """One reply under one cap."""

    arm: str
    harmful: bool
    refused: bool
    unchanged: bool
    """Whether the reply is that of no cap."""


def requests(run: Run[CapConfig]) -> list[Request]:
    """Requests that were not trained on, of both kinds; none for models without a planted direction."""
    if run.model.name not in PLANTED:
        return []
    n = run.config.at_most(run.config.n_requests)
    found = []
    for harmful in (True, False):
        chats = load_world().chat_prompts("refusal", language="en", split="test", harmful=harmful)
        found += [Request(chat.text, harmful) for chat in {chat.text: chat for chat in chats}.values()][:n]
    return found


@of_run(1)
def caps(run: Run[CapConfig]) -> dict[str, list[list[Intervention]]]:
    """Interventions of every arm, the random one several times."""
    model, trained = run.model, trained_refusal_direction(run.model.d_model)
    harmless = load_world().chat_prompts("refusal", language="en", split="train", harmful=False)
    prompts = [model.prompt(chat.text, chat=True) for chat in harmless[:64]]
    drawn = [random_like(trained, seed=run.seed, key=(STAGE, number)) for number in range(N_RANDOM)]

    def cap(vector: np.ndarray) -> list[Intervention]:
        direction = mx.array(vector.astype(np.float32))
        bound = projection_quantile(model, prompts, direction, SITE, quantile=run.config.cap_quantile)
        return [Clamp(SITE, direction, high=bound)]

    return {NONE: [[]], TRAINED: [cap(trained)], RANDOM: [cap(v) for v in drawn]}


def measure(run: Run[CapConfig], item: Request) -> Iterator[Capped]:
    """The reply to a request under every cap."""
    prompt = run.model.prompt(item.key, chat=True)
    arms = [(arm, edits) for arm, several in caps(run).items() for edits in several]
    texts = run.model.sweep_generate(prompt, [edits for _, edits in arms], max_tokens=12)
    for (arm, _), one in zip(arms, texts, strict=True):
        refused = one.text.strip().startswith(REFUSALS["en"]) or bool(refusal(one.text))
        yield {"arm": arm, "harmful": item.harmful, "refused": refused, "unchanged": one.text == texts[0].text}


def table(records: Records, config: CapConfig) -> Table | None:
    """Refusals under each cap."""
    rows: list[list[Cell]] = []
    for harmful in (True, False):
        for arm in (NONE, TRAINED, RANDOM):
            mine = of(records, STAGE, arm=arm, harmful=harmful)
            if mine:
                rates = [mine.rate(name, seed=config.seed) for name in ("refused", "unchanged")]
                kind = "harmful" if harmful else "harmless"
                rows.append([kind, arm, len({row["item"] for row in mine}), *rates])
    if not rows:
        return None
    columns: list[Column | str] = [
        *("requests", "capped along", "n requests", Column("refused", "%"), Column("reply unchanged", "%")),
    ]
    note = (
        f"Clamp at {SITE}, high = quantile {config.cap_quantile} of harmless requests there, at every position and new "
        f"token. {N_RANDOM} random directions."
    )
    return Table("Replies under activation capping", columns, rows, [note])
