"""Packages that are slow to import, imported when one of their names is first used.

    from mlx_interp.deferred import mx, nn        # for: import mlx.core as mx; import mlx.nn as nn

MLX, mlx-lm and transformers take seconds to import; a help text, a misspelled name or a list of models needs none of
them. Modules of this project take them from here, so that each can be imported by itself in no time and still says at
its top what it uses. What runs when a module is imported must not use them: an alias of types is quoted, as in
`Metric: TypeAlias = "Callable[[mx.array], mx.array]"`. SciPy needs no place here: after `import scipy` its parts are
imported when they are used.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any


class Deferred(ModuleType):
    """A module, imported when an attribute of it is first asked for; its submodules likewise.

    What is set here is set there. What others set there is seen here as long as it was not asked for before.
    """

    def __getattr__(self, attribute: str) -> Any:
        module = importlib.import_module(self.__name__)
        try:
            value = getattr(module, attribute)
        except AttributeError:
            value = _submodule(module, attribute)
        if isinstance(value, ModuleType) and hasattr(value, "__path__"):
            value = Deferred(value.__name__)  # a package, whose own submodules may not have been imported
        ModuleType.__setattr__(self, attribute, value)  # from now on found as in any module, at the same cost
        return value

    def __setattr__(self, attribute: str, value: Any) -> None:
        setattr(importlib.import_module(self.__name__), attribute, value)
        ModuleType.__setattr__(self, attribute, value)


def _submodule(module: ModuleType, name: str) -> ModuleType:
    """A submodule that nobody has imported yet. Raises AttributeError where there is none."""
    path = f"{module.__name__}.{name}"
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name not in (path, module.__name__):
            raise  # it is there, and something it needs is not
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}") from error


if TYPE_CHECKING:
    import html

    import duckdb
    import huggingface_hub
    import huggingface_hub.errors as hub_errors
    import jinja2
    import matplotlib
    import matplotlib.backends.backend_agg
    import matplotlib.cm
    import matplotlib.colors
    import matplotlib.figure
    import matplotlib.ticker
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim
    import mlx.utils as trees
    import mlx_lm
    import PIL.Image
    import pyarrow
    import pyarrow.parquet
    import rich
    import rich.cells
    import rich.console
    import rich.markup
    import rich.progress
    import rich.table
    import tabulate
    import tokenizers
    import tokenizers.decoders
    import tokenizers.models
    import tokenizers.normalizers
    import tokenizers.processors
    import transformers
else:
    PIL = Deferred("PIL")
    duckdb = Deferred("duckdb")
    html = Deferred("html")
    hub_errors = Deferred("huggingface_hub.errors")
    huggingface_hub = Deferred("huggingface_hub")
    jinja2 = Deferred("jinja2")
    matplotlib = Deferred("matplotlib")
    mlx_lm = Deferred("mlx_lm")
    mx = Deferred("mlx.core")
    nn = Deferred("mlx.nn")
    optim = Deferred("mlx.optimizers")
    pyarrow = Deferred("pyarrow")
    rich = Deferred("rich")
    tabulate = Deferred("tabulate")
    tokenizers = Deferred("tokenizers")
    transformers = Deferred("transformers")
    trees = Deferred("mlx.utils")

__all__ = [
    "PIL",
    "duckdb",
    "html",
    "hub_errors",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "mlx_lm",
    "mx",
    "nn",
    "optim",
    "pyarrow",
    "rich",
    "tabulate",
    "tokenizers",
    "transformers",
    "trees",
]
