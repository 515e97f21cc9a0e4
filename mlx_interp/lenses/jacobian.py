"""Jacobian lens: a layer's state carried to the last layer by the mean Jacobian between them (Gurnee et al. 2026).

1. For each output dimension of the last layer's stream, its slope by the stream after every other layer: one product of
   a vector with the Jacobian, for all layers at once, and for many dimensions together.
2. The slope of all valid target positions together, at a source position, is a sum over targets from there on; the mean
   over valid source positions, then over prompts, is a row of the layer's matrix J.
3. The lens reads unembed(norm(J h)). It is a `TunedLens` that nothing was trained for: `tuned_lens`, its measures,
   `save` and `load_lens` take it as they take any other.

Gurnee et al. (2026), transformer-circuits.pub/2026/workspace. The definition is that of the published code (package
jlens), read there and not in the text: sums over targets, mean over sources; the first positions, which attention
takes for sinks, and the last one are left out. Ours differs in what it makes cheaper: `per_prompt` spreads the
dimensions over the prompts, so that each row is a mean over fewer of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_interp.deferred import mx
from mlx_interp.engine.cost import Cost
from mlx_interp.engine.forward import Pass, forward
from mlx_interp.engine.memory import bytes_per_position, default_budget
from mlx_interp.engine.plan import EditPlan
from mlx_interp.engine.sweep import Progress
from mlx_interp.errors import DataError
from mlx_interp.lenses.tuned import TunedLens, identity_of
from mlx_interp.model import Model
from mlx_interp.progress import reported
from mlx_interp.prompts import AnyPrompt, Prompt
from mlx_interp.sites import Site

SKIPPED = 16
"""First positions that are left out, as in the published code."""


def jacobian_lens(
    model: Model,
    prompts: Sequence[AnyPrompt],
    *,
    skip: int = SKIPPED,
    per_prompt: int | None = None,
    memory: int | None = None,
    progress: Progress | bool = False,
) -> TunedLens:
    """The Jacobian lens of every layer but the last, from prompts of more than skip + 1 tokens.

    skip: first positions that are left out. per_prompt: output dimensions that each prompt is asked for, the next ones
    in turn; None for all. memory: bytes that products computed together may take. progress: counts products.
    Raises DataError for no prompts, one too short, or too few of them to cover all dimensions.
    """
    asked = _checked(model, prompts, skip, per_prompt)
    rows = mx.zeros((model.n_layers - 1, model.d_model, model.d_model))  # layer, output, input
    counts = mx.zeros((model.d_model,))
    with reported(progress, sum(one.n for one in asked), "products") as report:
        done = 0
        for one in asked:
            step = _together(model, len(one.prompt), memory)
            for first in range(0, one.n, step):
                dims = (mx.arange(first, min(first + step, one.n)) + one.first) % model.d_model
                rows[:, dims] = rows[:, dims] + _products(model, one.prompt, dims, skip)
                counts[dims] = counts[dims] + 1
                mx.eval(rows, counts)
                done += len(dims)
                if report is not None:
                    report(done, sum(one.n for one in asked))
    mean = rows / counts[None, :, None]
    weight = mean.swapaxes(1, 2) - mx.eye(model.d_model)
    return TunedLens(weight, mx.zeros((model.n_layers - 1, model.d_model)), identity_of(model))


def jacobian_cost(
    model: Model,
    prompts: Sequence[AnyPrompt],
    *,
    skip: int = SKIPPED,
    per_prompt: int | None = None,
    memory: int | None = None,
) -> Cost:
    """What `jacobian_lens` costs, in operations and forward passes over the mean prompt; nothing is computed.

    A product is counted as one forward pass, and each batch of them as one more. Raises as `jacobian_lens`.
    """
    asked = _checked(model, prompts, skip, per_prompt)
    passes = flops = 0.0
    largest = 0
    for one in asked:
        length = len(one.prompt)
        step = _together(model, length, memory)
        own = one.n + -(-one.n // step)
        plain = model.cost(one.prompt, [[]])
        passes += own
        flops += own * plain.flops / plain.forward_passes
        largest = max(largest, step * _bytes(model, length))
    return Cost(flops, passes, largest + 8 * (model.n_layers - 1) * model.d_model**2)


@dataclass(frozen=True)
class _Asked:
    """A prompt, and which output dimensions it is asked for: n of them from the first on, round the end."""

    prompt: Prompt
    first: int
    n: int


def _checked(model: Model, prompts: Sequence[AnyPrompt], skip: int, per_prompt: int | None) -> list[_Asked]:
    chosen = model.prompts(prompts) if len(prompts) else []
    if not chosen or model.n_layers < 2:
        raise DataError(f"a Jacobian lens needs prompts and two layers; got {len(chosen)} and {model.n_layers}")
    if skip < 0 or (short := [one for one in chosen if len(one) < skip + 2]):
        found = f"{len(short[0])} tokens in {short[0].text!r}" if skip >= 0 else "a negative number"
        raise DataError(f"skip={skip} leaves nothing: {found}; prompts need skip + 2 tokens, the last one is left out")
    n = model.d_model if per_prompt is None else per_prompt
    if not 1 <= n <= model.d_model or n * len(chosen) < model.d_model:
        raise DataError(
            f"per_prompt={per_prompt} on {len(chosen)} prompts: {model.name} has {model.d_model} output dimensions, "
            f"give 1 to {model.d_model} a prompt and {-(-model.d_model // max(n, 1))} prompts or more"
        )
    return [_Asked(prompt, at * n % model.d_model, n) for at, prompt in enumerate(chosen)]


def _products(model: Model, prompt: Prompt, dims: mx.array, skip: int) -> mx.array:
    """Rows of every layer's Jacobian on one prompt: (n_layers - 1, dim, d_model), float32."""
    length, directions = len(prompt), mx.eye(model.d_model)[dims]
    valid = ((mx.arange(length) >= skip) & (mx.arange(length) < length - 1))[:, None]

    def back(rows: mx.array) -> mx.array:
        """Rows of directions (row, d_model) -> (layer, row, d_model)."""
        slopes = _slopes(model, prompt, valid * rows[:, None])
        return mx.stack([(slope * valid).sum(1) / valid.sum() for slope in slopes])

    if model.network.family.experts is not None:  # MLX maps no product with gathered matrices
        return back(directions)
    found: mx.array = mx.vmap(back, out_axes=1)(directions[:, None])  # one forward pass serves all
    return found[:, :, 0]


