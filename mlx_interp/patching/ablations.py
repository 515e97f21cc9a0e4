"""Mean ablation: an activation replaced by its mean over other prompts (Wang et al. 2022).

1. Run the reference prompts in batches; take each site at the positions that will be changed, by default at all.
2. The mean is over prompts and positions, in float64, for each head and channel by itself.
3. It replaces the activation. Zero ablation, `Ablate("z.2", heads=[1])`, puts the stream where no prompt puts it; a
   mean leaves what all prompts have in common, and takes what tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.positions import resolve_positions
from mlx_interp.errors import PromptError, SiteError
from mlx_interp.interventions import Heads, Intervention, Patch, Positions
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt


def mean_ablation(
    model: Model,
    site: str,
    prompts: Sequence[AnyPrompt],
    *,
    positions: Positions = None,
    heads: Heads = None,
) -> list[Intervention]:
    """Mean ablation at every layer that a selector names: activations become their means over reference prompts.

    positions: where the activation is replaced, and where the reference prompts are read, counted in each by itself;
    all of them by default. Give as many that the model's attention to its first token, which hardly varies, does not
    decide, or name positions. Raises SiteError for `pattern`, whose axes are no channels, PromptError without prompts,
    PositionError for a position that a prompt lacks.
    """
    named = model.sites_of(site)
    if any(one.name == "pattern" for one in named):
        raise SiteError(f"{site!r}: patterns of prompts of different lengths have no mean; take 'z', which they mix")
    if positions == "generated":
        raise PromptError("mean_ablation: prompts have no generated positions to read a mean from; name others")
    totals, count = [0.0 for _ in named], 0
    if not len(prompts):
        raise PromptError("mean_ablation: no prompts; a mean needs one at least")
    for out in model.batches(prompts, capture=site):
        for row, length in enumerate(out.lengths):
            where = resolve_positions(positions, length, "mean_ablation")
            at = list(range(length)) if where is None else where
            held = [np.asarray(out[str(one)][row].astype(mx.float32), np.float64)[np.array(at, int)] for one in named]
            totals = [total + x.sum(axis=0) for total, x in zip(totals, held, strict=True)]
            count += len(at)
    if not count:
        raise PromptError("mean_ablation: no prompt has such a position; a mean needs one at least")
    means = [mx.array(np.asarray(total / count, np.float32)) for total in totals]
    return [Patch(str(one), _of_heads(mean, heads), positions, heads) for one, mean in zip(named, means, strict=True)]


def _of_heads(mean: mx.array, heads: Heads) -> mx.array:
    """The mean of the heads that are named."""
    return mean if heads is None else mean[heads if isinstance(heads, int) else mx.array(list(heads))]
