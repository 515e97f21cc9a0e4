"""Architectures: which model families work. `family` says what one is, `families` describes each, `understood` reads
configs by them.
"""

from mlx_interp.architectures.activations import Form
from mlx_interp.architectures.experts import Experts
from mlx_interp.architectures.families import FAMILIES
from mlx_interp.architectures.family import Config, Family, Norms, Sizes
from mlx_interp.architectures.kinds import COMMON
from mlx_interp.architectures.registered import register_named_files
from mlx_interp.architectures.understood import (
    PACKAGE_FILE,
    PACKAGED,
    PAGE,
    family_of,
    ignored_keys,
    register,
)

__all__ = [
    "COMMON",
    "FAMILIES",
    "PACKAGED",
    "PACKAGE_FILE",
    "PAGE",
    "Config",
    "Experts",
    "Family",
    "Form",
    "Norms",
    "Sizes",
    "family_of",
    "ignored_keys",
    "register",
    "register_named_files",
]
