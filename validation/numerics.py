"""Do numbers stay in their dtype and within its range, and does the memory plan hold?"""

from __future__ import annotations

import numpy as np

from mlx_interp import Add, Intervention, Patch
from mlx_interp.deferred import mx
from mlx_interp.model import Model
from validation.check import Check, Finding, Subject, relative, rounding, unit_vector, worst

WIDEST = ("resid_mid", "resid_post", "mlp_act", "final")
"""Where activations are largest, of those that a model has."""
HEADROOM = 0.5
"""Share of the dtype's range that the largest activation may take: doubling it, as steering does, must not overflow."""
SLACK = 4
"""Factor by which a memory estimate may exceed what is measured."""


OF_OWN_DTYPE = ("experts", "decay", "state")
"""Sites that are float32 or whole numbers in every model."""


def everything_is_finite(subject: Subject) -> Finding:
    infinite = [site for site, size in subject.largest.items() if not np.isfinite(size)]
    first = min(infinite, key=lambda site: site.depth) if infinite else None
    note = f"first at {first}" if first else ""
    return Finding("failed" if infinite else "passed", f"{len(infinite)} sites", "0 sites", note)


def range_is_enough(subject: Subject) -> Finding:
    sizes = {site: size for site, size in subject.largest.items() if site.name in WIDEST}
    largest = max(sizes, key=lambda site: sizes[site] if np.isfinite(sizes[site]) else float("inf"))
    dtype = subject.model.network.dtype
    share = sizes[largest] / float(mx.finfo(dtype).max)
    passed = share <= HEADROOM
    note = f"largest activation {sizes[largest]:.3g} at {largest}, {str(dtype).rpartition('.')[2]}"
    return Finding("passed" if passed else "failed", f"{share:.2g} of the range", f"<= {HEADROOM}", note)


def dtype_is_kept(subject: Subject) -> Finding:
    """Vectors come as float32; what they are added to stays what it was."""
    model, layer = subject.model, subject.layers[len(subject.layers) // 2]
    vector = unit_vector(subject)
    edits: list[Intervention] = [Add(f"resid_post.{layer}", vector, 2.0), Patch(f"mlp_out.{layer}", vector, -1)]
    plain = model.run(subject.prompt, capture=model.sites, logits="none")
    edited = model.run(subject.prompt, capture=model.sites, interventions=edits, logits="none")
    own = mx.float32 if model.network.dtype == mx.bfloat16 else model.network.dtype  # numpy has no bfloat16
    other = {
        str(site): x.dtype
        for out in (plain, edited)
        for site, x in out.captured.items()
        if x.dtype != own and site.name not in OF_OWN_DTYPE
    }
    note = f"{next(iter(other))} is {next(iter(other.values()))}" if other else ""
    return Finding("failed" if other else "passed", f"{len(other)} sites in another dtype", "0", note)


def off_one(model: Model, pattern: mx.array) -> float:
    """By how much rows of a pattern differ from 1 at most; beside a sink, by how much they exceed it."""
    rows = pattern.astype(mx.float32).sum(axis=-1) - 1
    return float(mx.max(mx.maximum(rows, 0) if model.network.family.sinks else mx.abs(rows)))


def patterns_make_z(subject: Subject) -> Finding:
    """Attention rebuilt from its parts: rows sum to 1, none looks ahead, pattern times v is z, heads add up."""
    model = subject.model
    out = model.run(subject.prompt, capture=["pattern", "v", "z"])
    groups = model.n_heads // model.n_kv_heads
    errors = []
    attending = model.network.layers_with("pattern")
    for layer in [layer for layer in subject.layers if layer in attending] or attending:
        values = f"v.{model.network.kv_source(layer)}"
        pattern, v, z = (out[name][0].astype(mx.float32) for name in (f"pattern.{layer}", values, f"z.{layer}"))
        n = pattern.shape[-1]
        ahead = mx.arange(n)[None] > mx.arange(n)[:, None]
        errors.append(float(mx.max(mx.abs(mx.where(ahead, pattern, 0.0)))))
        errors.append(off_one(model, pattern))
        mixed = mx.einsum("hqk,khd->qhd", pattern, mx.repeat(v, groups, axis=1))
        errors.append(relative(mixed, z))
    return subject.within(worst(errors))


def memory_is_planned(subject: Subject) -> Finding:
    model, prompts = subject.model, subject.prompts * 4
    estimate = model.memory(prompts, capture=["resid_post", "z"])
    model.run(prompts[:1], capture=["resid_post", "z"])  # what is allocated once and kept
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    model.run(prompts, capture=["resid_post", "z"])
    measured = mx.get_peak_memory() - before
    ratio = estimate / max(measured, 1)
    passed = 1 <= ratio <= SLACK
    note = f"estimate {estimate / 1e6:.1f} MB, measured {measured / 1e6:.1f} MB"
    return Finding("passed" if passed else "failed", f"{ratio:.2f}", f"1 to {SLACK}", note)


CHECKS = [
    Check(
        "all activations are finite",
        "float16 overflow in late layers, damaged weights",
        "an infinite or undefined activation makes every later figure meaningless",
        "the first site of the note, where it begins; dtype='bfloat16' or 'float32' has the range of larger numbers",
        everything_is_finite,
    ),
    Check(
        "range of the dtype",
        "late layers near the largest float16, where squared norms are infinite and steering overflows",
        "half of the range: an activation that is doubled must still fit",
        "the layer of the note; load with dtype='bfloat16' or 'float32'",
        range_is_enough,
    ),
    Check(
        "dtype is kept",
        "float32 vectors that widen a half-precision stream, so that scale 0 is not the identity",
        "an intervention changes values, never the type",
        "mlx_interp/engine/apply_edits.py",
        dtype_is_kept,
    ),
    Check(
        "patterns make z",
        "patterns without soft-cap, window or scale; key-value heads read in the wrong order",
        rounding,
        "mlx_interp/engine/network.py: pattern",
        patterns_make_z,
    ),
    Check(
        "memory estimate holds",
        "a plan that lets a run swap, or refuses one that would fit",
        "an upper estimate, by design within a factor of four of what is measured",
        "mlx_interp/engine/memory.py",
        memory_is_planned,
        "standard",
    ),
]
