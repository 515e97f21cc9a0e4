"""The same in other libraries, on the same weights: a loop of torch hooks, TransformerLens, nnsight.

Each is used as its documentation does it. A library that is not installed is named with the command that brings it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import load_file

from mlx_interp import Model
from mlx_interp.patching.back_patching import back_patching_pairs

Arrays = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Contestant:
    """One library: a plain forward, and the whole grid at the last position as logits (n_pairs, d_vocab)."""

    name: str
    forward: Callable[[], object] = lambda: None
    grid: Arrays = lambda: np.zeros(0)
    missing: str = ""


def contestants(model: Model, tokens: list[int]) -> Iterator[Contestant]:
    """Every library that can be had, on the weights of a benchmark Llama."""
    if not _installed("torch", "transformers"):
        yield Contestant("torch hooks", missing="not installed: pip install torch transformers")
        return
    network = transformers_llama(model)
    yield torch_hooks(network, model.n_layers, tokens)
    if _installed("nnsight"):
        yield from nnsight_traces(network, model.n_layers, tokens)
    else:
        yield Contestant("nnsight", missing="not installed: pip install nnsight")
    if _installed("transformer_lens"):
        yield transformer_lens(model, tokens)
    else:
        yield Contestant("TransformerLens", missing="not installed: pip install transformer_lens")


def transformers_llama(model: Model) -> Any:
    """transformers' Llama with the benchmark model's weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {key: value for key, value in model.config.items() if key not in ("model_type", "quantization")}
    network = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    weights = {name: torch.from_numpy(np.array(value)) for name, value in tree_flatten(model.mlx_model.parameters())}
    if network.config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    network.load_state_dict(weights, strict=True)
    return network.requires_grad_(False)


def torch_hooks(network: Any, n_layers: int, tokens: list[int]) -> Contestant:
    """One forward for the states, then one for each pair, with a forward hook that replaces the last position."""
    import torch

    batch, layers = torch.tensor([tokens]), network.model.layers

    def forward() -> Any:
        with torch.no_grad():
            return network(batch, use_cache=False)

    def run_with(layer: int, hook: Any) -> Any:
        handle = layers[layer].register_forward_hook(hook)
        try:
            return forward().logits
        finally:
            handle.remove()

    def grid() -> np.ndarray:
        states: list[Any] = []
        handles = [
            layer.register_forward_hook(lambda _, __, out: states.append(_first(out)[:, -1])) for layer in layers
        ]
        forward()
        for handle in handles:
            handle.remove()
        rows = []
        for source, target in back_patching_pairs(n_layers, embedding=False):

            def patch(_: Any, __: Any, out: Any, state: Any = states[source]) -> Any:
                hidden = _first(out).clone()
                hidden[:, -1] = state
                return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

            rows.append(run_with(target, patch)[0, -1].numpy())
        return np.stack(rows)

    return Contestant("torch hooks, one run per pair", forward, grid)


def nnsight_traces(network: Any, n_layers: int, tokens: list[int]) -> Iterator[Contestant]:
    """One trace for the states and one for each pair."""
    import torch
    from nnsight import NNsight

    traced, batch = NNsight(network), torch.tensor([tokens])

    def forward() -> Any:
        with torch.no_grad():
            return network(batch, use_cache=False)

    def grid() -> np.ndarray:
        with torch.no_grad():
            states: list[Any] = []
            rows: list[Any] = []
            with traced.trace(batch):
                for layer in traced.model.layers:
                    states.append(_first(layer.output)[:, -1].clone())
            for source, target in back_patching_pairs(n_layers, embedding=False):
                state = states[source]
                with traced.trace(batch):
                    _first(traced.model.layers[target].output)[:, -1] = state
                    rows.append(traced.lm_head.output[0, -1].clone())
        return np.stack([row.numpy() for row in rows])

    yield Contestant("nnsight, one trace per pair", forward, grid)


