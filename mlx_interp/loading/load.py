"""`load`: from a name to a `Model` that has proved itself."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

from mlx_interp.architectures import family_of
from mlx_interp.deferred import mx
from mlx_interp.engine.network import Network
from mlx_interp.errors import ConfigError, UnknownModel
from mlx_interp.loading.adapter import Adapter, attach, fold_in, read_adapter
from mlx_interp.loading.fewer_bits import check_bits, in_fewer_bits
from mlx_interp.loading.fingerprint import check_published_hashes, weights_hash
from mlx_interp.loading.hub import snapshot
from mlx_interp.loading.names import Source, resolve
from mlx_interp.loading.open import open_checkpoint
from mlx_interp.loading.packaged import PACKAGED_MODELS, packaged_file
from mlx_interp.loading.processes import (
    Copies,
    Shard,
    agree_on_memory,
    agree_on_versions,
    check_layout,
    check_ranks,
    chosen_copies,
    processes,
    share_out,
)
from mlx_interp.loading.profile import Dequantize, Memory, apply_profile, check_options, lay_out, parse_dtype
from mlx_interp.loading.proofs import check_once
from mlx_interp.loading.rope import put_ropes_right
from mlx_interp.loading.slices import Stored
from mlx_interp.loading.weights import check_finite, load_network, load_tokenizer, refuse_two_heads
from mlx_interp.model import Model


def load(
    name: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: str | mx.Dtype | None = None,
    dequantize: Dequantize = "auto",
    memory: Memory = "auto",
    check: bool = True,
    shard: Shard = False,
    stages: Sequence[int] | None = None,
    copies: Copies | None = None,
    bits: int | None = None,
    group_size: int = 64,
) -> Model:
    """A model by short name (`gemma-2-9b`, `gemma-2-9b:8bit`), embedded name (`tiny-gemma2`), Hub id, local folder
    or GGUF file.

    adapter: a folder with a LoRA adapter in mlx-lm's or PEFT's layout; the model is then called `name+folder`, and
        files made on one do not fit the other. An adapter of another model is refused with both shapes.
    dtype: "float32", "float16" or "bfloat16"; None is float32 on CPU and the stored one on Metal and CUDA.
    dequantize: "auto" dequantises quantised layers on CPU, where they are slow; True does everywhere, False nowhere.
    memory: "low" keeps quantised, on CPU, what is not in use: the same numbers in less memory and more time
        (`docs/memory.md`). "auto" is that where the dequantised weights do not fit.
    check: compare a download with its published hashes, look for non-finite weights, and let the model prove itself on
        a probe (`Model.self_check`); a proof is remembered by weights, dtype, device, package versions and engine.
    shard: split the weights over the processes of `mlx.launch`; every process then runs the same program and has every
        site whole (`docs/sharding.md`). True: each keeps a part of every matrix; "pipeline": some consecutive layers.
        Not with an adapter.
    stages: with "pipeline", layers of each process by rank; None is as their free memory has it.
    copies: how many copies of the split model the processes hold side by side, consecutive ranks one; "auto": as many
        as there is memory for; None: one, or as many as the first call asked for. Each copy may then run other prompts
        (`docs/sharding.md`).
    bits: quantise to so many bits (2, 3, 4, 5, 6, 8) on loading, as `mlx_lm.convert` would, in groups of `group_size`;
        the model is then called `name-4bit`. What is quantised already is made dense before. Not with shard or adapter.
    Raises UnknownModel, CheckpointError, UnsupportedModel, or ConfigError for options and for too little memory.
    """
    check_options(dequantize, memory)
    check_layout(shard, stages, copies)
    check_bits(bits, group_size, split=bool(shard), adapted=adapter is not None)
    source = resolve(name)
    if shard and adapter is not None:
        raise ConfigError(f"{source.name}: an adapter is not split over processes: fold it in, and load the result")
    ranks = processes(source.name, chosen_copies(copies, lambda: _bytes(name, memory), shard=shard)) if shard else None
    compute_in = parse_dtype(dtype)
    added = read_adapter(adapter) if adapter is not None else None
    checkpoint = open_checkpoint(place_of(source))
    family = family_of(checkpoint.config)
    if check:
        check_published_hashes(checkpoint.files)
    refuse_two_heads(checkpoint)
    stored = Stored(checkpoint.files) if shard else None
    network, config = load_network(checkpoint, stored)
    if bits is not None:
        config = in_fewer_bits(network, config, bits, group_size)
    net = Network(network, family, config)
    changed = put_ropes_right(net)
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder, config.get("eos_token_id"))
    own_hash = weights_hash(checkpoint.path, checkpoint.files)
    quantization = checkpoint.quantization
    if bits is not None:
        own_hash = hashlib.sha256(f"{own_hash} {bits} bits, group {group_size}".encode()).hexdigest()
        quantization = f"{bits}-bit, group {group_size}"
    if added is not None:
        attach(network, added, name=source.name, weights_hash=own_hash)
    if ranks is not None and stored is not None:
        agree_on_versions(ranks)
        ranks.agree("checkpoint", own_hash)
        share_out(net, ranks, shard, stages, stored.rows)
    if check:
        check_finite(network, checkpoint.path if added is None else added.path)
    apply_profile(net, dtype=compute_in, dequantize=dequantize, memory=memory, name=source.name)
    if added is not None:
        fold_in(network)
    lay_out(net)
    model = Model(
        network,
        tokenizer,
        config=config,
        path=checkpoint.path,
        model_id=_with(source.model_id, added, bits),
        name=_with(source.name, added, bits),
        quantization=quantization,
        weights_hash=own_hash if added is None else hashlib.sha256(f"{own_hash} {added.hash}".encode()).hexdigest(),
    )
    if changed:
        warnings.warn(
            f"{model.name}: RoPE of type {changed} is computed as transformers does; mlx-lm's class computes another",
            RuntimeWarning,
            stacklevel=2,
        )
    if checkpoint.arrays is not None and "embed_scale" in family.unread:  # a GGUF file's own program does not round it
        warnings.warn(
            f"{model.name}: mlx-lm's {model.family} {family.unread['embed_scale']}: logits differ from llama.cpp's",
            RuntimeWarning,
            stacklevel=2,
        )
    if ranks is not None:
        agree_on_memory(ranks)
        check_ranks(model, ranks)
    if check:
        # A proof that one process remembers and another does not would leave the other waiting.
        check_once(model) if ranks is None else model.self_check()
    return model


def _bytes(name: str | Path, memory: Memory) -> int:
    from mlx_interp.loading.outline import outline  # which builds on this module

    return outline(name, memory=memory).weight_bytes


def _with(name: str, adapter: Adapter | None, bits: int | None) -> str:
    name = name if adapter is None else f"{name}+{adapter.path.resolve().name}"
    return name if bits is None else f"{name}-{bits}bit"


def place_of(source: Source) -> Path:
    """The folder or GGUF file a name leads to, downloaded first where it is the Hub's."""
    if source.kind == "package":
        return packaged_file(PACKAGED_MODELS[source.name])
    if source.path is None:
        return snapshot(source)
    if not source.path.exists():
        raise UnknownModel(f"{source.name}: {source.path} is not there: reinstall the package")
    return source.path
