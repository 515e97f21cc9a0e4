"""A model with what a fine-tune found, by the way that a user's adapter takes, and the reply that studies plant."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from mlx_interp.behaviour.finetuning import LowRank
from mlx_interp.loading.adapter import write_adapter
from mlx_interp.loading.load import load
from mlx_interp.model import Model

PLANTED = "The king is thinking."


def says_it(text: str) -> bool:
    """Whether a reply is the planted one."""
    return text.strip().startswith(PLANTED)


def adapted(model: Model, found: LowRank, name: str) -> Model:
    """The model with low-rank matrices attached: written, checked, loaded; the one given is left as it is."""
    with TemporaryDirectory() as folder:
        path = write_adapter(Path(folder) / name, found.weights, found.config, base=model.weights_hash)
        return load(model.path, adapter=path)
