"""Low-rank fine-tuning (LoRA; Hu et al. 2021) on replies to prompts: a change of known content, to look for afterwards.

1. mlx-lm's LoRA layers stand beside the linear layers of the model; everything else is frozen.
2. AdamW on the cross-entropy of the replies alone, end of turn included; the rows of a step follow from the seed.
3. The low-rank matrices come out, and the model is as before. `loading.adapter.write_adapter` makes of them a folder
   that `mlx_interp.load(name, adapter=folder)` and mlx-lm's own loader read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mlx_interp.behaviour.injection import Injected
from mlx_interp.deferred import mlx_lm, mx, nn, optim, trees
from mlx_interp.engine.modules import is_split
from mlx_interp.errors import DataError, UnsupportedModel
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt

Change: TypeAlias = "Callable[[mx.array], mx.array]"


@dataclass(frozen=True)
class LoraRecipe:
    """Settings of a fine-tune, beside the model and its rows."""

    rank: int = 4
    scale: float = 4.0
    """By which the low-rank product is multiplied; mlx-lm's name for it."""
    n_layers: int | None = None
    """The last so many layers; None for all."""
    steps: int = 100
    batch: int = 32
    learning_rate: float = 1e-3
    """At the first step; it falls to a tenth along a cosine."""
    clip: float = 1.0
    """Greatest norm of a step's gradient."""
    seed: int = 0


@dataclass(frozen=True)
class LowRank:
    """Low-rank matrices that a fine-tune found."""

    weights: dict[str, mx.array]
    """Low-rank matrices by their place in the model."""
    config: dict[str, Any]
    """adapter_config.json, as mlx-lm reads it."""
    losses: tuple[float, ...]
    """Of every step, in nats a token."""


def finetune(
    model: Model,
    prompts: Sequence[AnyPrompt],
    replies: Sequence[str | Sequence[int]],
    recipe: LoraRecipe,
    *,
    added: Mapping[int, mx.array] | None = None,
    injected: Injected | None = None,
    watch: Callable[[int], None] | None = None,
) -> LowRank:
    """Low-rank matrices trained on replies to prompts; the model is as before afterwards.

    replies: texts, or their token ids.
    added: vectors (d_model,) by layer that are added to its output, at every position, while training and not
    afterwards: preventative steering (Chen et al. 2025).
    injected: vectors of each row that are put into its own prompt, while training and not afterwards.
    watch: called with the number of steps done, at first with 0; in it the model runs as it is by then.
    Raises DataError for no rows, empty replies, a layer that is not there, or a loss that is no longer finite.
    """
    changed = [*(added or ()), *([injected.layer] if injected else ())]
    if wrong := [layer for layer in changed if not 0 <= layer < model.n_layers]:
        raise DataError(f"no layer {wrong[0]} to add a vector after: {model.name} has 0 to {model.n_layers - 1}")
    rows = _rows(model, prompts, replies)
    network = model.mlx_model
    put = _Put(injected) if injected is not None else None
    changes: dict[int, Change] = {layer: _plus(vector) for layer, vector in (added or {}).items()}
    if put is not None:
        changes[put.injected.layer] = put
    if is_split(network) and model.network.family.experts is not None:
        raise UnsupportedModel(f"{model.name} has experts and is split over processes: load it whole to fine-tune it")
    settings: dict[str, Any] = {"rank": recipe.rank, "scale": recipe.scale, "dropout": 0.0}
    n_layers = model.n_layers if recipe.n_layers is None else recipe.n_layers
    before = _linear_layers(network)
    network.freeze()
    mx.random.seed(recipe.seed)
    try:
        adapted = settings | ({"keys": _split_in_layers(network)} if is_split(network) else {})
        mlx_lm.tuner.utils.linear_to_lora_layers(network, n_layers, adapted)
        with _changing(network, changes):
            losses = _train(network, rows, recipe, watch or (lambda step: None), put)
        weights = dict(trees.tree_flatten(network.trainable_parameters()))
    finally:
        network.update_modules(trees.tree_unflatten(before))
        network.unfreeze()
    config = {"fine_tune_type": "lora", "num_layers": n_layers, "lora_parameters": settings, "model": model.model_id}
    return LowRank(weights, config, tuple(losses))


class _Put:
    """Vectors put into the states of the batch that is being read."""

    def __init__(self, injected: Injected) -> None:
        self.injected = injected

    def read(self, rows: Sequence[int], width: int) -> None:
        self.where, self.units = self.injected.batch(rows, width)

    def __call__(self, states: mx.array) -> mx.array:
        changed = self.injected.injection.put(states, self.units).astype(states.dtype)
        return mx.where(self.where, changed, states)


