"""What transformers computes in layers of recent families that others lack, recorded as sites. Needs torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SHIFTED = ("input_layernorm", "post_attention_layernorm", "model.norm", "q_norm", "k_norm")


def as_stored(weights: dict[str, Any], shifted: tuple[str, ...] = ()) -> dict[str, Any]:
    """mlx-lm's weights as transformers keeps them: some norms less one (Qwen 3.5's), convolutions' axes turned."""
    found = {}
    for name, value in weights.items():
        owner = name.rpartition(".")[0]
        value = value - 1 if owner.endswith(shifted) else value
        found[name] = value.permute(0, 2, 1).contiguous() if "conv" in owner and value.ndim == 3 else value
    return found


@contextmanager
def recording_delta_nets(model: Any, mixers: dict[int, Any], seen: dict[str, Any]) -> Iterator[None]:
    """Records the gated DeltaNets of some layers: matrices by hooks, the rest where the delta rule is called."""
    module: Any = importlib.import_module(type(model).__module__)
    under_way: list[int] = []
    handles = []
    for layer, mixer in mixers.items():
        if not hasattr(mixer, "in_proj_z"):
            record = record_state_space if hasattr(mixer, "A_log") else record_short_conv
            handles += record(mixer, layer, seen)
            continue
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
    if hasattr(module, "mamba2_chunk_scan"):
        with recording_scans(module, mixers, seen):
            yield
        for handle in handles:
            handle.remove()
        return
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

    if own is not None:
        module.torch_chunk_gated_delta_rule = recorded
    try:
        yield
    finally:
        if own is not None:
            module.torch_chunk_gated_delta_rule = own
        for handle in handles:
            handle.remove()


def with_fused_mlps(weights: dict[str, Any]) -> dict[str, Any]:
    """Gate and up of an MLP in one matrix, as Granite 4 has them."""
    import torch

    found = {}
    for name, value in weights.items():
        if ".mlp.gate_proj." in name:
            both = torch.cat([value, weights[name.replace("gate_proj", "up_proj")]])
            found[name.replace("mlp.gate_proj", "shared_mlp.input_linear")] = both
        elif ".mlp.up_proj." not in name:
            found[name.replace("mlp.down_proj", "shared_mlp.output_linear")] = value
    return found


def record_state_space(mixer: Any, layer: int, seen: dict[str, Any]) -> list[Any]:
    """What a state space's first matrix gives, by a hook."""
    import torch

    def projected(_: Any, __: Any, out: Any) -> None:
        gate, conv_in, step = out.split([mixer.intermediate_size, mixer.conv_dim, mixer.num_heads], dim=-1)
        seen[f"conv_in.{layer}"] = conv_in
        seen[f"mixer_gate.{layer}"] = gate.reshape(*gate.shape[:-1], mixer.num_heads, -1)
        low, high = mixer.time_step_limit
        seen[f"time_step.{layer}"] = torch.nn.functional.softplus(step + mixer.dt_bias).clamp(low, high)

    return [mixer.in_proj.register_forward_hook(projected)]


@contextmanager
def recording_scans(module: Any, mixers: dict[int, Any], seen: dict[str, Any]) -> Iterator[None]:
    """Records state spaces where the scan is called, which gets them in the order of the layers."""
    own, waiting = module.mamba2_chunk_scan, sorted(mixers)

    def recorded(x: Any, dt: Any, pace: Any, k: Any, q: Any, **rest: Any) -> Any:
        import torch

        layer, states = waiting.pop(0), []
        for end in range(1, x.shape[1] + 1):
            parts = [a[:, :end] for a in (x, dt, k, q)]
            _, state = own(parts[0], parts[1], pace, *parts[2:], **{**rest, "return_final_states": True})
            states.append(state.flatten(-2))
        made = own(x, dt, pace, k, q, **rest)
        mixed = made[0] if isinstance(made, tuple) else made
        given = {"lin_q": q, "lin_k": k, "lin_v": x, "state": torch.stack(states, dim=1), "mixed": mixed}
        seen.update({f"{name}.{layer}": value for name, value in given.items()})
        return made

    module.mamba2_chunk_scan = recorded
    try:
        yield
    finally:
        module.mamba2_chunk_scan = own


def record_own_inputs(layer: Any, index: int, seen: dict[str, Any]) -> list[Any]:
    """What an MLP behind a norm gives, and what a layer adds from its own embedding of the token, by hooks."""

    def output(name: str) -> Any:
        return lambda _, __, out: seen.update({f"{name}.{index}": out})

    handles = [layer.post_feedforward_layernorm.register_forward_hook(output("mlp_out"))]
    if not layer.hidden_size_per_layer_input:
        return handles
    gate = layer.per_layer_input_gate
    return [
        *handles,
        gate.register_forward_pre_hook(lambda _, args: seen.update({f"ple_in.{index}": args[0]})),
        gate.register_forward_hook(output("ple_gate")),
        layer.post_per_layer_input_norm.register_forward_hook(output("ple_out")),
        layer.register_forward_pre_hook(lambda _, args: seen.update({f"ple.{index}": args[1]})),
    ]


def record_latent(attention: Any, index: int, seen: dict[str, Any]) -> list[Any]:
    """What keys and values are made of, and keys before RoPE: each head's own part, then what all share; by hooks."""
    import torch

    rank, d_plain = attention.kv_lora_rank, attention.qk_nope_head_dim

    def compressed(_: Any, __: Any, out: Any) -> None:
        seen[f"kv_latent.{index}"] = out

    def shared(_: Any, __: Any, out: Any) -> None:
        under_way[0] = out[..., rank:]

    def made(_: Any, __: Any, out: Any) -> None:
        heads = out.reshape(*under_way[0].shape[:-1], attention.num_heads, -1)[..., :d_plain]
        turned = under_way[0][..., None, :].expand(*heads.shape[:-1], -1)
        seen[f"k_pre.{index}"] = torch.cat([heads, turned], dim=-1)

    under_way: list[Any] = [None]
    hooks = {"kv_a_layernorm": compressed, "kv_a_proj_with_mqa": shared, "kv_b_proj": made}
    return [attention.get_submodule(name).register_forward_hook(hook) for name, hook in hooks.items()]


def record_short_conv(mixer: Any, layer: int, seen: dict[str, Any]) -> list[Any]:
    """What a convolution between two gates reads and gives, by hooks."""

    def projected(_: Any, __: Any, out: Any) -> None:
        gate, conv_gate, inner = out.chunk(3, dim=-1)
        seen[f"conv_in.{layer}"], seen[f"conv_gate.{layer}"] = gate * inner, conv_gate

    def gated(_: Any, args: Any) -> None:
        seen[f"conv_out.{layer}"] = args[0] / seen[f"conv_gate.{layer}"]

    return [mixer.in_proj.register_forward_hook(projected), mixer.out_proj.register_forward_pre_hook(gated)]
