"""exp3: two-hop queries under the logit lens. Does the bridge become visible before the answer?

Question   "The capital of the state containing Dallas is": if a model reasons in two hops, Texas should show up inside
           it before Austin does.
Data       --data auto: the synthetic world's families on embedded models; on all others the earlier study's four
           prompts, then families of real facts, twenty and more each.
Measure    rank of the first token of bridge and answer in the logit lens, at every layer, at the subject's last token
           and at the last position; visible: among the top 30, as in the study. Whole names by log-probability.
Figure     gap: first layer of the answer minus first layer of the bridge, over queries where both are visible;
           sequential: the gap is positive. How many are not both visible is said beside it.
Control    bridge and answer of another query of the family, in the same lens. How far each layer's lens is from the
           model's own prediction is measured beside it; for the tuned lens also with its maps one layer too low.
Parts      two_hop     the above, and the default. The others ask what lenses say on text (docs/lenses.md):
           text        bits per byte, bias and transfer of the tuned lens on held-out text, against the logit lens,
                       translators one layer too low, and a guess by frequency.
           input       what is left of the input's tokens in the logit lens.
           basis       the directions that each lens depends on most: whether the model depends on them as well.
           depth       prediction depth against difficulty; the lens on the model fine-tuned on new compositions.
           early_exit  in-context prompts with wrong labels: whether a middle layer answers better than the last.
           injection   a second request in a prompt, told by the trajectory of the prediction.
           token_identity, reader, attributes
                       Patchscopes: what a state predicts, against lenses and map; read by another model; attributes
                       of entities in twelve relations, against a probe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments.exp3_two_hop import attributes, basis, depth, distance, early_exit, identity, injection
from experiments.exp3_two_hop.attributes import AttributeConfig
from experiments.exp3_two_hop.basis import BasisConfig
from experiments.exp3_two_hop.depth import DepthConfig
from experiments.exp3_two_hop.early_exit import ExitConfig
from experiments.exp3_two_hop.identity import IdentityConfig
from experiments.exp3_two_hop.injection import InjectionConfig
from experiments.exp3_two_hop.texts import held_out
from experiments.harness.experiment import Experiment, Plan, Records, Stage
from experiments.shared.two_hop import lens, tuned
from experiments.shared.two_hop.queries import SCREENED, Case, all_cases, queries_and_study, screening
from experiments.shared.two_hop.summaries import mean_over
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.model import Model

PASSES = 5 + 4
"""Forward passes of one query: five prompts of the screening, the lens, and its names."""


Part = Literal[
    "two_hop", "text", "input", "basis", "depth", "early_exit", "injection", "token_identity", "reader", "attributes"
]


@dataclass(frozen=True)
class Config(BasisConfig, DepthConfig, ExitConfig, InjectionConfig, IdentityConfig, AttributeConfig):
    parts: tuple[Part, ...] = ("two_hop",)
    """Which parts of the study to run."""


def of_part(part: Part, items: Callable[[Model, Any], list[Any]]) -> Callable[[Model, Config, Records], list[Any]]:
    """Items of a stage that reads no earlier one, where its part is asked for."""
    return lambda model, config, earlier: items(model, config) if part in config.parts else []


def screened(model: Model, config: Config, earlier: Records) -> list[TwoHopQuery]:
    return queries_and_study(model, config, earlier) if "two_hop" in config.parts else []


def cases(model: Model, config: Config, earlier: Records) -> list[Case]:
    return all_cases(model, config, earlier, config.max_queries)


def headline(records: Records, config: Config) -> str:
    """How many queries are sequential, and the mean gap; of the other parts what lenses save on text."""
    if "two_hop" not in config.parts:
        return distance.headline(records, config) or f"parts: {', '.join(config.parts)}"
    both, gaps = lens.gap_summary(records, config)
    share = mean_over([gap > 0 for gap in gaps], both, config.seed)
    mean = mean_over(gaps, both, config.seed)
    if share is None or mean is None:
        return f"bridge and answer are both visible in {len(both)} queries: too few for an interval"
    return (
        f"the bridge is visible below the answer in {share.text(percent=True)} % of {len(both)} queries where both are "
        f"visible; mean gap {mean.text(digits=1)} layers"
    )


def plan(model: Model, items: Sequence[TwoHopQuery], config: Config) -> Plan:
    """The two-hop queries, and what the other parts patch: at most a pass for each counterfactual."""
    variants = counterfactuals(model, config)
    others = config.n_texts + config.n_train_texts if set(config.parts) - {"two_hop"} else 0
    longest = max((query.two_hop for query in items), key=len, default="")
    memory = model.memory(longest, capture="resid_post") if longest else 0
    passes = float(PASSES * len(items) + variants + others)
    return Plan(len(items) + others, variants, passes, model.weight_bytes + memory)


def counterfactuals(model: Model, config: Config) -> int:
    """Variants of all sweeps, by what each part holds against each other."""
    layers = model.n_layers
    of: dict[Part, int] = {
        "basis": len(basis.layers(model)) * len(basis.ARMS) * config.n_directions * config.n_basis_texts,
        "token_identity": 4 * layers * config.n_texts,
        "reader": 4 * layers * config.n_texts,
        "attributes": 12 * len(attributes.ARMS) * config.n_subjects * len(attributes.layer_pairs(layers)),
    }
    return sum(n for part, n in of.items() if part in config.parts)


EXPERIMENT = Experiment(
    name="exp3_two_hop",
    config=Config,
    stages=[
        Stage(SCREENED, screened, screening, batch=16),
        Stage(lens.STAGE, cases, lens.measure),
        Stage(tuned.STAGE, tuned.spread_cases, tuned.measure),
        Stage(distance.TEXTS, of_part("text", held_out), distance.measure),
        Stage(distance.BIAS, of_part("text", distance.everything), distance.measure_bias),
        Stage(distance.INPUT, of_part("input", held_out), distance.measure_input),
        Stage(basis.STAGE, of_part("basis", basis.some_texts), basis.measure),
        Stage(depth.STAGE, of_part("depth", depth.queries), depth.measure, batch=60),
        Stage(depth.LEARNT, of_part("depth", depth.tuned_queries), depth.measure_learnt),
        Stage(depth.TRANSFER, of_part("depth", held_out), depth.measure_transfer),
        Stage(early_exit.STAGE, of_part("early_exit", early_exit.queries), early_exit.measure),
        Stage(injection.STAGE, of_part("injection", injection.prompts), injection.measure),
        Stage(identity.STAGE, of_part("token_identity", identity.texts), identity.measure, batch=identity.BATCH),
        Stage(identity.READER, of_part("reader", identity.reader_texts), identity.measure_reader, batch=identity.BATCH),
        Stage(attributes.STAGE, of_part("attributes", attributes.cases), attributes.measure),
        Stage(attributes.PROBE, of_part("attributes", attributes.probed), attributes.measure_probe),
    ],
    tables=[
        lens.order_table,
        lens.place_table,
        tuned.distance_table,
        *distance.TABLES,
        basis.table,
        *depth.TABLES,
        early_exit.table,
        injection.table,
        *identity.TABLES,
        attributes.table,
    ],
    figures=[
        lens.curves,
        tuned.distance_figure,
        *distance.FIGURES,
        basis.figure,
        depth.figure,
        early_exit.figure,
        identity.figures,
        attributes.figure,
    ],
    headline=headline,
    plan=plan,
    group=lambda query: (query.family, query.split),
)
