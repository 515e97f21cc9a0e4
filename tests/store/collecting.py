"""What the tests collect: random prompts of different lengths, in this process or in one that can be killed."""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

import mlx_interp as mi
from tests.tiny import tiny_model

SITES = ["resid_post", "z.1", "final"]
KINDS = ("safe", "toxic", "other")


def random_prompts(n: int, seed: int = 0, longest: int = 9) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 101, rng.integers(1, longest + 1)).tolist() for _ in range(n)]


def collect_many(
    path: Path, n: int = 400, shard_bytes: int = 60_000, writer: tuple[int, int] | None = None
) -> mi.ActivationStore:
    """A store of some forty small shards; always the same one."""
    prompts = random_prompts(n)
    labels = [KINDS[i % 3] for i in range(n)]
    model, options = tiny_model("llama"), {"shard_bytes": shard_bytes, "batch_size": 7, "writer": writer}
    return mi.collect(model, prompts, SITES, path=path, labels=labels, **options)  # type: ignore[arg-type]


def start(path: Path, writer: tuple[int, int] | None = None) -> BaseProcess:
    """`collect_many` in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.collecting"])
    process = context.Process(target=collect_many, args=(path,), kwargs={"writer": writer})
    process.start()
    return process


def content(path: Path) -> dict[str, bytes]:
    """Every file of a store; of the manifest's lines all but the seconds they took."""
    found = {file.name: file.read_bytes() for file in path.iterdir() if not file.name.startswith(".")}
    lines = found.pop("samples.jsonl").splitlines()
    found["samples.jsonl"] = b"\n".join(line.partition(b', "seconds"')[0] for line in lines)
    return found
