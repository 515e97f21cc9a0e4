"""docs/families.md: families by sites, with the largest error of each against transformers. Made, never edited.

`python -m tests.parity.families_page` writes it from the golden files, which hold what transformers computed; torch is
not needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlx_interp.architectures import FAMILIES
from mlx_interp.engine.anatomy import MIXERS_SITES
from mlx_interp.sites import KINDS
from tests.loading.published import PUBLISHED
from tests.parity.reference import TOKENS, cases, golden_path, overrides
from tests.parity.test_sites_equal_transformers import SITES, in_order_of_experts, relative
from tests.tiny import tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
COLUMNS = [name for name in KINDS if name not in ("head_out", "choice", "experts")]
"""Sites that transformers computes under some name; the others follow from them."""
OF_MIXERS = [name for name in COLUMNS if name in MIXERS_SITES]
LACKS = "-"
LATENT = """## What `q`, `k`, `v`, `z` are in latent attention

DeepSeek V2 makes keys and values of all heads of one vector a position, `kv_latent` (after its norm). A head's `k`
begins with what a matrix makes of it, which has no positions, and ends with a part that is the same in all heads,
turned by RoPE; its `q` has the same two parts; `v` is all of the latent. So `q` and `k` are wider than `v` and `z`
(`model.d_head` and `model.d_v`: 192 and 128 in V2 Lite), and `q_pre`, `k_pre` differ from `q`, `k` in the turned part
alone. A change of `kv_latent` at a position changes what all heads read there, keys and values, but not where it is:
the shared part does not come from it. Nothing else is another than in the sites' usual meaning: `scores` are q times
k, scaled; `pattern` times `v` is `z`. The keys and values that are cached here are those of the heads, as in mlx-lm,
not the latent. The MLP's output is `expert_out` weighted by `expert_weights`, and `shared_out`; the first layers have
one MLP, without experts.
"""

HEAD = """# Families and their sites

Made by `python -m tests.parity.families_page`, not by hand. Each cell is the largest relative error of a site, over all
layers and over the configurations of `tests/parity/reference.py` (full, grouped and multi-query attention where a
family has them, and unusual ones): ours in float32 on the CPU against what transformers computes on the same random
weights. `-`: the family has no such site, and asking for it is an error that says why. Sites that are not here follow
from others: `head_out` from `z`, `choice` and `experts` from `router`. Where mlx-lm computes something else than
transformers, the reference is made to do the same, and [differences.md](differences.md) has the size.
"""


def errors(family: str) -> dict[str, float]:
    """The largest error of each site of a family, and of "logits"."""
    worst: dict[str, float] = {}
    for case in cases([family]):
        model = tiny_model(family, **overrides(*case))
        out = model.run(TOKENS, capture=[site for site in SITES if site in model.sites], logits="all")
        with np.load(golden_path(*case)) as golden:
            for name, expected in golden.items():
                ours = np.asarray(out.logits)[0] if name == "logits" else in_order_of_experts(out, name)
                kind = name.partition(".")[0]
                worst[kind] = max(worst.get(kind, 0.0), relative(ours, expected))
    return worst


def page(by_family: dict[str, dict[str, float]]) -> str:
    """The page's text."""
    common = [name for name in COLUMNS if name not in OF_MIXERS]
    groups = (common[: len(common) // 2], [*common[len(common) // 2 :], "logits"])
    with_mixers = {family: found for family, found in by_family.items() if found.keys() & set(OF_MIXERS)}
    of_mixers = "Sites of layers with another mixer than attention; all other families lack them.\n"
    tables = [*(table(group, by_family) for group in groups), of_mixers, table(OF_MIXERS, with_mixers)]
    published = ["| family (mlx-lm's module) | first published checkpoint |", "|---|---|"]
    published += [f"| `{name}` | {PUBLISHED[name].hub_id if name in PUBLISHED else ''} |" for name in by_family]
    return "\n".join([HEAD, *tables, "## Checkpoints", "", *published, "", LATENT])


def table(columns: list[str], by_family: dict[str, dict[str, float]]) -> str:
    rows = [f"| family | {' | '.join(f'`{name}`' for name in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for family, found in by_family.items():
        cells = [f"{found[name]:.0e}".replace("e-0", "e-") if name in found else LACKS for name in columns]
        rows.append(f"| `{family}` | {' | '.join(cells)} |")
    return "\n".join([*rows, ""])


if __name__ == "__main__":
    PAGE.write_text(page({family: errors(family) for family in FAMILIES}), encoding="utf-8")
