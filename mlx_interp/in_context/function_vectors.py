"""Function vectors: what a few heads write when a model has understood a task from examples (Todd et al. 2024).

1. Mean head outputs: z of every head at the last token, averaged over in-context prompts of a task.
2. Causal indirect effect of a head: on a prompt whose labels are corrupted, the head's z at the last token is replaced
   by its mean; the effect is what the probability of the right answer gains. All heads of a prompt are one sweep.
3. The function vector is the sum of the chosen heads' mean outputs, as they enter the residual stream: after the
   output projection, without its bias, and after the norm that Gemma 2 and 3 put behind it.
4. Added to the residual stream at one layer, at the last token, it makes the model do the task without examples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_interp.behaviour.answers import Question, question, verdicts
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx, rich
from mlx_interp.errors import DataError
from mlx_interp.in_context.demonstrations import (
    QUESTIONS,
    Corruption,
    FunctionTask,
    Template,
    corrupted,
    in_context,
    warn_of,
)
from mlx_interp.interventions import Add, Intervention, Patch
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt
from mlx_interp.reporting.records import open_records
from mlx_interp.shapes import ShapesShown

Head = tuple[int, int]
"""(layer, head)."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadMeans(ShapesShown):
    """Mean outputs of all heads at the last token of a task's in-context prompts, float32."""

    z: mx.array
    """(n_layers, n_heads, d_head), the input of the output projection."""
    written: mx.array
    """(n_layers, n_heads, d_model), its share of what enters the residual stream."""
    resid_post: mx.array
    """(n_layers, d_model): the whole stream, for the layer-level forms."""
    n: int


def head_means(model: Model, prompts: Sequence[AnyPrompt]) -> HeadMeans:
    """Means over prompts at their last token, in float32, a batch at a time.

    Heads' shares are made from z at the last token alone: at all positions they would take n_heads times the memory of
    everything else.
    """
    if not prompts:
        raise DataError("means need at least one prompt")
    totals: list[np.ndarray] = []
    n = 0
    for out in model.batches(prompts, capture=["z", "attn_out", "resid_post"], logits="none"):
        last = mx.array([length - 1 for length in out.lengths])
        rows = mx.arange(len(out.lengths))
        z, attn, stream = (out.stack(name)[:, rows, last] for name in ("z", "attn_out", "resid_post"))
        heads = mx.stack([model.network.head_out(n, z[n].astype(model.network.dtype)) for n in range(model.n_layers)])
        written = as_written(model, heads.astype(mx.float32), attn.astype(mx.float32))
        parts = [np.asarray(x.astype(mx.float32)).astype(np.float64).sum(axis=1) for x in (z, written, stream)]
        totals = parts if not totals else [a + b for a, b in zip(totals, parts, strict=True)]
        n += len(out.lengths)
    z, written, stream = (mx.array((total / n).astype(np.float32)) for total in totals)
    return HeadMeans(z, written, stream, n)


def mean_z(model: Model, prompts: Sequence[AnyPrompt], positions: Sequence[Sequence[int]]) -> mx.array:
    """(n_layers, n_heads, d_head), float32: z averaged over some positions of each prompt, then over prompts.

    positions: those of each prompt, at least one: tokens of one word, say, count together as one.
    """
    total: np.ndarray | float = 0.0
    done = 0
    for out in model.batches(prompts, capture="z", logits="none"):
        z = out.stack("z").astype(mx.float32)
        for row in range(len(out.lengths)):
            mean = z[:, row, mx.array(list(positions[done]))].mean(axis=1)
            total = total + np.asarray(mean).astype(np.float64)
            done += 1
    return mx.array((total / done).astype(np.float32))  # type: ignore[union-attr]


def indirect_effects(
    model: Model, prompt: Question, z: HeadMeans | mx.array, positions: Sequence[int] = (-1,)
) -> np.ndarray:
    """Causal indirect effects (n_layers, n_heads): what each head's mean adds to the right first token's probability.

    z: means, or their z alone, (n_layers, n_heads, d_head). positions: where it stands in for the head's own output.
    Memory is bounded by the sweep's batches.
    """
    metric = answer_probability(prompt.first_tokens)
    return _gains(model, np.asarray(model.sweep(prompt.prompt, _means_of_heads(model, z, positions), metric=metric)))


