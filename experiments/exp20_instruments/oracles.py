"""Activation oracle: does a small one, trained here, tell from an activation what a text is, beyond the text's words?

LoRA on the model itself learns yes-or-no questions about the state at a request's last token, the mean of the training
texts taken off, as most of a small model's state is the same for all texts. It is asked of other requests: the trained
questions, the same in other words, and questions that it never saw. Fixed before looking: an oracle reads if its
accuracy is above that of another text's activation (interval of the difference above 0); it tells more than words if
it is above the bag of words. Controls, on the same texts:

another text's activation   what the question alone brings, and the answers' balance
no activation               the prompt as it is
untrained reader            the model without the adapter, shown the same
linear probe                of the same activations, fitted on the training texts' labels of each question
bag of words                a classifier of the texts' words and pairs of words, fitted likewise

Probe and words are fitted on labels of every question, also of those that the oracle never saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np

from experiments.exp20_instruments.oracle_texts import (
    NEW,
    NO,
    QUESTIONS,
    TRAINED,
    WORDING,
    YES,
    Asked,
    OracleConfig,
    Text,
    balanced,
    texts,
)
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from experiments.harness.state import Run, of_run
from experiments.shared.adapted import adapted
from mlx_interp.behaviour.finetuning import LoraRecipe
from mlx_interp.behaviour.text_classifier import fit_text_classifier
from mlx_interp.directions import states_of
from mlx_interp.directions.state_classifier import fit_state_classifier
from mlx_interp.lenses import ActivationOracle, OracleExample, OracleSettings, train_oracle
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.stats import auroc, difference_interval

STAGE = "oracle"
ORACLE, OTHER, NOTHING = "oracle", "another text's activation", "no activation"
UNTRAINED, PROBE, WORDS = "untrained reader", "linear probe", "bag of words"
ARMS = (ORACLE, OTHER, NOTHING, UNTRAINED, PROBE, WORDS)
GROUPS = (TRAINED, WORDING, NEW)
SETTINGS = OracleSettings(chat=False, template="Layer: {layer}\n{placeholders} \n{question} Answer:")
"""Without a chat template's own text, which is longer than the question."""


class Told(TypedDict):
    """One answer about one text."""

    kind: str
    training: str
    arm: str
    text: str
    truth: bool
    log_odds: float | None
    """Of yes against no, nats; None for probe and words."""
    right: bool


def layer(run: Run[OracleConfig]) -> int:
    chosen = run.config.oracle_layer
    return 2 * run.model.n_layers // 5 if chosen is None else chosen


@of_run(1)
def states(run: Run[OracleConfig]) -> dict[str, np.ndarray]:
    """States (n_texts, d_model) at the last token by split, less the mean of the training texts."""
    site = f"resid_post.{layer(run)}"
    found = {split: states_of(run.model, [t.text for t in texts(run, split)], site) for split in ("train", "test")}
    mean = found["train"].mean(axis=0)
    return {split: rows - mean for split, rows in found.items()}


@of_run(1)
def oracle(run: Run[OracleConfig]) -> ActivationOracle:
    """The model with an adapter that was trained on questions about training texts, as many yes as no."""
    config, rows = run.config, texts(run, "train")
    examples = [
        OracleExample(states(run)["train"][i], layer(run), asked.key, asked.answer(rows[i]))
        for asked in QUESTIONS
        if asked.training == TRAINED
        for i in balanced(asked, rows, run.seed)
    ]
    recipe = LoraRecipe(
        rank=8, steps=config.oracle_steps, batch=config.oracle_batch, learning_rate=config.oracle_rate, seed=run.seed
    )
    found = train_oracle(run.model, examples, recipe, SETTINGS)
    return ActivationOracle(adapted(run.model, found, "oracle"), SETTINGS)


def questions(run: Run[OracleConfig]) -> list[Asked]:
    """All questions, as items."""
    return list(QUESTIONS)


def measure(run: Run[OracleConfig], item: Asked) -> Iterator[Told]:
    """One question of held-out texts, as many with yes as with no, by the oracle and by every control."""
    rows, learnt = texts(run, "test"), texts(run, "train")
    chosen = balanced(item, rows, run.seed)
    if not chosen:
        return
    here, truths = states(run)["test"][chosen], [item.truth(rows[i]) for i in chosen]
    readers = {ORACLE: oracle(run), UNTRAINED: ActivationOracle(run.model, SETTINGS)}
    odds = {arm: reader.log_odds(here, item.key, (YES, NO), layer=layer(run)) for arm, reader in readers.items()}
    shifted = np.random.default_rng(run.seed).permutation(len(chosen))
    odds[OTHER] = np.empty(len(chosen))
    odds[OTHER][shifted] = odds[ORACLE][np.roll(shifted, 1)]
    yes, no = oracle(run).unasked(item.key, (YES, NO), layer=layer(run))
    odds[NOTHING] = np.full(len(chosen), yes - no)
    answers = {PROBE: _by_probe(run, item, learnt, here), WORDS: _by_words(item, learnt, [rows[i] for i in chosen])}
    for arm in ARMS:
        told = odds.get(arm)
        said = (told > 0).tolist() if told is not None else answers[arm]
        for n, (i, truth) in enumerate(zip(chosen, truths, strict=True)):
            yield {
                "kind": item.kind,
                "training": item.training,
                "arm": arm,
                "text": rows[i].text,
                "truth": truth,
                "log_odds": float(told[n]) if told is not None else None,
                "right": bool(said[n]) is truth,
            }


