"""TransformerLens and circuitkit on a wrapped model's own weights: what `benchmarks.circuit_peers` runs beside ours.

Each is used as its documentation does it, in the fastest form that it shows: all prompts of one length in one batch,
the weights without gradients.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.others import transformers_llama
from mlx_interp import Model
from mlx_interp.circuits import Pair

Scores = Callable[[], np.ndarray]
"""(n_pairs or 1, n_nodes): of each pair, or the mean over them; nan for nodes that the side does not tell."""
WHERE = {"all": slice(None), "last": slice(-1, None)}
"""Positions at which heads are ablated."""


@dataclass(frozen=True)
class Attribution:
    """One library's estimate of every node's effect."""

    name: str
    scores: Scores = lambda: np.zeros(0)
    missing: str = ""


def installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def hooked(model: Model) -> Any:
    """TransformerLens' HookedTransformer with the weights of a Llama, without gradients of them."""
    import torch
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_llama_weights

    logging.getLogger().setLevel(logging.ERROR)
    settings = HookedTransformerConfig(
        n_layers=model.n_layers,
        d_model=model.d_model,
        n_heads=model.n_heads,
        n_key_value_heads=None if model.n_heads == model.n_kv_heads else model.n_kv_heads,
        d_head=model.d_head,
        d_mlp=model.config["intermediate_size"],
        d_vocab=model.d_vocab,
        n_ctx=256,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        eps=model.config["rms_norm_eps"],
        positional_embedding_type="rotary",
        rotary_base=int(model.config["rope_theta"]),
        rotary_dim=model.d_head,
        rotary_adjacent_pairs=False,
        final_rms=True,
        original_architecture="LlamaForCausalLM",
        device="cpu",
        dtype=torch.float32,
    )
    lens = HookedTransformer(settings)
    state = convert_llama_weights(transformers_llama(model), settings)
    lens.load_and_process_state_dict(
        state, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return lens.eval().requires_grad_(False)


def node_hooks(model: Model) -> list[str]:
    """TransformerLens' names of what nodes write, in the order of nodes; heads at z."""
    return [
        "blocks.0.hook_resid_pre",
        *(f"blocks.{layer}.{part}" for layer in range(model.n_layers) for part in ("attn.hook_z", "hook_mlp_out")),
    ]


def attributions(model: Model, lens: Any, pairs: Sequence[Pair]) -> Iterator[Attribution]:
    """Every implementation that can be had, over pairs of one length with one right and one wrong answer each."""
    yield Attribution("TransformerLens, attribution patching", partial(lens_attribution, model, lens, pairs))
    if installed("circuitkit"):
        yield Attribution("circuitkit, EAP of nodes", partial(circuitkit_attribution, lens, pairs))
    else:
        yield Attribution("circuitkit, EAP of nodes", missing="not installed: pip install circuitkit==0.2.0")


def lens_attribution(model: Model, lens: Any, pairs: Sequence[Pair]) -> np.ndarray:
    """Nanda's attribution patching, as TransformerLens' demo does it, of the nodes' hooks alone: (pair, node)."""
    import torch

    names = node_hooks(model)
    clean, other = (torch.tensor([list(prompt.tokens) for prompt in side]) for side in sides(pairs))
    here: dict[str, Any] = {}
    slopes: dict[str, Any] = {}

    def keep(value: Any, hook: Any) -> None:
        here[hook.name] = value.detach()

    def slope(gradient: Any, hook: Any) -> None:
        slopes[hook.name] = gradient.detach()

    with torch.no_grad():
        _, there = lens.run_with_cache(other, names_filter=lambda name: name in names)
    forward = [(names[0], lambda value, hook: value.requires_grad_()), *((name, keep) for name in names)]
    with lens.hooks(fwd_hooks=forward, bwd_hooks=[(name, slope) for name in names]):
        log_odds(lens(clean), pairs).sum().backward()
    parts = []
    for name in names:
        product = (there[name] - here[name]) * slopes[name]
        summed = product.sum((1, -1))
        parts.append(summed if summed.ndim == 2 else summed[:, None])
    return np.asarray(torch.cat(parts, dim=1).numpy())


def log_odds(logits: Any, pairs: Sequence[Pair]) -> Any:
    """Logits (pair, pos, d_vocab) -> the difference of the answers' logits at the end (pair,)."""
    rows = list(range(len(pairs)))
    right, wrong = ([getattr(pair, side)[0] for pair in pairs] for side in ("answers", "wrong"))
    return logits[rows, -1, right] - logits[rows, -1, wrong]


def sides(pairs: Sequence[Pair]) -> tuple[list[Any], list[Any]]:
    return [pair.clean for pair in pairs], [pair.counterfactual for pair in pairs]


def circuitkit_attribution(lens: Any, pairs: Sequence[Pair]) -> np.ndarray:
    """circuitkit's EAP of nodes (its EAP-IG code), the mean over pairs: (1, node).

    The gradient that it takes for an MLP is the one at the MLP's own input, so MLPs are nan here: they estimate another
    thing than the effect of what the MLP writes.
    """
    import torch
    from circuitkit.backends.eap import attribute_node, graph

    class Loader(list[Any]):
        templated = True  # no token before the first

    rows = Loader([([list(p.tokens) for p in side] for side in sides(pairs))])
    clean, other = rows.pop()
    rows.append((clean, other, None))
    before = {name: getattr(lens.cfg, name) for name in EAP_NEEDS}
    tokenize = attribute_node.tokenize_batch_pair

    def tokens(_: Any, clean: Any, other: Any, **__: Any) -> Any:
        there = torch.tensor(clean), torch.tensor(other)
        ones, n_pos = torch.ones_like(there[0]), there[0].shape[1]
        return *there, ones, ones, torch.full((len(clean),), n_pos), n_pos

    attribute_node.tokenize_batch_pair = tokens
    try:
        for name in EAP_NEEDS:
            setattr(lens.cfg, name, True)
        lens.embed.requires_grad_(True)  # it freezes all weights but these
        made = graph.Graph.from_model(lens, node_scores=True)
        attribute_node.attribute_node(
            lens, made, rows, lambda logits, *_: log_odds(logits, pairs).sum(), "EAP", quiet=True
        )
    finally:
        lens.embed.requires_grad_(False)
        attribute_node.tokenize_batch_pair = tokenize
        for name, value in before.items():
            setattr(lens.cfg, name, value)
    scores: np.ndarray = made.nodes_scores.numpy().copy()
    n_heads = lens.cfg.n_heads
    scores[1 + n_heads :: n_heads + 1] = np.nan
    return scores[None]


EAP_NEEDS = ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in", "ungroup_grouped_query_attention")
"""What circuitkit wants its model to compute."""


def ablated(lens: Any, tokens: Sequence[Sequence[int]], heads: Sequence[tuple[int, int]], where: str) -> np.ndarray:
    """TransformerLens' loop over hooks: the logits at the end (head, prompt, d_vocab) with one head's z at zero."""
    import torch

    batch, at = torch.tensor([list(row) for row in tokens]), WHERE[where]
    rows = []
    with torch.no_grad():
        for layer, head in heads:

            def zero(z: Any, hook: Any, head: int = head) -> Any:
                z[:, at, head] = 0
                return z

            logits = lens.run_with_hooks(batch, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)])
            rows.append(logits[:, -1].numpy())
    return np.stack(rows)
