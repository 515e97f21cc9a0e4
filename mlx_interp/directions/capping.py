"""The assistant axis, and where along a direction to cap: Lu et al. 2026, "The Assistant Axis" (arXiv 2601.10387).

1. A model writes or reads replies as its default self and in several roles; the states of one site are averaged over
   each reply's tokens, then over the replies of a role.
2. The axis is the default's mean less the mean over the roles' means: every role counts alike.
3. The cap is a quantile of what ordinary replies have along the axis, a quarter by the paper's choice; `Clamp` then
   keeps activations above it, at several layers at once in the paper.

The paper has 275 roles, replies sampled under system prompts, and keeps those in which a judge finds the role; here
replies are given. Cost: one forward pass for each reply, in batches that fit the memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mlx_interp import sites
from mlx_interp.directions.direction import Direction
from mlx_interp.directions.states import compared, states_of
from mlx_interp.errors import DataError, DirectionError
from mlx_interp.interventions.intervention import ArrayLike, SteeringVector, of_vector
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt

Replies = tuple[Sequence[AnyPrompt], Sequence[int]]
"""Texts, and for each the position at which the reply in it begins."""


def assistant_axis(
    model: Model, default: Replies, roles: Mapping[str, Replies], site: str, *, seed: int = 0, template: str = "chat"
) -> Direction:
    """The assistant axis at one site: from the mean over roles to the model's default self.

    Raises DataError for fewer than four default replies, fewer than four roles, or a role without replies, and
    DirectionError where the two means differ by no more than rounding.
    """
    if len(default[0]) < 4 or len(roles) < 4:
        raise DataError(
            f"an axis needs four default replies and four roles, found {len(default[0])} and {len(roles)}: of fewer, "
            "nothing can be told from chance"
        )
    if empty := [name for name, (texts, _) in roles.items() if not len(texts)]:
        raise DataError(f"role {empty[0]!r} has no replies: leave it out, or give it some")
    where = str(sites.parse_one(site, model.n_layers))
    above = states_of(model, default[0], where, responses_from=default[1])
    below = np.stack([states_of(model, texts, where, responses_from=at).mean(axis=0) for texts, at in roles.values()])
    floor, p_value = compared(model, above, below, f"{where} over replies", seed=seed)
    return Direction.of(
        model,
        above.mean(axis=0) - below.mean(axis=0),
        where,
        position=-1,
        method=f"assistant axis: {len(above)} default replies less the mean of {len(roles)} roles",
        template=template,
        floor=floor,
        p_value=p_value,
    )


def projection_quantile(
    model: Model,
    prompts: Sequence[AnyPrompt],
    direction: SteeringVector | ArrayLike,
    site: str = "",
    *,
    quantile: float = 0.25,
    position: int = -1,
    responses_from: Sequence[int] | None = None,
) -> float:
    """A bound for `Clamp`: the quantile, over prompts, of a site's component along a direction of unit length.

    site: the direction's own if left out. position, responses_from: which positions, as in `states_of`.
    Raises DataError without prompts or for a quantile outside 0 to 1, DirectionError for a direction that has no
    length, no site, or another width than the model.
    """
    if not prompts or not 0 <= quantile <= 1:
        raise DataError(f"quantile {quantile} of {len(prompts)} prompts: give prompts, and a quantile from 0 to 1")
    where = site or str(getattr(direction, "site", ""))
    if not where:
        raise DirectionError("the direction does not know its site: name one, e.g. 'resid_post.5'")
    vector = np.asarray(of_vector(direction), dtype=np.float64)
    length = float(np.linalg.norm(vector))
    if vector.shape != (model.d_model,) or not 0 < length < np.inf:
        raise DirectionError(
            f"a direction of shape {vector.shape} and length {length:.3g}: {model.name} needs ({model.d_model},), "
            "finite and not zero"
        )
    states = states_of(model, prompts, where, position=position, responses_from=responses_from)
    return float(np.quantile(states @ (vector / length), quantile))
