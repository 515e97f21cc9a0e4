"""`load`: from a name to a `Model` that has proved itself."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from mlx_interp.architectures import family_of
from mlx_interp.errors import UnknownModel
from mlx_interp.loading.checkpoint import read_checkpoint
from mlx_interp.loading.fingerprint import check_published_hashes, weights_hash
from mlx_interp.loading.hub import snapshot
from mlx_interp.loading.names import Source, resolve
from mlx_interp.loading.profile import Dequantize, apply_profile, parse_dtype
from mlx_interp.loading.proofs import check_once
from mlx_interp.loading.weights import check_finite, load_network, load_tokenizer
from mlx_interp.model import Model


def load(
    name: str | Path,
    *,
    dtype: str | mx.Dtype | None = None,
    dequantize: Dequantize = "auto",
    check: bool = True,
) -> Model:
    """A model by short name (`gemma-2-9b`, `gemma-2-9b:8bit`), embedded name (`tiny-gemma2`), Hub id or local folder.

    dtype: "float32", "float16" or "bfloat16"; None is float32 on CPU and the stored one on Metal and CUDA.
    dequantize: "auto" dequantises quantised layers on CPU, where they are slow, when they fit the memory.
    check: compare a download with its published hashes, look for non-finite weights, and let the model prove itself on
        a probe (`Model.self_check`); a proof is remembered by weights, dtype, device, package versions and engine.
    Raises UnknownModel, CheckpointError, UnsupportedModel, or ConfigError for options and for too little memory.
    """
    source = resolve(name)
    compute_in = parse_dtype(dtype)
    checkpoint = read_checkpoint(folder_of(source))
    family_of(checkpoint.config)
    if check:
        check_published_hashes(checkpoint.files)
    network, config = load_network(checkpoint)
    tokenizer = load_tokenizer(checkpoint.path, config.get("eos_token_id"))
    if check:
        check_finite(network, checkpoint.path)
    apply_profile(network, dtype=compute_in, dequantize=dequantize, name=source.name)
    mx.eval(network.parameters())
    model = Model(
        network,
        tokenizer,
        config=config,
        path=checkpoint.path,
        model_id=source.model_id,
        name=source.name,
        quantization=checkpoint.quantization,
        weights_hash=weights_hash(checkpoint.path, checkpoint.files),
    )
    if check:
        check_once(model)
    return model


def folder_of(source: Source) -> Path:
    """The folder a name leads to, downloaded first where it is the Hub's."""
    if source.path is None:
        return snapshot(source)
    if not source.path.is_dir():
        raise UnknownModel(f"{source.name}: its folder {source.path} is not there: reinstall the package")
    return source.path
