"""What each process of a model split by layers finds, beside a whole copy: test_stages.py runs it under a launcher.

Prints, on rank 0, one line of JSON: by family, the largest relative difference of everything compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np

from mlx_interp.engine.edge_pass import patched, written
from mlx_interp.engine.stages import pipeline, stages_by_memory
from mlx_interp.loading.processes import check_ranks
from mlx_interp.model import Model
from mlx_interp.ranks import launched
from tests.engine.split_worker import OTHER, TOKENS, apart, compared, share_kept
from tests.tiny import FAMILY_CONFIGS, tiny_model

FULLY = ("llama", "gemma2")
"""Families of which what a sweep captures, edits and kept runs are compared as well."""


def further(whole: Model, part: Model) -> dict[str, float]:
    """Largest relative difference of what passes in stages do that `compared` does not ask for."""
    ones, half = mx.ones((whole.d_model,)), mx.ones((whole.d_head,)) / 2
    last = whole.n_layers - 1
    edits = [
        mi.Apply("resid_mid.1", lambda x: x * 1.1 + 0.1 * x.mean()),
        mi.Patch(f"z.{last}", half, 2, heads=[1]),
        mi.Add("k.0", half, 0.3),
        mi.Scale("pattern.1", 0.7, 3, heads=[0]),
        mi.Knockout("0-1", query=3, keys=[0]),
        mi.Add("final", ones, 0.2, positions=[-1]),
    ]
    variants = [[edit] for edit in edits] + [[], [mi.Patch("mlp_out.1", ones, 3)], [mi.Patch("q.1", half, 4)]]
    captured = ["resid_post", "pattern.1", "mlp_act.0"]
    both: dict[str, Callable[[Model], mx.array]] = {
        "edited": lambda m: m.run([TOKENS, OTHER], interventions=edits[1:3], logits="last").logits,  # type: ignore[return-value]
        "all edits": lambda m: m.run(TOKENS, interventions=edits, logits="all").logits,  # type: ignore[return-value]
        "generated": lambda m: mx.array(m.generate(TOKENS, interventions=edits[:1], max_tokens=6)[0].tokens),
        "together": lambda m: mx.array([t for c in m.generate([TOKENS, OTHER], max_tokens=6) for t in c.tokens]),
        "shared": lambda m: mx.array(
            [t for c in m.generate([[*TOKENS, n] for n in range(4)], max_tokens=4) for t in c.tokens]
        ),
        "sweep of all": lambda m: m.sweep(TOKENS, variants, logits="all"),
        "lens": lambda m: m.unembed(m.run(TOKENS, capture="resid_post.0")["resid_post.0"]),
        "edges": lambda m: patched(
            m.network,
            m.run([TOKENS], capture="resid_pre.0")["resid_pre.0"],
            written(m.network, mx.array([[*OTHER, 3, 3]]))[0],
            mx.random.uniform(
                shape=(1, m.n_layers * (3 * m.n_heads + 1) + 1, 1 + m.n_layers * (m.n_heads + 1)), key=mx.random.key(3)
            ),
        ),
        "gradients of a site": lambda m: m.gradients(
            TOKENS, lambda x: x[:, 2].sum(-1), ["q.0", "k.1", "v.0", "resid_pre.1"], of="mlp_out.1"
        )["k.1"],
    }
    found = {name: apart(computed(whole), computed(part)) for name, computed in both.items()}
    for name in captured:
        a, b = (m.sweep(TOKENS, variants, capture=name) for m in (whole, part))
        found[f"captured {name}"] = max(apart(a[site], b[site]) for site in a.keys())  # noqa: SIM118
    kept = [m.keep(TOKENS) for m in (whole, part)]
    found["kept"] = apart(*(run.states(3) for run in kept))
    patches = [[mi.Patch(f"resid_post.{n}", kept[0].states(4)[last], 4)] for n in range(last)]
    found["back-patched"] = apart(
        *(m.sweep(TOKENS, patches, kept=run) for m, run in zip((whole, part), kept, strict=True))
    )
    texts = [m.sweep_generate(TOKENS, variants[:3], max_tokens=4) for m in (whole, part)]
    found["swept texts"] = float([t.tokens for t in texts[0]] != [t.tokens for t in texts[1]])
    return found


def main(families: list[str]) -> None:
    ranks = launched()
    lines: dict[str, Any] = {}
    for family in families or sorted(FAMILY_CONFIGS):
        whole, part = tiny_model(family), tiny_model(family)
        stages = stages_by_memory(part.network, [10**9] * ranks.size)
        pipeline(part.network, ranks, stages)
        check_ranks(part, ranks)
        lines[family] = {
            **compared(whole, part),
            **(further(whole, part) if family in FULLY else {}),
            "kept": share_kept(part, whole),
            "same size": part.network.n_parameters == whole.network.n_parameters,
            "staged": part.network.staged,
        }
    shares = np.array(ranks.gather([line["kept"] for line in lines.values()]))
    for line, kept in zip(lines.values(), shares.T.tolist(), strict=True):
        line["kept"] = kept
    if ranks.first:
        print("found", json.dumps(lines), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
