"""Options of the study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments.shared.two_hop.data import TwoHopConfig
from experiments.shared.two_hop.queries import Place
from mlx_interp.lenses.patchscopes import DESCRIPTIONS

Part = Literal["back_patching", "cross_patching", "patchscopes", "knockout", "projection", "stages", "truth"]
PARTS: tuple[Part, ...] = (
    *("back_patching", "cross_patching", "patchscopes", "knockout", "projection", "stages", "truth"),
)


@dataclass(frozen=True)
class PatchingConfig(TwoHopConfig):
    """Fields of the study."""

    parts: tuple[Part, ...] = PARTS
    """Parts of the study to run; stages includes the three that it is computed from."""
    positions: tuple[Place, ...] = ("bridge", "last")
    """Positions to back-patch: bridge (t1, last token of e1's mention), last (t2, last token of the prompt)."""
    max_failures: int = 40
    """Number of failures of each family to patch, the first in the data's order."""
    all_failures: int = 240
    """Number of failures to patch in all, evenly from the families."""
    max_correct: int = 10
    """Number of correct queries of each family to patch, to see what patching breaks."""
    all_correct: int = 60
    """Number of correct queries to patch in all."""
    max_described: int = 8
    """Number of failures, and of correct queries, of each family in patchscopes, knockout, projection and stages."""
    all_described: int = 48
    """The same in all."""
    decode: Literal["chosen", "all"] = "chosen"
    """Text criterion: decode the cells that the other half chooses and the diagonal band, or every cell of the grid."""
    described_step: int = 0
    """Patchscopes: every n-th layer as target; 1: all, as in the paper; 0: as many as give about ten."""
    lens_k: int = 10
    """Logit lens: a name counts as visible when it is among the top k."""
    target_prompt: str = DESCRIPTIONS
    """Patchscopes: target prompt of entity descriptions; its last token, the placeholder, is patched."""
    samples: int = 3
    """Patchscopes: number of sampled texts of each cell (source layer, target layer)."""
    temperature: float = 0.6
    """Patchscopes: sampling temperature."""
    new_tokens: int = 10
    """Number of tokens generated for each text."""
    knockout_reach: int = -1
    """Attention knockout: layers on either side of the window's centre; -1: the paper's 3 of 32, in proportion."""
