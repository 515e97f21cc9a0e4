"""Which queries each part of the study looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from experiments.exp9_back_patching import (
    truth,
)
from experiments.harness.experiment import Records
from experiments.shared.two_hop.queries import (
    Case,
    Place,
    TwoHopConfig,
    cases,
    is_embedded,
    queries,
)
from mlx_interp.lenses.patchscopes import DESCRIPTIONS
from mlx_interp.model import Model

Part = Literal["back_patching", "cross_patching", "patchscopes", "knockout", "projection", "stages", "truth"]
PARTS: tuple[Part, ...] = (
    *("back_patching", "cross_patching", "patchscopes", "knockout", "projection", "stages", "truth"),
)
NEEDED_BY_STAGES = ("patchscopes", "knockout", "projection")


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


def wanted(config: PatchingConfig) -> set[str]:
    """The parts that are measured."""
    return {*config.parts, *(NEEDED_BY_STAGES if "stages" in config.parts else ())}


def patched_cases(model: Model, config: PatchingConfig, earlier: Records) -> list[Case]:
    most = {"failure": config.max_failures, "correct": config.max_correct}
    return cases(model, config, earlier, most) if {"back_patching", "cross_patching"} & wanted(config) else []


def described_cases(part: str) -> Callable[[Model, PatchingConfig, Records], list[Case]]:
    """Items of a part that looks at as many failures as correct queries."""

    def items(model: Model, config: PatchingConfig, earlier: Records) -> list[Case]:
        most = dict.fromkeys(("failure", "correct"), config.max_described)
        return cases(model, config, earlier, most) if part in wanted(config) else []

    return items


def chains(model: Model, config: PatchingConfig, earlier: Records) -> list[truth.Chain]:
    if "truth" not in wanted(config) or not is_embedded(model, config):
        return []
    most = {"failure": config.max_failures, "correct": config.max_correct}
    return truth.chains(queries(model, config, ()), cases(model, config, earlier, most))
