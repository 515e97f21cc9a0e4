"""Causal tracing in exp18: heat maps over layers and positions, and what states bring back by site, window, position.

Layers are chosen on every other prompt and reported on the rest; the control puts back the counterfactual prompt's
state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.exp18_discover_circuits.config import CircuitConfig, Floats
from experiments.exp18_discover_circuits.discovery import Traced
from experiments.harness.experiment import Records
from experiments.harness.frame import typed
from mlx_interp.circuits.tracing import KINDS, ROLES, Kind
from mlx_interp.reporting import Cell, Column, Panel, Plot, Table, heat_map
from mlx_interp.stats import Estimate, mean_or_none

SITES = {"resid_post": "stream", "attn_out": "attention", "mlp_out": "MLPs"}
ARMS = ("clean", "other")
Effects = dict[str, Floats]
"""By pair: (n_layers, n_roles)."""


def _traced(records: Records) -> Iterator[tuple[str, list[Traced]]]:
    """Each task that was traced, with its records."""
    found = typed(records, "tracing", Traced)
    for task in dict.fromkeys(r["task"] for r in found):
        yield task, [r for r in found if r["task"] == task]


def _kinds(found: Sequence[Traced]) -> list[tuple[Kind, int]]:
    """Sites and windows that were put back, in the order of the forward pass's names."""
    there = {(r["site"], r["window"]) for r in found}
    return sorted(there, key=lambda one: (KINDS.index(one[0]), one[1]))


def _arms(found: Sequence[Traced], kind: Kind, window: int) -> tuple[Effects, Effects]:
    """Effects of clean states, and of the counterfactual prompt's."""
    mine = [r for r in found if (r["site"], r["window"]) == (kind, window)]
    clean, other = ({r["pair"]: np.array(r["effects"], dtype=float) for r in mine if r["arm"] == arm} for arm in ARMS)
    return clean, other


def heat_maps(records: Records, config: CircuitConfig) -> Iterator[Plot]:
    """ROME's heat maps, mean over prompts; of several windows the widest."""
    for task, found in _traced(records):
        widest = dict(_kinds(found))  # later windows of a site take the place of earlier ones
        panels = []
        for place, arm in enumerate(ARMS):
            for kind, window in widest.items():
                values = _mean(_arms(found, kind, window)[place]).T[::-1]
                panels.append(Panel(SITES[kind] if arm == "clean" else f"{SITES[kind]}, control", values))
        n = len({r["pair"] for r in found})
        yield heat_map(
            panels,
            name=f"tracing_{task}",
            title=f"Causal tracing: {task}",
            x_label="layer",
            y_label="position",
            value_label="probability restored",
            caption=f"How much of the answer's probability one clean state restores under noise on the tokens in "
            f"which clean and counterfactual prompt differ; {task}, mean over n = {n} prompts. Streams "
            f"of one layer, attention and MLPs of {max(widest.values())} layers together. Control: the "
            "counterfactual prompt's state.",
            y_ticks=ROLES[::-1],
        )


def _mean(effects: Effects) -> Floats:
    """(layer, role), the mean over the prompts that have such a position."""
    stacked = np.stack(list(effects.values()))
    n = np.isfinite(stacked).sum(0)
    return np.where(n > 0, np.nansum(stacked, axis=0) / np.maximum(n, 1), np.nan)


def _split(effects: Effects) -> tuple[list[str], list[str]]:
    """Pairs to choose a layer on, and pairs to report."""
    return list(effects)[::2], list(effects)[1::2]


def best_table(records: Records, config: CircuitConfig) -> Table | None:
    """The state that restores most, of each site and window."""
    rows: list[list[Cell]] = []
    for task, found in _traced(records):
        for kind, window in _kinds(found):
            clean, other = _arms(found, kind, window)
            chosen, held = _split(clean)
            if not held:
                continue
            best = np.stack([np.nan_to_num(clean[pair]) for pair in chosen]).mean(0)
            layer, role = np.unravel_index(int(best.argmax()), best.shape)
            values = [_at(arm, held, int(layer), int(role), config.seed) for arm in (clean, other)]
            ends = {r["pair"]: (r["clean"], r["noisy"]) for r in found}
            under = [mean_or_none([ends[p][at] for p in ends], unit=list(ends), seed=config.seed) for at in (0, 1)]
            rows.append([task, SITES[kind], window, int(layer), ROLES[role], len(held), *values, *under])
    if not rows:
        return None
    return Table(
        "Causal tracing: the state that restores most",
        [
            *("task", "state", "layers together", "layer", "position", "prompts"),
            *(Column("restored", "%"), Column("control", "%"), Column("answer, clean", "%")),
            Column("under noise", "%"),
        ],
        rows,
        ["Cell chosen on every other prompt, reported on the rest; control: the counterfactual prompt's state there."],
    )


def position_table(records: Records, config: CircuitConfig) -> Table | None:
    """What a state restores at each position, in the layer that is best there."""
    rows: list[list[Cell]] = []
    for task, found in _traced(records):
        for kind, window in _kinds(found):
            clean, other = _arms(found, kind, window)
            chosen, held = _split(clean)
            if not held:
                continue
            means = _mean({pair: clean[pair] for pair in chosen})
            layers = [int(np.nan_to_num(means[:, role], nan=-np.inf).argmax()) for role in range(len(ROLES))]
            for arm, effects in (("clean", clean), ("control", other)):
                cells = [_at(effects, held, layer, role, config.seed) for role, layer in enumerate(layers)]
                rows.append([task, SITES[kind], window, arm, len(held), *cells])
    if not rows:
        return None
    return Table(
        "Causal tracing by site, window and position",
        ["task", "state", "layers together", "state of", "prompts", *(Column(role, "%") for role in ROLES)],
        rows,
        ["Probability restored in the layer that is best at the position on every other prompt, on the rest."],
    )


def _at(effects: Effects, pairs: list[str], layer: int, role: int, seed: int) -> Estimate | None:
    values = {pair: float(effects[pair][layer, role]) for pair in pairs if np.isfinite(effects[pair][layer, role])}
    return mean_or_none(list(values.values()), unit=list(values), seed=seed)
