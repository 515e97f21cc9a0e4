"""Model outline: config and tokenizer without weights, for plans and for telling which run a command means.

1. Read config, tokenizer and, where weights are there, their headers; of a Hub model download no weights.
2. Build mlx-lm's network of the config: its parameters have shapes and are never evaluated.
3. What needs numbers raises NeedsWeights; sizes, prompts, `cost` and `memory` answer as the loaded model would.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mlx_interp.architectures import Family, family_of
from mlx_interp.deferred import mx, nn
from mlx_interp.errors import CheckpointError, MlxInterpError
from mlx_interp.loading.checkpoint import Checkpoint, read_config_alone, weight_files
from mlx_interp.loading.fingerprint import weights_hash
from mlx_interp.loading.hub import cached_folder, snapshot
from mlx_interp.loading.load import place_of
from mlx_interp.loading.names import Source, resolve
from mlx_interp.loading.open import open_checkpoint
from mlx_interp.loading.profile import Memory, on_cpu
from mlx_interp.loading.weights import LOAD_FAULTS, load_tokenizer, shortened, unloaded
from mlx_interp.model import Model

ANSWERED = ("prompt", "prompts", "memory", "cost")
"""What a model can say without weights, beside its sizes."""


class NeedsWeights(MlxInterpError):
    """Something was asked of an outline that only the weights can tell."""


class Outline(Model):
    """A model without weights; `weights_hash` is empty where there are none to hash."""

    profile: Memory = "auto"
    """How it would be loaded."""

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights will take when loaded.

        On CPU as float32, dequantised, but for what stays quantised there (`profile`); elsewhere as stored.
        """
        settings = self.config.get("quantization") or self.config.get("quantization_config") or {}
        bits = settings.get("bits", 4) + 32 / settings.get("group_size", 64)  # a float16 scale and bias a group
        if not self.quantization:
            return self.n_parameters * (4 if on_cpu() else 2)
        kept = self.n_parameters if not on_cpu() or self.profile == "low" else self._rows_alone
        return int(kept * bits / 8 + (self.n_parameters - kept) * 4)

    @property
    def _rows_alone(self) -> int:
        """Weights of an embedding that nothing but rows is taken of."""
        return 0 if self.network.tied else self.d_vocab * self.d_model


def _refused(name: str) -> Callable[..., NoReturn]:
    def refuse(self: Outline, *_: Any, **__: Any) -> NoReturn:
        raise NeedsWeights(f"{self.name}: {name} needs the weights, and only config and tokenizer were read: load it")

    return refuse


for _name, _method in list(vars(Model).items()):
    if callable(_method) and not _name.startswith("_") and _name not in ANSWERED:
        setattr(Outline, _name, _refused(_name))


def outline(name: str | Path, *, memory: Memory = "auto") -> Outline:
    """The outline of a model by any name that `load` takes. Raises what `load` raises for a config it refuses."""
    source = resolve(name)
    checkpoint = _description(_place(source))
    family = family_of(checkpoint.config)
    try:
        network = unloaded(checkpoint.config)
    except LOAD_FAULTS as error:
        raise CheckpointError(f"{checkpoint.path}: config.json cannot be used: {shortened(error)}") from error
    _drop_tied_head(network, family, checkpoint.config)
    if on_cpu():
        network.set_dtype(mx.float32)
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder, checkpoint.config.get("eos_token_id"))
    made = Outline(
        network,
        tokenizer,
        config=checkpoint.config,
        path=checkpoint.path,
        model_id=source.model_id,
        name=source.name,
        quantization=checkpoint.quantization,
        weights_hash=weights_hash(checkpoint.path, checkpoint.files) if checkpoint.files else "",
    )
    made.profile = memory
    return made


def _drop_tied_head(network: nn.Module, family: Family, config: dict[str, Any]) -> None:
    """Drops an unembedding that the embedding stands for: some of mlx-lm's classes do so when weights come."""
    text = config if family.text_config is None else config[family.text_config]
    owner = getattr(network, family.root) if family.root else network
    if text.get("tie_word_embeddings") and family.head in owner:
        owner.pop(family.head)


def _place(source: Source) -> Path:
    if source.kind != "hub":
        return place_of(source)
    return cached_folder(source) or snapshot(source, weights=False)


def _description(path: Path) -> Checkpoint:
    """A checkpoint, or, where no weights lie beside it, its config alone."""
    if path.is_file() or _weights_in(path):
        return open_checkpoint(path)
    return read_config_alone(path)


def _weights_in(path: Path) -> bool:
    """Whether a folder's weights are all there; a download of config and tokenizer has none, one in progress some."""
    try:
        return bool(weight_files(path))
    except CheckpointError:
        return False
