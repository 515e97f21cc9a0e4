"""Next tokens of held-out texts in every version, against the stored model's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.exp21_precision.versions import PrecisionConfig, versions
from experiments.harness.experiment import Records, Stage
from experiments.harness.frame import spread
from experiments.harness.schema import InBatch
from experiments.harness.state import Run, of_run
from experiments.shared import project_texts
from experiments.shared.project_texts import ProjectText, prompt_of
from experiments.shared.two_hop.data import data, is_embedded
from mlx_interp.deferred import mx
from mlx_interp.directions.candidates import divergence, log_probs_of
from mlx_interp.stats import stable_draw

TEXTS = "texts"


@dataclass(frozen=True)
class Held:
    """A text that nothing is trained on."""

    key: str
    text: ProjectText


class OnText(InBatch):
    """Next tokens of a text in one version; every position but the last has one."""

    version: str
    kind: str
    tokens: int
    loss: float
    """Nats a token."""
    kl: float
    """KL of the stored model's next token from this version's, mean over positions, nats."""
    same: float
    """Share of positions with the same most likely token."""


@of_run(2)
def split_texts(run: Run[PrecisionConfig]) -> tuple[list[ProjectText], list[ProjectText]]:
    """Texts to train on, and held-out ones, apart by what they are about."""
    if is_embedded(run):
        known = [ProjectText("two hops", q.two_hop, f"{q.answer}.", q.bridge, q.subject) for q in data(run)]
    else:
        known = project_texts.english(seed=run.seed)
    held = [stable_draw(run.seed, text.subject or text.text, 2) == 1 for text in known]
    parts = [[text for text, test in zip(known, held, strict=True) if test is which] for which in (False, True)]
    return parts[0], parts[1]


def some(texts: Sequence[ProjectText], n: int) -> list[ProjectText]:
    """At most n, evenly of all kinds."""
    kinds = list(dict.fromkeys(text.kind for text in texts))
    each = -(-n // len(kinds))
    return [text for kind in kinds for text in spread([one for one in texts if one.kind == kind], each)]


def held_texts(run: Run[PrecisionConfig], earlier: Records) -> list[Held]:
    chosen = some(split_texts(run)[1], run.config.n_texts)
    return [Held(f"{number} {text.kind}", text) for number, text in enumerate(chosen)]


def measure(run: Run[PrecisionConfig], batch: Sequence[Held]) -> Iterator[OnText]:
    """A few texts through every version."""
    prompts = [prompt_of(run.model, item.text) for item in batch]
    stored: list[mx.array] = []
    for name, model in versions(run):
        found = [log_probs_of(model.run(prompt, logits="all").logits[0]) for prompt in prompts]  # type: ignore[index]
        stored = stored or found
        for item, prompt, own, other in zip(batch, prompts, found, stored, strict=True):
            following = mx.array(prompt.tokens[1:])
            loss = -mx.take_along_axis(own[:-1], following[:, None], axis=-1)
            yield {
                "item": item.key,
                "version": name,
                "kind": item.text.kind,
                "tokens": len(prompt) - 1,
                "loss": float(loss.mean()),
                "kl": max(float(divergence(other, own)[:-1].mean()), 0.0),
                "same": float(np.mean(np.asarray(own.argmax(-1) == other.argmax(-1))[:-1])),
            }


STAGES: list[Stage[Any, Any, Any]] = [Stage(TEXTS, held_texts, measure, batch=8, record=OnText)]
