"""LoRA adapters in mlx-lm's folder layout, adapters.safetensors beside adapter_config.json, checked before use.

PEFT's layout is read as well (`loading.peft`).

1. The headers of the tensors are compared with what the config asks for on this model: every tensor must have its
   place and shape, and every place its tensor.
2. mlx-lm's own LoRA layers are put into the model, and their weights loaded.
3. Where a matrix is dense float32, as on CPU, the product of the two low-rank matrices is added to it. In half
   precision or quantised it stays beside its matrix: rounding would swallow a part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_interp.deferred import mlx_lm, mx, nn, trees
from mlx_interp.errors import CheckpointError
from mlx_interp.loading.checkpoint import read_json
from mlx_interp.loading.peft import TENSORS as PEFT
from mlx_interp.loading.peft import attach_peft, check_config
from mlx_interp.loading.safetensors_header import TensorInfo, read_header

CONFIG, TENSORS = "adapter_config.json", "adapters.safetensors"
KINDS = ("lora", "dora", "full")
LEAVES = ("lora_a", "lora_b", "m")
"""Names of the tensors that adapters add: the low-rank factors, and DoRA's magnitudes."""
READ = ("rank", "scale", "dropout", "keys", "alpha")
"""Settings of an adapter that mlx-lm reads, and `alpha`, which its older versions wrote beside `scale`."""
BASE = "base_weights_hash"
"""Our own entry of adapter_config.json: which weights the adapter was trained on."""


@dataclass(frozen=True)
class Adapter:
    """An adapter folder whose files are there and whole."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    file: str = TENSORS
    """The file of its tensors: another one in PEFT's layout."""

    @property
    def kind(self) -> str:
        return str(self.config.get("fine_tune_type", "lora"))

    @property
    def hash(self) -> str:
        """sha256 (hex) over both files."""
        digest = hashlib.sha256()
        for name in (CONFIG, self.file):
            digest.update((self.path / name).read_bytes())
        return digest.hexdigest()


def read_adapter(path: Path | str) -> Adapter:
    """Config and tensor headers of an adapter folder, mlx-lm's or PEFT's; CheckpointError names what is missing."""
    path = Path(path).expanduser()
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such adapter folder; it holds {CONFIG} and {TENSORS} or {PEFT}")
    config = read_json(path / CONFIG, missing=f"an adapter folder has one beside {TENSORS}")
    if (path / PEFT).is_file() and not (path / TENSORS).is_file():
        check_config(path, config)
        return Adapter(path, config, read_header(path / PEFT), PEFT)
    if config.get("fine_tune_type", "lora") not in KINDS:
        raise CheckpointError(f"{path}: fine_tune_type {config['fine_tune_type']!r}: known are {', '.join(KINDS)}")
    if not (path / TENSORS).is_file():
        raise CheckpointError(f"{path}: no {TENSORS}")
    return Adapter(path, config, read_header(path / TENSORS))


def write_adapter(
    folder: Path | str, weights: Mapping[str, mx.array], config: Mapping[str, Any], *, base: str = ""
) -> Path:
    """Writes an adapter to a new folder, for `load` and for mlx-lm. base: the hash of the weights it was trained on.

    Raises CheckpointError for a folder that is there already or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise CheckpointError(f"{folder} is there already: give a folder that is not")
    try:
        folder.mkdir(parents=True)
        mx.save_safetensors(str(folder / TENSORS), dict(weights))
        (folder / CONFIG).write_text(json.dumps({**config, BASE: base}, indent=1) + "\n", encoding="utf-8")
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: cannot be written: {error}") from error
    return folder


def attach(network: nn.Module, adapter: Adapter, *, name: str, weights_hash: str = "") -> None:
    """Puts an adapter's layers into a model of mlx-lm; in place, the adapter's weights not yet read.

    Raises CheckpointError for an adapter of another model, with both shapes; the model is then not to be used.
    """
    base = adapter.config.get(BASE)
    if base and weights_hash and base != weights_hash:
        raise CheckpointError(
            f"{adapter.path}: trained on weights {base[:12]}, {name} has {weights_hash[:12]}: give the model it is for"
        )
    if adapter.file == PEFT:
        attach_peft(network, adapter.path, adapter.config, adapter.tensors, name=name)
        return
    if adapter.kind != "full":
        settings = adapter.config.get("lora_parameters")
        _refuse_unread(adapter, settings)
        try:
            mlx_lm.tuner.utils.linear_to_lora_layers(
                network, int(adapter.config["num_layers"]), dict(settings or {}), use_dora=adapter.kind == "dora"
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{adapter.path / CONFIG}: not understood: {' '.join(str(error).split())}") from error
    _check_places(network, adapter, name)
    weights: Any = mx.load(str(adapter.path / TENSORS))
    network.load_weights(list(weights.items()), strict=False)
    network.eval()  # new layers begin in training mode, in which an adapter's dropout draws anew at every pass


def _refuse_unread(adapter: Adapter, settings: Any) -> None:
    """Raises CheckpointError for settings that mlx-lm does not read: with `rslora` the scale means another number."""
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"{adapter.path / CONFIG}: lora_parameters is {settings!r}; it holds rank, scale, dropout"
        )
    where = f"{adapter.path / CONFIG}: lora_parameters"
    if missing := [key for key in ("rank", "scale", "dropout") if key not in settings]:
        hint = " (mlx-lm takes the scale as it is: alpha / rank, with rslora alpha / sqrt(rank))"
        raise CheckpointError(f"{where}: no {', '.join(missing)}{hint if 'scale' in missing else ''}")
    if unread := {key: settings[key] for key in settings.keys() - READ if settings[key]}:
        raise CheckpointError(f"{where}: {unread} is not read by mlx-lm, and may mean another adapter; read are {READ}")


def _check_places(network: nn.Module, adapter: Adapter, name: str) -> None:
    places = {
        path: array
        for path, array in trees.tree_flatten(network.parameters())
        if adapter.kind == "full" or path.rpartition(".")[2] in LEAVES
    }
    trained_on = f"; it was trained on {adapter.config['model']}" if adapter.config.get("model") else ""
    wrong = [
        f"its {path} is {tuple(info.shape)}, the model's {tuple(places[path].shape)}"
        if path in places
        else f"its {path} {tuple(info.shape)} has no place in the model"
        for path, info in sorted(adapter.tensors.items())
        if path not in places or tuple(places[path].shape) != tuple(info.shape)
    ]
    if adapter.kind != "full":
        wrong += [f"it lacks {path} {tuple(places[path].shape)}" for path in sorted(places.keys() - adapter.tensors)]
    if wrong:
        more = f" ({len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise CheckpointError(f"{adapter.path} is no adapter for {name}: {wrong[0]}{more}{trained_on}")


def fold_in(network: nn.Module) -> None:
    """Adds low-rank products to their matrices where these are dense float32; in place."""
    for path, module in list(network.named_modules()):
        inner = module.get("linear", module.get("embedding")) if "lora_a" in module else None
        if isinstance(inner, nn.Linear | nn.Embedding) and inner.weight.dtype == mx.float32:
            dense = module.fuse(dequantize=True)
            mx.eval(dense.parameters())
            network.update_modules(trees.tree_unflatten([(path, dense)]))
