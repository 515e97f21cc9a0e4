"""The tables of a layer's steps: attention or another mixer, an MLP or experts, one after the other or side by side.

`block.py` says what a step is, and carries values through a table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlx_interp.engine.block import Extent, Step

if TYPE_CHECKING:
    from mlx_interp.engine.network import Network

RESID_PRE = Step(("resid_pre",), how="given")
ATTN_IN = Step(("attn_in",), ("resid_pre",), ("attn_in",))


def _of_qkv(net: Network, n: Extent) -> float:
    return 2.0 * net.d_model * net.d_head_at(n.layer) * (2 * net.n_kv_heads * n.positions + net.n_heads * n.queries)


def _of_qkv_gate(net: Network, n: Extent) -> float:
    return _of_qkv(net, n) + _of_q(net, n)


QKV = Step(
    ("q", "k", "v"),
    ("attn_in",),
    ("qkv",),
    turned=("q", "k"),
    flops=_of_qkv,
    parts=(
        Step(("q_pre", "k_pre", "v"), ("attn_in",), ("qkv_pre",), flops=_of_qkv),
        Step(("q",), ("q_pre",), ("q_normed",), turned=("q",)),
        Step(("k",), ("k_pre",), ("k_normed",), turned=("k",)),
    ),
)
QKV_GATE = replace(
    QKV,
    makes=("q", "k", "v", "attn_gate"),
    flops=_of_qkv_gate,
    parts=(
        Step(("q_pre", "k_pre", "v", "attn_gate"), ("attn_in",), ("qkv_pre",), flops=_of_qkv_gate),
        *QKV.parts[1:],
    ),
)
ATTENTION = Step(
    ("z",),
    ("q", "k", "v"),
    how="attention",
    inside=("scores", "pattern"),
    flops=lambda net, n: 2.0 * net.n_heads * (net.d_head_at(n.layer) + net.d_v_at(n.layer)) * n.pairs,
)
HEAD_OUT = Step(("head_out",), ("z",), ("head_out",), aside=True)
ATTN_OUT = Step(
    ("attn_out",),
    ("z",),
    ("attn_out",),
    flops=lambda net, n: 2.0 * net.n_heads * net.d_v_at(n.layer) * net.d_model * n.queries,
)


def _of_mlp(net: Network, n: Extent) -> float:
    return 2.0 * net.n_mlp_inputs * net.d_model * net.d_mlp_at(n.layer) * n.queries


def _mlp_act(*opened: str) -> Step:
    """Hidden activations, and how they open: what the first matrices make of the MLP's input."""
    parts = (
        Step(opened, ("mlp_in",), ("gate_up",), flops=_of_mlp),
        Step(("mlp_act",), opened, ("combined",)),
    )
    return Step(("mlp_act",), ("mlp_in",), ("mlp_act",), flops=_of_mlp, parts=parts if opened else ())


def _of_experts(net: Network, n: Extent) -> float:
    return 6.0 * net.n_chosen * net.d_model * net.d_mlp * n.queries


MLP_OUT = Step(
    ("mlp_out",),
    ("mlp_act",),
    ("mlp_out",),
    flops=lambda net, n: 2.0 * net.d_model * net.d_mlp_at(n.layer) * n.queries,
)
GATED = (_mlp_act("mlp_gate", "mlp_up"), MLP_OUT)
UNGATED = (_mlp_act("mlp_up"), MLP_OUT)
WHOLE = (_mlp_act(), MLP_OUT)
"""An MLP whose description is one function."""


EXPERTS = (
    Step(
        ("router",),
        ("mlp_in",),
        ("router",),
        flops=lambda net, n: 2.0 * net.d_model * net.n_experts * n.queries,
    ),
    Step(
        ("mlp_out",),
        ("mlp_in", "router"),
        ("expert_mlp",),
        flops=_of_experts,
        parts=(
            Step(("choice",), ("router",), ("choice",)),
            Step(("expert_weights", "picked"), ("router", "choice"), ("expert_weights",)),
            Step(("experts",), ("expert_weights", "picked"), ("experts",)),
            Step(("expert_out",), ("mlp_in", "experts"), ("expert_out",), flops=_of_experts),
            Step(("mlp_out",), ("expert_out", "expert_weights", "experts"), ("mixed_experts",)),
        ),
    ),
)
"""An MLP of which a token computes a few experts."""
SHARED = Step(
    ("shared_out",),
    ("mlp_in",),
    ("shared_out",),
    flops=lambda net, n: 6.0 * net.d_model * net.d_shared * n.queries,
)


def _with_shared(step: Step) -> Step:
    *parts, last = step.parts
    return replace(
        step, reads=(*step.reads, "shared_out"), parts=(*parts, replace(last, reads=(*last.reads, "shared_out")))
    )


SHARED_EXPERTS = (EXPERTS[0], SHARED, _with_shared(EXPERTS[1]))
"""The same beside experts that every token takes."""


PLAIN = (QKV, ATTENTION, HEAD_OUT, ATTN_OUT)
"""Attention."""
WITH_GATE = (QKV_GATE, ATTENTION, *(replace(step, reads=("z", "attn_gate")) for step in (HEAD_OUT, ATTN_OUT)))
"""Attention whose heads' mixed values are gated before the output projection."""


def _of_delta_in(net: Network, n: Extent) -> float:
    d = net.state_sizes
    return 2.0 * net.d_model * (d.d_conv + d.n_heads * (d.d_value + 2)) * n.positions


