"""Massive activations at the first position: the token that attention rests on, whose states are like no others.

Most trained models have them: at BOS where prompts begin with one, else at whatever token comes first (SmolLM2: a norm
of 22,600 beside 200). What is fitted to states of many positions, an autoencoder or a map by least squares, is fitted
to that one alone, unless it is left out. Sun et al. 2024, "Massive Activations in Large Language Models"; Xiao et al.
2024 for the attention sinks that go with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from mlx_interp.deferred import mx

if TYPE_CHECKING:
    from mlx_interp.model import Model
    from mlx_interp.prompts import Prompt

MASSIVE = 10.0
"""Times the median norm of other positions."""
PROBE, TEXTS = 24, 4
"""Tokens of a probe, and how many there are."""

_known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def first_position(model: Model, prompt: Prompt) -> int:
    """1 for a prompt whose first position is of another kind than all others: BOS, or where the model's activations are
    massive at any first token; else 0."""
    if len(prompt.tokens) < 2:
        return 0
    return int(prompt.tokens[0] == getattr(model.tokenizer, "bos_token_id", None) or massive_at_first(model))


def massive_at_first(model: Model) -> bool:
    """Whether states of a first token that is no BOS are massive, by some probes of random tokens; remembered.

    That is: at some layer's output the median of their norms is more than `MASSIVE` times that of all other positions.
    """
    if model not in _known:
        bos = getattr(model.tokenizer, "bos_token_id", None)
        tokens = np.random.default_rng(0).integers(0, model.d_vocab, (TEXTS, PROBE))
        tokens[tokens == bos] = (int(bos) + 1) % model.d_vocab if bos is not None else 0
        states = model.run(tokens.tolist(), capture="resid_post", logits="none").stack("resid_post")
        norms = np.asarray(mx.linalg.norm(states.astype(mx.float32), axis=-1))  # (layer, text, position)
        others = np.median(norms[:, :, 1:], axis=(1, 2))
        _known[model] = bool((np.median(norms[:, :, 0], axis=1) > MASSIVE * others).any())
    return _known[model]
