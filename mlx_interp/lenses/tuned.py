"""The tuned lens: an affine map for each layer, trained to say what the model says in the end (Belrose et al. 2023).

1. A translator of layer l maps the stream: h -> h + A h + b, with A and b zero at first: the logit lens.
2. The model's own last norm and unembedding follow, frozen (in 4 bits, if that is what the model is).
3. Each translator is trained to bring the KL divergence of its distribution from the model's own, averaged over all
   positions of the training prompts, as low as it goes; all layers in one pass, none with a say in another.
4. The last layer has no translator: its lens is the model.

The paper takes SGD over 65 million tokens of text; here Adam over the prompts given, with a rate that falls linearly.
Held-out prompts tell what that is worth, a lens with its translators exchanged between layers what any map would give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from mlx_interp.deferred import mx, nn, optim, rich
from mlx_interp.engine.host import softmax
from mlx_interp.errors import DataError
from mlx_interp.massive_activations import massive_at_first
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt
from mlx_interp.reporting.files import make_folder
from mlx_interp.shapes import ShapesShown

LOGITS = 2**25
"""Logits of translated states that training holds at a time."""


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens(ShapesShown):
    """Translators of a model's layers but the last, float32; one more in front where the embedding has one."""

    weight: mx.array
    """(n_layers - 1, d_model, d_model): A, from the left: (h A)."""
    bias: mx.array
    """(n_layers - 1, d_model)."""
    model: str = ""
    """Name and weights of the model it was trained on."""

    def translated(self, states: mx.array) -> mx.array:
        """Streams (n_layers, ..., d_model) -> what stands for the last layer's, same shape, float32."""
        n = self.weight.shape[0]
        if states.shape[0] != n + 1:
            raise DataError(f"a lens of {n + 1} layers got streams of {states.shape[0]}: give resid_post of all layers")
        early = states[:n].astype(mx.float32)
        flat = early.reshape(n, -1, early.shape[-1])
        moved = flat + flat @ self.weight + self.bias[:, None]
        return mx.concatenate([moved.reshape(early.shape), states[n:].astype(mx.float32)])

    def moved(self, row: int, states: mx.array) -> mx.array:
        """Streams (..., d_model) of one layer -> what stands for the last layer's, same shape, float32.

        row: of the lens's translators, the embedding's included where there is one.
        """
        states = states.astype(mx.float32)
        return states + states @ self.weight[row] + self.bias[row]

    def logits(self, model: Model, states: mx.array) -> mx.array:
        """(n_layers, ..., d_vocab): each layer's logits; the last layer's are the model's own.

        Raises DataError for a model that the lens was not trained on.
        """
        if self.model and self.model != identity_of(model):
            raise DataError(f"this lens was trained on {self.model}, not on {identity_of(model)}: train one for it")
        return model.unembed(self.translated(states))

    def save(self, path: Path) -> None:
        """One .safetensors file."""
        make_folder(path.parent)
        mx.save_safetensors(
            str(path), {"weight": self.weight, "bias": self.bias}, {"model": self.model, "kind": "tuned_lens"}
        )


