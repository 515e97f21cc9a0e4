"""File formats of transcoders: circuit-tracer's, per-layer and cross-layer, SAELens's and Gemma Scope's.

circuit-tracer   config.yaml beside layer_<i>.safetensors (transcoder_set), or beside W_enc_<i>.safetensors and
                 W_dec_<i>.safetensors (cross_layer_transcoder); W_enc is (d_features, d_model) there
SAELens          cfg.json and sae_weights.safetensors of one layer, or a folder of such folders
Gemma Scope      params.npz, or the lower-case names of its second release, as config.yaml's `transcoders` lists them

What usually goes wrong is settled here: which side of a norm is read comes from the hook's name, a skip connection is
turned to the side it multiplies from, and a kind that has no place in a layout is refused, not written as another.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from mlx_interp.deferred import mx
from mlx_interp.engine.held_stream import Reads
from mlx_interp.errors import SAEError
from mlx_interp.reporting.files import make_folder, write_atomically
from mlx_interp.sae.files import CONFIG, WEIGHTS
from mlx_interp.sae.transcoder import Transcoder, TranscoderSet, of_layers

LISTED = "config.yaml"
READ_HOOKS: dict[str, Reads] = {
    "mlp.hook_in": "mlp_in",
    "hook_resid_mid": "resid_mid",
    "hook_mlp_in": "resid_mid",
    "ln2.hook_normalized": "mlp_norm",
}
"""TransformerLens's names of what is read; hook_normalized is the norm without its gain."""
WRITE_HOOKS = ("hook_mlp_out", "mlp.hook_out")
SAELENS_KINDS = {"transcoder": "relu", "skip_transcoder": "relu", "jumprelu_transcoder": "jumprelu"}
SAELENS_KINDS |= {"jumprelu_skip_transcoder": "jumprelu"}
Arrays = dict[str, np.ndarray]


def save_transcoders(transcoders: TranscoderSet, folder: Path | str, *, model_name: str = "") -> Path:
    """Write transcoders as circuit-tracer reads them; returns the folder. `load_transcoders` is the inverse.

    circuit-tracer itself wants every layer from 0 on. Raises SAEError for kinds that the layout has no place for: topk,
    and a cross-layer one with a skip connection; RunError where the folder cannot be written.
    """
    path = Path(folder)
    for one in transcoders.transcoders:
        if one.kind not in ("relu", "jumprelu", "batchtopk"):
            raise SAEError(f"{one}: the layout has relu and a threshold, nothing by rank; train batchtopk instead")
        if transcoders.crosses and "W_skip" in one.weights:
            raise SAEError(f"{one}: a cross-layer one's skip connection has no place in the layout")
    make_folder(path)
    hook = next(name for name, reads in READ_HOOKS.items() if reads == transcoders.reads)
    about = {
        "model_name": model_name or str(transcoders.transcoders[0].meta.get("model", "")),
        "model_kind": "cross_layer_transcoder" if transcoders.crosses else "transcoder_set",
        "feature_input_hook": hook,
        "feature_output_hook": WRITE_HOOKS[0],
        "scan": transcoders.name,
    }
    for one in transcoders.transcoders:
        arrays = {name: np.asarray(value, np.float32) for name, value in one.weights.items()}
        _write_layer(path, one.layer, arrays, crosses=transcoders.crosses)
    write_atomically(path / LISTED, yaml.safe_dump(about, sort_keys=False))
    return path


