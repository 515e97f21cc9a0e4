"""exp13: how reliable is steering? Layers, addition against ablation, shifted requests, single requests.

Question   At which layer and strength does a direction turn refusals, is taking out better than adding, does it hold on
           requests of another form, and how many single requests does it move the wrong way? Of answers to questions
           with two options: how much of steerability is a bias to a place or a word?
Data       embedded models: the world's requests, trained form, other wordings and other topics; other models: the
           project's own bare requests, plain and in a fictional frame. Directions, choice, report: other requests.
Measure    four depths; added shares of the stream's norm at every position; shares of the component ablated at one
           layer, or all of it everywhere; refusal phrase, help, fluency. Slope of refusal log-odds for each request.
           Questions: logit difference of Yes and No against multiples of a vector read at the answer.
Figure     replies turned as meant, with a 95 % interval over requests; share of negative slopes; the guide's criteria.
Control    shuffled labels, an unrelated contrast (opinions), random directions, all of the learned direction's length;
           shuffled and random ones drawn ten times at the chosen layer and strength.
           Not repeated: the guide's direction (read where texts are still equal, so rounding), its detector (silence
           counted as refusal), and "ablation" above 1 (a reflection).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp13_steering_reliability import (
    answer_options,
    option_report,
    reliability_figures,
    reliability_report,
    steering_runs,
    training_draws,
)
from experiments.exp13_steering_reliability.steering_runs import REPLIES, SLOPES, ReliabilityConfig, Request
from experiments.harness.experiment import Experiment, Plan, Stage
from experiments.harness.state import Run


@dataclass(frozen=True)
class Config(ReliabilityConfig):
    """Nothing of its own."""


def plan(run: Run[Config], items: Sequence[Request]) -> Plan:
    cells = steering_runs.n_edits(run)
    longest = max((run.model.prompt(item.text, chat=True) for item in items), key=len)
    passes = cells * len(items) * (0.7 + run.config.new_tokens / len(longest)) + 2 * run.config.n_train * 3
    memory = run.model.weight_bytes + run.model.memory([longest] * cells)
    return Plan(len(items), cells * len(items), passes, memory, tokens=len(longest))


EXPERIMENT = Experiment(
    name="exp13_steering_reliability",
    config=Config,
    stages=[
        Stage(REPLIES, steering_runs.steered, steering_runs.measure_replies, record=steering_runs.Replied),
        Stage(SLOPES, steering_runs.sloped, steering_runs.measure_slopes, record=steering_runs.Sloped),
        *training_draws.STAGES,
        *answer_options.STAGES,
    ],
    tables=[
        *(
            reliability_report.criteria,
            option_report.direction_table,
            reliability_report.layer_table,
            reliability_report.dose_table,
            reliability_report.shift_table,
        ),
        *(
            option_report.draws_table,
            reliability_report.slope_table,
            option_report.options_table,
            option_report.bias_table,
        ),
        option_report.transfer_table,
        option_report.predictor_table,
    ],
    figures=[
        reliability_figures.dose_curves,
        reliability_figures.slope_boxes,
        reliability_figures.trade_off,
        reliability_figures.transfer_scatter,
    ],
    files=option_report.files,
    csv=option_report.CSV,
    headline=reliability_report.headline,
    screen=reliability_report.shift_table,
    plan=plan,
    look={"n_train": 16, "depths": (0.5, 0.69), "strengths": (0.25, 1.0), "gains": (1.0,), "n_draws": 2},
    limits_items=False,
    scaling=reliability_report.metrics,
)
