"""Features are read and changed like any other site, by run, sweep and generate alike."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Add, Apply, Features, Model, load
from mlx_interp.errors import NeverFired, SAEError, ShapeError
from mlx_interp.sae import KINDS, SAE, Kind
from tests.sae.examples import random_sae
from tests.tiny import tiny_model

PROMPTS = [[5, 9, 3, 17, 40], [8, 2, 33]]


@pytest.fixture(scope="module")
def llama() -> Model:
    return tiny_model("llama")


def logits(model: Model, *edits: Features | Add | Apply, prompts: object = PROMPTS) -> np.ndarray:
    return np.asarray(model.run(prompts, interventions=list(edits), logits="all").logits)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", ["none", "constant_norm_rescale", "layer_norm"])
def test_one_feature_changes_as_decoding_the_edited_features_with_the_error_term(
    llama: Model, kind: Kind, normalize: str
) -> None:
    sae = random_sae(kind, llama.d_model, "resid_post.1", normalize=normalize)

    def by_hand(x: mx.array) -> mx.array:
        f = np.array(sae.encode(x))
        error = x - sae(x)
        f[..., [3, 8]] = 0.5 * f[..., [3, 8]] + 2.0
        _, shift, factor = sae._normalised(x)
        return sae.decode(f) * factor + shift + error

    edited = logits(llama, Features(sae, [3, 8], 2.0, factor=0.5))
    assert np.abs(edited - logits(llama, Apply(sae.site, by_hand))).max() < 1e-4
    assert np.abs(edited - logits(llama)).max() > 1e-2


@pytest.mark.parametrize(
    "site", ["resid_pre.0", "resid_post.2", "mlp_out.1", "attn_out.0", "z.1", "mlp_act.2", "final"]
)
def test_splicing_with_the_error_term_changes_nothing_and_without_it_changes_the_logits(
    llama: Model, site: str
) -> None:
    width = {"z": llama.n_heads * llama.d_head, "mlp_act": llama.d_mlp}.get(site.partition(".")[0], llama.d_model)
    sae = random_sae("relu", width, site)
    assert np.abs(logits(llama, sae.splice(error=True)) - logits(llama)).max() < 1e-5
    assert np.abs(logits(llama, sae.splice()) - logits(llama)).max() > 1e-2


def test_the_spliced_activation_is_the_reconstruction(llama: Model) -> None:
    sae = random_sae("topk", llama.d_model, "resid_post.1")
    clean = llama.run(PROMPTS[0], capture=[sae.site])[sae.site]
    spliced = llama.run(PROMPTS[0], capture=[sae.site], interventions=[sae.splice()])[sae.site]
    assert np.abs(np.asarray(sae(clean) - spliced)).max() < 1e-5


def test_steering_adds_the_feature_s_direction(llama: Model) -> None:
    sae = random_sae("jumprelu", llama.d_model, "mlp_out.0")
    added = logits(llama, Add(sae.site, sae.directions[11], 3.0, positions=[1, 2]))
    assert np.abs(logits(llama, sae.steer(11, 3.0, positions=[1, 2])) - added).max() < 1e-5


def test_patched_features_read_back_as_the_values_given(llama: Model) -> None:
    """With orthonormal directions a feature's own edit is all that moves it."""
    d = llama.d_model
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0].astype(np.float32)
    weights = {"W_enc": mx.array(q.T), "W_dec": mx.array(q), "b_enc": mx.zeros((d,)), "b_dec": mx.zeros((d,))}
    sae = SAE("relu", "resid_post.0", weights)
    values = np.array([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    edit = sae.patch([4, 2], values, positions=[1, 2])
    out = llama.run(PROMPTS, capture=["resid_post.0"], interventions=[edit])
    clean = llama.run(PROMPTS, capture=["resid_post.0"])
    # An inactive feature has a negative part along its direction, which is no feature and stays.
    negative = np.minimum(np.asarray(clean["resid_post.0"]) @ q.T, 0)[:, 1:3, [4, 2]]
    found = np.asarray(out["resid_post.0"] @ mx.array(q.T))[:, 1:3][..., [4, 2]] - negative
    assert np.abs(found - values).max() < 1e-4
    assert sae.features(out).shape == (2, 5, d)
    assert not np.asarray(sae.features(out))[1, 3:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sweep_over_features_returns_what_each_run_returns(llama: Model, kind: Kind) -> None:
    sae, late = random_sae(kind, llama.d_model, "resid_mid.1"), random_sae(kind, llama.d_model, "resid_post.2", seed=1)
    other = random_sae(kind, llama.d_model, "resid_mid.1", seed=2)
    variants = [
        [other.ablate(3)],
        [Features(sae, 3, error=False)],
        *([sae.ablate(j)] for j in range(5)),
        [sae.steer([1, 2], 4.0, positions=-1)],
        [sae.patch([7, 3], [1.0, 5.0], positions=[2, 3]), late.ablate([0, 1])],
        [sae.splice()],
        [late.splice(error=False, positions=slice(1, None))],
        [Add("resid_post.0", mx.ones((llama.d_model,)), 0.3), sae.steer(2, 4.0)],
        [],
    ]
    swept = np.asarray(llama.sweep(PROMPTS[0], variants))
    alone = [np.asarray(llama.run(PROMPTS[0], interventions=edits).logits)[0] for edits in variants]
    assert np.abs(swept - np.stack(alone)).max() < 1e-4
    held = llama.sweep(PROMPTS[0], variants, capture=[sae.site])
    for row, edits in enumerate(variants):
        mine = sae.features(llama.run(PROMPTS[0], capture=[sae.site], interventions=edits))[0]
        assert np.abs(np.asarray(sae.features(held)[row] - mine)).max() < 1e-3, edits


def test_generation_under_edited_features_is_what_recomputing_from_scratch_gives() -> None:
    model = load("tiny-llama")
    sae = random_sae("relu", model.d_model, "resid_post.3")
    prompts = ["The capital of Jania is", "hot -> cold, big ->"]
    for edit in (sae.steer(5, 12.0), sae.ablate([1, 2, 3]), sae.splice()):
        cached = model.generate(prompts, interventions=[edit], max_tokens=6)
        for prompt, completion in zip(prompts, cached, strict=True):
            tokens = list(model.prompt(prompt).tokens)
            for token in completion.tokens:
                found = np.asarray(model.run([tokens], interventions=[edit]).logits)
                assert int(found[0].argmax()) == token
                tokens.append(token)
    only_new = sae.steer(5, 40.0, positions="generated")
    plain, steered = (model.generate(prompts, interventions=e, max_tokens=6) for e in ([], [only_new]))
    assert [c.tokens[0] for c in plain] == [c.tokens[0] for c in steered]
    assert [c.tokens for c in plain] != [c.tokens for c in steered]
    grid = model.sweep_generate(prompts[0], [[], [only_new], [sae.splice()]], max_tokens=6)
    assert [c.tokens for c in grid[:2]] == [plain[0].tokens, steered[0].tokens]
    assert grid[2].tokens == model.generate(prompts[0], interventions=[sae.splice()], max_tokens=6)[0].tokens


def test_padding_does_not_change_what_an_edit_does_to_the_short_prompt(llama: Model) -> None:
    sae = random_sae("topk", llama.d_model, "resid_post.1")
    both = logits(llama, sae.ablate([1, 4]))[1, :3]
    assert np.abs(both - logits(llama, sae.ablate([1, 4]), prompts=PROMPTS[1])[0]).max() < 1e-4


def test_editing_in_parts_is_editing_at_once(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sae = random_sae("relu", llama.d_model, "resid_post.1")
    whole = logits(llama, sae.patch([2, 5], np.arange(20.0).reshape(2, 5, 2)))
    monkeypatch.setattr("mlx_interp.sae.sae.EDITED_AT_ONCE", 1)
    parts = logits(llama, sae.patch([2, 5], np.arange(20.0).reshape(2, 5, 2)))
    assert np.abs(whole - parts).max() < 1e-6


def test_an_autoencoder_of_another_width_or_site_is_refused_with_both_widths(llama: Model) -> None:
    with pytest.raises(SAEError, match=r"width 31; resid_post\.1 of this model is 30 wide"):
        llama.run(PROMPTS, interventions=[random_sae("relu", 31, "resid_post.1").ablate(0)])
    with pytest.raises(SAEError, match="features 0 to 69, not 70"):
        llama.run(PROMPTS, interventions=[random_sae("relu", 30, "resid_post.1").ablate(70)])
    with pytest.raises(SAEError, match="twice"):
        llama.run(PROMPTS, interventions=[random_sae("relu", 30, "resid_post.1").ablate([3, 3])])
    with pytest.raises(ShapeError, match=r"\(2,\) for one position"):
        llama.run(PROMPTS, interventions=[random_sae("relu", 30, "resid_post.1").patch([1, 2], [1.0, 2.0, 3.0])])
    with pytest.raises(NeverFired):
        llama.run(PROMPTS, interventions=[random_sae("relu", 30, "resid_post.1").ablate(1, positions=[])])
    with pytest.raises(SAEError, match="the last axis must be 30"):
        random_sae("relu", 30, "resid_post.1").encode(np.zeros((2, 29)))