DELTA_NET = (
    Step(("conv_in", "mixer_gate", "decay", "write"), ("attn_in",), ("delta_in",), flops=_of_delta_in),
    Step(
        ("convolved",),
        ("conv_in",),
        how="convolution",
        flops=lambda net, n: 2.0 * (net.reach + 1) * net.state_sizes.d_conv * n.positions,
    ),
    Step(("lin_q", "lin_k", "lin_v"), ("convolved",), ("delta_heads",)),
    Step(
        ("mixed",),
        ("lin_q", "lin_k", "lin_v", "decay", "write"),
        how="recurrence",
        inside=("state",),
        flops=lambda net, n: 7.0 * net.state_sizes.n_heads * net.state_sizes.d_state * n.positions,
    ),
    Step(
        ("mixer_out",),
        ("mixed", "mixer_gate"),
        ("delta_out",),
        flops=lambda net, n: 2.0 * net.state_sizes.n_heads * net.state_sizes.d_value * net.d_model * n.queries,
    ),
)
"""Gated DeltaNet in attention's place (`mixers.py`)."""
MAMBA2 = (
    Step(
        ("conv_in", "mixer_gate", "time_step"),
        ("attn_in",),
        ("ssm_in",),
        flops=lambda net, n: (
            2.0
            * net.d_model
            * (net.state_sizes.d_conv + net.state_sizes.n_heads * (net.state_sizes.d_value + 1))
            * n.positions
        ),
    ),
    DELTA_NET[1],
    Step(("lin_q", "lin_k", "lin_v"), ("convolved",), ("ssm_heads",)),
    replace(DELTA_NET[3], reads=("lin_q", "lin_k", "lin_v", "time_step")),
    replace(DELTA_NET[4], functions=("ssm_out",)),
)
"""Mamba 2 in attention's place (`spaces.py`)."""
SHORT_CONV = (
    Step(
        ("conv_in", "conv_gate"),
        ("attn_in",),
        ("short_in",),
        flops=lambda net, n: 6.0 * net.d_model**2 * n.positions,
    ),
    Step(
        ("conv_out",),
        ("conv_in",),
        how="convolution",
        flops=lambda net, n: 2.0 * (net.reach + 1) * net.d_model * n.positions,
    ),
    Step(
        ("mixer_out",),
        ("conv_out", "conv_gate"),
        ("short_out",),
        flops=lambda net, n: 2.0 * net.d_model**2 * n.queries,
    ),
)
"""A short convolution between two gates (`mixers.py`)."""


def _of_q(net: Network, n: Extent) -> float:
    return 2.0 * net.d_model * net.d_head_at(n.layer) * net.n_heads * n.queries


Q_ALONE = Step(
    ("q",),
    ("attn_in",),
    ("q_alone",),
    turned=("q",),
    flops=_of_q,
    parts=(
        Step(("q_pre",), ("attn_in",), ("q_pre",), flops=_of_q),
        Step(("q",), ("q_pre",), ("q_normed",), turned=("q",)),
    ),
)
BORROWED = (Q_ALONE, replace(ATTENTION, reads=("q",)), HEAD_OUT, ATTN_OUT)
"""Attention to the keys and values of an earlier layer."""


def _of_latent(net: Network, n: Extent) -> float:
    latent, q = net.d_latent + net.d_head - net.d_plain, net.n_heads * net.d_head
    inner = net.d_q_latent
    return 2.0 * (
        net.d_model * latent * n.positions + (net.d_model * q if not inner else inner * (net.d_model + q)) * n.queries
    )


LATENT = (
    Step(("q_pre", "kv_latent", "k_shared"), ("attn_in",), ("latent_in",), flops=_of_latent),
    Step(
        ("k_pre", "v"),
        ("kv_latent", "k_shared"),
        ("latent_kv",),
        flops=lambda net, n: 2.0 * net.d_latent * net.n_heads * (net.d_plain + net.d_v) * n.positions,
    ),
    *QKV.parts[1:],
    ATTENTION,
    HEAD_OUT,
    ATTN_OUT,
)
"""Attention whose keys and values are made of one vector a position (`latent.py`)."""


def _of_own(net: Network, n: Extent) -> float:
    return 2.0 * net.d_model * net.d_ple * n.queries


def with_own_inputs(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The same with a layer's own embedding of the token behind the MLP."""
    *before, last = steps
    return (
        *before,
        replace(last, makes=("ple_in",)),
        Step(("ple_gate",), ("ple_in",), ("ple_gate",), flops=_of_own),
        Step(("ple",), how="token"),
        Step(("ple_out",), ("ple_gate", "ple"), ("ple_out",), flops=_of_own),
        Step(("resid_post",), ("ple_in", "ple_out"), ("add_scaled",), how="sum"),
    )


def sequential(mlp: tuple[Step, ...], mixer: tuple[Step, ...] = PLAIN, *, scaled: bool = False) -> tuple[Step, ...]:
    """The MLP reads what attention, or the mixer in its place, wrote. scaled: a factor on what the layer gives."""
    return (
        *(RESID_PRE, ATTN_IN, *mixer),
        Step(("resid_mid",), ("resid_pre", *mixer[-1].makes), ("add",), how="sum"),
        *(Step(("mlp_in",), ("resid_mid",), ("mlp_in",)), *mlp),
        Step(("resid_post",), ("resid_mid", "mlp_out"), ("add_scaled" if scaled else "add",), how="sum"),
    )


def parallel(mlp: tuple[Step, ...]) -> tuple[Step, ...]:
    """Both read the layer's input. The MLP comes first, so that changes of attention share it."""
    return (
        *(RESID_PRE, ATTN_IN, QKV),
        *(Step(("mlp_in",), ("resid_pre",), ("mlp_in",)), *mlp),
        *(ATTENTION, HEAD_OUT, ATTN_OUT),
        Step(("resid_post",), ("resid_pre", "attn_out", "mlp_out"), ("add_both",), how="sum"),
    )
