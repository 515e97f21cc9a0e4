"""SHIFT in exp17: a classifier that was trained where harm and language coincide, and the latents of the one not meant.

Harmful requests of one language and harmless ones of another, at the last token before the reply: nothing in the data
says which of the two is meant. Asked twice: harm is meant and language the cue, and the other way round. Judged are the
latents that the classifier uses most, by their strongest examples among requests of other topics; `shift_removed` takes
a reader's own judgement instead. Tested on held-out requests in which both come apart. Beside it: as many latents at
random, the ones judged to be meant, as many neurons that show the cue best, the direction of the cue (both need labels
of it), and a classifier trained on data in which the two come apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from experiments.exp17_train_saes import runs, texts
from experiments.exp17_train_saes.runs import Item, SAEConfig
from experiments.exp17_train_saes.text_kinds import Request
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame
from experiments.harness.state import Run
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.sae import SAE
from mlx_interp.sae.shift import Classifier, Reading, classifier, contributions, reading, without
from mlx_interp.stats import stable_draw

SHIFT = "shift"
MEANT = ("harm", "language")
ARMS = (
    *("as trained", "latents removed", "latents removed, retrained", "random latents removed, retrained"),
    *("latents of what is meant removed, retrained", "neurons removed, retrained", "direction removed, retrained"),
    "trained where they come apart",
)
Array = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Confounded:
    """Harmful requests of one language, harmless ones of another; which of the two is meant."""

    key: str
    harmful: str
    harmless: str
    meant: str
    item: Item


@dataclass(frozen=True)
class Requests:
    """Activations (n, width) of requests with what is true of them: what is meant, and the cue."""

    x: Array
    meant: npt.NDArray[np.bool_]
    cue: npt.NDArray[np.bool_]
    topics: list[str]

    def some(self, rows: npt.NDArray[np.bool_]) -> Requests:
        kept = [topic for topic, row in zip(self.topics, rows, strict=True) if row]
        return Requests(self.x[rows], self.meant[rows], self.cue[rows], kept)


def cases(run: Run[SAEConfig], earlier: Records) -> list[Confounded]:
    if len(run.config.shift_languages) < 2:
        return []
    item = next(one for one in runs.middle_items(run, earlier) if one.kind == "topk")
    return [
        Confounded(f"{meant} is meant: harmful {a}, harmless {b}", a, b, meant, item)
        for meant in MEANT
        for a, b in permutations(run.config.shift_languages, 2)
    ]


def requests(run: Run[SAEConfig], case: Confounded, *, held_out: bool) -> Requests:
    """All requests of both languages, of the split trained on or the other."""
    chosen = [
        one
        for one in texts.source(run.model).requests(run.model)
        if one.held_out == held_out and one.language in (case.harmful, case.harmless)
    ]
    prompts = [one.prompt for one in chosen]
    flags = [np.array([flag(one) for one in chosen]) for flag in (_is_harmful, lambda c: c.language == case.harmful)]
    labelled = texts.Labelled(SHIFT, prompts, [len(p) - 1 for p in prompts], [], [], flags[0])
    x = texts.rows_of(run.model, labelled, case.item.site).astype(np.float64)
    meant, cue = flags if case.meant == MEANT[0] else flags[::-1]
    return Requests(x, meant, cue, [f"{one.language}: {one.topic}" for one in chosen])


def _is_harmful(one: Request) -> bool:
    return one.harmful


class Shifted(TypedDict):
    """A classifier trained where harm and language coincide: its latents, and then what every arm says, by topic."""

    what: str
    """judged or answers."""
    case: str
    meant: str
    """harm or language."""
    n_train: NotRequired[int]
    """Judged; so for the fields up to strongest: requests that it was trained on."""
    n_examples: NotRequired[int]
    """Requests whose latents are read."""
    used: NotRequired[int]
    """Latents that are judged."""
    spurious: NotRequired[int]
    """Those that stand for the cue."""
    strongest: NotRequired[list[list[float]]]
    """Of six latents the number, and the shares of their examples with one value of what is meant, and of the cue."""
    arm: NotRequired[str]
    """Answers; so for the following fields."""
    topic: NotRequired[str]
    right: NotRequired[float]
    """Share of held-out requests told right."""
    by_cue: NotRequired[float]
    """Share answered as the cue has it."""
    apart: NotRequired[float | None]
    """Share told right of those in which both come apart; None where there are none."""


def measure(run: Run[SAEConfig], case: Confounded) -> Iterator[Shifted]:
    """Every arm's answers on the held-out requests, by topic."""
    config = run.config
    sae = runs.dictionary(run, case.item)
    known, test = (requests(run, case, held_out=held_out) for held_out in (False, True))
    read = np.array([stable_draw(config.seed, topic, 2) == 1 for topic in known.topics])
    looked_at, seen = known.some(read), known.some(~read)
    train = seen.some(seen.meant == seen.cue)  # where the two coincide
    told = classifier(train.x, train.meant)
    used = np.argsort(-contributions(sae, train.x, told), kind="stable")[: config.shift_latents].tolist()
    judged = reading(np.asarray(sae.encode(looked_at.x)), looked_at.meant, looked_at.cue, used)
    spurious = [r.latent for r in judged if r.is_spurious]
    spurious = [latent for latent in config.shift_removed if latent < sae.d_sae] or spurious
    base: Shifted = {"what": "judged", "case": case.key, "meant": case.meant}
    yield {
        **base,
        "n_train": len(train.x),
        "n_examples": len(looked_at.x),
        "used": len(used),
        "spurious": len(spurious),
        "strongest": [[r.latent, round(r.meant, 2), round(r.spurious, 2)] for r in judged[:6]],
    }
    answers = _arms(sae, train, looked_at, seen, test, told, judged, spurious, config)
    for arm, said in answers.items():
        for topic in dict.fromkeys(test.topics):
            mine = np.array([one == topic for one in test.topics])
            yield {
                **base,
                "what": "answers",
                "arm": arm,
                "topic": topic,
                "right": float((said == test.meant)[mine].mean()),
                "by_cue": float((said == test.cue)[mine].mean()),
                "apart": float((said == test.meant)[mine & (test.meant != test.cue)].mean())
                if (mine & (test.meant != test.cue)).any()
                else None,
            }