def indirect_effects_of(model: Model, prompts: Sequence[Question], z: HeadMeans | mx.array) -> np.ndarray:
    """Indirect effects (n_prompts, n_layers, n_heads) on several prompts, at the last token: those of each, for less.

    Short prompts of a small model, and prompts that begin alike, are swept together.
    """
    metrics = [answer_probability(prompt.first_tokens) for prompt in prompts]
    asked = [prompt.prompt for prompt in prompts]
    found = np.asarray(model.sweep_prompts(asked, _means_of_heads(model, z, (-1,)), metric=metrics))
    return np.stack([_gains(model, row) for row in found])


def _means_of_heads(model: Model, z: HeadMeans | mx.array, positions: Sequence[int]) -> list[list[Intervention]]:
    """Nothing, and then each head's mean in place of its own output."""
    means, where = z.z if isinstance(z, HeadMeans) else z, list(positions)
    variants: list[list[Intervention]] = [[]]
    for layer in range(model.n_layers):
        for head in range(model.n_heads):
            value = mx.broadcast_to(means[layer, head], (len(where), model.d_v))
            variants.append([Patch(f"z.{layer}", value, positions=where, heads=head)])
    return variants


def _gains(model: Model, found: np.ndarray) -> np.ndarray:
    """(n_layers, n_heads) from the clean probability and those under each head's mean."""
    return np.asarray((found[1:] - found[0]).reshape(model.n_layers, model.n_heads))


def average_effects(
    model: Model, prompts: Sequence[Question], means: HeadMeans, *, save: Path | None = None, progress: bool = False
) -> np.ndarray:
    """(n_layers, n_heads): indirect effects, averaged over prompts.

    save: a .jsonl file to which each prompt's effects are added as they are found. The same call after an interruption
    measures only what is missing: a prompt counts as done by model, weights, prompt, answer and means, so that a file
    of anything else is never taken for this. progress: a bar over prompts.
    """
    file = open_records(save) if save is not None else None
    of_means = hashlib.sha256(np.ascontiguousarray(np.asarray(means.z)).tobytes()).hexdigest()
    known = {r["item"]: r["effects"] for r in file.records("effects")} if file is not None and save.exists() else {}  # type: ignore[union-attr]
    total = np.zeros((model.n_layers, model.n_heads))
    for asked in rich.progress.track(prompts, f"{model.name}: indirect effects", disable=not progress):
        said = (model.name, model.weights_hash, asked.prompt.tokens, asked.names, of_means)
        key = hashlib.sha256(repr(said).encode()).hexdigest()
        if key not in known:
            known[key] = indirect_effects(model, asked, means).tolist()
            if file is not None:
                file.append("effects", key, [{"stage": "effects", "item": key, "effects": known[key]}])
        total += np.array(known[key])
    return total / len(prompts)


def answer_probability(tokens: Sequence[int]) -> Callable[[mx.array], mx.array]:
    """A metric: logits (n, d_vocab) -> (n,), the probability of the best of the tokens."""
    chosen = mx.array(list(tokens))
    return lambda logits: mx.max(mx.softmax(logits.astype(mx.float32), axis=-1)[..., chosen], axis=-1)


