"""How much memory there is, and how much a row of a sweep takes: what bounds the size of a batch."""

from __future__ import annotations

import os

import mlx.core as mx

from mlx_interp.engine.network import Network

SHARE = 0.25
"""Of the free memory, what a sweep may use by default: lazily evaluated intermediates come on top of the estimate."""
LARGEST_BUDGET = 4 * 2**30
"""Beyond this a larger batch is no faster, and Ctrl-C would wait longer."""
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


def default_budget() -> int:
    """Bytes that a sweep's batch may take when the caller names no budget."""
    return min(int(free_memory() * SHARE), LARGEST_BUDGET)


def bytes_per_position(network: Network) -> int:
    """Bytes that one position of one variant takes at the widest point of a layer (an upper estimate)."""
    attention = 3 * (network.n_heads + network.n_kv_heads) * network.d_head
    widest = 6 * network.d_model + 4 * network.d_mlp + attention
    return widest * max(network.dtype.size, 4)


def bytes_per_variant(network: Network, length: int, n_active: int, with_logits: bool) -> int:
    """Bytes of one variant that recomputes the last `n_active` positions of a prompt of `length` tokens."""
    scores = 3 * network.n_heads * n_active * length * 4
    logits = 3 * network.d_vocab * 4 if with_logits else 0
    return n_active * bytes_per_position(network) + scores + logits