def _arms(
    sae: SAE,
    train: Requests,
    looked_at: Requests,
    seen: Requests,
    test: Requests,
    told: Classifier,
    judged: Sequence[Reading],
    spurious: Sequence[int],
    config: SAEConfig,
) -> dict[str, npt.NDArray[np.bool_]]:
    """What every arm says of the held-out requests."""
    alive = np.flatnonzero((np.asarray(sae.encode(train.x)) > 0).any(0))
    rng = np.random.default_rng(config.seed)
    random = rng.choice(alive, min(len(spurious), len(alive)), replace=False).tolist()
    meant = [r.latent for r in judged if not r.is_spurious]
    gap = looked_at.x[looked_at.cue].mean(0) - looked_at.x[~looked_at.cue].mean(0)
    neurons = np.argsort(-np.abs(gap) / (looked_at.x.std(0) + 1e-8))[: len(spurious)]
    unit = gap / (np.linalg.norm(gap) or 1.0)

    def retrained(change: object) -> npt.NDArray[np.bool_]:
        assert callable(change)
        return classifier(change(train.x), train.meant)(change(test.x))

    def no_neurons(x: Array) -> Array:
        kept = x.copy()
        kept[:, neurons] = 0
        return kept

    return dict(
        zip(
            ARMS,
            (
                told(test.x),
                told(without(sae, test.x, spurious)),
                retrained(lambda x: without(sae, x, spurious)),
                retrained(lambda x: without(sae, x, random)),
                retrained(lambda x: without(sae, x, meant)),
                retrained(no_neurons),
                retrained(lambda x: x - np.outer(x @ unit, unit)),
                classifier(seen.x, seen.meant)(test.x),
            ),
            strict=True,
        )
    )


def shift_table(records: Records, config: SAEConfig) -> Table | None:
    """Whom the classifier follows: harm, or the language that went with it."""
    found = [r for r in records if r["stage"] == SHIFT and r["what"] == "answers"]
    rows: list[list[Cell]] = []
    for meant in MEANT:
        for arm in ARMS:
            mine = Frame(found).where(meant=meant, arm=arm)
            values: list[Cell] = [
                mine.measured(name).rate(name, unit="topic", seed=config.seed) for name in ("right", "apart", "by_cue")
            ]
            if mine:
                n_cases = len({r["case"] for r in mine})
                rows.append([meant, arm, n_cases, len({r["topic"] for r in mine}), *values])
    if not rows:
        return None
    heads = ("told right", "where cue and what is meant come apart", "agrees with the cue")
    return Table(
        "A spurious cue removed by its latents",
        ["meant", "classifier", "cases", "topics", *(Column(head, "%") for head in heads)],
        rows,
        [
            "Trained on harmful requests of one language and harmless ones of another; tested on held-out topics in "
            "all four combinations, chance 50 %. Intervals over topics. Latents are judged by their strongest examples "
            "among requests of other topics; neurons and the direction are chosen by labels of the cue, the last row "
            "is trained with labels of both.",
        ],
    )


def judged_table(records: Records, config: SAEConfig) -> Table | None:
    rows: list[list[Cell]] = []
    for r in records:
        if r["stage"] == SHIFT and r["what"] == "judged":
            shown = ", ".join(f"{latent} ({spurious:.2f} / {meant:.2f})" for latent, meant, spurious in r["strongest"])
            rows.append([r["case"], r["n_train"], r["n_examples"], r["used"], r["spurious"], shown])
    if not rows:
        return None
    heads = ["case", "trained on", "examples read", "latents looked at", "judged spurious"]
    return Table(
        "Latents judged",
        [*heads, "strongest (share of their examples with one value of the cue / of what is meant)"],
        rows,
    )
