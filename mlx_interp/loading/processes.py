"""A model split over the processes of `mlx.launch`: started together, checked against each other.

Every process runs the same program on the same prompts. Before anything is computed they compare versions and weights;
after loading, what each of them has at every site on a probe: fast links have corrupted long prompts (mlx issue 4342),
and a difference stops all of them with rank, layer and site.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from mlx_interp.copies import RANK, Star, launched_hosts, most_copies, shared_by_host
from mlx_interp.deferred import mx
from mlx_interp.engine import memory
from mlx_interp.engine.network import Network
from mlx_interp.errors import ConfigError, RanksDiffer, RunError
from mlx_interp.loading.profile import SHARE_OF_FREE_MEMORY
from mlx_interp.model import Model
from mlx_interp.ranks import Ranks, launched, to_be_arranged
from mlx_interp.sites import Site

if TYPE_CHECKING:
    from mlx_interp.engine.split import Rows

Shard: TypeAlias = bool | Literal["pipeline"]
"""False: a whole model; True: a part of every matrix in each process; "pipeline": some consecutive layers."""
Copies: TypeAlias = int | Literal["auto"]
"""How many a split model is to have; "auto": as many as there is memory for."""
PACKAGES = ("mlx", "mlx-lm", "numpy", "transformers")
PROBE = 48
"""Tokens of the probe."""
SHARE_OF_WEIGHTS = 0.05
"""Of the weights held here, what a probe's activations may take: in a model of 70B all of them take 8 GB."""
LEAST = 2**24
"""Bytes that they may take in any model."""


def processes(name: str, copies: int | None = None) -> Ranks:
    """The processes that were launched together, with so many copies of a model, or as many as they hold already.

    Raises ConfigError for one process alone, and for copies that they cannot hold.
    """
    ranks = launched(copies)
    if ranks.size < 2:
        raise ConfigError(
            f"{name}: shard splits weights over processes, and this is one alone: start several with "
            "`mlx.launch -n 2 --backend ring python ...`, or leave it out"
        )
    return ranks


def chosen_copies(copies: Copies | None, weights: Callable[[], int], *, shard: Shard) -> int | None:
    """The number of copies: the one given, or for "auto" what all processes have memory for (`copies.most_copies`).

    None where the processes hold some already, or are too few for two. weights: bytes of a whole copy, asked for where
    that matters. Raises ConfigError where processes cannot tell each other, and RunError where one is gone.
    """
    if copies != "auto":
        return copies
    if not to_be_arranged():
        return None
    hosts = launched_hosts()
    if len(hosts) < 4:
        return None
    free = int(memory.free_memory() * SHARE_OF_FREE_MEMORY)
    try:
        met = Star(int(os.environ[RANK]), len(hosts), hosts)
        every = met.gather([free, weights()])
        met.close()
    except (EOFError, OSError) as error:
        raise RunError(f"a process is gone before the number of copies was known ({error or 'it hung up'})") from error
    heaviest = max(needed for _, needed in every)
    return most_copies(heaviest, shared_by_host(hosts, [found for found, _ in every]), equal=shard is True)


def check_layout(shard: object, stages: Sequence[int] | None, copies: Copies | None = None) -> None:
    """Raises ConfigError for a layout that does not exist, for stages of another one, and for copies of none."""
    if not isinstance(shard, bool) and shard != "pipeline":
        raise ConfigError(f"shard={shard!r}: give True (a part of every matrix), 'pipeline' (some layers) or False")
    if stages is not None and shard != "pipeline":
        raise ConfigError(f"stages={tuple(stages)} are those of a pipeline: give shard='pipeline' too, or leave it out")
    if isinstance(copies, str) and copies != "auto":
        raise ConfigError(f"copies={copies!r}: give a whole number, or 'auto'")
    if copies is not None and not shard:
        raise ConfigError(
            f"copies={copies} are those of a split model: give shard too, or leave it out: else each process has one"
        )


def share_out(net: Network, ranks: Ranks, shard: Shard, stages: Sequence[int] | None, read: Rows) -> None:
    """Leaves each process its part of a model's weights; in place. read: gives rows of a matrix.

    Raises ConfigError for stages that are not the model's.
    """
    from mlx_interp.engine.split import split  # its classes need MLX
    from mlx_interp.engine.stages import check_stages, pipeline, stages_by_memory

    own = ranks.of_copy()
    if shard is True:
        split(net.mlx_model, ranks.group, read)
    elif stages is not None:
        ranks.agree("number of layers by process", list(stages))
        pipeline(net, own, check_stages(stages, net.n_layers, own.size), read)
    else:
        pipeline(net, own, stages_by_memory(net, own.gather(memory.free_memory())), read)


def agree_on_versions(ranks: Ranks) -> None:
    """Raises RanksDiffer where a process has another version of what computes."""
    ranks.agree("version of a package", {package: metadata.version(package) for package in PACKAGES})


def agree_on_memory(ranks: Ranks) -> None:
    """Batches are cut by free memory, and all processes must cut alike: the least that any of them may use."""
    memory.agreed_budget = min(ranks.gather(memory.default_budget()))


def check_ranks(model: Model, ranks: Ranks, *, length: int = PROBE) -> None:
    """Raises RanksDiffer where a site of a probe is not bitwise the same on all processes, naming the first.

    All sites, not the stream alone: what one process gets wrong and then works on comes to all of them alike. The probe
    is drawn from a fixed seed; a model of few positions gets a shorter one.
    """
    limit = model.network.max_positions or length
    tokens = np.random.default_rng(0).integers(0, model.d_vocab, min(length, limit)).tolist()
    found_here: dict[str, str] = {}
    for sites in _held_together(model, len(tokens)):
        out = model.run(tokens, capture=list(map(str, sites)), logits="none")
        found_here |= {str(site): checksum(out[str(site)]) for site in sites}
        del out
    names = sorted(found_here, key=lambda name: int(name.rpartition(".")[2]) if "." in name else model.n_layers)
    every = ranks.gather([found_here[name] for name in names])
    for rank, found in enumerate(every):
        if differ := [name for name, one, other in zip(names, found, every[0], strict=True) if one != other]:
            raise RanksDiffer(
                f"{model.name}: rank {rank} has another {differ[0]} than rank 0: the link between them changes what it "
                "carries, or their weights differ"
            )


def _held_together(model: Model, length: int) -> Iterator[list[Site]]:
    """All sites, as many at a time as take little memory beside the weights: those of one layer at least."""
    room = max(model.weight_bytes * SHARE_OF_WEIGHTS, LEAST)
    some: list[Site] = []
    held = 0
    for _, layer in groupby(model.sites_of(model.sites), key=lambda site: site.layer):
        sites = list(layer)
        needed = sum(2 * memory.bytes_of_site(model.network, site, 1, length) for site in sites)  # and a copy to read
        if some and held + needed > room:
            yield some
            some, held = [], 0
        some, held = [*some, *sites], held + needed
    yield some


def checksum(values: mx.array) -> str:
    """The sha256 of an array's bytes, in float32."""
    return hashlib.sha256(np.ascontiguousarray(np.asarray(values.astype(mx.float32))).tobytes()).hexdigest()
