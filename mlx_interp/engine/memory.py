"""How much memory there is, and how much a row of a sweep takes: what bounds the size of a batch."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

from mlx_interp.deferred import mx
from mlx_interp.engine.network import Network
from mlx_interp.errors import TooLarge
from mlx_interp.sites import Site

SHARE = 0.25
"""Of the free memory, what a sweep may use by default: lazily evaluated intermediates come on top of the estimate."""
LARGEST_BUDGET = 4 * 2**30
"""Beyond this a larger batch is no faster, and Ctrl-C would wait longer."""
USABLE = 0.8
"""Of the free memory, what one call may fill before it is refused: beyond it a machine swaps."""
LARGE = 2**28
"""Bytes of intermediates from which on a batch is evaluated layer by layer."""


def free_memory() -> int:
    """Bytes that can be used without swapping: of the GPU's working set, or of main memory."""
    if mx.default_device() == mx.Device(mx.gpu):
        info = mx.device_info()
        limit = info.get("max_recommended_working_set_size") or info.get("memory_size") or 8 * 2**30
        return max(int(limit) - mx.get_active_memory(), 0)
    try:
        with open("/proc/meminfo", encoding="ascii") as meminfo:
            lines = dict(line.split(":", 1) for line in meminfo)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # macOS on the CPU device
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


agreed_budget: int | None = None
"""What processes that share a model have agreed on: they must cut batches alike."""


def default_budget() -> int:
    """Bytes that a sweep's batch may take when the caller names no budget."""
    if agreed_budget is not None:
        return agreed_budget
    return min(int(free_memory() * SHARE), LARGEST_BUDGET)


def bytes_per_position(network: Network) -> int:
    """Bytes that one position of one variant takes at the widest point of a layer (an upper estimate)."""
    attending = [layer for layer in range(network.n_layers) if network.attends(layer)]
    d_head = max(size for layer in attending for size in (network.d_head_at(layer), network.d_v_at(layer)))
    mixer = 3 * (network.n_heads + network.n_kv_heads) * d_head
    if network.recurrent:
        mixer = max(mixer, 5 * network.state_sizes.d_conv if network.has_state else 6 * network.d_model)
    d_mlp = max(network.d_mlp_at(0), network.d_mlp_at(network.n_layers - 1))  # layers with borrowed keys have more
    widest = 6 * network.d_model + 4 * d_mlp + network.n_layers * network.d_ple + mixer
    return widest * max(network.dtype.size, 4)


def bytes_per_variant(network: Network, length: int, n_active: int, with_logits: bool) -> int:
    """Bytes of one variant that recomputes the last `n_active` positions of a prompt of `length` tokens."""
    scores = 3 * network.n_heads * n_active * length * 4
    logits = 3 * network.d_vocab * 4 if with_logits else 0
    return n_active * bytes_per_position(network) + scores + logits + bytes_of_state(network)


def bytes_of_state(network: Network) -> int:
    """Bytes of a row's state in a layer that has one, while a position changes it."""
    return 3 * network.state_sizes.n_heads * network.state_sizes.d_state * 4 if network.has_state else 0


def bytes_of_site(network: Network, site: Site, n_rows: int, n_pos: int) -> int:
    """Bytes of one captured site, (row, pos, ...)."""
    n_heads, width = network.site_shape(site, n_pos)
    return n_rows * n_pos * max(n_heads, 1) * width * max(network.dtype.size, 4)


def bytes_of_run(network: Network, n_rows: int, n_pos: int, captured: Collection[Site], logits: str) -> int:
    """Bytes that one pass over padded prompts takes at its peak, beside the weights: an upper estimate.

    The widest layer's intermediate results, attention scores, the captured sites and their readable copies, logits.
    """
    width = n_rows * n_pos * bytes_per_position(network)
    scores = 3 * n_rows * network.n_heads * n_pos * n_pos * 4
    kept = sum(bytes_of_site(network, site, n_rows, n_pos) for site in captured)
    positions = {"none": 0, "last": n_rows, "all": n_rows * n_pos}[logits]
    return width + n_rows * bytes_of_state(network) + scores + 2 * kept + 3 * positions * network.d_vocab * 4


def refuse_too_large(needed: int, what: str, way_out: str) -> None:
    """Raises TooLarge if this many bytes would not fit."""
    usable = int(free_memory() * USABLE)
    if needed > usable:
        raise TooLarge(f"{what} needs about {needed / 1e9:.3g} GB, {usable / 1e9:.3g} GB may be used: {way_out}")


def rows_that_fit(
    network: Network, lengths: Sequence[int], captured: Collection[Site], logits: str, budget: int
) -> Iterator[range]:
    """Prompts in their order, as many to a batch as the budget (bytes) holds, at least one."""
    start = 0
    while start < len(lengths):
        end, longest = start + 1, lengths[start]
        while end < len(lengths):
            longest = max(longest, lengths[end])
            if bytes_of_run(network, end + 1 - start, longest, captured, logits) > budget:
                break
            end += 1
        yield range(start, end)
        start = end
