"""File formats of autoencoders: reading and writing them in the layouts that others use.

SAELens: a folder with cfg.json and sae_weights.safetensors. Gemma Scope: params.npz, whose encoder sees x itself.
What usually goes wrong is settled here: a TopK one is never read as ReLU, a scale of the inputs is folded in or the
file refused, the hook's name becomes our site, and b_dec is subtracted from the input where the file says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_safetensors

from mlx_interp.deferred import mx
from mlx_interp.errors import SAEError
from mlx_interp.reporting.files import make_folder, write_atomically
from mlx_interp.sae.kinds import BY_NAME, architectures
from mlx_interp.sae.sae import SAE, kind_of

CONFIG, WEIGHTS, NPZ = "cfg.json", "sae_weights.safetensors", "params.npz"
OWN = "mlx_interp"
"""Under this key of the metadata stands what SAELens has no field for."""
HOOKS = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "mlp_act": "mlp.hook_post",
    "z": "attn.hook_z",
}
"""Our sites and TransformerLens's hooks; both take sublayer outputs after Gemma's post-norms."""


def save(sae: SAE, folder: Path | str, *, model_name: str = "") -> Path:
    """Write an autoencoder as SAELens reads it; returns the folder. Raises RunError where that is not possible."""
    path = Path(folder)
    make_folder(path)
    hook, kind = hook_of(sae.site), kind_of(sae.kind)
    config: dict[str, Any] = {
        "architecture": kind.architecture,
        "d_in": sae.d_model,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtracts_bias,
        "normalize_activations": sae.normalize,
        "reshape_activations": "hook_z" if hook.endswith("hook_z") else "none",
        "metadata": {
            "sae_lens_version": "6.0.0",
            "model_name": model_name or sae.meta.get("model", ""),
            "hook_name": hook,
            "hook_head_index": None,
            "prepend_bos": True,
            OWN: {"kind": sae.kind, "site": sae.site, **sae.meta},
        },
    }
    if kind.needs_k:
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    # ascontiguousarray: safetensors writes the buffer as it lies, and a transposed one lies the other way round.
    arrays = {name: np.ascontiguousarray(np.asarray(sae.weights[name])) for name in kind.shapes}
    write_atomically(path / WEIGHTS, to_safetensors(arrays))
    write_atomically(path / CONFIG, json.dumps(config, indent=1))
    return path


def load(path: Path | str, *, site: str | None = None, scale: float | None = None) -> SAE:
    """Read a folder in SAELens's layout, or a Gemma Scope params.npz (or its folder).

    site: what it was trained on, where the file does not say. scale: what inputs were multiplied by in training, where
    the configuration names such a scale but does not give it. Raises SAEError, naming the file and what is wrong.
    """
    path = Path(path)
    if path.is_dir() and not (path / CONFIG).exists() and (path / NPZ).exists():
        path = path / NPZ
    if path.suffix == ".npz":
        return _from_npz(path, site)
    config = _config(path / CONFIG)
    try:
        with safe_open(path / WEIGHTS, framework="mlx") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise SAEError(f"{path / WEIGHTS}: cannot be read: {error}") from error
    return from_saelens(config, arrays, site=site, scale=scale, context=str(path))


def from_saelens(
    config: Mapping[str, Any],
    arrays: Mapping[str, mx.array],
    *,
    site: str | None = None,
    scale: float | None = None,
    context: str = "SAE",
) -> SAE:
    """An autoencoder from SAELens's configuration, of version 6 or before, and its arrays. Raises SAEError."""
    metadata = {**config, **config.get("metadata", {})}
    own = metadata.get(OWN) or {}
    kind, k = _kind(config, own, context)
    weights = {name: mx.array(value).astype(mx.float32) for name, value in arrays.items()}
    weights = kind_of(kind).read(weights)
    if config.get("rescale_acts_by_decoder_norm"):
        weights = _with_unit_decoder(weights)
    if metadata.get("hook_name_out") or metadata.get("hook_head_index") is not None:
        raise SAEError(
            f"{context}: a transcoder or an autoencoder of one head reads another site than it writes; "
            "mi.sae.load_transcoders reads transcoders"
        )
    _refuse_finetuned(config, weights, context)
    normalize: Any = config.get("normalize_activations")
    normalize = {None: "none", False: "none", True: "expected_average_only_in"}.get(normalize, normalize)
    if normalize == "expected_average_only_in":
        factor = scale or metadata.get("norm_scaling_factor")
        if not factor:
            raise SAEError(
                f"{context}: inputs were scaled by their average norm in training, by how much is not in the file: "
                "give scale= (the root of d_model over the average norm)"
            )
        weights, normalize = _scaled(weights, float(factor)), "none"
    found = SAE(
        kind,
        site or own.get("site") or site_of(metadata.get("hook_name") or metadata.get("hook_point") or "", context),
        {name: weights[name] for name in kind_of(kind).shapes if name in weights},
        k=k,
        subtracts_bias=bool(config.get("apply_b_dec_to_input", True)),
        normalize=normalize,
        meta={name: value for name, value in own.items() if name not in ("kind", "site")}
        | {"model": metadata.get("model_name", "")},
    )
    if config.get("d_in", found.d_model) != found.d_model or config.get("d_sae", found.d_sae) != found.d_sae:
        raise SAEError(
            f"{context}: {CONFIG} says {config.get('d_in')} -> {config.get('d_sae')}, the weights are {found.d_model} "
            f"-> {found.d_sae}"
        )
    return found