def top_heads(effects: np.ndarray, k: int) -> list[Head]:
    """The k heads of the largest effect, (n_layers, n_heads); ties go to the lower layer."""
    order = np.argsort(-effects.reshape(-1), kind="stable")[:k]
    return [(int(i) // effects.shape[1], int(i) % effects.shape[1]) for i in order]


def random_heads(shape: tuple[int, ...], k: int, without: Sequence[Head], rng: np.random.Generator) -> list[Head]:
    """k other heads, drawn evenly: the control."""
    layers, heads = shape[:2]
    others = [(layer, head) for layer in range(layers) for head in range(heads) if (layer, head) not in set(without)]
    return [others[i] for i in sorted(rng.permutation(len(others))[:k])]


def heads_at(model: Model, prompt: AnyPrompt, positions: Sequence[int] = (-1,)) -> mx.array:
    """(n_layers, n_positions, n_heads, d_head), float32: z of every head at some positions of one prompt."""
    out = model.run(prompt, capture="z", logits="none")
    at = mx.array([p % out.lengths[0] for p in positions])
    return out.stack("z")[:, 0, at].astype(mx.float32)


def interchanged(z: mx.array, heads: Sequence[Head], positions: Sequence[int] = (-1,)) -> list[Intervention]:
    """Interchange ablation: some heads say at some positions what they said on another prompt (Chan et al. 2022).

    What both prompts have in common stays: from a prompt with the same query and other examples, only what the heads
    say about the examples is lost, whereas a mean over queries takes away what they say about the query as well.
    z: (n_layers, n_positions, n_heads, d_head) of the other prompt (`heads_at`), at the positions that correspond.
    """
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    return [
        Patch(f"z.{layer}", z[layer][:, mx.array(chosen)], positions=list(positions), heads=chosen)
        for layer, chosen in sorted(by_layer.items())
    ]


def summed(means: HeadMeans, heads: Sequence[Head]) -> mx.array:
    """(d_model,): the function vector of some heads."""
    return mx.sum(mx.stack([means.written[layer, head] for layer, head in heads]), axis=0)


@dataclass(frozen=True, eq=False, repr=False)
class FunctionVector(ShapesShown):
    """A function vector with its heads, their effects and its null baselines."""

    task: str
    vector: mx.array
    """(d_model,), float32."""
    heads: tuple[Head, ...]
    effects: np.ndarray
    """(n_layers, n_heads): average indirect effects."""
    layer: int
    """Where it is added: the output of this block, a third of the depth unless told."""
    nulls: dict[str, mx.array]
    """Vectors of the same use that are not the task's: "random heads", "random vector", "layer mean"."""

    @property
    def site(self) -> str:
        return f"resid_post.{self.layer}"

    def interventions(self) -> list[Intervention]:
        """What it does where interventions are listed: `added` at scale 1."""
        return [self.added()]

    def added(self, scale: float = 1.0) -> Add:
        """At the last token of the prompt, once."""
        return Add(self.site, self.vector, scale, -1)


def function_vector(
    model: Model,
    task: FunctionTask,
    *,
    n_heads: int = 10,
    n_shots: int = 10,
    n_prompts: int = 25,
    layer: int | None = None,
    template: Template = QUESTIONS,
    corruption: Corruption = "shuffled",
    foreign: Sequence[str] = (),
    seed: int = 0,
    save: Path | None = None,
    progress: bool = False,
) -> FunctionVector:
    """A task's function vector, from heads that are chosen on the same task, with null baselines.

    layer: where it will be added; by default a third of the depth. save, progress: as in `average_effects`. Warns
    where the tokenizer splits or merges the separator, or where answers begin alike. Raises DataError for a task with
    fewer pairs than examples, or one of which the model answers none with examples: there is nothing to extract then.
    """
    warn_of(model, task, template)
    rng = np.random.default_rng(seed)
    queries = [task.pairs[i % len(task.pairs)] for i in range(n_prompts)]
    prompts = [in_context(task, pair, task.pairs, n_shots, template, rng) for pair in queries]
    asked = [question(model, one.text, [one.answer]) for one in prompts]
    solved = [item for item, found in zip(asked, verdicts(model, asked), strict=True) if found.first_token]
    if not solved:
        raise DataError(
            f"task {task.name!r}: {model.name} answers none of {n_prompts} prompts with {n_shots} examples, so that "
            "there is no function to extract; give more examples or another template"
        )
    means = head_means(model, [item.prompt for item in solved])
    wrong = [corrupted(task, pair, task.pairs, n_shots, template, rng, corruption, foreign) for pair in queries]
    broken = [question(model, one.text, [one.answer]) for one in wrong]
    effects = average_effects(model, broken, means, save=save, progress=progress)
    heads = top_heads(effects, n_heads)
    vector = summed(means, heads)
    at = round(model.n_layers / 3) if layer is None else layer
    random = random_like(vector, seed=rng)
    nulls = {
        "random heads": summed(means, random_heads(effects.shape, n_heads, heads, rng)),
        "random vector": random,
        "layer mean": means.resid_post[at],
    }
    return FunctionVector(task.name, vector, tuple(heads), effects, at, nulls)


def as_written(model: Model, heads: mx.array, attn: mx.array) -> mx.array:
    """Each head's share (layer, row, head, d_model) as it enters the stream.

    A norm behind attention multiplies each channel by one factor for the whole row: what it made of the sum, of which a
    bias of the output projection is a part that no head has written.
    """
    family = model.network.family
    if family.norms.after_attn is not None:
        sums = heads.sum(axis=2)
        whole = mx.stack([model.network.with_attn_bias(layer, sums[layer]) for layer in range(model.n_layers)])
        factor = mx.where(whole == 0, 0.0, attn / mx.where(whole == 0, 1.0, whole))
        return heads * factor[:, :, None]
    scale = getattr(model.network.args, family.residual_scale) if family.residual_scale else 1.0
    return heads * scale
