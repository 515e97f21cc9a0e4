"""A model with interventions that stay: what both providers run, from Python or from options of a command line."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from mlx_interp.directions.direction import load_direction
from mlx_interp.errors import ConfigError
from mlx_interp.interventions import Intervention, Interventions
from mlx_interp.loading import load
from mlx_interp.model import Model

OPTIONS = ("direction", "strength", "ablate")


@dataclass(frozen=True)
class Edited:
    """A model, and the interventions under which it answers everything."""

    model: Model
    interventions: Interventions = ()


def edited(name: str, **options: Any) -> Edited:
    """A loaded model under the options of a command line.

    direction: file of a direction that is added, strength (1 by default) times its own length. ablate: file of a
    direction that is removed at every layer. Raises ConfigError for an option that does not exist, or a strength
    without a direction, and what `mi.load` and `mi.load_direction` raise.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ConfigError(f"mlx-interp: no option {unknown[0]!r} of a model; there are {', '.join(OPTIONS)}")
    if "strength" in options and "direction" not in options:
        raise ConfigError("mlx-interp: a strength needs a direction: direction=FILE, as mi.save_direction writes it")
    model = load(name)
    edits: list[Intervention] = []
    if "direction" in options:
        strength = _number(options.get("strength", 1.0))
        edits.append(load_direction(Path(options["direction"]), model).added(strength))
    if "ablate" in options:
        edits.extend(load_direction(Path(options["ablate"]), model).ablated_everywhere())
    return Edited(model, edits)


def inspect_model(model: Model, interventions: Interventions = ()) -> Any:
    """A model of Inspect (`inspect_ai.model.Model`) for `inspect_ai.eval(task, model=...)`.

    Raises ConfigError where inspect_ai is not installed.
    """
    provider = _provider("inspect_provider", "inspect_ai", "inspect")
    return provider.model_of(Edited(model, interventions))


def lm_eval_model(model: Model, interventions: Interventions = (), *, max_length: int | None = None) -> Any:
    """A model of lm-eval (`lm_eval.api.model.LM`) for `lm_eval.simple_evaluate(model=..., tasks=[...])`.

    max_length: tokens that a request may have; the model's own context by default.
    Raises ConfigError where lm-eval is not installed.
    """
    provider = _provider("lm_eval_provider", "lm_eval", "lm-eval")
    return provider.EditedLM(Edited(model, interventions), max_length=max_length)


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first of some stop sequences."""
    return text[: min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=len(text))]


def _provider(module: str, package: str, extra: str) -> ModuleType:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"{package} is not installed: pip install 'mlx_interp[{extra}]' ({error})") from error
    return importlib.import_module(f"mlx_interp.providers.{module}")


def _number(given: Any) -> float:
    try:
        return float(given)
    except (TypeError, ValueError):
        raise ConfigError(f"mlx-interp: strength {given!r} is no number") from None
