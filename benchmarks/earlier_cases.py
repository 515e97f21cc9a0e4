"""One build's side of benchmarks.earlier: prepares the case that is named, then computes it as often as asked.

Run by it as a script, with one build or the other on the path: only what both have may be imported here.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import mlx_interp as mi  # before mlx: it opens the fast BLAS

import mlx.core as mx  # isort: skip
import numpy as np

from benchmarks import models
from benchmarks.models import benchmark_tokens

Compute = Callable[[], object]
SHAPE = {"head_dim": 64, "tie_word_embeddings": True, "max_position_embeddings": 1024}
OTHERS: dict[str, dict[str, Any]] = {
    "qwen3": SHAPE,
    "gemma": SHAPE,
    "phi3": SHAPE,
    "granite": SHAPE
    | {"attention_multiplier": 0.125, "embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logits_scaling": 1.0}
    | {"attention_bias": False, "mlp_bias": False},
    "gemma3_text": SHAPE | {"query_pre_attn_scalar": 64, "sliding_window": 512, "sliding_window_pattern": 6},
    "gpt2": {"n_ctx": 1024, "n_positions": 1024, "n_embd": 512, "n_head": 8, "n_layer": 12, "layer_norm_epsilon": 1e-5},
}
"""Families of the first release of which its benchmark had no model: what their configs say beside `models.SIZES`."""


def benchmark_model(family: str) -> mi.Model:
    if family in OTHERS:
        models.CLASSES[family] = importlib.import_module(f"mlx_lm.models.{family}")
        models.OWN[family] = OTHERS[family]
    if family == "gpt2":  # it has names of its own, and the first release refuses what it does not know
        models.SIZES = {"vocab_size": models.SIZES["vocab_size"]}
    return models.benchmark_model(family)


def pairs(model: mi.Model, prompt: Any, position: int) -> list[list[mi.Intervention]]:
    """Back-patching over all pairs of layers, source above target."""
    out = model.run(prompt, capture="resid_post")
    states = [out[f"resid_post.{layer}"][0, position] for layer in range(model.n_layers)]
    mx.eval(states)
    return [
        [mi.Patch(f"resid_post.{target}", states[source], position)]
        for source in range(model.n_layers)
        for target in range(source)
    ]


def heads(model: mi.Model, position: int) -> list[list[mi.Intervention]]:
    """Every head's z replaced by a random vector."""
    values = mx.random.normal((model.n_layers, model.n_heads, model.d_head), key=mx.random.key(1))
    mx.eval(values)
    return [
        [mi.Patch(f"z.{layer}", values[layer, head], position, heads=head)]
        for layer in range(model.n_layers)
        for head in range(model.n_heads)
    ]


def sweep(family: str, tokens: str, grid: str, position: str) -> Compute:
    model, prompt = benchmark_model(family), benchmark_tokens(int(tokens))
    at = len(prompt) - 1 if position == "last" else len(prompt) // 2
    variants = pairs(model, prompt, at) if grid == "pairs" else heads(model, at)
    return lambda: model.sweep(prompt, variants)


def real(position: str, *name: str) -> Compute:
    """All pairs of layers of a trained model, at one position of 8 tokens."""
    model = mi.load(" ".join(name))
    prompt = model.prompts([[int(n) for n in np.random.default_rng(0).integers(100, 5000, 8)]])[0]
    at = len(prompt.tokens) - 1 if position == "last" else len(prompt.tokens) // 2
    variants = pairs(model, prompt, at)
    return lambda: model.sweep(prompt, variants)


def run(family: str, tokens: str) -> Compute:
    model, prompt = benchmark_model(family), benchmark_tokens(int(tokens))
    return lambda: model.run(prompt, logits="all").logits


def capture(family: str, tokens: str) -> Compute:
    model, prompt = benchmark_model(family), benchmark_tokens(int(tokens))
    return lambda: model.run(prompt, logits="all", capture="resid_post").stack("resid_post")


def generate(family: str, rows: str) -> Compute:
    """32 new tokens after prompts of 32, one vector added to every token."""
    model = benchmark_model(family)
    prompts = np.random.default_rng(0).integers(1, 8192, (int(rows), 32)).tolist()
    vector = mx.random.normal((model.d_model,), key=mx.random.key(2))
    steer = mi.Add("resid_post.6", vector, 0.1)
    return lambda: [c.tokens for c in model.generate(prompts, interventions=[steer], max_tokens=32)]


CASES: dict[str, Callable[..., Compute]] = {
    "sweep": sweep,
    "real": real,
    "run": run,
    "capture": capture,
    "generate": generate,
}


def main() -> None:
    kind, *arguments = sys.argv[1].split()
    compute = CASES[kind](*arguments)
    _evaluated(compute())  # warm
    print(json.dumps({"ready": True}), flush=True)
    # On a CPU what processors spent on it, which others on a busy machine lengthen little.
    clock = time.process_time if mx.default_device() == mx.Device(mx.cpu) else time.perf_counter
    for line in sys.stdin:
        start = clock()
        result = _evaluated(compute())
        answer: dict[str, object] = {"seconds": clock() - start}
        if line.strip() == "output":
            answer["values"] = np.array(result, dtype=np.float64).ravel()[:200_000].tolist()
        print(json.dumps(answer), flush=True)


def _evaluated(result: object) -> object:
    if isinstance(result, mx.array):
        mx.eval(result)
    return result


if __name__ == "__main__":
    main()
