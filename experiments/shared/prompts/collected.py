"""The prompts of a collection: of the embedded world, of the project, of a file, or of a data set on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from experiments.harness.experiment import ExperimentConfig, Records
from experiments.harness.state import Run
from mlx_interp.embedded import load_world
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.store.config import CollectionConfig
from mlx_interp.store.rows import PromptRow, balanced, prompt_rows
from validation.data import HARMLESS, REFUSABLE

LENGTHS = "prompts"
"""The stage that reads all prompts once, as text."""


@dataclass(frozen=True)
class CollectionFields(CollectionConfig, ExperimentConfig):
    """Fields of the experiment: those of a collection, and what only the experiment has."""

    path: str = "auto"
    """Data: a CSV, JSON Lines or parquet file, a data set of the Hub (owner/name), world (the embedded models' own),
    project (our own requests), or auto: world for embedded models, project for others."""
    presets: tuple[str, ...] = ("sparse", "middle", "all")
    """Layers to collect where none are given, a store each: sparse (every fifth of 32), middle (10-21 of 32), all;
    scaled to the depth."""
    name: str = "own"
    """What the store of given activation_layers is called, in place of a preset; a file's own name with --config."""
    shard_megabytes: int = 256
    """Size of a shard."""
    checked: int = 24
    """Prompts that are run again, alone, to be compared with the rows that are stored."""


@dataclass(frozen=True)
class Row:
    """A prompt as the runner's item."""

    key: str
    text: str
    category: str
    chat: bool = field(default=True)


def rows_of(run: Run[CollectionFields]) -> list[Row]:
    """All prompts of the data, balanced; each text of a category once."""
    return list(_rows(run.model.name in EMBEDDED, run.config))


@lru_cache(maxsize=4)
def _rows(embedded: bool, config: CollectionFields) -> tuple[Row, ...]:
    source = ("world" if embedded else "project") if config.path == "auto" else config.path
    named = {"world": world_rows, "project": project_rows}
    found = (
        named[source]()
        if source in named
        else prompt_rows(
            source,
            subset=config.subset,
            split=config.split,
            text_column=config.text_column,
            category_column=config.category_column,
            chat=config.chat,
        )
    )
    kept = balanced(found, config.categories, config.category_balance_strategy, config.seed)
    return tuple(Row(row.key, row.text, row.category, row.chat) for row in kept)


def world_rows() -> list[PromptRow]:
    """The embedded world's English chats by kind, its facts (two hops and their single hops), and in-context tasks."""
    world = load_world()
    found = [
        PromptRow("", chat.text, _kind(chat.kind, chat.harmful))
        for kind in ("refusal", "opinion", "certainty")
        for chat in world.chat_prompts(kind, language="en")
    ]
    for query in world.two_hop_queries():
        found += [
            PromptRow("", text, "fact", chat=False) for text in (query.two_hop, query.first_hop, query.second_hop)
        ]
    for task in world.tasks:
        pairs = list(task.pairs)
        for start in range(0, len(pairs) - 5, 3):
            shown = pairs[start : start + 5]
            found.append(PromptRow("", task.prompt(shown, pairs[start + 5][0]), "task", chat=False))
    return _numbered(found)


def project_rows() -> list[PromptRow]:
    """The project's own mild requests, harmful and harmless."""
    kinds = (("harmful", REFUSABLE), ("harmless", HARMLESS))
    return _numbered([PromptRow("", text, kind) for kind, texts in kinds for text in texts])


def prompt_of(model: Model, row: Row) -> Prompt:
    return model.prompt(row.text, chat=row.chat)


def kept(run: Run[CollectionFields], earlier: Records) -> list[Row]:
    """The prompts that this run has, --limit included."""
    keys = {record["item"] for record in earlier if record["stage"] == LENGTHS}
    return [row for row in rows_of(run) if row.key in keys]


def _kind(kind: str, harmful: bool) -> str:
    return ("harmful" if harmful else "harmless") if kind == "refusal" else kind


def _numbered(rows: Sequence[PromptRow]) -> list[PromptRow]:
    """Each text of a category once, with a key that says what it is."""
    unique = dict.fromkeys((row.text, row.category, row.chat) for row in rows)
    return [PromptRow(f"{kind}: {text}", text, kind, chat) for text, kind, chat in unique]
