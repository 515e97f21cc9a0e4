"""Which experiments there are: every folder exp* beside this one."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from experiments.harness.experiment import Experiment
from mlx_interp.errors import ConfigError, nearest


def names() -> list[str]:
    """Full names of all experiments, by number."""
    found = [path.parent.name for path in Path(__file__).parents[1].glob("exp[0-9]*/__init__.py")]
    return sorted(found, key=lambda name: (int(re.findall(r"\d+", name)[0]), name))


def experiment(name: str) -> Experiment[Any]:
    """An experiment by its full name or its short one ("exp9"). Raises ConfigError with the nearest names."""
    known = names()
    matches = [full for full in known if name in (full, full.partition("_")[0])]
    if len(matches) != 1:
        raise ConfigError(f"no experiment {name!r}: {nearest(name, known)}there are {', '.join(known)}")
    module = importlib.import_module(f"experiments.{matches[0]}")
    found: Experiment[Any] = module.EXPERIMENT
    return found