def _by_probe(run: Run[OracleConfig], item: Asked, learnt: Sequence[Text], here: np.ndarray) -> list[bool]:
    places = balanced(item, learnt, run.seed)
    probe = fit_state_classifier(states(run)["train"][places], [item.answer(learnt[i]) for i in places])
    return [answer == YES for answer in probe.told(here)]


def _by_words(item: Asked, learnt: Sequence[Text], asked: Sequence[Text]) -> list[bool]:
    words = fit_text_classifier([text.text for text in learnt], [item.answer(text) for text in learnt])
    told = words.probabilities([text.text for text in asked]).argmax(axis=1)
    return [words.classes[index] == YES for index in told]


def _within_questions(told: Frame) -> tuple[list[float], list[float]]:
    """Log-odds of texts with yes and with no, less their mean over each question's texts."""
    means = {key: np.mean([row["log_odds"] for row in told if row["item"] == key]) for key in told.values("item")}
    yes, no = (
        [float(row["log_odds"] - means[row["item"]]) for row in told if row["truth"] is truth]
        for truth in (True, False)
    )
    return yes, no


def _above(mine: Frame, arm: str, seed: int) -> Cell:
    """How much more often the oracle is right than a control, paired by text."""
    first, second = mine.where(arm=ORACLE), mine.where(arm=arm)
    right = [[float(value) for value in frame.values("right")] for frame in (first, second)]
    units = [frame.values("text") for frame in (first, second)]
    return difference_interval(right[0], right[1], unit=units[0], control_unit=units[1], seed=seed)


def headline(records: Records, config: OracleConfig) -> str | None:
    """Answers of the oracle on other texts, beside words alone and another text's activation."""
    mine = of(records, STAGE, training=TRAINED)
    told = [mine.where(arm=arm).rate("right", unit="text", seed=config.seed) for arm in (ORACLE, WORDS, OTHER)]
    if None in told:
        return None
    first, words, other = (one.text(percent=True) for one in told if one is not None)
    return f"activation oracle right: {first} %, bag of words {words} %, another text's activation {other} %"


def table(records: Records, config: OracleConfig) -> Table | None:
    """Right answers by how a question was trained, of the oracle and every control."""
    rows: list[list[Cell]] = []
    for training in GROUPS:
        for kind in dict.fromkeys(asked.kind for asked in QUESTIONS):
            mine = of(records, STAGE, training=training, kind=kind)
            if not mine:
                continue
            rates = [mine.where(arm=arm).rate("right", unit="text", seed=config.seed) for arm in ARMS]
            told = mine.where(arm=ORACLE)
            area = auroc(*_within_questions(told), seed=config.seed)
            n_texts = len(set(told.values("text")))
            rows.append([training, kind, len(told), n_texts, *rates, area])
    columns: list[Column | str] = [
        *("question", "about", "n answers", "n texts"),
        *(Column(arm, "%") for arm in ARMS),
        Column("oracle, area under ROC"),
    ]
    note = (
        "Right answers on texts that nothing was trained on, as many with yes as with no: chance is 50 %. Intervals "
        "over texts. The oracle says yes where yes is likelier than no. Area: of its log-odds, less their mean over a "
        f"question's texts. Probe and words are fitted on labels of each question, {config.n_oracle_texts} texts; the "
        "oracle was trained on trained questions alone."
    )
    return Table("Activation oracle: right answers about held-out texts", columns, rows, [note]) if rows else None


def gap_table(records: Records, config: OracleConfig) -> Table | None:
    """The oracle less its controls, paired by text: the two criteria."""
    rows: list[list[Cell]] = []
    for training in GROUPS:
        mine = of(records, STAGE, training=training)
        if len(set(mine.values("text"))) >= 2:
            n = len(set(mine.values("text")))
            rows.append([training, n, *(_above(mine, arm, config.seed) for arm in (OTHER, UNTRAINED, PROBE, WORDS))])
    columns: list[Column | str] = [
        *("question", "n texts"),
        *(Column(f"above {arm}", "%") for arm in (OTHER, UNTRAINED, PROBE, WORDS)),
    ]
    note = (
        "Points of accuracy, paired by text. It reads: the first above 0. It tells more than words: the last above 0."
    )
    return Table("Activation oracle less its controls", columns, rows, [note]) if rows else None


TABLES = (table, gap_table)