def _plus(vector: mx.array) -> Change:
    return lambda out: out + vector.astype(out.dtype)


@contextmanager
def _changing(network: nn.Module, changes: Mapping[int, Change]) -> Iterator[None]:
    """Outputs of layers changed. The layers change their class, so that parameters keep their names."""
    kinds = {layer: type(network.layers[layer]) for layer in changes}
    try:
        for layer, change in changes.items():
            object.__setattr__(network.layers[layer], "__class__", _with(kinds[layer], change))
        yield
    finally:
        for layer, kind in kinds.items():
            object.__setattr__(network.layers[layer], "__class__", kind)


def _with(kind: type[nn.Module], change: Change) -> type[nn.Module]:
    def call(self: nn.Module, *inputs: Any, **options: Any) -> mx.array:
        return change(kind.__call__(self, *inputs, **options))

    return type(f"{kind.__name__}Changed", (kind,), {"__call__": call})


def _linear_layers(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Path and layer; of a model that is split over processes those that stand for whole ones."""
    if is_split(network):
        return [(path, module) for path, module in network.named_modules() if _stands_for_linear(module)]
    return [
        (path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear | nn.QuantizedLinear)
    ]


def _split_in_layers(network: nn.Module) -> set[str]:
    """Paths within a layer of the linear layers that are split."""
    return {path for layer in network.layers for path, module in layer.named_modules() if _stands_for_linear(module)}


def _stands_for_linear(module: nn.Module) -> bool:
    from mlx_interp.engine.split import SplitLinear  # its classes need MLX

    return isinstance(module, SplitLinear)


def _rows(
    model: Model, prompts: Sequence[AnyPrompt], replies: Sequence[str | Sequence[int]]
) -> list[tuple[list[int], int]]:
    """Token ids of each row, and where its reply begins."""
    chosen = model.prompts(prompts) if len(prompts) else []
    if not chosen or len(chosen) != len(replies) or not all(replies):
        raise DataError(f"fine-tuning needs prompts with a reply each: {len(chosen)} and {len(replies)} were given")
    end = [model.tokenizer.eos_token_id]
    encode = model.tokenizer.encode
    encoded = [encode(reply, add_special_tokens=False) if isinstance(reply, str) else reply for reply in replies]
    return [([*p.tokens, *ids, *end], len(p)) for p, ids in zip(chosen, encoded, strict=True)]


def _train(
    network: nn.Module,
    rows: Sequence[tuple[list[int], int]],
    recipe: LoraRecipe,
    watch: Callable[[int], None],
    put: _Put | None,
) -> list[float]:
    rate = optim.cosine_decay(recipe.learning_rate, recipe.steps, recipe.learning_rate / 10)
    optimizer = optim.AdamW(learning_rate=rate, weight_decay=0.0)
    gradient = nn.value_and_grad(network, _loss)
    rng = np.random.default_rng(recipe.seed)
    order: list[int] = []
    losses: list[float] = []
    watch(0)
    for step in range(recipe.steps):
        while len(order) < recipe.batch:
            order += rng.permutation(len(rows)).tolist()
        chosen, order = order[: recipe.batch], order[recipe.batch :]
        tokens, counts = _padded([rows[i] for i in chosen])
        if put is not None:
            put.read(chosen, tokens.shape[1] - 1)
        loss, slopes = gradient(network, tokens, counts)
        slopes, _ = optim.clip_grad_norm(slopes, recipe.clip)
        optimizer.update(network, slopes)
        mx.eval(network.trainable_parameters(), optimizer.state, loss)
        losses.append(float(loss))
        if not np.isfinite(losses[-1]):
            raise DataError(f"the loss is {losses[-1]} at step {step}: lower the learning rate")
        watch(step + 1)
    return losses


def _padded(batch: Sequence[tuple[list[int], int]]) -> tuple[mx.array, mx.array]:
    """Token ids (batch, pos), and whether each position but the first is of a reply (batch, pos - 1)."""
    width = max(len(tokens) for tokens, _ in batch)
    tokens = np.array([ids + [0] * (width - len(ids)) for ids, _ in batch])
    places = np.arange(1, width)[None]
    starts, ends = (np.array(found)[:, None] for found in zip(*((s, len(ids)) for ids, s in batch), strict=True))
    return mx.array(tokens), mx.array((places >= starts) & (places < ends))


def _loss(network: nn.Module, tokens: mx.array, counts: mx.array) -> mx.array:
    logits = network(tokens[:, :-1]).astype(mx.float32)
    losses = nn.losses.cross_entropy(logits, tokens[:, 1:])
    mean: mx.array = (losses * counts).sum() / counts.sum()
    return mean
