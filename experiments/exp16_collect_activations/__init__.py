"""exp16: activations of many prompts on disk. What does a store take, and is what is in it true?

Question   How much disk, time and memory does it take to keep the activations of some, the middle or all layers, and
           is every stored row what the model computes for that prompt alone?
Data       embedded models: the world's requests (harmful, harmless), opinions, certainties, facts and tasks; others:
           the project's own requests, a file, or a data set of the Hub by its categories (OR-Bench and any other).
Measure    one pass a store, sharded, resumable after any kill; size and time predicted from a sample beforehand.
Figure     bytes, tokens a second, peak memory; difference of stored rows from a fresh forward, at every site; mean norm
           by layer, the first position apart.
Control    the rows of another prompt in place of the right ones, which must differ.
Files      --config takes a file of sections (model, inference, data, output): experiments/configs/collect_*.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from experiments.exp16_collect_activations import collecting, collection_report
from experiments.exp16_collect_activations.collecting import CHECKED, NORMS, STORED
from experiments.harness.experiment import Experiment, Plan, Records, Stage
from experiments.harness.state import Run
from experiments.shared.prompts.collected import LENGTHS, CollectionFields, Row, kept, prompt_of, rows_of
from mlx_interp.store import size
from mlx_interp.store.config import read_collection


@dataclass(frozen=True)
class Config(CollectionFields):
    """Nothing of its own."""


def read_config(path: Path) -> tuple[Mapping[str, Any], Sequence[str]]:
    """Fields and model of a collection's file."""
    found = read_collection(path)
    values = {field.name: getattr(found.config, field.name) for field in fields(found.config)}
    return {**values, "name": path.stem}, [found.model]


def rows(run: Run[Config], earlier: Records) -> list[Row]:
    return rows_of(run)


def plan(run: Run[Config], items: Sequence[Row]) -> Plan:
    """Size of all stores; memory is that of a batch and two shards."""
    config = run.config
    prompts = [prompt_of(run.model, row) for row in items]
    found = [
        size(
            run.model,
            prompts,
            collection.sites,
            positions=config.positions,
            dtype=config.dtype,
            max_new_tokens=config.max_new_tokens,
        )
        for collection in collecting.collections(run)
    ]
    shard = min(config.shard_megabytes * 2**20, max(one.n_bytes for one in found))
    return Plan(
        prompts=len(items),
        counterfactuals=0,
        forward_passes=len(items) * len(found) + config.checked,
        memory_bytes=run.model.weight_bytes + 2 * shard + 2**29,
        disk_bytes=sum(one.n_bytes for one in found),
    )


EXPERIMENT = Experiment(
    name="exp16_collect_activations",
    config=Config,
    stages=[
        Stage(LENGTHS, rows, collecting.measure_lengths, batch=64, record=collecting.Length),
        Stage(STORED, collecting.collections, collecting.measure_store, record=collecting.Stored),
        Stage(CHECKED, collecting.looked_at, collecting.measure_check, record=collecting.Compared),
        Stage(NORMS, kept, collecting.measure_norms, batch=64, record=collecting.Lengths),
    ],
    tables=[collection_report.prompt_table, collection_report.store_table, collection_report.check_table],
    figures=[collection_report.norm_figure],
    headline=collection_report.headline,
    screen=collection_report.store_table,
    plan=plan,
    look={"checked": 6},
    group=lambda row: row.category,
    read_config=read_config,
    start_over=collecting.remove_stores,
    whole_model="writes stores of activations",
    alone="writes and times stores of activations",
)
