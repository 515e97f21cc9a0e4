"""RoPE of a GGUF file: scaling by metadata (linear, YaRN), by factors in tensors (Llama 3, longrope)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlx_interp.errors import CheckpointError, UnsupportedModel
from mlx_interp.loading.gguf.quantised import Floats, dense
from mlx_interp.loading.gguf.reader import GGUFFile

FREQUENCIES, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = frozenset({FREQUENCIES, LONG, SHORT})
SCALING = "rope.scaling."
PUBLISHED = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What every Llama 3.1, 3.2 and 3.3 publishes beside its factor."""
TOLERANCE = 1e-5


def rope_fields(file: GGUFFile, own: dict[str, Any], *, head_dim: int, partial: bool) -> dict[str, Any]:
    """Fields of config.json that say how queries and keys are turned.

    Raises UnsupportedModel for a scaling that is not described, CheckpointError for one that contradicts itself.
    """
    fields: dict[str, Any] = {"rope_theta": own.get("rope.freq_base", 10000.0)}
    turned = own.get("rope.dimension_count", head_dim)
    if turned != head_dim:
        if not partial:
            raise CheckpointError(
                f"{file.path}: {file.architecture}.rope.dimension_count is {turned}, the head's key_length is "
                f"{head_dim}: {file.architecture} turns whole heads"
            )
        fields["partial_rotary_factor"] = turned / head_dim
    scaling = {key.removeprefix(SCALING): value for key, value in own.items() if key.startswith(SCALING)}
    scaling.pop("finetuned", None)
    if FREQUENCIES in file.tensors:
        fields["rope_scaling"] = llama3(file, fields["rope_theta"], turned, scaling)
    elif LONG in file.tensors or SHORT in file.tensors:
        fields.update(longrope(file, own, scaling, turned))
    elif scaling.get("type", "none") != "none":
        fields["rope_scaling"] = by_metadata(file, scaling)
    else:
        harmless = {"type", "original_context_length"}  # Phi-3 states its training length without scaling, too
        refuse_rest(file, scaling, harmless | ({"factor"} if scaling.get("factor", 1.0) in (0.0, 1.0) else set()))
    return fields


def by_metadata(file: GGUFFile, scaling: dict[str, Any]) -> dict[str, Any]:
    kind = scaling["type"]
    if kind == "linear":
        refuse_rest(file, scaling, {"type", "factor", "original_context_length"})
        return {"rope_type": "linear", "type": "linear", "factor": scaling["factor"]}
    if kind == "yarn":
        names = {
            "factor": "factor",
            "original_context_length": "original_max_position_embeddings",
            "yarn_beta_fast": "beta_fast",
            "yarn_beta_slow": "beta_slow",
        }
        refuse_rest(file, scaling, {"type", *names})
        given = {name: scaling[key] for key, name in names.items() if key in scaling}
        return {"rope_type": "yarn", "type": "yarn", **given}
    raise UnsupportedModel(f"{file.path}: {file.architecture}.rope.scaling.type {kind!r} is not described")


def refuse_rest(file: GGUFFile, scaling: dict[str, Any], known: set[str]) -> None:
    for key, value in scaling.items():
        if key not in known:
            raise UnsupportedModel(
                f"{file.path}: metadata key {file.architecture}.{SCALING}{key} = {value!r} is not understood"
            )


def numbers(file: GGUFFile, name: str, count: int) -> Floats:
    tensor = file.tensors[name]
    if tensor.shape != (count,):
        raise CheckpointError(f"{file.path}: {name} holds {tensor.shape} factors for {count} frequencies")
    return dense(tensor.kind, file.blocks(name)).ravel()


def llama3(file: GGUFFile, base: float, turned: int, scaling: dict[str, Any]) -> dict[str, Any]:
    """Llama 3's scaling, found again in the factor of each frequency: the file keeps nothing else of it."""
    refuse_rest(file, scaling, {"type"} if scaling.get("type", "none") == "none" else set())
    factors = numbers(file, FREQUENCIES, turned // 2).astype(np.float64)
    wavelengths = 2 * math.pi * base ** (np.arange(0, turned, 2) / turned)
    candidates = [{"factor": float(factors.max()), **PUBLISHED}, fitted(factors, wavelengths)]
    for found in candidates:
        if found and np.allclose(llama3_factors(found, wavelengths), factors, rtol=TOLERANCE, atol=0):
            return {"rope_type": "llama3", "type": "llama3", **found}
    raise UnsupportedModel(f"{file.path}: the factors of {FREQUENCIES} are not those of Llama 3's RoPE scaling")


def fitted(factors: Any, wavelengths: Any) -> dict[str, Any] | None:
    """Settings of the same function with low_freq_factor 1, from two frequencies between its bounds or more."""
    factor = factors.max()
    between = (factors > 1 + TOLERANCE) & (factors < factor * (1 - TOLERANCE))
    if between.sum() < 2:
        return None
    smooth = (1 / factors[between] - 1 / factor) / (1 - 1 / factor)
    slope, offset = np.polyfit(1 / wavelengths[between], smooth, 1)
    high = 1 - 1 / offset
    return {
        "factor": float(factor),
        "low_freq_factor": 1.0,
        "high_freq_factor": float(high),
        "original_max_position_embeddings": float(slope * (high - 1)),
    }


def llama3_factors(settings: dict[str, Any], wavelengths: Any) -> Any:
    factor, low, high = (settings[name] for name in ("factor", "low_freq_factor", "high_freq_factor"))
    smooth = (settings["original_max_position_embeddings"] / wavelengths - low) / (high - low)
    return 1 / ((1 - smooth.clip(0, 1)) / factor + smooth.clip(0, 1))


def longrope(file: GGUFFile, own: dict[str, Any], scaling: dict[str, Any], turned: int) -> dict[str, Any]:
    """Phi-3's scaling: one factor a frequency, for short and for long prompts, and a factor on queries and keys."""
    refuse_rest(file, scaling, {"type", "original_context_length", "attn_factor"})
    lacking = [name for name in (LONG, SHORT) if name not in file.tensors]
    if lacking or "original_context_length" not in scaling:
        missing = lacking[0] if lacking else f"{file.architecture}.{SCALING}original_context_length"
        raise CheckpointError(f"{file.path}: {LONG if lacking != [LONG] else SHORT} needs {missing}, which is missing")
    original = int(scaling["original_context_length"])
    rope: dict[str, Any] = {
        "rope_type": "longrope",
        "type": "longrope",
        "long_factor": as_written(numbers(file, LONG, turned // 2)),
        "short_factor": as_written(numbers(file, SHORT, turned // 2)),
    }
    longer = own["context_length"] / original
    implied = math.sqrt(1 + math.log(longer) / math.log(original)) if longer > 1 else 1.0
    if "attn_factor" in scaling and not math.isclose(scaling["attn_factor"], implied, rel_tol=TOLERANCE):
        rope["attention_factor"] = scaling["attn_factor"]
    return {"rope_scaling": rope, "original_max_position_embeddings": original}


def as_written(values: Any) -> list[float]:
    """float32 numbers with as many digits as tell them apart."""
    return [float(str(value)) for value in values]
