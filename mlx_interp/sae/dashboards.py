"""Feature dashboards: texts that activate a feature most, how often it is active, what it writes, what is like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_interp import pages
from mlx_interp.deferred import mx
from mlx_interp.errors import SAEError
from mlx_interp.massive_activations import first_position
from mlx_interp.model import Model
from mlx_interp.pages.feature_page import Example, FeaturePage, Named
from mlx_interp.prompts import Prompt
from mlx_interp.sae.metrics import check_fits
from mlx_interp.sae.sae import SAE

BINS = 20


def feature_pages(
    model: Model,
    sae: SAE,
    prompts: Sequence[Prompt],
    features: Sequence[int],
    *,
    titles: Mapping[int, str] | None = None,
    n_examples: int = 8,
    n_tokens: int = 8,
) -> list[FeaturePage]:
    """Pages of some features over some texts. titles: what a feature is called.

    Raises SAEError for a feature that does not exist, and for an autoencoder that does not fit the model.
    """
    check_fits(sae, model)
    if wrong := [i for i in features if not 0 <= i < sae.d_sae]:
        raise SAEError(f"{sae} has features 0 to {sae.d_sae - 1}, not {wrong}")
    values = [_values(model, sae, prompt, list(features)) for prompt in prompts]
    last = _last_state(model, prompts)
    unit = np.asarray(sae.directions, dtype=np.float64)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=-1, keepdims=True), 1e-12)
    found = []
    for column, feature in enumerate(features):
        mine = [value[:, column] for value in values]
        every = np.concatenate([v[first_position(model, p) :] for v, p in zip(mine, prompts, strict=True)])
        active = every[every > 0]
        largest = float(active.max()) if active.size else 0.0
        order = sorted(range(len(prompts)), key=lambda i: -float(mine[i].max()))[:n_examples]
        shown = [i for i in order if mine[i].max() > 0]
        raised, lowered = _logit_effects(
            model, sae, feature, last, float(active.mean()) if active.size else 1.0, n_tokens
        )
        cosines = unit @ unit[feature]
        like = [int(i) for i in np.argsort(-cosines) if i != feature][:5]
        found.append(
            FeaturePage(
                feature=int(feature),
                title=(titles or {}).get(feature, ""),
                n_tokens=len(every),
                n_active=len(active),
                largest=largest,
                histogram=tuple(np.histogram(active, bins=BINS, range=(0, largest or 1.0))[0].tolist()),
                examples=tuple(
                    Example(tuple(prompts[i].pieces), tuple(round(float(v), 4) for v in mine[i])) for i in shown
                ),
                raised=raised,
                lowered=lowered,
                nearest=tuple((i, round(float(cosines[i]), 4)) for i in like),
            )
        )
    return found


def page_of(data: Mapping[str, Any]) -> FeaturePage:
    """A page from its fields, as JSON gives them back."""
    examples = tuple(Example(tuple(one["tokens"]), tuple(one["values"])) for one in data["examples"])
    pairs = {name: tuple((left, right) for left, right in data[name]) for name in ("raised", "lowered", "nearest")}
    return FeaturePage(**{**data, **pairs, "examples": examples, "histogram": tuple(data["histogram"])})


def _values(model: Model, sae: SAE, prompt: Prompt, features: list[int]) -> npt.NDArray[np.float32]:
    out = model.run(prompt, capture=[sae.site], logits="none")
    found: npt.NDArray[np.float32] = np.array(sae.features(out)[0][:, mx.array(features)])
    found[: first_position(model, prompt)] = 0
    return found


def _last_state(model: Model, prompts: Sequence[Prompt]) -> mx.array:
    """Mean residual stream after the last layer, at the last positions."""
    site = f"resid_post.{model.n_layers - 1}"
    rows = [model.run(prompt, capture=[site], logits="none")[site][0, -1] for prompt in prompts[:64]]
    return mx.mean(mx.stack(rows), axis=0)


def _logit_effects(
    model: Model, sae: SAE, feature: int, last: mx.array, amount: float, n: int
) -> tuple[tuple[Named, ...], tuple[Named, ...]]:
    """What the direction itself does to the logits; nothing where the site is not as wide as the residual stream."""
    if sae.d_model != model.d_model or sae.site.startswith(("z.", "mlp_act.")):
        return (), ()
    both = mx.stack([last, last + amount * sae.directions[feature]])
    logits = np.asarray(model.unembed(both), dtype=np.float64)
    effect = logits[1] - logits[0]
    order = np.argsort(-effect)

    def named(tokens: npt.NDArray[np.int64]) -> tuple[Named, ...]:
        return tuple((model.tokenizer.decode([int(t)]), round(float(effect[t]), 4)) for t in tokens)

    return named(order[:n]), named(order[::-1][:n])


def dashboard(found: Sequence[FeaturePage], *, title: str, note: str = "") -> pages.Page:
    """Dashboards on one page: a list to choose from; `save` writes it. Raises PageError for more than a page holds."""
    return pages.features(found, title=title, note=note)
