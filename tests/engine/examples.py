"""Interventions to test with: every kind at every site, at positions early, late, several, a slice and all."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from mlx_interp import Ablate, Add, Apply, Intervention, Knockout, Patch, Scale
from mlx_interp.engine.anatomy import MIXERS_SITES
from mlx_interp.model import Model
from mlx_interp.sites import KINDS as KINDS_OF_SITES
from mlx_interp.sites import Site

TOKENS = [3, 5, 7, 11, 13, 17, 19]
RECENT_SITES = MIXERS_SITES | {"attn_gate", "ple_in", "ple_gate", "ple", "ple_out", "kv_latent", "shared_out"}
SITES = [name for name, kind in KINDS_OF_SITES.items() if kind.writable and name not in RECENT_SITES]
"""Sites that can be changed; a model may lack some (`sites_of`). Those of recent families have tests of their own."""
POSITIONS: list[Any] = [0, 3, -1, [2, 5], slice(1, 4), None]
KINDS = ["patch", "add", "ablate", "zero", "scale", "apply"]


def sites_of(model: Model) -> list[str]:
    """Sites of a model that can be changed."""
    return [site for site in SITES if site in model.sites]


def inside_mlp(model: Model) -> str:
    """A site inside the MLP: hidden activations, or the weights of its experts."""
    return "mlp_act" if "mlp_act" in model.sites else "expert_weights"


def named(site: str, layer: int) -> str:
    return site if site == "final" else f"{site}.{layer}"


def shape_of(model: Model, site: str, length: int = len(TOKENS), layer: int = 0) -> tuple[int, ...]:
    """What an intervention's array for one position of a site holds."""
    n_heads, width = model.network.site_shape(Site(site, layer), length)
    return (n_heads, width) if n_heads and site not in ("scores", "pattern") else (width,)


def random_array(rng: np.random.Generator, *shape: int) -> mx.array:
    return mx.array(rng.normal(size=shape).astype(np.float32))


def example(model: Model, kind: str, site: str, layer: int, positions: Any, seed: int = 0) -> Intervention:
    """One intervention with random arrays that fit the site."""
    rng = np.random.default_rng(seed)
    where, value = named(site, layer), random_array(rng, *shape_of(model, site, layer=layer))
    if kind == "patch":
        return Patch(where, value, positions)
    if kind == "add":
        return Add(where, value, 1.5, positions)
    if kind == "ablate":
        return Ablate(where, value, positions)
    if kind == "zero":
        return Ablate(where, positions=positions)
    if kind == "scale":
        return Scale(where, 0.3, positions)
    return Apply(where, lambda x: x - x.mean(axis=1, keepdims=True) * 0.5 + 0.1, positions)


def mixed_variants(model: Model) -> list[list[Intervention]]:
    """Single interventions of every kind and site, several together, and knockouts: one list for one sweep."""
    variants: list[list[Intervention]] = [[]]
    for index, site in enumerate(sites_of(model)):
        for kind in KINDS:
            for layer in range(model.n_layers):
                positions = POSITIONS[(index + layer) % len(POSITIONS)]
                variants.append([example(model, kind, site, layer, positions, seed=len(variants))])
    pairs = list(zip(variants[1::2], variants[2::2], strict=False))
    variants += [first + second for first, second in pairs[::3]]
    variants += [
        [Knockout(1, query=-1, keys=[1, 2])],
        [Knockout("0-2", query=slice(3, None), keys=0, heads=[1, 3]), Scale("resid_pre.1", 0.5, 2)],
        [Knockout([0, 2], keys=1, query=slice(2, None))],
        [Patch("z.1", mx.ones((model.d_head,)), -1, heads=2)],
        [Patch("z.0", mx.ones((2, model.d_head)), [1, 4], heads=[0, 5])],
        [Scale("pattern.2", 0.0, positions=-1, heads=[4]), Scale("v.1", 2.0, 3, heads=1)],
    ]
    return variants


def worst(ours: mx.array, expected: mx.array) -> float:
    """The largest relative error of a row; where logits of nothing but zeros are expected, any others are far off."""
    error = mx.linalg.norm(ours - expected, axis=-1) / mx.maximum(mx.linalg.norm(expected, axis=-1), 1e-9)
    return float(mx.max(error))
