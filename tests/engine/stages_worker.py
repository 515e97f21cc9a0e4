"""What each process of a model split by layers finds, beside a whole copy: test_stages.py runs it under a launcher.

Prints, on rank 0, one line of JSON: by family, the largest relative difference of everything compared. `--pieces`: of
what passes in pieces, of two positions each at least.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np

from mlx_interp.engine import clean_run, forward, pieces
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


def in_pieces(whole: Model, part: Model) -> dict[str, float]:
    """Largest relative difference of passes that are cut into pieces; how many were; and of what is not to be cut."""
    if not part.network.staged:
        return {}
    many = 0
    cut = pieces.first_layers

    def counted(run: Any, x: mx.array, n_layers: int) -> tuple[mx.array, int]:
        nonlocal many
        x, done = cut(run, x, n_layers)
        many += done > 0
        return x, done

    forward.first_layers = clean_run.first_layers = counted  # type: ignore[assignment]
    long = [*TOKENS, *range(3, 14)]
    ones, half = mx.ones((whole.d_model,)), mx.ones((whole.d_head,)) / 2
    last = whole.n_layers - 1
    open_sites = [name for name in whole.sites if name not in pieces.ACROSS]
    edits = [
        mi.Patch("resid_pre.1", mx.sin(mx.arange(4 * whole.d_model)).reshape(4, -1), [1, 4, 9, 12]),
        mi.Add("resid_post.0", mx.sin(mx.arange(len(long) * whole.d_model)).reshape(len(long), -1), 0.2),
        mi.Scale(f"z.{last}", 0.5, heads=[0]),
        mi.Ablate("attn_out", ones),
        mi.Add("k.0", half, 0.3, positions=[2, 11]),
    ]
    variants = [[edit] for edit in edits] + [[], [mi.Patch("mlp_out.1", ones, 15)], [mi.Patch("final", ones, -1)]]
    both: dict[str, Callable[[Model], Any]] = {
        "sites": lambda m: m.run([long, TOKENS], capture=open_sites, logits="all"),
        "edited": lambda m: m.run([long], interventions=edits, capture="resid_post", logits="all"),
        "uneven": lambda m: m.run([OTHER, long, TOKENS], interventions=edits[2:4], logits="last").logits,
        "whole": lambda m: m.run(long, interventions=[mi.Scale("pattern.1", 0.7, 9, heads=[0])], logits="all").logits,
        "across": lambda m: m.run(long, interventions=[mi.Apply("resid_post.0", lambda x: x - x.mean(1))]).logits,
        "edges": lambda m: m.run(long, interventions=[mi.Knockout("0-1", query=12, keys=[3])]).logits,
        "sweep": lambda m: m.sweep(long, variants),
        "early sweep": lambda m: m.sweep(long, [[mi.Patch("resid_pre.0", ones, 0)]]),
        "sweep of all": lambda m: m.sweep(long, variants, logits="all"),
        "captured": lambda m: m.sweep(long, variants, capture="resid_post.1")["resid_post.1"],
        "prompts": lambda m: mx.stack(list(m.sweep_prompts([long, [*long[:-2], 4], OTHER], variants[2:4]))),
        "tokens": lambda m: mx.array([t for c in m.generate([long, TOKENS], max_tokens=4) for t in c.tokens]),
        "shared": lambda m: mx.array(
            [t for c in m.generate([[*long, n] for n in range(4)], max_tokens=4) for t in c.tokens]
        ),
        "kept": lambda m: m.keep(long).states(3),
    }
    found: dict[str, float] = {}
    for name, computed in both.items():
        before = many
        a, b = (computed(m) for m in (whole, part))
        if isinstance(a, mx.array):
            found[name] = apart(a, b)
        else:
            found[name] = max(apart(a[site], b[site]) for site in a)
            found[f"{name}, logits"] = apart(a.logits, b.logits)
        assert (many > before) is (name not in ("whole", "across", "edges")), name
    return found


def main(families: list[str]) -> None:
    ranks = launched()
    compare = compared
    if "--pieces" in families:
        pieces.FEWEST = 2
        compare, families = in_pieces, [name for name in families if name != "--pieces"]
    lines: dict[str, Any] = {}
    for family in families or sorted(FAMILY_CONFIGS):
        whole, part = tiny_model(family), tiny_model(family)
        stages = stages_by_memory(part.network, [10**9] * ranks.size)
        pipeline(part.network, ranks, stages)
        check_ranks(part, ranks)
        lines[family] = {
            **compare(whole, part),
            **(further(whole, part) if family in FULLY and compare is compared else {}),
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
