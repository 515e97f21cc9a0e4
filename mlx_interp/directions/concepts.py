"""Concept vectors: what a model's states have when a word is spoken of, and not when others are.

The state at the last token of "Tell me about the ocean." less the mean of those of the other words in the same
sentence, as Lindsey (2025, transformer-circuits.pub/2025/introspection; 2601.01828) makes the vectors that are then
injected. Cost: one forward pass for each word, in batches that fit the memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_interp.directions.states import states_of
from mlx_interp.errors import DataError
from mlx_interp.model import Model

FRAME = "Tell me about {}."


def concept_vectors(
    model: Model, words: Sequence[str], site: str, *, frame: str = FRAME, chat: bool | None = None
) -> dict[str, np.ndarray]:
    """Concept vectors (d_model,) at one residual site, by word: its state less the mean of the other words' states.

    frame: the sentence, with {} where the word goes. chat: as a user's turn; None: where the model has a chat template.
    Raises DataError for fewer than four words, words given twice or a frame without a place for them, SiteError.
    """
    if len(words) < 4 or len(set(words)) < len(words):
        raise DataError(f"{len(words)} words, {len(set(words))} of them different: give four or more, each once")
    if "{}" not in frame:
        raise DataError(f"the sentence {frame!r} has no {{}} where the word goes")
    turns = bool(getattr(model.tokenizer, "chat_template", None)) if chat is None else chat
    states = states_of(model, [model.prompt(frame.format(word), chat=turns) for word in words], site)
    others = (states.sum(axis=0) - states) / (len(words) - 1)
    return dict(zip(words, states - others, strict=True))
