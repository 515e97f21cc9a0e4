"""Training of an activation oracle: LoRA on questions and answers about a model's own activations (2512.15674).

1. An example is an activation of the model, its layer, a question and its answer; the model that is read and the one
   that learns to read are the same, the second with an adapter (behaviour.finetuning).
2. The activation is injected as `ActivationOracle` injects it; the loss is on the answer's tokens alone.
3. The published recipe: rank 64, scale 2, every linear layer, a million examples of three kinds (questions about
   system prompts, classification, words before and after the activation). Here layers at and below the injection,
   which can do nothing with it, stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mlx_interp import sites
from mlx_interp.behaviour.finetuning import LoraRecipe, LowRank, finetune
from mlx_interp.behaviour.injection import Injected, units_of
from mlx_interp.errors import DataError, ShapeError, SiteError
from mlx_interp.lenses.oracle import SETTINGS, ActivationOracle, OracleSettings
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.shapes import ShapesShown


@dataclass(frozen=True, eq=False, repr=False)
class OracleExample(ShapesShown):
    """A question about an activation, with its answer."""

    activation: np.ndarray
    """(d_model,), or (k, d_model) for k placeholders."""
    layer: int
    """After which it was read."""
    question: str
    answer: str


def train_oracle(
    model: Model, examples: Sequence[OracleExample], recipe: LoraRecipe, settings: OracleSettings | None = None
) -> LowRank:
    """Low-rank matrices that make of a model an oracle of its own activations; the model is as before afterwards.

    Written with `loading.adapter.write_adapter(folder, found.weights, found.config, base=model.weights_hash)`, they are
    what `load_oracle(name, folder)` reads; how the oracle is asked stands in their config.
    recipe.n_layers: None for all layers above the injection. settings: site (an output of a layer), placeholder and
    template. Raises DataError for no examples, an empty answer, or an activation that is 0 or not finite, ShapeError
    for one of another width, SiteError for a site that is no layer's output.
    """
    if not examples:
        raise DataError("no examples to train an oracle on: give activations with questions and answers")
    layers = tuple(sorted({example.layer % model.n_layers for example in examples}))
    chosen = replace(settings or OracleSettings(), layers=layers, reads=model.weights_hash)
    where = sites.parse_one(chosen.site, model.n_layers)
    if where.name != "resid_post" or where.layer >= model.n_layers - 1:
        raise SiteError(f"an oracle is trained at the output of a layer that others follow, not at {where}")
    oracle = ActivationOracle(model, chosen)
    asked: dict[tuple[str, int, int], tuple[Prompt, list[int]]] = {}
    prompts, replies, positions, units = [], [], [], []
    for number, example in enumerate(examples):
        rows = np.atleast_2d(np.asarray(example.activation, dtype=np.float32))
        if rows.shape[-1] != model.d_model or rows.ndim != 2:
            raise ShapeError(f"activation of example {number}: {rows.shape}, {model.name} has (k, {model.d_model})")
        key = (example.question, oracle.layer(example.layer), len(rows))
        if key not in asked:
            asked[key] = oracle.prompt(key[0], layer=key[1], k=key[2])
        prompt, places = asked[key]
        prompts.append(prompt)
        replies.append(model.continuation(prompt, example.answer))
        positions.append(places)
        units.append(units_of(rows, f"activation of example {number}, row"))
    injected = Injected(where.layer, chosen.injection, positions, units)
    above = model.n_layers - where.layer - 1 if recipe.n_layers is None else recipe.n_layers
    found = finetune(model, prompts, replies, replace(recipe, n_layers=above), injected=injected)
    return replace(found, config={**found.config, SETTINGS: chosen.as_config()})
