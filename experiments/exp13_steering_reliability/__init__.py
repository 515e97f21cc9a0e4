"""exp13: how reliable is steering? Layers, addition against ablation, shifted requests, single requests.

Question   At which layer and strength does a direction turn refusals, is taking out better than adding, does it hold on
           requests of another form, and how many single requests does it move the wrong way? Of answers to questions
           with two options: how much of steerability is a bias to a place or a word?
Data       embedded models: the world's requests, trained form, other wordings and other topics; other models: the
           project's own mild requests, plain and in a fictional frame. Directions, choice, report: other requests.
Measure    four depths; added shares of the stream's norm at every position; shares of the component taken out at one
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

from experiments.exp13_steering_reliability import draws, figures, measure, option_report, options, report
from experiments.exp13_steering_reliability.measure import REPLIES, SLOPES, ReliabilityConfig, Request
from experiments.harness.experiment import Experiment, Plan, Stage
from mlx_interp.model import Model


@dataclass(frozen=True)
class Config(ReliabilityConfig):
    """Nothing of its own."""


def plan(model: Model, items: Sequence[Request], config: Config) -> Plan:
    cells = len(measure.edits(model, config))
    longest = max((model.prompt(item.text, chat=True) for item in items), key=len)
    passes = cells * len(items) * (0.7 + config.new_tokens / len(longest)) + 2 * config.n_train * 3
    return Plan(len(items), cells * len(items), passes, model.weight_bytes + model.memory([longest] * cells))


EXPERIMENT = Experiment(
    name="exp13_steering_reliability",
    config=Config,
    stages=[
        Stage(REPLIES, measure.steered, measure.measure_replies),
        Stage(SLOPES, measure.sloped, measure.measure_slopes),
        Stage(draws.DIRECTIONS, draws.layer_items, draws.measure_direction),
        Stage(draws.DRAWS, draws.draw_items, draws.measure_draws),
        Stage(options.VECTORS, options.behaviours, options.measure_vectors),
        Stage(options.OPTIONS, options.questions, options.measure_options),
    ],
    tables=[
        *(report.criteria, option_report.direction_table, report.layer_table, report.dose_table, report.shift_table),
        *(option_report.draws_table, report.slope_table, option_report.options_table, option_report.bias_table),
        *(option_report.transfer_table, option_report.predictor_table),
    ],
    figures=[figures.dose_curves, figures.slope_boxes, figures.trade_off, figures.transfer_scatter],
    files=option_report.files,
    csv=option_report.CSV,
    headline=report.headline,
    plan=plan,
    group=lambda request: (request.shift, request.split, request.harmful),
    scaling=report.metrics,
)
