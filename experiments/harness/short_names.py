"""Short names of studies as modules: `python -m experiments.exp9` is `python -m experiments.exp9_back_patching`.

The import system asks a finder for what it does not find itself; this one answers with the study's own package, so that
nothing is imported twice under two names.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from mlx_interp.studies import study_called


class ShortNames(MetaPathFinder):
    """Finds `experiments.expN`, where one study has that number."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        study = study_called(name) if package == "experiments" else None
        return None if study in (None, name) else ModuleSpec(fullname, _TheStudy(f"{package}.{study}"), is_package=True)


class _TheStudy(Loader):
    """Gives the study's package, imported under its full name."""

    def __init__(self, full: str) -> None:
        self.full = full

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.full)
        self.own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own  # the import system has put the short name's in its place


def know_short_names() -> None:
    """Puts the finder last, once."""
    if not any(isinstance(finder, ShortNames) for finder in sys.meta_path):
        sys.meta_path.append(ShortNames())
