"""exp14: logit-difference amplification. What does more of the difference between two contexts, or models, show?

Question   Decoding from l_a + alpha (l_a - l_b): does the behaviour in which a and b differ grow with alpha, while the
           text stays text; what is lost when only the top 20 logits are known, as through an API; and does a reply
           that was planted in a few training rows become frequent?
Data       Pairs of prompts, of models, with and without an adapter or an edit (pairs.py).
           Embedded models: known truth, a planted reply at known shares included, and a clean fine-tune.
Measure    at every alpha: rate of the behaviour, length, KL(a || amplified) a step, entropy, perplexity under a,
           repetition, logit statistics; all alphas of all prompts of a pair decode as one batch.
Figure     rate, length and logit statistics over alpha, and rate at equal KL, with 95 % intervals over prompts.
Control    the difference shuffled over the vocabulary; b with another prompt; a sharpened without b; a against itself;
           the top 20 logits alone; a plausibility mask; weights of other precisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp14_logit_diff_amplification import amplification_figures, amplification_report, amplified
from experiments.exp14_logit_diff_amplification.amplified import LOSS, PRECISION, RANKING, RARE, TEXTS, Item
from experiments.exp14_logit_diff_amplification.pairs import LOOKED, AmplificationConfig, asks
from experiments.harness.experiment import Experiment, Plan, Stage
from experiments.harness.state import Run


@dataclass(frozen=True)
class Config(AmplificationConfig):
    """Nothing of its own."""


def plan(run: Run[Config], chosen: Sequence[Item]) -> Plan:
    config = run.config
    pairs = [len(asks(run, item.pair)) for item in chosen]
    texts = sum(pairs) * len(config.alphas)
    tunes = amplified.fine_tunes(run, [])
    sampled = len(tunes) * len(config.sampled_alphas) * config.n_samples
    passes = 2.0 * (texts + sampled) * (1 + config.new_tokens / 16) + len(tunes) * config.steps * 16 * 3
    memory = 2 * run.model.weight_bytes + run.model.memory([[1] * 32] * max(max(pairs) * len(config.alphas), 1))
    return Plan(sum(pairs), texts + sampled, passes, memory)


EXPERIMENT = Experiment(
    name="exp14_logit_diff_amplification",
    config=Config,
    stages=[
        Stage(TEXTS, amplified.text_items, amplified.measure_texts, record=amplified.Amplification),
        Stage(RARE, amplified.fine_tunes, amplified.measure_rare, record=amplified.Rare),
        Stage(RANKING, amplified.ranking_items, amplified.measure_ranking, record=amplified.Ranked),
        Stage(LOSS, amplified.loss_items, amplified.measure_loss, record=amplified.Lost),
        Stage(PRECISION, amplified.precision_items, amplified.measure_precision, record=amplified.Amplification),
    ],
    tables=amplification_report.TABLES,
    figures=[
        amplification_figures.curves,
        amplification_figures.at_equal_divergence,
        amplification_figures.statistics,
        amplification_figures.rare,
    ],
    headline=amplification_report.headline,
    plan=plan,
    limits_items=False,
    look={
        "pairs": LOOKED,
        "alphas": (0.0, 2.0),
        "shares": (0.0, 0.05),
        "sampled_alphas": (0.0, 2.0),
        "n_samples": 12,
        "steps": 20,
    },
    group=lambda item: item.pair,
    scaling=amplification_report.metrics,
    files=amplification_report.files,
    csv=amplification_report.CSV,
    whole_model="fine-tunes the model",
    alone="measures one fine-tuned model in all its stages",
)
