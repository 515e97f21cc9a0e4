"""Ground truth at the level of features: does one stand for a state, a task, a language, harm?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from experiments.exp17_train_saes import runs, texts
from experiments.exp17_train_saes.runs import Item, SAEConfig
from experiments.harness.experiment import Records
from experiments.harness.state import Run, of_run
from mlx_interp.reporting import finite
from mlx_interp.sae import best_detectors, dashboard, feature_pages, page_of, sparse_probe

BASES = ("raw neurons", "random directions", "principal components")


@dataclass(frozen=True)
class Question:
    """One group of concepts, asked of one way to write activations."""

    key: str
    group: str
    basis: str
    item: Item | None


def questions(run: Run[SAEConfig], earlier: Records) -> list[Question]:
    asked = [one for one in runs.middle_items(run, earlier) if one.kind not in ("neurons", "PCA")]
    return [
        Question(f"{group}: {basis}", group, basis, item)
        for group in texts.GROUPS
        for basis, item in [*((one.label, one) for one in asked), *((name, None) for name in BASES)]
    ]


@of_run(4)
def tokens(run: Run[SAEConfig], group: str, site: str) -> tuple[texts.Labelled, npt.NDArray[np.float32]]:
    chosen = texts.labelled(run, group, run.config.per_concept)
    return chosen, texts.rows_of(run.model, chosen, site)


def columns(run: Run[SAEConfig], question: Question, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Activations as features, or in a basis that nobody trained; the latter mean something by either sign."""
    config = run.config
    if question.item is not None:
        return np.asarray(runs.dictionary(run, question.item).encode(x))
    if question.basis == "raw neurons":
        values = x
    elif question.basis == "random directions":
        directions = np.random.default_rng(config.seed).standard_normal((x.shape[1], config.expansion * x.shape[1]))
        values = x @ directions.astype(np.float32)
    else:
        some = texts.training_rows(run, runs.site_names(run)[0], config.seed, config.n_tasks, most=config.most_texts)
        values = (x - some.mean(0)) @ np.linalg.svd(some[:8192] - some.mean(0), full_matrices=False)[2].T
    return np.concatenate([values, -values], axis=1)


class Detected(TypedDict):
    """The best column of one concept, and probes for it, on held-out tokens."""

    group: str
    basis: str
    concept: str
    n: int
    """Tokens."""
    n_positive: int
    n_columns: int
    column: int
    precision: float
    recall: float
    f1: float
    auroc: dict[str, float | None]
    """Of sparse probes, by their number of columns."""
    auroc_all: float | None
    """Of a probe on all dimensions."""


def measure(run: Run[SAEConfig], question: Question) -> Iterator[Detected]:
    """Best column of each concept on held-out tokens, and sparse probes beside a probe on everything."""
    site = runs.site_names(run)[0]
    chosen, x = tokens(run, question.group, site)
    values = columns(run, question, x)
    one_sign = values if question.item is not None else values[:, : values.shape[1] // 2]
    labels, within = np.array(chosen.labels), np.array(chosen.within)
    for part in sorted(set(chosen.within)):
        rows = within == part
        concepts = chosen.concepts(rows)
        halves = [rows & ~chosen.held_out, rows & chosen.held_out]
        flags = [labels[half][:, None] == np.array(concepts)[None] for half in halves]
        train, test = (values[half] for half in halves)
        for number, found in enumerate(best_detectors(train, flags[0], test, flags[1])):
            probe = {
                str(k): finite(
                    sparse_probe(one_sign[halves[0]], flags[0][:, number], one_sign[halves[1]], flags[1][:, number], k)
                )
                for k in run.config.probed_k
            }
            dense = sparse_probe(x[halves[0]], flags[0][:, number], x[halves[1]], flags[1][:, number], None)
            yield {
                "group": question.group,
                "basis": question.basis,
                "concept": f"{concepts[number]} {part}".strip(),
                "n": len(test),
                "n_positive": found.n_positive,
                "n_columns": values.shape[1],
                "column": found.column,
                "precision": found.precision,
                "recall": found.recall,
                "f1": found.f1,
                "auroc": probe,
                "auroc_all": finite(dense),
            }


# The page of the features that stand for something.


@dataclass(frozen=True)
class Shown:
    """Features of one dictionary that go onto the page."""

    key: str
    item: Item
    titles: tuple[tuple[int, str], ...]


def shown(run: Run[SAEConfig], earlier: Records) -> list[Shown]:
    """Of the topk dictionary, the features that stand for their concept best, a few of each group."""
    item = next(one for one in runs.middle_items(run, earlier) if one.kind == "topk")
    best: dict[int, str] = {}
    for group in texts.GROUPS:
        own = [r for r in earlier if r["stage"] == runs.TRUTH and (r["group"], r["basis"]) == (group, item.label)]
        for r in sorted(own, key=lambda r: -r["f1"])[:3]:
            best.setdefault(r["column"], f"{group}: {r['concept']}, F1 {r['f1']:.2f}")
    return [Shown(item.key, item, tuple(best.items()))] if best else []


class Paged(TypedDict):
    """What the page shows of one feature."""

    feature: int
    page: str
    """JSON."""


def measure_pages(run: Run[SAEConfig], one: Shown) -> Iterator[Paged]:
    """What the page shows, over tokens of known meaning and held-out texts."""
    sae = runs.dictionary(run, one.item)
    prompts = [text.prompt for text in texts.measured_texts(run, run.config.seed, run.config.n_texts)]
    for group in texts.GROUPS[:3]:
        prompts += texts.labelled(run, group, 4).prompts
    for page in feature_pages(run.model, sae, prompts, [f for f, _ in one.titles], titles=dict(one.titles)):
        yield {"feature": page.feature, "page": json.dumps(asdict(page), ensure_ascii=False)}


def files(records: Records, config: SAEConfig) -> Iterator[tuple[str, str]]:
    """The page as HTML."""
    pages = [page_of(json.loads(r["page"])) for r in records if r["stage"] == runs.PAGES]
    if pages:
        item = next(r["item"] for r in records if r["stage"] == runs.PAGES)
        note = (
            "Texts that activate each feature most, over held-out texts and tokens of known meaning; the colour is the "
            "activation. Raises, lowers: logits when the direction is added to the mean last state."
        )
        yield "features.html", dashboard(pages, title=f"Features of {item}", note=note).html