def load_lens(path: Path) -> TunedLens:
    """A lens from `TunedLens.save`. Raises DataError for a file that is none."""
    try:
        arrays, header = cast(tuple[dict[str, mx.array], dict[str, str]], mx.load(str(path), return_metadata=True))
        return TunedLens(arrays["weight"], arrays["bias"], header["model"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{path}: is no tuned lens: {error}") from error


def identity_lens(model: Model, *, embedding: bool = False) -> TunedLens:
    """Translators that change nothing: the logit lens. embedding: one more, in front, for what enters layer 0."""
    n, d = model.n_layers - 1 + embedding, model.d_model
    return TunedLens(mx.zeros((n, d, d)), mx.zeros((n, d)), identity_of(model))


def exchanged(lens: TunedLens) -> TunedLens:
    """The same translators, each one layer too low, the first on top: the control."""
    order = mx.array([*range(1, lens.bias.shape[0]), 0])
    return TunedLens(lens.weight[order], lens.bias[order], lens.model)


def train_tuned_lens(
    model: Model,
    prompts: Sequence[AnyPrompt],
    *,
    steps: int = 250,
    batch: int = 16,
    rate: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> TunedLens:
    """Train translators on a model's own states at every position of some prompts.

    batch: prompts of a step, drawn anew each time. rate: Adam's, falling linearly to 0. The loss of a layer is the mean
    over positions of KL(model || lens) in nats. Raises DataError without prompts or for a model of one layer.
    """
    if not prompts or model.n_layers < 2:
        raise DataError(f"a tuned lens needs prompts and two layers; got {len(prompts)} and {model.n_layers}")
    tokenised = model.prompts(list(prompts))

    def draw(rng: np.random.Generator) -> mx.array:
        return positions_of(model, [tokenised[i] for i in rng.permutation(len(tokenised))[:batch]])

    return _trained(model, identity_lens(model), draw, steps, rate, seed, progress)


def train_on_states(
    model: Model,
    states: mx.array,
    *,
    steps: int = 250,
    batch: int = 256,
    rate: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> TunedLens:
    """Train translators on states that are held in memory: no forward pass, any choice of positions.

    states: (n_layers, n_positions, d_model), or with the embedding in front (`positions_of`), which then has a
    translator too. batch: positions of a step. Raises DataError for no position, or for the states of one layer.
    """
    if states.ndim != 3 or states.shape[0] < 2 or not states.shape[1]:
        raise DataError(f"a tuned lens needs states (n_layers, n_positions, d_model); got {states.shape}")
    n, d = states.shape[0] - 1, states.shape[2]
    start = TunedLens(mx.zeros((n, d, d)), mx.zeros((n, d)), identity_of(model))

    def draw(rng: np.random.Generator) -> mx.array:
        return states[:, mx.array(rng.integers(0, states.shape[1], min(batch, states.shape[1])))]

    return _trained(model, start, draw, steps, rate, seed, progress)


def _trained(
    model: Model,
    lens: TunedLens,
    draw: Callable[[np.random.Generator], mx.array],
    steps: int,
    rate: float,
    seed: int,
    progress: bool,
) -> TunedLens:
    """Adam from a lens, on the states of each step."""
    rng = np.random.default_rng(seed)
    parameters = {"weight": lens.weight, "bias": lens.bias}
    optimizer = optim.Adam(learning_rate=optim.linear_schedule(rate, 0.0, steps))

    for _ in rich.progress.track(range(steps), f"{model.name}: tuned lens", disable=not progress):
        states = draw(rng)
        slopes = lens_slopes(model, parameters, states[:-1].astype(mx.float32), states[-1])
        parameters = optimizer.apply_gradients(slopes, parameters)
        mx.eval(parameters, optimizer.state)
    return TunedLens(parameters["weight"], parameters["bias"], identity_of(model))


def lens_slopes(model: Model, at: dict[str, mx.array], early: mx.array, last: mx.array) -> dict[str, mx.array]:
    """Gradient of the layers' sum of KL(model || lens), mean over positions, in translators "weight" and "bias".

    early: (n, n_positions, d_model), last: (n_positions, d_model). In the logits it is the lens's distribution minus
    the model's, so no distribution is differentiated; some layers at a time, since logits of all at once are what
    takes the memory.
    """
    final = softmax(model.unembed(last).astype(mx.float32))
    step = max(1, LOGITS // final.size)
    parts = []
    for start in range(0, early.shape[0], step):
        x = early[start : start + step]

        def logits(weight: mx.array, bias: mx.array, x: mx.array = x) -> mx.array:
            return model.unembed(x + x @ weight + bias[:, None]).astype(mx.float32)

        some = [at[name][start : start + step] for name in ("weight", "bias")]
        _, slopes = mx.vjp(logits, some, [(softmax(logits(*some)) - final) / final.shape[0]])
        mx.eval(slopes)
        parts.append(slopes)
    return {
        name: mx.concatenate(list(of)) for name, of in zip(("weight", "bias"), zip(*parts, strict=True), strict=True)
    }


def positions_of(
    model: Model, prompts: Sequence[AnyPrompt], *, embedding: bool = False, massive: bool = True
) -> mx.array:
    """(n_layers, n_positions, d_model): resid_post at every token of some prompts, one after the other; no padding.

    embedding: resid_pre.0 in front, n_layers + 1 rows. massive: also the first position of a model whose activations
    are massive there without BOS (`mlx_interp.massive_activations`), which least squares would fit alone.
    """
    first = 0 if massive else int(massive_at_first(model))
    out = model.run(list(prompts), capture=["resid_post", *(["resid_pre.0"] if embedding else [])], logits="none")
    states = out.stack("resid_post")
    if embedding:
        states = mx.concatenate([out["resid_pre.0"][None], states])
    return mx.concatenate([states[:, row, first:length] for row, length in enumerate(out.lengths)], axis=1)


def kl_to_last(logits: mx.array) -> mx.array:
    """KL(last layer || layer), in nats: logits (n_layers, n, d_vocab) -> (n_layers - 1, n)."""
    log_probs = nn.log_softmax(logits.astype(mx.float32), axis=-1)
    final = mx.stop_gradient(log_probs[-1:])
    return mx.sum(mx.exp(final) * (final - log_probs[:-1]), axis=-1)


def identity_of(model: Model) -> str:
    """Name and weights of a model: what a lens remembers of the one it was trained on."""
    return f"{model.name} {model.weights_hash}".strip()
