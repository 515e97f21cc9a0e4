"""Cost of a circuit study before it is run."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.exp18_discover_circuits.config import NODE_SHARES, RANDOM, CircuitConfig, Item, most_prompts
from experiments.harness.experiment import Plan
from experiments.harness.state import Run


def plan(run: Run[CircuitConfig], chosen: Sequence[Item]) -> Plan:
    """Edges cost n_heads plain passes each time; a gradient about three passes."""
    model, config = run.model, run.config
    prompts = sum(most_prompts(run, item.task) for item in chosen)
    circuits = len(config.shares) * (6 + 2 * RANDOM + len(chosen)) * model.n_heads + len(NODE_SHARES) * (6 + RANDOM)
    scored = len(chosen) * config.at_most(config.n_test) * (circuits if "faithfulness" in config.parts else 0)
    checks = 2 * config.n_sampled * (4 + 3 * model.n_heads)
    checked = len(chosen) * config.n_checked * (checks if "patching" in config.parts else 0)
    slopes = len(chosen) * config.at_most(config.n_train) * 3 * config.steps * (2 * model.n_layers + 4 * model.n_heads)
    rows = [[1] * 24] * 256
    memory = model.weight_bytes + model.n_heads * model.memory(rows)
    return Plan(prompts, scored + checked, float(scored + checked + slopes), memory)
