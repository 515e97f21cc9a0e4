"""Activation addition from one pair of prompts (ActAdd; Turner et al. 2023, arXiv 2308.10248).

1. Two short texts, "Love" and "Hate", are brought to one length in tokens: the shorter is filled up with spaces.
2. Each is run behind what prompts of this model open with (BOS, the template's head); `resid_pre` of every layer is
   read at the texts' own positions, and the second is subtracted from the first, position by position.
3. A multiple of that block is added to the first positions of a prompt's own text, once, before anything is written;
   what stands before them is left alone. A prompt shorter than the block gets as much of it as there is room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.errors import DataError
from mlx_interp.interventions import Add
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.shapes import ShapesShown

SITE = "resid_pre"


@dataclass(frozen=True, eq=False, repr=False)
class PromptDifference(ShapesShown):
    """Difference of two texts' states, at every layer and position."""

    plus: str
    minus: str
    vectors: np.ndarray
    """(n_layers, n_positions, d_model), float32."""

    def added(
        self, model: Model, prompt: Prompt, layer: int, coefficient: float, vectors: np.ndarray | None = None
    ) -> Add:
        """The block of a layer, times the coefficient, at the front of a prompt's own text.

        vectors: another block of that layer, (n_positions, d_model): a control, or some dimensions only.
        """
        block = self.vectors[layer] if vectors is None else vectors
        start = front_of(model, prompt)
        n = min(len(block), len(prompt) - start)
        return Add(f"{SITE}.{layer}", mx.array(block[:n]), coefficient, list(range(start, start + n)))


def prompt_difference(model: Model, plus: str, minus: str, *, chat: bool = False) -> PromptDifference:
    """The difference of two texts, `plus` minus `minus`; with `chat`, as the opening of a user's turn.

    Raises DataError for a text without tokens, two texts that are the same, and where the tokenizer has no token for
    the space that the shorter one is filled up with.
    """
    both = [[int(t) for t in model.tokenizer.encode(text, add_special_tokens=False)] for text in (plus, minus)]
    if not all(both) or both[0] == both[1]:
        raise DataError(f"{plus!r} and {minus!r}: two texts are needed that differ in their tokens")
    longest = max(map(len, both))
    space = [int(t) for t in model.tokenizer.encode(" ", add_special_tokens=False)][-1:]
    if not space and len(both[0]) != len(both[1]):
        raise DataError(f"{plus!r} and {minus!r}: no token for a space to make them equally long; give such a pair")
    probe = model.prompt("a b", chat=chat)
    head = probe.tokens[: front_of(model, probe)]
    rows = [head + tokens + space * (longest - len(tokens)) for tokens in both]
    states = np.asarray(model.run(rows, capture=SITE, logits="none").stack(SITE).astype(mx.float32))
    return PromptDifference(plus, minus, states[:, 0, len(head) :] - states[:, 1, len(head) :])


def front_of(model: Model, prompt: Prompt) -> int:
    """Position of the first token of a prompt's own text: behind BOS and the head of the chat template."""
    tokens, special = prompt.tokens, set(getattr(model.tokenizer, "all_special_ids", ()))
    head = _template_head(model)
    if len(head) < len(tokens) and tokens[: len(head)] == head:
        return len(head)
    return next((at for at, token in enumerate(tokens) if token not in special), 0)


def some_dimensions(vectors: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A block (n_positions, d_model) with a random share of its dimensions, the others 0."""
    kept = np.random.default_rng(seed).permutation(vectors.shape[-1]) < round(share * vectors.shape[-1])
    return np.asarray(vectors * kept, np.float32)


def random_block(vectors: np.ndarray, seed: int) -> np.ndarray:
    """A random block (n_positions, d_model) that is as long as another at each position."""
    return np.asarray(random_like(vectors, seed=seed), np.float32)


def _template_head(model: Model) -> list[int]:
    """What all user turns open with; [] without a chat template."""
    if not getattr(model.tokenizer, "chat_template", None):
        return []
    one, two = (model.prompt(text, chat=True).tokens for text in ("a b", "7?"))
    return _common(one, two)


def _common(one: Sequence[int], two: Sequence[int]) -> list[int]:
    shared = 0
    while shared < min(len(one), len(two)) and one[shared] == two[shared]:
        shared += 1
    return list(one[:shared])