def transformer_lens(model: Model, tokens: list[int]) -> Contestant:
    """`run_with_hooks` for each pair, on TransformerLens' bridge to the transformers model."""
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    # An empty tokenizer keeps the bridge from looking for one on the Hub.
    hooked = TransformerBridge.boot_transformers(
        "benchmark", hf_model=transformers_llama(model), tokenizer=_empty_tokenizer(), device="cpu"
    )
    batch = torch.tensor([tokens])
    names = [f"blocks.{n}.hook_resid_post" for n in range(model.n_layers)]

    def forward() -> Any:
        with torch.no_grad():
            return hooked(batch)

    def grid() -> np.ndarray:
        with torch.no_grad():
            _, cache = hooked.run_with_cache(batch, names_filter=lambda name: name in names)
            rows = []
            for source, target in back_patching_pairs(model.n_layers, embedding=False):

                def patch(value: Any, hook: Any, state: Any = cache[names[source]][:, -1]) -> Any:
                    value = value.clone()
                    value[:, -1] = state
                    return value

                rows.append(hooked.run_with_hooks(batch, fwd_hooks=[(names[target], patch)])[0, -1].numpy())
        return np.stack(rows)

    return Contestant("TransformerLens, one run per pair", forward, grid)


def _empty_tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"x": 0}, "x"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="x", eos_token="x")


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


@dataclass(frozen=True)
class Generator:
    """One library that writes greedily with a vector added at one layer; None for what is not installed."""

    name: str
    generate: Callable[[], list[int]] = list
    missing: str = ""


def generators(
    model: Model, tokens: list[int], n_new: int, layer: int, vector: Any, scale: float
) -> Iterator[Generator]:
    """Every library that can be had, generating `n_new` tokens from a benchmark Llama with steering at a layer."""
    if not _installed("torch", "transformers"):
        yield Generator("torch hooks", missing="not installed: pip install torch transformers")
        return
    import torch

    network = transformers_llama(model)
    network.generation_config.eos_token_id = None
    added, batch = scale * torch.from_numpy(np.array(vector)), torch.tensor([tokens])
    settings = {"max_new_tokens": n_new, "do_sample": False, "pad_token_id": 0}
    yield Generator("torch hook", lambda: _hooked_generate(network, layer, added, batch, settings))
    if _installed("nnsight"):
        yield Generator("nnsight", lambda: _nnsight_generate(network, layer, added, batch, settings))
    else:
        yield Generator("nnsight", missing="not installed: pip install nnsight")
    if _installed("transformer_lens"):
        yield Generator("TransformerLens", _lens_generate(model, layer, added, batch, n_new))
    else:
        yield Generator("TransformerLens", missing="not installed: pip install transformer_lens")


