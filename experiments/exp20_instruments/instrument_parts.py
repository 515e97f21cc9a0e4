"""What the study is asked for, part by part, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from experiments.exp20_instruments.capping import CapConfig
from experiments.exp20_instruments.concept_injection import InjectionConfig, concepts, layers
from experiments.exp20_instruments.diffing import DiffConfig
from experiments.exp20_instruments.estimates import EstimateConfig
from experiments.exp20_instruments.hop_pairs import likely_pairs
from experiments.exp20_instruments.interpreted import InterpretationConfig, neurons
from experiments.exp20_instruments.lens_changes import LensConfig
from experiments.exp20_instruments.oracle_texts import QUESTIONS, OracleConfig
from experiments.exp20_instruments.searched import AblationConfig
from experiments.exp20_instruments.subspaces import SubspaceConfig
from experiments.exp20_instruments.transcoder_graphs import TranscoderConfig
from experiments.exp20_instruments.transcoder_graphs import forward_passes as graph_passes
from experiments.exp20_instruments.wiring_by_weights import WeightConfig
from experiments.harness.experiment import Plan
from experiments.harness.state import Run
from mlx_interp.circuits import wiring

Part = Literal[
    "estimates",
    "weights",
    "lenses",
    "subspaces",
    "capping",
    "ablation",
    "diffing",
    "injection",
    "features",
    "oracle",
    "transcoders",
]
PARTS: tuple[Part, ...] = get_args(Part)
LOOK: dict[str, Any] = {
    "n_repeated": 2,
    "steps": 2,
    "estimators": ("RelP", "attribution", "ig-inputs"),
    "n_statements": 32,
    "n_jacobian": 2,
    "lens_steps": 20,
    "n_exchanges": 16,
    "search_steps": 10,
    "ablation_trials": 8,
    "n_concepts": 4,
    "n_neurons": 2,
    "n_texts": 100,
    "injection_strengths": (2.0,),
    "oracle_steps": 3,
    "n_oracle_texts": 18,
    "n_oracle_tested": 12,
    "n_transcoder_texts": 100,
    "transcoder_steps": 20,
    "cross_layers": 2,
    "n_ablated": 16,
    "n_cut": 16,
    "parts": tuple(part for part in PARTS if part != "diffing"),  # two fine-tunes: minutes of a trained model
}
"""A look (--limit up to 32): fields at which every part is over in a minute."""
BACKWARD = 2
"""Forward passes that a backward pass counts as."""


@dataclass(frozen=True)
class Config(
    EstimateConfig,
    WeightConfig,
    LensConfig,
    SubspaceConfig,
    CapConfig,
    AblationConfig,
    DiffConfig,
    InjectionConfig,
    InterpretationConfig,
    OracleConfig,
    TranscoderConfig,
):
    parts: tuple[Part, ...] = PARTS
    """Which instruments to judge."""


def plan(run: Run[Config], items: Sequence[Any]) -> Plan:
    """Nodes and layers patched, at most a pass each; gradients; products of the Jacobian lens; steps of the search."""
    model, config, pairs = run.model, run.config, likely_pairs(run)
    nodes = wiring(model.network).n_nodes
    variants = len(pairs) * nodes if "estimates" in config.parts else 0
    variants += len(pairs) * model.n_layers if "lenses" in config.parts else 0
    products = config.n_jacobian * (config.jacobian_dimensions or model.d_model) if "lenses" in config.parts else 0
    searched = config.search_steps * config.search_batch * (1 + BACKWARD) if "subspaces" in config.parts else 0
    each = {"ig-inputs": config.steps, "ig-activations": config.steps * (2 * model.n_layers + 1)}
    slopes = sum(each.get(estimator, 1) for estimator in config.estimators) * (1 + BACKWARD) * 2 * len(pairs)
    repeated = config.n_repeated if "weights" in config.parts else 0
    tried = 2 * config.ablation_trials if "ablation" in config.parts else 0
    replies = tried * config.at_most(config.n_asked) * (2 + config.reply_tokens / 16)
    tuned = 2 * config.tuning_steps * config.tuning_batch * (1 + BACKWARD) if "diffing" in config.parts else 0
    cells = 2 * 2 * len(layers(model.n_layers)) * len(config.injection_strengths)
    variants += 3 * cells * len(concepts(run)) if "injection" in config.parts else 0
    if "features" in config.parts and neurons(run):
        replies += config.at_most(config.n_texts) + len(neurons(run)) * 2 * 4 * 12
    if "oracle" in config.parts:
        tuned += config.oracle_steps * config.oracle_batch * (1 + BACKWARD)
        variants += 2 * len(QUESTIONS) * config.at_most(config.n_oracle_tested)
    replies += graph_passes(run) if "transcoders" in config.parts else 0
    memory = model.weight_bytes + model.n_layers * model.memory([pairs[0].clean] * config.steps)
    sloped = slopes if "estimates" in config.parts else 0
    passes = float(variants + repeated + products + searched + replies + tuned + sloped)
    return Plan(2 * len(pairs) + repeated, variants, passes, memory)
