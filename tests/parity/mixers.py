"""What transformers computes inside mixers that are no attention, recorded under the names of sites. Needs torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def as_stored(weights: dict[str, Any]) -> dict[str, Any]:
    """mlx-lm's weights of Qwen 3.5 as transformers keeps them: norms less one, the convolution's axes turned."""
    shifted = ("input_layernorm", "post_attention_layernorm", "model.norm", "q_norm", "k_norm")
    found = {}
    for name, value in weights.items():
        owner = name.rpartition(".")[0]
        value = value - 1 if owner.endswith(shifted) else value
        found[name] = value.permute(0, 2, 1).contiguous() if owner.endswith("conv1d") else value
    return found


@contextmanager
def recording_delta_nets(model: Any, mixers: dict[int, Any], seen: dict[str, Any]) -> Iterator[None]:
    """Records the gated DeltaNets of some layers: matrices by hooks, the rest where the delta rule is called."""
    module: Any = importlib.import_module(type(model).__module__)
    under_way: list[int] = []
    handles = []
    for layer, mixer in mixers.items():
        d_value = mixer.head_v_dim

        def gated(_: Any, __: Any, out: Any, layer: int = layer, d_value: int = d_value) -> None:
            seen[f"mixer_gate.{layer}"] = out.reshape(*out.shape[:-1], -1, d_value)

        handles.append(mixer.register_forward_pre_hook(lambda *_, layer=layer: under_way.append(layer)))
        handles.append(mixer.in_proj_z.register_forward_hook(gated))
        handles.append(
            mixer.in_proj_qkv.register_forward_hook(
                lambda _, __, out, layer=layer: seen.update({f"conv_in.{layer}": out})
            )
        )
    own = getattr(module, "torch_chunk_gated_delta_rule", None)

    def recorded(query: Any, key: Any, value: Any, g: Any, beta: Any, **rest: Any) -> Any:
        import torch

        layer = under_way[-1]
        mixed, last = own(query, key, value, g=g, beta=beta, **rest)
        states = []
        for end in range(1, query.shape[1] + 1):
            parts = {"g": g[:, :end], "beta": beta[:, :end], "use_qk_l2norm_in_kernel": True}
            _, state = module.torch_recurrent_gated_delta_rule(
                query[:, :end], key[:, :end], value[:, :end], output_final_state=True, **parts
            )
            states.append(state.transpose(-1, -2).flatten(-2))
        seen.update(
            {
                f"lin_q.{layer}": module.l2norm(query) * query.shape[-1] ** -0.5,
                f"lin_k.{layer}": module.l2norm(key),
                f"lin_v.{layer}": value,
                f"decay.{layer}": g.exp(),
                f"write.{layer}": beta,
                f"state.{layer}": torch.stack(states, dim=1),
                f"mixed.{layer}": mixed,
            }
        )
        return mixed, last

    if mixers:
        module.torch_chunk_gated_delta_rule = recorded
    try:
        yield
    finally:
        if mixers:
            module.torch_chunk_gated_delta_rule = own
        for handle in handles:
            handle.remove()
