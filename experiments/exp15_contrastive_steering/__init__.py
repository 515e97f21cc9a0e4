"""exp15: contrastive steering. Is the mean of one data set minus that of another a useful vector?

Question   Added to the stream, does the difference of two sets' mean activations make texts read more like the one set
           than like the other, while they stay texts?
Data       chats in named subsets: of the embedded world or this project (offline), the 19 of Tulu 3 by key, any data
           set of the Hub, or a local file. Rows behind a mean, held-out rows and steered prompts are disjoint.
Measure    resid_post at the last prompt token (or a mean over prompt or reply), all layers from one pass, kept on disk;
           scale times the difference added at all positions. Texts are told by a classifier of the subsets' replies.
Figure     share of texts that read as the target, by layer and scale, 95 % intervals over prompts; how many break;
           likelihood under the unsteered model. All pairs of subsets: lengths, cosines, separation of held-out rows.
           One pair of prompts added in front instead (ActAdd), on the embedded world, where topics and facts are known.
Control    the unsteered text of each prompt; two halves of one subset; a random direction, another pair and the halves,
           all at the same length; what prompt length explains projected out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp15_contrastive_steering import (
    front,
    front_report,
    means_apart,
    steered_texts,
    steering_figures,
    steering_report,
)
from experiments.exp15_contrastive_steering.front import FRONT, KNOWLEDGE, RELEVANCE
from experiments.exp15_contrastive_steering.means_apart import PAIRS, SETS, SIZES
from experiments.exp15_contrastive_steering.pages import files
from experiments.exp15_contrastive_steering.settings import ContrastiveConfig, setting
from experiments.exp15_contrastive_steering.steered_texts import TEXTS, Asked
from experiments.exp15_contrastive_steering.vectors import rendered
from experiments.harness.experiment import Experiment, Plan, Stage
from experiments.harness.state import Run


@dataclass(frozen=True)
class Config(ContrastiveConfig):
    """Nothing of its own."""


def plan(run: Run[Config], asked: Sequence[Asked]) -> Plan:
    of, cells = setting(run), len(steered_texts.cells(run)) * run.config.draws
    longest = max((rendered(run.model, one.chat) for one in asked), key=len)
    means = sum(len(one.fit) + len(one.held) for one in of.subsets)
    passes = means + cells * len(asked) * (1.7 + of.max_tokens / len(longest))
    memory = run.model.weight_bytes + run.model.memory([longest.tokens + [0] * of.max_tokens] * cells)
    return Plan(len(asked), cells * len(asked), passes, memory, tokens=len(longest))


EXPERIMENT = Experiment(
    name="exp15_contrastive_steering",
    config=Config,
    stages=[
        Stage(TEXTS, steered_texts.prompts, steered_texts.measure_texts, record=steered_texts.Steered),
        Stage(SETS, means_apart.sets, means_apart.measure_set, record=means_apart.Collected),
        Stage(PAIRS, means_apart.pairs, means_apart.measure_pair, record=means_apart.Paired),
        Stage(SIZES, means_apart.sizes, means_apart.measure_sizes, record=means_apart.Drawn),
        Stage(FRONT, front.prompts, front.measure_front, record=front.Fronted),
        Stage(RELEVANCE, front.replies, front.measure_relevance, record=front.Relevant),
        Stage(KNOWLEDGE, front.facts, front.measure_knowledge, record=front.Known),
    ],
    tables=[
        *(
            steering_report.sweep_table,
            steering_report.pair_table,
            steering_report.targets_table,
            steering_report.rules_table,
            steering_report.pairs_table,
        ),
        steering_report.sizes_table,
        front_report.layer_table,
        front_report.dimension_table,
        front_report.side_table,
    ],
    figures=[steering_figures.curves, steering_figures.grid, steering_figures.sizes, front_report.layer_curves],
    headline=steering_report.headline,
    plan=plan,
    look={"n_samples": 12, "layers": ("40%",), "scales": (0.0, 1.0, 2.0), "max_tokens": 12},
    group=lambda asked: asked.subset,
    scaling=steering_report.metrics,
    files=files,
)
