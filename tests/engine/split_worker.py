"""What each process of a split model finds, beside a whole copy of the model: test_split.py runs it under a launcher.

Prints, on rank 0, one line of JSON: by family, the largest relative difference of everything compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import mlx_interp as mi  # isort: split

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_interp.directions.orthogonalization import orthogonalized
from mlx_interp.engine.split import gathered_per_token, split
from mlx_interp.loading.processes import check_ranks
from mlx_interp.model import Model
from mlx_interp.ranks import Ranks, launched
from tests.tiny import FAMILY_CONFIGS, tiny_model

TOKENS, OTHER = [5, 9, 2, 31, 7, 8], [5, 9, 2, 40]


def apart(a: mx.array, b: mx.array) -> float:
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    scale = float(mx.abs(a).max())
    return float(mx.abs(a - b).max()) / scale if scale else float(mx.abs(b).max())


WHOLE = ("llama", "gpt2", "mixtral", "qwen3_5", "gemma2", "gpt_oss")
"""Families whose sweeps, gradients and texts are compared; all others' sites and logits."""


def compared(whole: Model, part: Model) -> dict[str, float]:
    """Largest relative difference, by what was computed."""
    ones = mx.ones((whole.d_model,))
    attends = whole.sites_of("pattern")[-1].layer  # the last layer that is attention, where some are not
    variants = [
        [mi.Patch("resid_post.0", ones, 2)],
        [mi.Add("resid_post.1", ones, 0.5)],
        [mi.Ablate("resid_post", ones)],
        [mi.Knockout(str(attends), query=4, keys=[1, 2], heads=[1])],
        [mi.Scale(f"z.{attends}", 0.5, 3, heads=[0])],
        [],
    ]
    a, b = (model.run(TOKENS, capture=model.sites, logits="all") for model in (whole, part))
    assert a.logits is not None
    assert b.logits is not None
    found = {"sites": max(apart(a[site], b[site]) for site in a), "logits": apart(a.logits, b.logits)}
    if whole.family not in WHOLE:
        return found
    both: dict[str, Callable[[Model], mx.array]] = {
        "sweep": lambda model: model.sweep(TOKENS, variants),
        "sweep_prompts": lambda model: mx.stack(list(model.sweep_prompts([TOKENS, OTHER], variants[:3]))),
        "gradients": lambda model: model.gradients(TOKENS, lambda x: x[:, 3], "resid_post.0")["resid_post.0"],
        "tokens": lambda model: mx.array(model.generate([TOKENS, OTHER], max_tokens=5)[0].tokens),
    }
    for name, computed in both.items():
        found[name] = apart(computed(whole), computed(part))
    if whole.network.family.experts is None:
        found |= orthogonalised(whole, part)
    return found


def orthogonalised(whole: Model, part: Model) -> dict[str, float]:
    """Logits after one direction was taken out of the weights, inside the block and after it."""
    direction = mx.sin(mx.arange(whole.d_model))
    found = {}
    before = part.run(TOKENS).logits
    with orthogonalized(whole, direction) as one, orthogonalized(part, direction) as other:
        a, b = (model.run(TOKENS).logits for model in (whole, part))
        found["orthogonalised"] = apart(a, b)
        found["changed too little"] = float(apart(a, before) < 1e-3)
        assert [m.name for m in one.matrices] == [m.name for m in other.matrices]
        pairs = zip(one.matrices, other.matrices, strict=True)
        found["written"] = max(abs(m.before - n.before) / m.before for m, n in pairs)
        found["remains"] = other.remains
    found["restored"] = apart(before, part.run(TOKENS).logits)
    return found


def check_quantised(ranks: Ranks) -> None:
    """Matrices in 4 bits: as much of a direction comes back by rounding as in a whole model, within a hundredth."""
    remains = []
    for parts in (False, True):
        model = tiny_model("llama", hidden_size=64, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2)
        nn.quantize(model.mlx_model, group_size=32, bits=4)
        if parts:
            split(model.mlx_model, ranks.group)
        with orthogonalized(model, mx.sin(mx.arange(64))) as edit:
            remains.append(edit.remains)
    assert 1e-3 < remains[0] < 0.5, remains  # about a third, as rounding in 4 bits brings back
    assert abs(remains[1] - remains[0]) < 0.01, remains


def share_kept(part: Model, whole: Model) -> float:
    """Part of the weights that this process holds."""
    kept, all_of = (sum(a.size for _, a in tree_flatten(one.mlx_model.parameters())) for one in (part, whole))
    return kept / all_of


def main(families: list[str]) -> None:
    ranks = launched()
    check_quantised(ranks)
    lines: dict[str, Any] = {}
    for family in families or sorted(FAMILY_CONFIGS):
        whole, part = tiny_model(family), tiny_model(family)
        split(part.mlx_model, ranks.group)
        check_ranks(part, ranks)
        lines[family] = {
            **compared(whole, part),
            "kept": share_kept(part, whole),
            "same size": part.network.n_parameters == whole.network.n_parameters,
            "gathered": gathered_per_token(part.mlx_model),
        }
    if ranks.first:
        print("found", json.dumps(lines), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
