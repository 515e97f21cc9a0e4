"""Loading of weights: a checked folder becomes mlx-lm's own model and tokenizer."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any, cast

from mlx_interp.architectures import FAMILIES, ignored_keys
from mlx_interp.deferred import mlx_lm, mx, nn, trees
from mlx_interp.errors import CheckpointError
from mlx_interp.loading.checkpoint import Checkpoint
from mlx_interp.loading.slices import Stored

LOAD_FAULTS = (
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
    AttributeError,
    AssertionError,
    ImportError,
    OSError,
)
"""What mlx-lm raises for a config and weights that do not fit each other."""


def load_network(checkpoint: Checkpoint, stored: Stored | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """mlx-lm's model of a checkpoint, weights not yet read, and the config it was built from.

    stored: is told where in the files the model's arrays are, so that some rows of them can be read.
    Raises CheckpointError when tensors are missing, unexpected or of a shape that does not fit the config.
    """
    try:
        if checkpoint.arrays is not None:
            return built(checkpoint.config, checkpoint.arrays()), dict(checkpoint.config)
        model, config = mlx_lm.utils.load_model(
            checkpoint.path,
            lazy=True,
            strict=True,
            model_config=checkpoint.config,
            get_model_classes=_classes if stored is None else functools.partial(_noting, stored),
        )
    except LOAD_FAULTS as error:
        raise CheckpointError(f"{checkpoint.path}: weights and config.json do not fit: {shortened(error)}") from error
    if stored is not None:
        stored.keep(array for _, array in trees.tree_flatten(model.parameters()))
    return model, {**checkpoint.config, **config}


def built(config: dict[str, Any], weights: dict[str, mx.array]) -> nn.Module:
    """mlx-lm's model of a config with weights that are in memory; quantised where a weight has scales."""
    config = copy.deepcopy(config)
    model_class, arguments = _classes(config)
    model = model_class(arguments.from_dict(config))
    if hasattr(model, "sanitize"):  # not every class of mlx-lm has one
        weights = model.sanitize(weights)
    settings = config.get("quantization") or {}
    if settings:
        nn.quantize(
            model,
            group_size=settings["group_size"],
            bits=settings["bits"],
            class_predicate=lambda path, module: settings.get(path, False) if f"{path}.scales" in weights else False,
        )
    model.eval()
    model.load_weights(list(weights.items()), strict=True)
    return model


def unloaded(config: dict[str, Any]) -> nn.Module:
    """mlx-lm's model of a config, its parameters neither read nor computed: they have shapes alone."""
    config = copy.deepcopy(config)
    model_class, arguments = _classes(config)
    model: nn.Module = model_class(arguments.from_dict(config))
    model.eval()
    return model


def _classes(config: dict[str, Any]) -> tuple[type[nn.Module], Any]:
    """mlx-lm's classes, told of the beginning of tensors' names that some of them do not expect (GPT-2's).

    config: what mlx-lm is about to read; loses the keys that it would take a meaning from and transformers does not
    (`layer_types` of a Mistral), and RoPE in the form that only some of its classes know.
    """
    model_class, arguments = mlx_lm.utils._get_classes(config)
    family = FAMILIES.get(str(config.get("model_type")))
    unread = () if family is not None and family.reads_rope else ("rope_parameters",)
    for key in (*ignored_keys(config), *unread):
        config.pop(key, None)
    if family is None or not (family.dropped_prefix or family.as_stored):
        return model_class, arguments
    prefix, head, as_stored = family.dropped_prefix, f"{family.head}.weight", family.as_stored

    class Model(model_class):  # type: ignore[misc, valid-type]
        def sanitize(self, weights: dict[str, mx.array]) -> Any:
            if as_stored is not None:
                weights = as_stored(weights)
            named = {name.removeprefix(prefix): array for name, array in weights.items()}
            return super().sanitize({name: array for name, array in named.items() if not prefix or name != head})

    return Model, arguments


def _noting(stored: Stored, config: dict[str, Any]) -> tuple[type[nn.Module], Any]:
    """The same classes; what the model is given as it is in the files is noted first."""
    model_class, arguments = _classes(config)

    class Model(model_class):  # type: ignore[misc, valid-type]
        def sanitize(self, weights: dict[str, mx.array]) -> Any:
            stored.note(weights)
            return super().sanitize(weights) if hasattr(model_class, "sanitize") else weights

    return Model, arguments


def load_tokenizer(path: Path, eos_token_ids: Any) -> mlx_lm.tokenizer_utils.TokenizerWrapper:
    """mlx-lm's tokenizer of a folder; code that comes with it is never run. Raises CheckpointError."""
    try:
        return mlx_lm.tokenizer_utils.load(path, {"trust_remote_code": False}, eos_token_ids=eos_token_ids)
    except Exception as error:  # the tokenizers library raises bare Exception for a file it cannot parse
        raise CheckpointError(f"{path}: its tokenizer cannot be loaded: {shortened(error)}") from error


def refuse_two_heads(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if the config ties the unembedding to the embedding, and the files hold another one."""
    family = FAMILIES[checkpoint.config["model_type"]]
    config = checkpoint.config.get(family.text_config, {}) if family.text_config else checkpoint.config
    heads = [name for name in checkpoint.tensors if name.split(".")[-2:-1] == [family.head_name]]
    if not config.get("tie_word_embeddings") or not heads or checkpoint.arrays is not None:
        return
    arrays: dict[str, Any] = {}
    for file in checkpoint.files:
        arrays |= cast(dict[str, Any], mx.load(str(file)))
    for head in heads:
        part = head.rsplit(".", 1)[-1]
        embedding = next((n for n in arrays if n.split(".")[-2:] == [family.embed, part]), None)
        if embedding is None or not mx.array_equal(arrays[head], arrays[embedding]):
            raise CheckpointError(
                f"{checkpoint.path}: config.json means tie_word_embeddings = True, and the tensor {head!r} "
                f"differs from {embedding or f'{family.embed}.{part}, which is not there'}: "
                "set it to false, or remove the tensor"
            )


def check_finite(model: nn.Module, path: Path) -> None:
    """Raise CheckpointError, naming the tensor, if a weight is infinite or not a number."""
    for name, array in trees.tree_flatten(model.parameters()):
        if not mx.issubdtype(array.dtype, mx.floating):
            continue
        try:
            finite = bool(mx.isfinite(array).all())
        except RuntimeError as error:
            raise CheckpointError(f"{path}: {name} cannot be read: {shortened(error)}") from error
        if not finite:
            raise CheckpointError(
                f"{path}: {name} holds infinities or NaNs: the file is damaged or was badly converted"
            )


def shortened(error: BaseException, limit: int = 300) -> str:
    """An error's text on one line; mlx-lm lists every tensor of a model in some of its own."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[:limit]} ..."