def _write_layer(path: Path, layer: int, arrays: Arrays, *, crosses: bool) -> None:
    threshold = {"threshold": arrays["threshold"]} if "threshold" in arrays else {}
    if crosses:
        named = {"W_enc": arrays["W_enc"].T, "b_enc": arrays["b_enc"], "b_dec": arrays["b_dec"], **threshold}
        _write(path / f"W_enc_{layer}.safetensors", {f"{name}_{layer}": x for name, x in named.items()})
        _write(path / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": arrays["W_dec"]})
        return
    named = {"W_enc": arrays["W_enc"].T, "W_dec": arrays["W_dec"][:, 0], "b_enc": arrays["b_enc"]}
    named |= {"b_dec": arrays["b_dec"], **{f"activation_function.{name}": x for name, x in threshold.items()}}
    named |= {"W_skip": arrays["W_skip"].T} if "W_skip" in arrays else {}
    _write(path / f"layer_{layer}.safetensors", named)


def _write(path: Path, arrays: Arrays) -> None:
    # ascontiguousarray: safetensors writes the buffer as it lies, and a transposed one lies the other way round.
    write_atomically(path, to_safetensors({name: np.ascontiguousarray(x) for name, x in arrays.items()}))


def load_transcoders(path: Path | str) -> TranscoderSet:
    """Read a folder of transcoders in circuit-tracer's layout or SAELens's (of one layer, or a folder of such folders).

    Raises SAEError, naming the file and what is wrong: hooks that are not understood, missing layers, shapes.
    """
    path = Path(path)
    if (path / LISTED).exists():
        return _listed(path)
    if (path / CONFIG).exists():
        return of_layers([_from_saelens(path)], name=path.name)
    inside = sorted(found.parent for found in path.glob(f"*/{CONFIG}"))
    if not inside:
        raise SAEError(
            f"{path}: no transcoders: a folder with {LISTED} (circuit-tracer), with {CONFIG} and {WEIGHTS} (SAELens), "
            "or with folders of these is needed"
        )
    return of_layers([_from_saelens(one) for one in inside], name=path.name)


def _listed(path: Path) -> TranscoderSet:
    try:
        about = yaml.safe_load((path / LISTED).read_text(encoding="utf-8"))
        kind, reads, writes = (about[key] for key in ("model_kind", "feature_input_hook", "feature_output_hook"))
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise SAEError(f"{path / LISTED}: cannot be read: {error!r}") from error
    if reads not in READ_HOOKS or writes not in WRITE_HOOKS:
        raise SAEError(
            f"{path / LISTED}: reads {reads!r} and writes {writes!r}; known are {', '.join(READ_HOOKS)} and "
            f"{', '.join(WRITE_HOOKS)}"
        )
    meta = {"model": about.get("model_name", "")}
    read = {"transcoder_set": _per_layer, "cross_layer_transcoder": _cross_layer}.get(kind)
    if read is None:
        raise SAEError(f"{path / LISTED}: model_kind {kind!r}; transcoder_set and cross_layer_transcoder are known")
    arrays = read(path, about)
    made = [_made(layer, one, READ_HOOKS[reads], meta, str(path)) for layer, one in arrays.items()]
    return of_layers(made, name=str(about.get("scan") or path.name))


def _per_layer(path: Path, about: Mapping[str, Any]) -> dict[int, Arrays]:
    if "transcoders" in about:
        if remote := [one for one in about["transcoders"] if str(one).startswith("hf://")]:
            raise SAEError(f"{path / LISTED}: {remote[0]} is on the Hub: download it and give its path there")
        files = {layer: path / one for layer, one in enumerate(about["transcoders"])}
    else:
        files = _numbered(path, "layer")
    found = {}
    for layer, file in files.items():
        arrays = _read(file)
        second = "w_enc" in arrays  # Gemma Scope's second release
        arrays = {_known(name): value for name, value in arrays.items()}
        if file.suffix != ".npz" and not second:
            arrays |= {name: arrays[name].T for name in ("W_enc", "W_skip") if name in arrays}
        if arrays.get("W_dec", np.zeros(0)).ndim == 2:
            arrays["W_dec"] = arrays["W_dec"][:, None]
        found[layer] = arrays
    return found


def _cross_layer(path: Path, about: Mapping[str, Any]) -> dict[int, Arrays]:
    if "transcoders" in about:
        raise SAEError(f"{path / LISTED}: read from W_enc_0.safetensors and so on, not from a list")
    found = {}
    for layer, file in _numbered(path, "W_enc").items():
        arrays = _read(file) | _read(path / f"W_dec_{layer}.safetensors")
        named = {_known(name.removesuffix(f"_{layer}")): value for name, value in arrays.items()}
        found[layer] = named | {"W_enc": named["W_enc"].T}
    return found


def _numbered(path: Path, name: str) -> dict[int, Path]:
    found = {}
    for file in path.glob(f"{name}_*.safetensors"):
        if match := re.fullmatch(rf"{name}_(\d+)", file.stem):
            found[int(match.group(1))] = file
    if not found:
        raise SAEError(f"{path}: {LISTED} is there, files {name}_0.safetensors and so on are not")
    return dict(sorted(found.items()))


def _known(name: str) -> str:
    """Our name of an array."""
    others = {"w_enc": "W_enc", "w_dec": "W_dec", "affine_skip_connection": "W_skip"}
    name = name.removeprefix("activation_function.")
    return others.get(name, name)


def _read(path: Path) -> Arrays:
    try:
        if path.suffix == ".npz":
            with np.load(path) as file:
                return {name: np.asarray(file[name], np.float32) for name in file}
        with safe_open(path, framework="mlx") as tensors:
            named = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
            return {name: np.asarray(value.astype(mx.float32)) for name, value in named.items()}
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        raise SAEError(f"{path}: cannot be read: {error}") from error


def _made(layer: int, arrays: Arrays, reads: Reads, meta: Mapping[str, Any], context: str) -> Transcoder:
    threshold = arrays.get("threshold")
    if threshold is not None and (threshold < 0).any():
        raise SAEError(f"{context}: layer {layer} has thresholds below 0, features there would be negative")
    kept = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip")
    weights = {name: mx.array(np.ascontiguousarray(arrays[name])) for name in kept if name in arrays}
    try:
        return Transcoder(layer, weights, "relu" if threshold is None else "jumprelu", reads=reads, meta=meta)
    except SAEError as error:
        raise SAEError(f"{context}: {error}") from error


def _from_saelens(path: Path) -> Transcoder:
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        about = {**config, **config.get("metadata", {})}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SAEError(f"{path / CONFIG}: cannot be read: {error}") from error
    architecture = about.get("architecture")
    if architecture not in SAELENS_KINDS:
        raise SAEError(
            f"{path}: architecture {architecture!r} is no transcoder; {', '.join(SAELENS_KINDS)} are, and "
            "mi.sae.load reads autoencoders"
        )
    if about.get("normalize_activations") not in (None, False, "none"):
        raise SAEError(f"{path}: inputs are normalised by {about['normalize_activations']!r}, which is not understood")
    if about.get("apply_b_dec_to_input"):
        raise SAEError(f"{path}: b_dec is of the output, the file takes it off the input")
    ends = [_place(about.get(name) or "", path) for name in ("hook_name", "hook_name_out")]
    (layer, reads), (written, writes) = ends
    if reads not in READ_HOOKS or writes not in WRITE_HOOKS or layer != written:
        raise SAEError(
            f"{path}: reads {about.get('hook_name')!r} and writes {about.get('hook_name_out')!r}; one layer's "
            f"{', '.join(READ_HOOKS)} and {', '.join(WRITE_HOOKS)} are known"
        )
    arrays = _read(path / WEIGHTS)
    arrays |= {"W_skip": arrays["W_skip"].T} if "W_skip" in arrays else {}
    if arrays.get("W_dec", np.zeros(0)).ndim == 2:
        arrays["W_dec"] = arrays["W_dec"][:, None]
    if (SAELENS_KINDS[architecture] == "jumprelu") != ("threshold" in arrays):
        raise SAEError(f"{path}: architecture {architecture!r}, but the weights are {', '.join(sorted(arrays))}")
    return _made(layer, arrays, READ_HOOKS[reads], {"model": about.get("model_name", "")}, str(path))


def _place(hook: str, path: Path) -> tuple[int, str]:
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    if match is None:
        raise SAEError(f"{path / CONFIG}: hook {hook!r} names no layer: blocks.<layer>.<hook> is needed on both sides")
    return int(match.group(1)), match.group(2)
