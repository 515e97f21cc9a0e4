"""exp21: what do fewer bits move? The same measurements on one model at several precisions.

Question   A finding on a 4-bit model: is it one on the model, or on its rounding? How far do next tokens, a refusal
           direction and the layer chosen for it, repairs by back-patching, and autoencoders move?
Data       for each version (as stored, and quantised as mlx_lm.convert does) the same held-out texts, the same
           requests, the same two-hop queries: the synthetic world's on embedded models, the project's own on others.
Measure    KL and most likely token on texts; cosine of the difference of means to that of the stored model, layer by
           layer; the layer that Arditi et al. (2024) would choose; share of failures that one pair of layers, chosen
           on the other half, repairs; loss with an autoencoder spliced in.
Figure     cosine by layer. Intervals over texts, prompts drawn again (the same for both versions), bridges.
Control    how far a direction moves when prompts are drawn again; another query's states in the same pair of layers;
           an autoencoder of the stored model from another seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp21_precision import dictionaries, moved_directions, moved_texts, precision_report, repairs
from experiments.exp21_precision.versions import PrecisionConfig, version_items
from experiments.harness.experiment import Experiment, Plan
from experiments.harness.state import Run
from experiments.shared.project_texts import prompt_of


@dataclass(frozen=True)
class Config(PrecisionConfig):
    """Nothing of its own."""


def plan(run: Run[Config], items: Sequence[moved_texts.Held]) -> Plan:
    """All versions on all prompts; each repair and each choice of a layer counts its variants."""
    config, layers = run.config, run.model.n_layers
    n_versions = len(version_items(run, ()))
    screened, failures = config.at_most(config.n_queries), config.at_most(config.n_failures)
    chosen, cells = config.at_most(config.n_choose), len(repairs.pairs_of(layers, config.layer_step))
    texts = len(items) + config.n_train_texts + 4 * config.n_loss_texts + 2 * config.at_most(config.n_train)
    variants = n_versions * (3 * chosen * layers + 2 * failures * cells)
    passes = n_versions * (texts + 30 * screened + 3 * chosen * layers + 2 * failures * cells / 4)
    longest = max((prompt_of(run.model, item.text) for item in items), key=len, default=None)
    memory = run.model.memory(longest, capture="resid_post") if longest is not None else 0
    return Plan(
        len(items) + screened + 2 * chosen, variants, float(passes), n_versions * run.model.weight_bytes + memory
    )


EXPERIMENT = Experiment(
    name="exp21_precision",
    config=Config,
    stages=[*moved_texts.STAGES, *moved_directions.STAGES, *repairs.STAGES, *dictionaries.STAGES],
    tables=precision_report.TABLES,
    figures=[precision_report.cosine_figure],
    headline=precision_report.headline,
    plan=plan,
    look={"n_train": 16, "n_train_texts": 120, "n_loss_texts": 6, "steps": 60},
    group=lambda item: item.text.kind,
    whole_model="quantises whole matrices",
)
