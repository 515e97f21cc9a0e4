"""Function vectors: what a few heads write when a model has understood a task from examples (Todd et al. 2024).

1. Mean head outputs: z of every head at the last token, averaged over in-context prompts of a task.
2. Causal indirect effect of a head: on a prompt whose labels are corrupted, the head's z at the last token is replaced
   by its mean; the effect is what the probability of the right answer gains. All heads of a prompt are one sweep.
3. The function vector is the sum of the chosen heads' mean outputs, as they enter the residual stream: after the
   output projection, without its bias, and after the norm that Gemma 2 and 3 put behind it.
4. Added to the residual stream at one layer, at the last token, it makes the model do the task without examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import mlx.core as mx
import numpy as np

from mlx_interp.errors import DataError
from mlx_interp.interventions import Add, Intervention, Patch
from mlx_interp.methods.answers import Question, question, verdicts
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt

Pair = tuple[str, str]
Corruption = Literal["shuffled", "foreign"]
Head = tuple[int, int]
"""(layer, head)."""


@dataclass(frozen=True)
class Template:
    """How examples and the query are written; the query ends where the answer begins."""

    example: str = "Q: {input}\nA: {output}\n\n"
    query: str = "Q: {input}\nA:"

    def prompt(self, shots: Sequence[Pair], query: str) -> str:
        """The whole prompt, without a space at its end."""
        written = "".join(self.example.format(input=x, output=y) for x, y in shots)
        return written + self.query.format(input=query)


ARROW = Template("{input} -> {output}, ", "{input} ->")


@dataclass(frozen=True)
class FunctionTask:
    """A mapping of words to words, by examples.

    Raises DataError for fewer than four pairs, an input with two answers, or an empty word.
    """

    name: str
    pairs: tuple[Pair, ...]

    def __post_init__(self) -> None:
        answers: dict[str, str] = {}
        for number, (x, y) in enumerate(self.pairs, 1):
            if not x.strip() or not y.strip():
                raise DataError(f"task {self.name!r}: pair {number} has an empty word: {x!r}, {y!r}")
            if answers.setdefault(x, y) != y:
                raise DataError(f"task {self.name!r}: {x!r} has two answers, {answers[x]!r} and {y!r}; keep one")
        if len(answers) < 4:
            raise DataError(f"task {self.name!r} has {len(answers)} different pairs; four or more are needed")
        if len(answers) < len(self.pairs):
            object.__setattr__(self, "pairs", tuple(answers.items()))

    def split(self, seed: int) -> tuple[FunctionTask, FunctionTask]:
        """Two halves of the pairs: heads and means come from the first, figures from the second."""
        order = np.random.default_rng(seed).permutation(len(self.pairs))
        halves = [tuple(self.pairs[i] for i in sorted(part)) for part in np.array_split(order, 2)]
        return _part(self, halves[0]), _part(self, halves[1])


@dataclass(frozen=True)
class Examples:
    """An in-context prompt with its right answer."""

    task: str
    text: str
    query: str
    answer: str


def in_context(
    task: FunctionTask, query: Pair, shots: Sequence[Pair], n_shots: int, template: Template, rng: np.random.Generator
) -> Examples:
    """A query behind `n_shots` examples of the task, drawn without replacement; never the query's own pair.

    Raises DataError where there are too few.
    """
    others = [pair for pair in shots if pair[0] != query[0]]
    if len(others) < n_shots:
        raise DataError(f"task {task.name!r}: {n_shots} examples are asked for, {len(others)} other pairs are there")
    chosen = [others[i] for i in rng.permutation(len(others))[:n_shots]]
    return Examples(task.name, template.prompt(chosen, query[0]), *query)


def corrupted(
    task: FunctionTask,
    query: Pair,
    shots: Sequence[Pair],
    n_shots: int,
    template: Template,
    rng: np.random.Generator,
    how: Corruption = "shuffled",
    foreign: Sequence[str] = (),
) -> Examples:
    """The same with labels that do not belong to their inputs.

    how: "shuffled" permutes the examples' own labels (the paper's way); "foreign" draws them from `foreign`, labels of
    other tasks, for models that recognise a task by its labels alone. Raises DataError where there are none of those.
    """
    if how == "foreign" and not foreign:
        raise DataError(f"task {task.name!r}: labels of other tasks are asked for, and there is no other task")
    others = [pair for pair in shots if pair[0] != query[0]]
    chosen = [others[i] for i in rng.permutation(len(others))[:n_shots]]
    if how == "shuffled":
        labels = [chosen[i][1] for i in rng.permutation(len(chosen))]
    else:
        labels = [foreign[i] for i in rng.integers(0, len(foreign), len(chosen))]
    wrong = [(x, label) for (x, _), label in zip(chosen, labels, strict=True)]
    return Examples(task.name, template.prompt(wrong, query[0]), *query)


def first_tokens_shared(model: Model, task: FunctionTask, template: Template) -> float:
    """Share of a task's answers whose first token is that of another answer: scoring by first token cannot tell them
    apart. Answers are tokenised as they follow a query."""
    firsts = [question(model, template.query.format(input=x), [y]).first_tokens[0] for x, y in task.pairs]
    answers = {y: first for (_, y), first in zip(task.pairs, firsts, strict=True)}
    return 1 - len(set(answers.values())) / len(answers)


@dataclass(frozen=True, eq=False)
class HeadMeans:
    """What each head writes on average at the last token of a task's in-context prompts, float32."""

    z: mx.array
    """(n_layers, n_heads, d_head), the input of the output projection."""
    written: mx.array
    """(n_layers, n_heads, d_model), its share of what enters the residual stream."""
    resid_post: mx.array
    """(n_layers, d_model): the whole stream, for the layer-level forms."""
    n: int