def _hooked_generate(network: Any, layer: int, added: Any, batch: Any, settings: dict[str, Any]) -> list[int]:
    def hook(_: Any, __: Any, out: Any) -> Any:
        return (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added

    handle = network.model.layers[layer].register_forward_hook(hook)
    try:
        return list(network.generate(batch, **settings)[0, batch.shape[1] :].tolist())
    finally:
        handle.remove()


def _nnsight_generate(network: Any, layer: int, added: Any, batch: Any, settings: dict[str, Any]) -> list[int]:
    import torch
    from nnsight import LanguageModel

    traced = LanguageModel(network, tokenizer=_empty_tokenizer())
    with torch.no_grad(), traced.generate(batch, **settings) as tracer:
        for _ in tracer.iter[0 : settings["max_new_tokens"]]:
            _first(traced.model.layers[layer].output)[:] += added
        written = tracer.result.save()
    return list(written[0, batch.shape[1] :].tolist())


def _lens_generate(model: Model, layer: int, added: Any, batch: Any, n_new: int) -> Callable[[], list[int]]:
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    hooked = TransformerBridge.boot_transformers(
        "benchmark", hf_model=transformers_llama(model), tokenizer=_empty_tokenizer(), device="cpu"
    )

    def generate() -> list[int]:
        with torch.no_grad(), hooked.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_post", lambda v, hook: v + added)]):
            out = hooked.generate(
                batch, max_new_tokens=n_new, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False
            )
        return list(out[0, batch.shape[1] :].tolist())

    return generate


@dataclass(frozen=True)
class Collector:
    """One library that writes the residual stream before every layer to disk: a plain forward, and the collection."""

    name: str
    forward: Callable[[], object] = lambda: None
    collect: Callable[[Path], object] = lambda folder: None
    """Into a new folder: one file a batch, without the padding."""
    missing: str = ""

    @staticmethod
    def read(files: list[Path], layer: int) -> np.ndarray:
        """All rows of one layer, in the order of the prompts."""
        return np.concatenate([load_file(file)[f"resid_pre.{layer}"] for file in files])


def collectors(model: Model, batches: list[np.ndarray], lengths: list[int]) -> Iterator[Collector]:
    """Every library that can be had, over padded batches of a benchmark Llama; `lengths` of all prompts in order."""
    if not _installed("torch", "transformers"):
        yield Collector("torch hooks", missing="not installed: pip install torch transformers")
        return
    import torch

    network = transformers_llama(model)
    tensors = [torch.from_numpy(batch) for batch in batches]
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    real = [
        torch.from_numpy(np.arange(batch.shape[1]) < np.array(lengths[start : start + len(batch)])[:, None])
        for batch, start in zip(batches, starts[:-1], strict=True)
    ]

    def writing(read: Callable[[Any], list[Any]]) -> Callable[[Path], None]:
        """Collects by a function that gives the states (batch, pos, d_model) of every layer of one batch."""

        def run(folder: Path) -> None:
            from safetensors.torch import save_file

            folder.mkdir()
            for number, (batch, keep) in enumerate(zip(tensors, real, strict=True)):
                with torch.no_grad():
                    states = read(batch)
                rows = {f"resid_pre.{layer}": state[keep].contiguous() for layer, state in enumerate(states)}
                save_file(rows, folder / f"{number:05d}.safetensors")

        return run

    def plain(run: Callable[[Any], object]) -> Callable[[], None]:
        def forward() -> None:
            with torch.no_grad():
                for batch in tensors:
                    run(batch)

        return forward

    decoder = network.model
    alone = plain(lambda batch: decoder(batch, use_cache=False))
    yield Collector("torch hooks", alone, writing(lambda batch: _hooked_states(decoder, batch)))
    if _installed("nnsight"):
        yield Collector("nnsight", alone, writing(_nnsight_states(network)))
    else:
        yield Collector("nnsight", missing="not installed: pip install nnsight")
    if _installed("transformer_lens"):
        from transformer_lens.model_bridge import TransformerBridge

        hooked = TransformerBridge.boot_transformers(
            "benchmark", hf_model=transformers_llama(model), tokenizer=_empty_tokenizer(), device="cpu"
        )
        names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.n_layers)]

        def cached(batch: Any) -> list[Any]:
            _, cache = hooked.run_with_cache(batch, names_filter=lambda name: name in names)
            return [cache[name] for name in names]

        yield Collector("TransformerLens", plain(hooked), writing(cached))
    else:
        yield Collector("TransformerLens", missing="not installed: pip install transformer_lens")


def _hooked_states(decoder: Any, batch: Any) -> list[Any]:
    states: list[Any] = []
    handles = [layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])) for layer in decoder.layers]
    try:
        decoder(batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return states


def _nnsight_states(network: Any) -> Callable[[Any], list[Any]]:
    from nnsight import NNsight

    traced = NNsight(network.model)

    def states_of(batch: Any) -> list[Any]:
        states: list[Any] = []
        with traced.trace(batch):
            for layer in traced.layers:
                states.append(layer.input.save())
        return states

    return states_of
