"""Lens verbs: what a layer says by the model's own modules, and shares of a logit that add up to it."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp import Model, Patch, lenses
from mlx_interp.errors import DataError, PositionError, SiteError, UnsupportedModel
from mlx_interp.lenses.patchscopes import IDENTITY
from mlx_interp.lenses.tuned import identity_lens
from tests.tiny import tiny_model

TOKENS = [3, 5, 8, 13, 21]


@pytest.mark.parametrize("position", [-1, 2])
def test_the_logit_lens_is_the_last_norm_and_unembedding_of_every_layer(model: Model, position: int) -> None:
    found = lenses.logit_lens(model, TOKENS, position)
    out = model.run(TOKENS, capture="resid_post", logits="all")
    net = model.network
    for layer in range(model.n_layers):
        expected = net.unembed(net.final(out[f"resid_post.{layer}"][:, position]))[0]
        assert mx.allclose(found[layer], expected, rtol=1e-5, atol=1e-5)
    assert out.logits is not None
    assert mx.allclose(found[-1], out.logits[0, position], rtol=1e-4, atol=1e-4)


def test_the_logit_lens_reads_what_a_layer_adds_and_some_layers_alone(llama: Model) -> None:
    added = lenses.logit_lens(llama, TOKENS, site="mlp_out")
    some = lenses.logit_lens(llama, TOKENS, site="mlp_out.1-2")
    net = llama.network
    state = llama.run(TOKENS, capture="mlp_out.2")["mlp_out.2"][0, -1:]
    assert mx.allclose(added[2], net.unembed(net.final(state))[0], rtol=1e-5, atol=1e-5)
    assert mx.array_equal(some, added[1:])


def test_logit_lenses_of_many_prompts_are_the_lens_of_each(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[*TOKENS, 1], [*TOKENS, 2, 4], [7, 9], TOKENS]
    monkeypatch.setattr("mlx_interp.lenses.logit.ROWS", 2 * model.n_layers)  # two prompts at a time
    for site in ("resid_post", "mlp_out"):
        found = list(lenses.logit_lenses(model, prompts, -2, site=site))
        assert len(found) == len(prompts)
        for prompt, lens in zip(prompts, found, strict=True):
            assert mx.allclose(lens, lenses.logit_lens(model, prompt, -2, site=site), rtol=1e-4, atol=1e-4)


def test_a_lens_refuses_positions_and_sites_that_it_cannot_read(llama: Model) -> None:
    with pytest.raises(PositionError, match="position 5 does not exist, the prompt has 5 tokens"):
        lenses.logit_lens(llama, TOKENS, 5)
    with pytest.raises(SiteError, match=r"a lens reads the stream.*not 'z'"):
        lenses.logit_lens(llama, TOKENS, site="z")


def test_a_tuned_lens_of_no_translation_is_the_logit_lens(llama: Model) -> None:
    lens = identity_lens(llama)
    moved = lenses.TunedLens(lens.weight, lens.bias + 1.0, lens.model)
    plain = lenses.logit_lens(llama, TOKENS, 1)
    assert mx.allclose(lenses.tuned_lens(llama, TOKENS, lens, 1), plain, rtol=1e-5, atol=1e-5)
    net, state = llama.network, llama.run(TOKENS, capture="resid_post.0")["resid_post.0"][:, 1]
    assert mx.allclose(
        lenses.tuned_lens(llama, TOKENS, moved, 1)[0], net.unembed(net.final(state + 1.0))[0], rtol=1e-5, atol=1e-5
    )


def test_top_tokens_are_texts_with_their_probabilities() -> None:
    model = mi.load("tiny-llama")
    logits = mx.full((2, model.d_vocab), -10.0)
    logits[0, 40], logits[0, 41], logits[1, 50] = 3.0, 2.0, 1.0
    rows = lenses.top_tokens(model, logits, k=2)
    probs = np.asarray(mx.softmax(logits, axis=-1))
    assert rows[0] == [(model.tokenizer.decode([t]), pytest.approx(float(probs[0, t]), rel=1e-6)) for t in (40, 41)]
    assert rows[1][0][0] == model.tokenizer.decode([50])
    with pytest.raises(DataError, match="the top 0 of"):
        lenses.top_tokens(model, logits, k=0)


def test_a_patchscope_writes_what_a_run_with_the_state_in_place_writes() -> None:
    model = mi.load("tiny-llama")
    source, target = "The capital of France is", "Portugal: a country, x"
    pairs = [(2, 0), (5, -1), (3, 3)]
    found = lenses.patchscope(model, source, target, pairs=pairs, max_tokens=4)
    states = model.run(source, capture="resid_post")
    at = len(model.prompt(target)) - 1
    for one, (layer, into) in zip(found, pairs, strict=True):
        site = "resid_pre.0" if into == -1 else f"resid_post.{into}"
        edit = Patch(site, states[f"resid_post.{layer}"][0, -1], at)
        assert one.tokens == model.generate(target, interventions=[edit], max_tokens=4)[0].tokens
    assert len(lenses.patchscope(model, source, max_tokens=1)) == model.n_layers


def test_token_identity_reads_each_layer_at_its_own_layer() -> None:
    model = mi.load("tiny-llama")
    found = lenses.token_identity(model, "The capital of France is", 2)
    states = model.run("The capital of France is", capture="resid_post")
    at = len(model.prompt(IDENTITY)) - 1
    for layer in range(model.n_layers):
        edit = Patch(f"resid_post.{layer}", states[f"resid_post.{layer}"][0, 2], at)
        logits = model.run(IDENTITY, interventions=[edit]).logits
        assert logits is not None
        assert mx.allclose(found[layer], logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", [-1, 1])
def test_shares_of_a_logit_add_up_to_it_in_every_family(model: Model, position: int) -> None:
    """To 1e-5 of the largest logit: embeddings, heads, biases behind them, MLPs, the constant, what a cap takes off."""
    logits = model.run(TOKENS, logits="all").logits
    assert logits is not None
    row = np.asarray(logits[0, position], np.float64)
    bound = 1e-5 * float(np.abs(row).max())
    capped = bool(model.network.family.softcap_logits)
    one = lenses.direct_logit_attribution(model, TOKENS, 17, position=position)
    both = lenses.direct_logit_attribution(model, TOKENS, 17, 23, position=position)
    for found, expected in ((one, row[17]), (both, row[17] - row[23])):
        assert abs(found.total + found.softcap - expected) < bound
        assert abs(found.logit - expected) < bound
        assert abs(found.rounding) < bound
        assert (abs(found.softcap) > bound) == capped
    assert one.heads.shape == (model.n_layers, model.n_heads)
    assert one.mlp.shape == one.attn.shape == (model.n_layers,)


@pytest.mark.parametrize("family", ["gemma4_text", "lfm2", "qwen3_5"])
def test_a_stream_that_is_no_sum_of_what_is_known_is_refused(family: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"the stream of {family} is no sum"):
        lenses.direct_logit_attribution(tiny_model(family), TOKENS, 17)


def test_a_head_s_share_is_its_output_through_the_frozen_norm_and_the_token_s_own_weights() -> None:
    model = tiny_model("qwen2")  # untied, an RMS norm, no bias behind attention
    out = model.run(TOKENS, capture=["head_out", "resid_post", "mlp_out", "resid_pre.0"])
    end = np.asarray(out[f"resid_post.{model.n_layers - 1}"][0, -1], np.float64)
    language = model.network.language_model
    gain = np.asarray(language.model.norm.weight, np.float64) / np.sqrt((end**2).mean() + language.model.norm.eps)
    along = gain * np.asarray(language.lm_head.weight[17], np.float64)
    found = lenses.direct_logit_attribution(model, TOKENS, 17)
    for layer in range(model.n_layers):
        heads = np.asarray(out[f"head_out.{layer}"][0, -1], np.float64)
        np.testing.assert_allclose(found.heads[layer], heads @ along, rtol=1e-3, atol=1e-4)
        assert found.mlp[layer] == pytest.approx(np.asarray(out[f"mlp_out.{layer}"][0, -1]) @ along, rel=1e-3, abs=1e-4)
    assert found.embedding == pytest.approx(np.asarray(out["resid_pre.0"][0, -1]) @ along, rel=1e-3, abs=1e-4)


def test_attribution_takes_answers_as_texts_and_refuses_tokens_that_are_none() -> None:
    model = mi.load("tiny-llama")
    prompt = "The capital of France is"
    found = lenses.direct_logit_attribution(model, prompt, "Paris", "Rome")
    tokens = [model.prompt(f"{prompt} {name}").tokens[len(model.prompt(prompt))] for name in ("Paris", "Rome")]
    logits = model.run(prompt).logits
    assert logits is not None
    assert found.total == pytest.approx(float(logits[0, tokens[0]] - logits[0, tokens[1]]), abs=1e-3)
    with pytest.raises(DataError, match="token 1000000 is outside the vocabulary"):
        lenses.direct_logit_attribution(model, prompt, 1000000)
    with pytest.raises(PositionError, match="position 99"):
        lenses.direct_logit_attribution(model, prompt, 3, position=99)
