"""State of a run: its model, its options, and what its stages share. It is handed to every stage and dies with the run.

`@of_run` keeps a function's results on the run that it is asked for, where a cache of the module would keep the model
alive that they were made with.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from experiments.harness.experiment import ExperimentConfig
from mlx_interp.model import Model

ConfigT = TypeVar("ConfigT", bound=ExperimentConfig, covariant=True)
OtherConfigT = TypeVar("OtherConfigT", bound=ExperimentConfig)
P = ParamSpec("P")
Made = TypeVar("Made")
Cache = dict[Hashable, "OrderedDict[Hashable, Any]"]


@dataclass(frozen=True, eq=False)
class Run(Generic[ConfigT]):
    """A model under a study's options."""

    model: Model
    config: ConfigT
    cache: Cache = field(default_factory=dict, repr=False)
    """Results by function, then by options and arguments; see `of_run`."""
    others: dict[Model, Cache] = field(default_factory=dict, repr=False)
    """Caches of the other models that the run looks at."""

    @property
    def seed(self) -> int:
        return self.config.seed

    def under(self, config: OtherConfigT) -> Run[OtherConfigT]:
        """The same run as another study's functions see it, by the options of that one."""
        return Run(self.model, config, self.cache, self.others)

    def on(self, model: Model) -> Run[ConfigT]:
        """The same options on another model, a fine-tuned one or a reader, with a cache of its own."""
        return self if model is self.model else replace(self, model=model, cache=self.others.setdefault(model, {}))


def of_run(most: int) -> Callable[[Callable[Concatenate[Any, P], Made]], Callable[Concatenate[Any, P], Made]]:
    """Keep up to `most` results of a function on the run that it is given first, the one unused longest goes first."""

    def kept(function: Callable[Concatenate[Any, P], Made]) -> Callable[Concatenate[Any, P], Made]:
        def asked(run: Run[Any], /, *args: P.args, **kwargs: P.kwargs) -> Made:
            mine = run.cache.setdefault(asked, OrderedDict())
            key = (run.config, args, tuple(sorted(kwargs.items())))
            if key in mine:
                mine.move_to_end(key)
            else:
                mine[key] = function(run, *args, **kwargs)
                if len(mine) > most:
                    mine.popitem(last=False)
            made: Made = mine[key]
            return made

        functools.update_wrapper(asked, function)
        return asked

    return kept