def head_means(model: Model, prompts: Sequence[AnyPrompt]) -> HeadMeans:
    """Means over prompts, in float32, a batch at a time."""
    if not prompts:
        raise DataError("means need at least one prompt")
    totals: list[np.ndarray] = []
    n = 0
    for out in model.batches(prompts, capture=["z", "head_out", "attn_out", "resid_post"], logits="none"):
        last = mx.array([length - 1 for length in out.lengths])
        rows = mx.arange(len(out.lengths))
        z, heads, attn, stream = (
            out.stack(name)[:, rows, last].astype(mx.float32) for name in ("z", "head_out", "attn_out", "resid_post")
        )
        parts = [np.asarray(x).astype(np.float64).sum(axis=1) for x in (z, _as_written(model, heads, attn), stream)]
        totals = parts if not totals else [a + b for a, b in zip(totals, parts, strict=True)]
        n += len(out.lengths)
    z, written, stream = (mx.array((total / n).astype(np.float32)) for total in totals)
    return HeadMeans(z, written, stream, n)


def indirect_effects(model: Model, prompt: Question, means: HeadMeans) -> np.ndarray:
    """(n_layers, n_heads): what each head's mean adds to the probability of the right first token, on one prompt."""
    heads = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    variants: list[list[Intervention]] = [[]]
    variants += [[Patch(f"z.{layer}", means.z[layer, head], positions=-1, heads=head)] for layer, head in heads]
    found = np.asarray(model.sweep(prompt.prompt, variants, metric=answer_probability(prompt.first_tokens)))
    return np.asarray((found[1:] - found[0]).reshape(model.n_layers, model.n_heads))


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


def summed(means: HeadMeans, heads: Sequence[Head]) -> mx.array:
    """(d_model,): the function vector of some heads."""
    return mx.sum(mx.stack([means.written[layer, head] for layer, head in heads]), axis=0)


@dataclass(frozen=True, eq=False)
class FunctionVector:
    """A function vector and how it came about."""

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

    def added(self, scale: float = 1.0) -> Add:
        """At the last token of the prompt, once."""
        return Add(f"resid_post.{self.layer}", self.vector, scale, -1)


def function_vector(
    model: Model,
    task: FunctionTask,
    *,
    n_heads: int = 10,
    n_shots: int = 10,
    n_prompts: int = 25,
    layer: int | None = None,
    template: Template = Template(),
    corruption: Corruption = "shuffled",
    foreign: Sequence[str] = (),
    seed: int = 0,
) -> FunctionVector:
    """A task's function vector, from heads that are chosen on the same task, with null baselines.

    layer: where it will be added; by default a third of the depth. Raises DataError for a task with too few pairs, or
    one of which the model answers none with examples: there is nothing to extract then.
    """
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
    effects = np.zeros((model.n_layers, model.n_heads))
    for pair in queries:
        one = corrupted(task, pair, task.pairs, n_shots, template, rng, corruption, foreign)
        effects += indirect_effects(model, question(model, one.text, [one.answer]), means) / n_prompts
    heads = top_heads(effects, n_heads)
    vector = summed(means, heads)
    at = round(model.n_layers / 3) if layer is None else layer
    noise = mx.array(rng.normal(size=model.d_model).astype(np.float32))
    nulls = {
        "random heads": summed(means, random_heads(effects.shape, n_heads, heads, rng)),
        "random vector": noise * (mx.linalg.norm(vector) / mx.linalg.norm(noise)),
        "layer mean": means.resid_post[at],
    }
    return FunctionVector(task.name, vector, tuple(heads), effects, at, nulls)


def _as_written(model: Model, heads: mx.array, attn: mx.array) -> mx.array:
    """Each head's share (layer, row, head, d_model) as it enters the stream.

    A norm behind attention multiplies each channel by one factor for the whole row: what it made of the sum.
    """
    family = model.network.family
    if family.norms.after_attn is not None:
        whole = heads.sum(axis=2)
        factor = mx.where(whole == 0, 0.0, attn / mx.where(whole == 0, 1.0, whole))
        return heads * factor[:, :, None]
    scale = getattr(model.network.args, family.residual_scale) if family.residual_scale else 1.0
    return heads * scale


def _part(task: FunctionTask, pairs: tuple[Pair, ...]) -> FunctionTask:
    return replace(task, pairs=pairs)
