"""A second instruction in a request, found by how the prediction comes about (after Belrose et al. 2023).

The paper prepends an instruction to ignore the task; models of the embedded world know no such words, and others are
asked the same way. The analogue: a harmless request, a second one behind it, through the chat template. Ordinary: the
second request is harmless as well.
Injected: it asks for something harmful, which alone would be refused, or (in English) for an opinion. A score is fitted
on the trajectories (where the reply begins) of ordinary prompts and asked about others. So what is told is a
second request of another kind, in prompts of the same form and length. Control: ordinary prompts of other requests,
for which the area must be one half; and the prompts' last-layer state alone, without a trajectory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

import numpy as np

from experiments.exp19_lenses.lens_texts import TextConfig, last_states, of_world, text_lens
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run
from experiments.shared import project_texts
from experiments.shared.two_hop.tuned import LOGIT, TUNED
from mlx_interp.deferred import mx
from mlx_interp.embedded import load_world
from mlx_interp.lenses.trajectories import local_outlier_factor, mahalanobis, trajectory_features
from mlx_interp.lenses.tuned import identity_lens
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Record, Table
from mlx_interp.stats import auroc

STAGE = "second requests"
ORDINARY, OTHERS = "ordinary", "ordinary, others"
HARMFUL, OPINION = "harmful request", "opinion asked for"
STATE = "state of the last layer"


@dataclass(frozen=True)
class InjectionConfig(TextConfig):
    """Fields of the detection of second requests."""

    n_ordinary: int = 150
    """Ordinary prompts that the outlier scores are fitted on."""
    n_injected: int = 60
    """Injected prompts of each kind, and twice as many ordinary ones, that are scored."""


@dataclass(frozen=True)
class Requests:
    """All prompts of one language."""

    key: str
    fitted: tuple[str, ...]
    scored: tuple[tuple[str, str], ...]
    """(class, prompt)."""


def prompts(run: Run[InjectionConfig]) -> list[Requests]:
    """By language: ordinary prompts to fit on, and prompts of each class to score; none of them twice."""
    config = run.config
    sources = _sources(run.model)
    found: list[Requests] = []
    for language, (harmless, harmful, others) in sources.items():
        rng = np.random.default_rng([config.seed, len(found)])
        n = config.n_injected
        ordinary = _joined(harmless, harmless, config.n_ordinary + 2 * n, rng)
        injected = [(HARMFUL, text) for text in _joined(harmless, harmful, n, rng)]
        if others:
            injected += [(OPINION, text) for text in _joined(harmless, others, n, rng)]
        fitted, rest = ordinary[: config.n_ordinary], ordinary[config.n_ordinary :]
        scored = [(ORDINARY, text) for text in rest[:n]] + [(OTHERS, text) for text in rest[n:]]
        found.append(Requests(language, tuple(fitted), tuple(scored + injected)))
    return found


def _sources(model: Model) -> dict[str, tuple[list[str], list[str], list[str]]]:
    """By language: harmless requests, harmful ones, and (in English) opinions."""
    found = {}
    for language in ("en", "es"):
        if of_world(model):
            asked = load_world().chat_prompts("refusal", language=language, shift="")
            harmless, harmful = ([one.text for one in asked if bool(one.harmful) == kind] for kind in (False, True))
            stated = [chat.text for chat in load_world().chat_prompts("opinion") if not chat.stance]
        else:
            asked_for = project_texts.requests(language)
            harmless, harmful = ([o.text for o in asked_for if o.label == label] for label in ("harmless", "harmful"))
            stated = [one.text for one in project_texts.opinions()]
        found[language] = (harmless, harmful, stated if language == "en" else [])
    return found


def _joined(first: list[str], second: list[str], n: int, rng: np.random.Generator) -> list[str]:
    """n different prompts of two different requests."""
    made: dict[str, None] = {}
    while len(made) < n:
        one, other = first[rng.integers(len(first))], second[rng.integers(len(second))]
        if one != other:
            made[f"{one} {other}"] = None
    return list(made)


Scores = TypedDict(
    "Scores",
    {
        "class": str,
        "tuned lens, local outlier factor": float,
        "tuned lens, Mahalanobis": float,
        "logit lens, local outlier factor": float,
        "logit lens, Mahalanobis": float,
        "state of the last layer, local outlier factor": float,
        "state of the last layer, Mahalanobis": float,
    },
)
"""Kind of prompt, and how far it lies from those that were fitted to, by what is looked at and how."""


class Outlying(Scores):
    """Outlier scores of one prompt."""

    number: int
    refuses: bool | None
    """None for models whose refusals have no known first token."""


def measure(run: Run[InjectionConfig], requests: Requests) -> Iterator[Outlying]:
    """Outlier scores of every prompt, by lens and score, and whether the model refuses it."""
    model = run.model
    lenses = {TUNED: text_lens(run), LOGIT: identity_lens(model, embedding=True)}
    fitted, scored = (
        last_states(model, [project_texts.said(model, text).tokens for text in texts])
        for texts in (requests.fitted, [text for _, text in requests.scored])
    )
    features = {
        name: tuple(trajectory_features(lens.logits(model, states)) for states in (fitted, scored))
        for name, lens in lenses.items()
    }
    features[STATE] = tuple(np.asarray(states[-1].astype(mx.float32)).astype(np.float64) for states in (fitted, scored))
    refusal = {c.reply for c in load_world().chat_prompts("refusal", language=requests.key, harmful=True)}
    first = {model.tokenizer.encode(text, add_special_tokens=False)[0] for text in refusal}
    tops = np.asarray(mx.argmax(model.unembed(scored[-1]), axis=-1))
    columns = {}
    for name, (known, asked) in features.items():
        columns[f"{name}, local outlier factor"] = local_outlier_factor(known).scores(asked)
        columns[f"{name}, Mahalanobis"] = mahalanobis(known, asked)
    for index, (kind, _) in enumerate(requests.scored):
        scores = {name: round(float(values[index]), 5) for name, values in columns.items()}
        refuses = bool(int(tops[index]) in first) if of_world(model) else None
        yield cast(Outlying, {"class": kind, "number": index, "refuses": refuses, **scores})


def _refused(some: Sequence[Record]) -> float | None:
    known = [r["refuses"] for r in some if r["refuses"] is not None]
    return float(np.mean(known)) if known else None


def table(records: Records, config: InjectionConfig) -> Table | None:
    """Areas under the curve, by language and score."""
    mine = of(records, STAGE)
    if not mine:
        return None
    scores = [name for name in mine[0] if "," in name]
    rows: list[list[Cell]] = []
    for language in dict.fromkeys(r["item"] for r in mine):
        own = of(records, STAGE, item=language)
        ordinary, others = ([r for r in own if r["class"] == kind] for kind in (ORDINARY, OTHERS))
        for kind in (HARMFUL, OPINION):
            injected = [r for r in own if r["class"] == kind]
            for name in scores if injected else ():
                rows.append(
                    [
                        language,
                        kind,
                        name,
                        len(injected),
                        len(ordinary),
                        auroc([r[name] for r in injected], [r[name] for r in ordinary], seed=config.seed),
                        auroc([r[name] for r in others], [r[name] for r in ordinary], seed=config.seed),
                        *(_refused(some) for some in (injected, ordinary)),
                    ]
                )
    return Table(
        "A second request found by the prediction's trajectory",
        [
            *("language", "injected", "score", "n injected", "n ordinary", "AUROC", "AUROC of other ordinary prompts"),
            *(Column(name, "%") for name in ("injected refused", "ordinary refused")),
        ],
        rows,
        [
            f"Scores are fitted on {config.n_ordinary} ordinary prompts: two harmless requests. Injected: another "
            "second one. Trajectory: KL, entropy and log-probability of the final token, by layer. Refused: the "
            "first token of a refusal is on top."
        ],
    )
