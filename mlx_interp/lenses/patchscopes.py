"""Patchscopes: what does a hidden state say of itself, in a prompt that asks it? (Ghandeharioun et al. 2024)

1. The target prompt shows entities with descriptions and ends in a placeholder; the paper's "entity description".
2. The state of each source layer is written over the placeholder at each target layer, and the model goes on writing.
3. Token identity: the target prompt shows tokens that stand for themselves, the state of a layer replaces the
   placeholder at the same layer, and the next token is read: what the state would predict, by the model's own layers.
4. Attributes: the target prompt asks for a relation of the placeholder, and the whole answer is scored.
5. Across models, an affine map of paired states (lenses.affine) comes between, and the tokenizers must agree.
6. A text is of the first entity that it opens with; the rule is that of Biran et al. 2024 (a name, then a separator, or
   after one), or, for models that write bare names, of the first one that it mentions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlx_interp.behaviour.answers import Question, continuation, mentions, name_scores
from mlx_interp.deferred import mx
from mlx_interp.errors import DataError
from mlx_interp.interventions import Patch
from mlx_interp.model import Completion, Model
from mlx_interp.patching.back_patching import EMBEDDING, Pair, patches, states_at
from mlx_interp.prompts import AnyPrompt

PLACEHOLDER = "x"
DESCRIPTIONS = (
    "Portugal: country in southern Europe, Marie Curie: physicist and chemist, Toyota: maker of cars, " + PLACEHOLDER
)
IDENTITY = "cat -> cat; 1135 -> 1135; hello -> hello; " + PLACEHOLDER
"""Tokens that stand for themselves, whose placeholder is read."""


@dataclass(frozen=True)
class TargetPrompt:
    """A prompt with a placeholder inside it, and what stands before and after, spaces included."""

    before: str
    after: str

    @property
    def text(self) -> str:
        return f"{self.before}{PLACEHOLDER}{self.after}"

    def position(self, model: Model) -> int:
        """The placeholder's last token, counted from the start."""
        spans = model.prompt(self.text).spans
        return [i for i, (low, high) in enumerate(spans) if low <= len(self.before) < high][-1]


def patchscope(
    model: Model,
    source: AnyPrompt,
    target_prompt: str = DESCRIPTIONS,
    *,
    source_position: int = -1,
    pairs: Sequence[Pair] | None = None,
    max_tokens: int = 10,
) -> list[Completion]:
    """Patchscope: what the model writes, greedily, when a hidden state replaces the target prompt's placeholder.

    source, source_position: where the states are from. target_prompt: ends in the placeholder "x". pairs: (source
    layer, target layer), one Completion each, target -1 being what enters layer 0; by default every layer into layer 0.
    Raises DataError for a target prompt without a placeholder.
    """
    states = states_at(model, source, source_position)
    target = placeholder_position(model, target_prompt)
    chosen = [(layer, 0) for layer in range(model.n_layers)] if pairs is None else pairs
    return model.sweep_generate(target_prompt, patches(states, states, chosen, target, "raw"), max_tokens=max_tokens)


def token_identity(
    model: Model, source: AnyPrompt, source_position: int = -1, *, target_prompt: str = IDENTITY
) -> mx.array:
    """Token-identity Patchscope: next-token logits (n_layers, d_vocab), float32, that each layer's state leads to.

    A logit lens that uses the model's own later layers. Raises DataError as `patchscope`.
    """
    states = states_at(model, source, source_position)[: model.n_layers, None]
    return mx.concatenate(list(identity_readings(model, states, target_prompt)))


def all_pairs(n_layers: int, *, embedding: bool = False) -> list[Pair]:
    """Every source layer into every target layer, source by source; with `embedding`, what enters layer 0 as well."""
    layers = range(EMBEDDING if embedding else 0, n_layers)
    return [(source, target) for source in layers for target in layers]


def identity_readings(model: Model, states: mx.array, target_prompt: str = IDENTITY) -> Iterator[mx.array]:
    """Next-token logits (n, d_vocab), float32, for each layer in turn: the state replaces the last token there.

    states: (n_layers, n, d_model), of any prompts, or mapped from another model. All states of a layer are one sweep.
    Raises DataError where the target prompt does not end in a placeholder, or for states of other layers.
    """
    if states.ndim != 3 or states.shape[0] != model.n_layers:
        raise DataError(f"states must be (n_layers, n, d_model) of {model.n_layers} layers; got {states.shape}")
    position = placeholder_position(model, target_prompt)
    for layer, rows in enumerate(states):
        variants = [[Patch(f"resid_post.{layer}", row, position)] for row in rows]
        yield model.sweep(target_prompt, variants).astype(mx.float32)


def attribute_scores(
    model: Model, target: TargetPrompt, answer: str, states: mx.array, pairs: Sequence[Pair]
) -> mx.array:
    """How a state answers for the placeholder, (n_pairs, 3): the columns of `name_scores` for each pair of layers.

    states: (n_layers + 1, d_model) of the source, the embedding last (`patching.states_at`); written as they are.
    """
    prompt = model.prompt(target.text)
    asked = Question(prompt, (continuation(model, prompt, answer),))
    return name_scores(model, asked, patches(states, states, pairs, target.position(model), "raw"))


def placeholder_position(model: Model, target_prompt: str) -> int:
    """Where the placeholder is: the last token of the target prompt. Raises DataError if it is not there alone."""
    prompt = model.prompt(target_prompt)
    if not target_prompt.rstrip().endswith((PLACEHOLDER, "?")):
        raise DataError(f"the target prompt must end in the placeholder {PLACEHOLDER!r}: {target_prompt!r}")
    return len(prompt) - 1


def described(text: str, entities: Mapping[str, Sequence[str]]) -> str:
    """Which of the entities (in their order) a text describes, or "other"."""
    for entity, names in entities.items():
        if mentions(text, names):
            return entity
    return "other"
