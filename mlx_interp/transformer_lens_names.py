"""TransformerLens's names of activations, and the sites that mean the same here: `blocks.3.attn.hook_z` is `z.3`."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal, TypeAlias

from mlx_interp.errors import SiteError, nearest

Names: TypeAlias = Literal["own", "transformer_lens"]
HOOKS = {
    "hook_resid_pre": "resid_pre",
    "attn.hook_q": "q_pre",
    "attn.hook_k": "k_pre",
    "attn.hook_rot_q": "q",
    "attn.hook_rot_k": "k",
    "attn.hook_v": "v",
    "attn.hook_attn_scores": "scores",
    "attn.hook_pattern": "pattern",
    "attn.hook_z": "z",
    "attn.hook_result": "head_out",
    "hook_attn_out": "attn_out",
    "hook_resid_mid": "resid_mid",
    "mlp.hook_pre": "mlp_gate",
    "mlp.hook_pre_linear": "mlp_up",
    "mlp.hook_post": "mlp_act",
    "hook_mlp_out": "mlp_out",
    "hook_resid_post": "resid_post",
}
"""Of a layer. In an MLP without a gate `hook_pre` is what the up projection gives."""
OTHER_MEANINGS = {
    "hook_embed": "the stream that enters layer 0 is resid_pre.0",
    "hook_pos_embed": "learned positions are in resid_pre.0 already",
    "ln_final.hook_normalized": "it is taken before or after the norm's weight, by kind of norm; final is after it",
    "ln1.hook_normalized": "attn_in is after the norm's weight",
    "ln2.hook_normalized": "mlp_in is after the norm's weight",
    "hook_mlp_in": "it is the stream before the norm; mlp_in is after it, resid_mid before it",
    "hook_attn_in": "it is the stream before the norm, once a head; attn_in is after it, resid_pre before it",
}
"""Hooks for which no site means the same, and what comes near."""


def own_name(name: str, sites: Collection[str]) -> str:
    """The site of one of TransformerLens's names; what is none of them comes back as it is.

    sites: those that the model has. Raises SiteError for a hook that no site stands for, with the nearest.
    """
    if not isinstance(name, str) or not re.match(r"blocks\.|hook_|ln_final\.", name):
        return name
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    hook = found[2] if found else name
    if hook in OTHER_MEANINGS:
        raise SiteError(f"{name!r}: no site here means the same: {OTHER_MEANINGS[hook]}")
    if not found or hook not in HOOKS:
        close = nearest(hook, HOOKS)
        raise SiteError(f"no hook {name!r}: {close}hooks are blocks.LAYER. and one of {', '.join(HOOKS)}")
    site = "mlp_up" if hook == "mlp.hook_pre" and "mlp_gate" not in sites else HOOKS[hook]
    return f"{site}.{found[1]}"


def transformer_lens_name(site: str, sites: Collection[str]) -> str:
    """TransformerLens's name of a site such as "z.3"; the site's own where it has none."""
    name, _, layer = site.partition(".")
    hooks = {own: hook for hook, own in HOOKS.items()}
    if "mlp_gate" not in sites:
        hooks["mlp_up"] = "mlp.hook_pre"
    return f"blocks.{layer}.{hooks[name]}" if name in hooks else site
