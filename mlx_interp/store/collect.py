"""`collect`: from prompts to a store of activations, in one pass, whatever the number of prompts.

1. Prompts are read as they come, a shard's worth at a time; within it they are sorted by length and run in batches.
   With `max_new_tokens` each first writes its continuation, which is then read like the prompt itself.
2. The rows asked for go into one array a site, in the order of the prompts. Padding is never among them: only
   positions that a prompt has are copied.
3. A thread writes the shard and then its mark in the manifest, while the next shard is computed. So memory holds two
   shards and a batch, and a store that was cut off goes on behind its last mark.
4. Several writers share a store out by its shards, without a lock: where a shard begins and ends follows from the
   prompts alone, and each writer marks its own in a manifest of its own. A reader takes them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from pathlib import Path

from mlx_interp.engine.sweep import Progress
from mlx_interp.model import Model
from mlx_interp.progress import reported
from mlx_interp.prompts import AnyPrompt
from mlx_interp.reporting.folders import locked
from mlx_interp.store.compute import computed
from mlx_interp.store.job import Job, is_one, natural, numbered, storable
from mlx_interp.store.manifest import description, open_manifest
from mlx_interp.store.positions import PositionRule, parse_rule, rule_name
from mlx_interp.store.reader import ActivationStore
from mlx_interp.store.shards import check_dtype
from mlx_interp.store.writing import Writer, check_writer, windows

SHARD_BYTES = 256 * 2**20
"""Of one shard. A kill loses what is under way: at most this much."""


def collect(
    model: Model,
    prompts: AnyPrompt | Iterable[AnyPrompt],
    sites: str | Sequence[str],
    path: Path | str,
    *,
    positions: PositionRule = "all",
    dtype: str = "float32",
    labels: Iterable[str] | None = None,
    ids: Iterable[str] | None = None,
    max_new_tokens: int = 0,
    chat: bool = False,
    batch_size: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    writer: tuple[int, int] | None = None,
    progress: Progress | bool = False,
) -> ActivationStore:
    """Activations of prompts at sites, written to a folder as they are computed; goes on where an earlier call ended.

    prompts: a list, or any iterable, which is read once and never held. With `chat`, strings are users' turns.
    positions: "all", "last", "no_bos", "content" (no special tokens), "generated", ints, a slice, or a function of a
        Prompt that gives positions. With max_new_tokens, positions of greedily generated tokens are stored as well.
    dtype: "float32", "bfloat16", or "float16" with a scale for every site and shard.
    labels, ids: a category and a name for each prompt. batch_size: prompts a pass; None: 512 tokens on CPU, 4096 else.
    writer: (k, n), one of n calls with the same arguments, k from 0, on any machines that see the folder: this one
        writes each n-th shard. A call without it writes what is left, once no other is at work.
    Raises StoreError for a folder with a store of another model, other prompts or another configuration and for
    activations that are not finite, RunError where it cannot be written (a full disk: what is complete is usable, and
    the same call goes on), SiteError, PositionError, ConfigError, DataError (labels that do not fit), PromptError.
    """
    check_writer(writer)
    rule = parse_rule(positions)
    chosen = storable(model, sites)
    job = Job(model, chosen, rule, check_dtype(dtype), natural(max_new_tokens), chat, batch_size)
    about = description(
        model, job.shapes, positions=rule_name(rule), dtype=dtype, max_new_tokens=max_new_tokens, chat=chat
    )
    if writer is not None:
        about["shard_bytes"] = shard_bytes  # all must cut alike
    folder = Path(path)
    items = numbered(model, prompts, labels, ids)
    total = len(prompts) if isinstance(prompts, Sized) and not is_one(prompts) else None
    name = "" if writer is None else "-{}-of-{}".format(*writer)
    with locked(folder, name), reported(progress, total, "prompts") as report:
        manifest = open_manifest(folder, about, name)
        with Writer(folder, manifest) as shards:
            for window in windows(job, items, folder, shard_bytes, writer):
                shards.write(window, computed(job, window.entries))
                if report is not None:
                    report(window.entries[-1].item.number + 1, total or 0)
    return ActivationStore(folder)
