"""Patchscopes: what does a hidden state say of itself, in a prompt that asks it? (Ghandeharioun et al. 2024)

1. The target prompt shows entities with descriptions and ends in a placeholder; the paper's "entity description".
2. The state of each source layer is written over the placeholder at each target layer, and the model goes on writing.
3. A text is of the first entity that it opens with; the rule is that of Biran et al. 2024 (a name, then a separator, or
   after one), or, for models that write bare names, of the first one that it mentions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlx_interp.errors import DataError
from mlx_interp.methods.answers import mentions
from mlx_interp.methods.patching import Pair
from mlx_interp.model import Model

PLACEHOLDER = "x"
DESCRIPTIONS = (
    "Portugal: country in southern Europe, Marie Curie: physicist and chemist, Toyota: maker of cars, " + PLACEHOLDER
)


def all_pairs(n_layers: int) -> list[Pair]:
    """Every source layer into every target layer, source by source."""
    return [(source, target) for source in range(n_layers) for target in range(n_layers)]


def placeholder_position(model: Model, target_prompt: str) -> int:
    """Where the placeholder is: the last token of the target prompt. Raises DataError if it is not there alone."""
    prompt = model.prompt(target_prompt)
    if not target_prompt.rstrip().endswith(PLACEHOLDER):
        raise DataError(f"the target prompt must end in the placeholder {PLACEHOLDER!r}: {target_prompt!r}")
    return len(prompt) - 1


def described(text: str, entities: Mapping[str, Sequence[str]]) -> str:
    """Which of the entities (in their order) a text describes, or "other"."""
    for entity, names in entities.items():
        if mentions(text, names):
            return entity
    return "other"