def _kind(config: Mapping[str, Any], own: Mapping[str, Any], context: str) -> tuple[str, int | None]:
    """Before version 6 the activation function said what the architecture does not."""
    architecture = config.get("architecture", "standard")
    activation = config.get("activation_fn_str") or config.get("activation_fn") or "relu"
    if architecture == "standard" and activation == "topk":
        architecture = "topk"
    k = config.get("k", (config.get("activation_fn_kwargs") or {}).get("k"))
    known = architectures()
    if architecture not in known or activation not in ("relu", "topk"):
        raise SAEError(
            f"{context}: architecture {architecture!r} with activation {activation!r} is not understood, "
            f"only {', '.join(known)} are"
        )
    said = own.get("kind")
    name = said if said in BY_NAME and BY_NAME[said].architecture == architecture else known[architecture]
    if not kind_of(name).needs_k:
        return name, None
    if not k:
        raise SAEError(f"{context}: a {name} autoencoder whose configuration does not say k")
    return name, int(k)


def _with_unit_decoder(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    """The same function with decoder rows of norm 1: features are ranked by what they write."""
    norm = mx.linalg.norm(weights["W_dec"], axis=-1)
    scaled = {name: value * norm for name, value in weights.items() if name in ("W_enc", "b_enc", "threshold")}
    return {**weights, **scaled, "W_dec": weights["W_dec"] / norm[:, None]}


def _scaled(weights: Mapping[str, mx.array], factor: float) -> dict[str, mx.array]:
    """The same function of unscaled inputs: x * factor in, and its inverse out."""
    folded = {
        "W_enc": weights["W_enc"] * factor,
        "W_dec": weights["W_dec"] / factor,
        "b_dec": weights["b_dec"] / factor,
    }
    return {**weights, **folded}


def _refuse_finetuned(config: Mapping[str, Any], weights: Mapping[str, mx.array], context: str) -> None:
    for name in ("finetuning_scaling_factor", "scaling_factor"):
        if name in weights and not bool(mx.all(mx.abs(weights[name] - 1) < 1e-6)):
            raise SAEError(f"{context}: features were rescaled by fine-tuning ({name}), which is not understood")


def _from_npz(path: Path, site: str | None) -> SAE:
    """Gemma Scope: JumpReLU, and the encoder reads x itself."""
    try:
        with np.load(path) as file:
            arrays = {("W_" + name[2:] if name.startswith("w_") else name): file[name] for name in file}
    except (OSError, ValueError, EOFError) as error:
        raise SAEError(f"{path}: cannot be read: {error}") from error
    weights = {name: mx.array(np.asarray(value, dtype=np.float32)) for name, value in arrays.items()}
    _refuse_finetuned({}, weights, str(path))
    place, l0 = gemma_scope_site(str(path)), re.search(r"average_l0_(\d+)", str(path))
    if (site or place) is None:
        raise SAEError(f"{path}: a {NPZ} does not say which site it is of: give site='resid_post.12'")
    kept = {name: value for name, value in weights.items() if name in kind_of("jumprelu").shapes}
    meta = {"l0": float(l0.group(1))} if l0 else {}
    return SAE("jumprelu", str(site or place), kept, subtracts_bias=False, meta=meta)


def gemma_scope_site(path: str) -> str | None:
    """The site of a path like ".../gemma-scope-2b-pt-res/.../layer_12/width_16k/...": None where it does not say.

    Attention ones are of the heads' values side by side (z), MLP ones of the output after the post-norm.
    """
    layer, kind = re.search(r"layer_(\d+)", path), re.search(r"gemma-scope-[\w.]+-(?:pt|it)-(res|mlp|att)\b", path)
    if layer is None or kind is None:
        return None
    return {"res": "resid_post", "mlp": "mlp_out", "att": "z"}[kind.group(1)] + f".{layer.group(1)}"


def hook_of(site: str) -> str:
    """TransformerLens's name of a site. Raises SAEError for one that has none."""
    name, _, layer = site.partition(".")
    if name not in HOOKS or not layer.isdigit():
        raise SAEError(f"{site!r} has no name there; {', '.join(HOOKS)} of one layer do")
    return f"blocks.{layer}.{HOOKS[name]}"


def site_of(hook: str, context: str) -> str:
    """Our name of a hook. Raises SAEError, with the way out, for one that is not known."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    names = {theirs: ours for ours, theirs in HOOKS.items()}
    if match is None or match.group(2) not in names:
        raise SAEError(
            f"{context}: hook {hook!r} is no site here; give site= (one of {', '.join(HOOKS)}, with its layer)"
        )
    return f"{names[match.group(2)]}.{match.group(1)}"


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SAEError(
            f"{path}: not there; an autoencoder is a folder with {CONFIG} and {WEIGHTS}, or {NPZ}"
        ) from error
    except (OSError, ValueError) as error:
        raise SAEError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise SAEError(f"{path}: a JSON object is needed")
    return found


def with_meta(sae: SAE, **meta: Any) -> SAE:
    """The same autoencoder with more said about it, e.g. the L0 of its release (`l0`) or its inputs' `mean_norm`."""
    return replace(sae, meta={**sae.meta, **meta})