def _slopes(model: Model, prompt: Prompt, at_target: mx.array) -> list[mx.array]:
    """Vectors at the last layer's stream (row, pos, d_model) times its Jacobians: one array like them a lower layer."""
    sources = [Site("resid_post", layer) for layer in range(model.n_layers - 1)]
    target, n_rows = Site("resid_post", model.n_layers - 1), at_target.shape[0]

    def end(*probes: mx.array) -> mx.array:
        added = dict(zip(sources, probes, strict=True))
        run = Pass(model.network, EditPlan(), [len(prompt)] * n_rows, frozenset([target]), probes=added)
        forward(run, mx.array([prompt.tokens] * n_rows), "none")
        return run.captured[target].astype(mx.float32)

    _, slopes = mx.vjp(end, [mx.zeros(at_target.shape) for _ in sources], [at_target])
    return list(slopes)


def _bytes(model: Model, length: int) -> int:
    """Bytes of one product: its slopes at all layers, and the widest layer's intermediate results."""
    return length * (2 * bytes_per_position(model.network) + 8 * model.n_layers * model.d_model)


def _together(model: Model, length: int, memory: int | None) -> int:
    """How many products are computed at once."""
    return max(1, min(64, (memory or default_budget()) // _bytes(model, length)))


def read_through(lens: TunedLens) -> Iterator[mx.array]:
    """Each layer's J of a lens (d_model, d_model): output, input."""
    yield from (one.T + mx.eye(one.shape[0]) for one in lens.weight)
