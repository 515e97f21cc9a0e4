"""TransformerLens's names are taken and given back, each with the meaning its documentation states."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp import Model
from mlx_interp.errors import SiteError
from mlx_interp.sites import KINDS
from mlx_interp.transformer_lens_names import HOOKS, OTHER_MEANINGS, own_name, transformer_lens_name
from tests.tiny import tiny_model

TOKENS = [3, 5, 7, 11]
PAGE = (Path(__file__).resolve().parents[1] / "docs" / "coming_from.md").read_text(encoding="utf-8")
TL: Any = "transformer_lens"


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_s_name_reads_its_site_and_is_given_back(llama: Model, hook: str) -> None:
    name = f"blocks.1.{hook}"
    out = llama.run(TOKENS, capture=name, names=TL)
    assert list(out) == [name]
    own = f"{HOOKS[hook]}.1"
    assert mx.array_equal(out[name], llama.run(TOKENS, capture=own)[own])
    assert out[own] is out[name]
    assert name in out
    assert f"`{name.replace('.1.', '.3.')}`" in PAGE
    assert f"`{HOOKS[hook]}.3`" in PAGE


@pytest.mark.parametrize("hook", [hook for hook, site in HOOKS.items() if KINDS[site].writable])
def test_an_intervention_takes_a_hook_s_name(llama: Model, hook: str) -> None:
    if hook == "attn.hook_pattern":
        return  # rows of zeros: the same call below, at all other sites
    found = llama.run(TOKENS, interventions=mi.Ablate(f"blocks.1.{hook}"), names=TL).logits
    assert mx.array_equal(found, llama.run(TOKENS, interventions=mi.Ablate(f"{HOOKS[hook]}.1")).logits)
    assert not np.array_equal(np.asarray(found), np.asarray(llama.run(TOKENS).logits))


def test_what_the_names_mean_holds_between_the_arrays(llama: Model) -> None:
    """As documented there: the stream sums up, z = pattern v, results and the bias sum to attn_out, post of a gated MLP
    is act(pre) * pre_linear, the pattern is the softmax of the scores."""
    hooks = [f"blocks.1.{hook}" for hook in HOOKS]
    out = llama.run(TOKENS, capture=hooks, names=TL)
    x = {hook: np.asarray(out[f"blocks.1.{hook}"])[0] for hook in HOOKS}
    assert np.allclose(x["hook_resid_mid"], x["hook_resid_pre"] + x["hook_attn_out"], atol=1e-5)
    assert np.allclose(x["hook_resid_post"], x["hook_resid_mid"] + x["hook_mlp_out"], atol=1e-5)
    v = np.repeat(x["attn.hook_v"], llama.n_heads // llama.n_kv_heads, axis=1)
    assert np.allclose(x["attn.hook_z"], np.einsum("hqk,khd->qhd", x["attn.hook_pattern"], v), atol=1e-5)
    bias = x["hook_attn_out"] - x["attn.hook_result"].sum(axis=1)
    assert np.allclose(bias, bias[0], atol=1e-4)
    gate = x["mlp.hook_pre"]
    assert np.allclose(x["mlp.hook_post"], gate / (1 + np.exp(-gate)) * x["mlp.hook_pre_linear"], atol=1e-5)
    last = np.exp(x["attn.hook_attn_scores"][:, -1])
    assert np.allclose(x["attn.hook_pattern"][:, -1], last / last.sum(axis=-1, keepdims=True), atol=1e-5)
    length = {hook: np.linalg.norm(x[hook], axis=-1) for hook in ("attn.hook_q", "attn.hook_rot_q")}
    assert np.allclose(length["attn.hook_q"], length["attn.hook_rot_q"], atol=1e-4)  # RoPE turns, and keeps lengths
    assert not np.allclose(x["attn.hook_q"], x["attn.hook_rot_q"], atol=1e-2)


def test_without_a_gate_hook_pre_is_what_the_up_projection_gives() -> None:
    model = tiny_model("gpt2")
    out = model.run(TOKENS, capture="blocks.1.mlp.hook_pre", names=TL)
    assert list(out) == ["blocks.1.mlp.hook_pre"]
    assert mx.array_equal(out["mlp_up.1"], model.run(TOKENS, capture="mlp_up.1")["mlp_up.1"])


def test_own_names_and_selectors_are_taken_beside_them(llama: Model) -> None:
    out = llama.run(TOKENS, capture=["resid_post", "final"], names=TL)
    assert list(out) == [*(f"blocks.{layer}.hook_resid_post" for layer in range(3)), "final"]
    assert out.stack("resid_post").shape[0] == 3
    assert repr(out).splitlines()[1] == "  resid_post.0-2  (1, 4, 30)"


@pytest.mark.parametrize("hook", OTHER_MEANINGS)
def test_a_hook_of_another_meaning_is_refused_with_what_comes_near(llama: Model, hook: str) -> None:
    name = hook if hook in ("hook_embed", "hook_pos_embed") or "final" in hook else f"blocks.0.{hook}"
    with pytest.raises(SiteError, match=f"{re.escape(repr(name))}: no site here means the same: "):
        llama.run(TOKENS, capture=name, names=TL)


def test_a_mistyped_hook_and_other_names_are_refused(llama: Model) -> None:
    with pytest.raises(SiteError, match=r"no hook 'blocks.1.attn.hook_zz': did you mean 'attn.hook_z'"):
        llama.run(TOKENS, capture="blocks.1.attn.hook_zz", names=TL)
    with pytest.raises(SiteError, match="layer 9 does not exist"):
        llama.run(TOKENS, capture="blocks.9.attn.hook_z", names=TL)
    with pytest.raises(ValueError, match="names is 'own' or 'transformer_lens', not 'nnsight'"):
        llama.run(TOKENS, names="nnsight")  # type: ignore[arg-type]
    with pytest.raises(SiteError, match="no site 'blocks"):
        llama.run(TOKENS, capture="blocks.1.attn.hook_z")


def test_a_name_goes_there_and_back() -> None:
    for sites in (tuple(KINDS), tuple(set(KINDS) - {"mlp_gate"})):
        for site in ("z.0", "resid_post.11", "mlp_up.2"):
            assert own_name(transformer_lens_name(site, sites), sites) == site
    assert transformer_lens_name("attn_in.0", tuple(KINDS)) == "attn_in.0"
