"""Options of the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments.shared.two_hop.queries import Place, TwoHopConfig
from mlx_interp.lenses.patchscopes import DESCRIPTIONS

Part = Literal["back_patching", "cross_patching", "patchscopes", "knockout", "projection", "stages", "truth"]
PARTS: tuple[Part, ...] = (
    *("back_patching", "cross_patching", "patchscopes", "knockout", "projection", "stages", "truth"),
)


@dataclass(frozen=True)
class PatchingConfig(TwoHopConfig):
    """Fields of the study."""

    parts: tuple[Part, ...] = PARTS
    """Which parts of the study to run; stages brings the three that it is read from."""
    positions: tuple[Place, ...] = ("bridge", "last")
    """Where to back-patch: end of the first hop's phrase, end of the prompt."""
    max_failures: int = 40
    """Failures of each family that are patched, the first in the data's order."""
    max_correct: int = 10
    """Correct queries of each family that are patched, to see what patching breaks."""
    max_described: int = 8
    """Failures, and as many correct queries, of each family in patchscopes, knockout, projection and stages."""
    lens_k: int = 10
    """The logit lens counts a name as visible when it is among the top k."""
    target_prompt: str = DESCRIPTIONS
    """Patchscopes: descriptions to be continued; its last token is replaced."""
    samples: int = 3
    """Patchscopes: texts of each cell."""
    temperature: float = 0.6
    """Patchscopes: of the sampling."""
    new_tokens: int = 10
    """Tokens of every text."""
    knockout_reach: int = -1
    """Layers to either side that a knockout covers; -1: the paper's 3 of 32, in proportion."""
