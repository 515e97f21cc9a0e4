"""Which queries each part of the study looks at."""

from __future__ import annotations

from collections.abc import Callable

from experiments.exp9_back_patching import truth
from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from experiments.shared.two_hop.data import is_embedded
from experiments.shared.two_hop.queries import Case, cases, queries

NEEDED_BY_STAGES = ("patchscopes", "knockout", "projection")


def wanted(config: PatchingConfig) -> set[str]:
    """The parts that are measured."""
    return {*config.parts, *(NEEDED_BY_STAGES if "stages" in config.parts else ())}


def most_patched(config: PatchingConfig) -> dict[str, tuple[int, int]]:
    """How many queries are patched, by group: of each family, and in all."""
    return {
        "failure": (config.max_failures, config.all_failures),
        "correct": (config.max_correct, config.all_correct),
    }


def patched_cases(run: Run[PatchingConfig], earlier: Records) -> list[Case]:
    asked_for = {"back_patching", "cross_patching"} & wanted(run.config)
    return cases(run, earlier, most_patched(run.config)) if asked_for else []


def described_cases(part: str) -> Callable[[Run[PatchingConfig], Records], list[Case]]:
    """Items of a part that looks at as many failures as correct queries."""

    def items(run: Run[PatchingConfig], earlier: Records) -> list[Case]:
        most = dict.fromkeys(("failure", "correct"), (run.config.max_described, run.config.all_described))
        return cases(run, earlier, most) if part in wanted(run.config) else []

    return items


def chains(run: Run[PatchingConfig], earlier: Records) -> list[truth.Chain]:
    if "truth" not in wanted(run.config) or not is_embedded(run):
        return []
    return truth.chains(queries(run, earlier), cases(run, earlier, most_patched(run.config)))
