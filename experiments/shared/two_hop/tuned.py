"""Which lens two-hop queries are looked at through, and how far each layer's lens is from what the model says.

The tuned lens is trained on prompts of the same world that are not looked at: queries beyond the first of each family,
and single hops. Its distance from the model, on the prompts that are looked at, stands beside the logit lens's and
beside that of the same translators one layer too low.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from experiments.shared.two_hop.data import TwoHopConfig
from experiments.shared.two_hop.queries import Case, Labelled, all_cases, queries
from experiments.shared.two_hop.summaries import mean_over
from mlx_interp.deferred import mx
from mlx_interp.lenses.tuned import (
    TunedLens,
    exchanged,
    identity_lens,
    kl_to_last,
    positions_of,
    train_tuned_lens,
)
from mlx_interp.reporting import Cell, Column, Plot, Series, Table, line_with_band

STAGE = "distance"
LOGIT, TUNED, EXCHANGED = "logit lens", "tuned lens", "tuned lens, one layer too low"


@dataclass(frozen=True)
class LensConfig(TwoHopConfig):
    """Fields of the experiments that look through a lens."""

    lens: Literal["logit", "tuned"] = "logit"
    """logit: the model's own norm and unembedding at every layer. tuned: behind a trained affine map of each layer."""
    lens_steps: int = 400
    """Training steps of the tuned lens."""
    lens_prompts: int = 60
    """Prompts over which each lens's distance from the model is measured."""
    lens_k: int = 30
    """An entity is visible when it is among the top k."""
    max_queries: int = 40
    """Queries of each family, the first in the data's order."""
    all_queries: int = 240
    """Queries in all, evenly from the families."""


class Distance(Labelled):
    """How far a lens is from the model on one prompt, at each layer, mean over its positions."""

    lens: str
    kl: list[float]
    """KL from the model's prediction, nats."""
    agrees: list[float]
    """Share of positions whose top token is the model's."""


@of_run(2)
def trained(run: Run[LensConfig]) -> TunedLens | None:
    """The lens of a run: None for the logit lens, which needs no translator."""
    if run.config.lens == "logit":
        return None
    return train_tuned_lens(run.model, training_prompts(run), steps=run.config.lens_steps, seed=run.config.seed)


def training_prompts(run: Run[LensConfig]) -> list[str]:
    """Two-hop queries beyond those that are looked at, and single hops; none of them a prompt that is looked at."""
    known = queries(run, ())
    kept: list[str] = []
    looked_at = set()
    for family in dict.fromkeys(query.family for query in known):
        kin = [query for query in known if query.family == family]
        looked_at |= {query.two_hop for query in kin[: run.config.max_queries]}
        kept += [query.two_hop for query in kin[run.config.max_queries :]]
    kept += [text for query in known for text in (query.first_hop, query.second_hop)]
    return [text for text in dict.fromkeys(kept) if text not in looked_at]


def spread_cases(run: Run[LensConfig], earlier: Records) -> list[Case]:
    """Cases evenly from all families."""
    found = all_cases(run, earlier, run.config.max_queries, run.config.all_queries)
    step = max(1, len(found) // run.config.lens_prompts)
    return found[::step][: run.config.lens_prompts]


def measure(run: Run[LensConfig], case: Case) -> Iterator[Distance]:
    """KL from the model, and agreement with its top token, at every layer; means over the prompt's positions."""
    states = positions_of(run.model, [case.query.two_hop])
    tuned = trained(run)
    lenses = {LOGIT: identity_lens(run.model)}
    if tuned is not None:
        lenses |= {TUNED: tuned, EXCHANGED: exchanged(tuned)}
    for name, lens in lenses.items():
        logits = lens.logits(run.model, states)
        top = mx.argmax(logits, axis=-1)
        yield {
            **case.labels,
            "lens": name,
            "kl": np.asarray(kl_to_last(logits).mean(axis=-1)).round(5).tolist(),
            "agrees": np.asarray((top[:-1] == top[-1:]).astype(mx.float32).mean(axis=-1)).round(5).tolist(),
        }


def _lenses(records: Records) -> list[str]:
    return list(dict.fromkeys(r["lens"] for r in of(records, STAGE)))


def distance_table(records: Records, config: LensConfig) -> Table | None:
    """How far each layer's lens is from the model's prediction."""
    names = _lenses(records)
    if not names:
        return None
    own = {name: of(records, STAGE, lens=name) for name in names}
    rows: list[list[Cell]] = []
    for layer in range(len(own[names[0]][0]["kl"])):
        kls = [mean_over([r["kl"][layer] for r in own[name]], own[name], config.seed) for name in names]
        tops = [mean_over([r["agrees"][layer] for r in own[name]], own[name], config.seed) for name in names]
        rows.append([layer, len(own[names[0]]), *kls, *tops])
    notes = ["Means over all positions of a prompt, then over prompts. The last layer is the model itself."]
    if TUNED in names:
        notes.append(
            f"Tuned lens: {config.lens_steps} steps of Adam on prompts that are not among these: further queries of "
            "the families, and single hops."
        )
    return Table(
        "Distance of each layer's lens from the model",
        [
            *("layer", "n"),
            *(Column(f"KL, {name}", "nats") for name in names),
            *(Column(f"top token the model's, {name}", "%") for name in names),
        ],
        rows,
        notes,
    )


def distance_figure(records: Records, config: LensConfig) -> Plot | list[Plot]:
    """The same by layer."""
    names = _lenses(records)
    if not names:
        return []
    series = []
    for name in names:
        own = of(records, STAGE, lens=name)
        layers = range(len(own[0]["kl"]))
        series.append(Series(name, [mean_over([r["kl"][at] for r in own], own, config.seed) for at in layers]))
    return line_with_band(
        list(range(len(series[0].estimates))),
        series,
        name="distance",
        title="Distance of each layer's lens from the model",
        x_label="layer (resid_post)",
        y_label="KL from the model's prediction (nats)",
        caption=f"KL divergence of each layer's lens from the model's own prediction, mean over the positions of "
        f"{len(of(records, STAGE, lens=names[0]))} prompts; 95 % intervals over bridges.",
    )
