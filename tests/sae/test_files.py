"""Autoencoders go out and come in without a change of function, and a file that would be misread is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import load as load_model
from mlx_interp.errors import SAEError
from mlx_interp.sae import KINDS, SAE, Gate, Kind, fetched, from_saelens, load, pretrained, save
from mlx_interp.sae.files import CONFIG, WEIGHTS, gemma_scope_site, hook_of, site_of
from tests.loading.hub_server import COMMIT, Hub, serving
from tests.sae.examples import published_reconstruction, random_sae

X = np.random.default_rng(3).standard_normal((11, 30)).astype(np.float32)
TEXTS = ["The state containing Drexton is Jania.", "The capital of Jania is Bremium."]


def rewritten(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", ["none", "layer_norm"])
def test_what_is_written_is_read_back_the_same(tmp_path: Path, kind: Kind, normalize: Any) -> None:
    sae = random_sae(kind, 30, "mlp_out.2", normalize=normalize, subtracts_bias=kind != "jumprelu", meta={"l0": 3.0})
    back = load(save(sae, tmp_path / "one", model_name="tiny"))
    assert (back.kind, back.site, back.k, back.normalize, back.subtracts_bias) == (
        *(kind, "mlp_out.2", sae.k, normalize, sae.subtracts_bias),
    )
    assert back.meta["l0"] == 3.0
    assert np.array_equal(np.asarray(back(X)), np.asarray(sae(X)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", ["none", "layer_norm", "constant_norm_rescale"])
def test_sae_lens_computes_the_same_from_the_exported_files(tmp_path: Path, kind: Kind, normalize: Any) -> None:
    """Needs sae_lens, which brings torch and transformer_lens: install it beside the project to have this test."""
    sae_lens = pytest.importorskip("sae_lens", reason="sae_lens is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    sae = random_sae(kind, 30, "resid_post.2", normalize=normalize)
    theirs = sae_lens.SAE.load_from_disk(str(save(sae, tmp_path / "one")))
    with torch.no_grad():
        features = theirs.encode(torch.from_numpy(X))
        out = theirs.decode(features)
    assert np.abs(features.numpy() - np.asarray(sae.encode(X))).max() < 1e-4
    assert np.abs(out.numpy() - np.asarray(sae(X))).max() < 1e-4


def test_a_configuration_before_version_6_is_read_by_its_activation_function(tmp_path: Path) -> None:
    sae = random_sae("topk", 30, "resid_pre.4")
    old = {
        "d_in": 30,
        "d_sae": sae.d_sae,
        "hook_point": "blocks.4.hook_resid_pre",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 7},
        "normalize_activations": False,
        "hook_point_head_index": None,
    }
    found = from_saelens(old, sae.weights)
    assert (found.kind, found.k, found.site) == ("topk", 7, "resid_pre.4")
    assert np.abs(np.asarray(found(X)) - published_reconstruction(sae, X)).max() < 1e-4


def test_a_named_scale_of_the_inputs_is_folded_in_or_asked_for() -> None:
    sae = random_sae("relu", 30, "resid_post.1")
    config = {"architecture": "standard", "normalize_activations": "expected_average_only_in"}
    config |= {"hook_name": "blocks.1.hook_resid_post"}
    found = from_saelens(config, sae.weights, scale=0.25)
    assert np.abs(np.asarray(found(4 * X)) - 4 * np.asarray(sae(X))).max() < 1e-4
    with pytest.raises(SAEError, match="give scale="):
        from_saelens(config, sae.weights)


def test_features_ranked_by_the_decoder_s_norm_stay_ranked_by_it() -> None:
    sae = random_sae("topk", 30, "resid_post.1")
    norm = np.linalg.norm(np.asarray(sae.directions), axis=-1)
    config = {"architecture": "topk", "k": 7, "rescale_acts_by_decoder_norm": True}
    found = from_saelens({**config, "hook_name": "blocks.1.hook_resid_post"}, sae.weights)
    z = (X - np.asarray(sae.weights["b_dec"])) @ np.asarray(sae.weights["W_enc"]) + np.asarray(sae.weights["b_enc"])
    f = np.maximum(z * norm, 0)
    f[f < np.sort(f, axis=-1)[:, -7:-6]] = 0
    out = (f / norm) @ np.asarray(sae.directions) + np.asarray(sae.weights["b_dec"])
    assert np.abs(np.asarray(found(X)) - out).max() < 1e-4


def gemma_scope_file(sae: SAE, folder: Path) -> Path:
    """params.npz as released: the encoder sees x itself."""
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{name: np.asarray(value) for name, value in sae.weights.items()})
    return folder


def test_gemma_scope_s_encoder_reads_x_itself_and_the_path_says_site_and_l0(tmp_path: Path) -> None:
    sae = random_sae("jumprelu", 30, "resid_post.12", subtracts_bias=False)
    where = "google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"
    found = load(gemma_scope_file(sae, tmp_path / where))
    assert (found.kind, found.site, found.subtracts_bias) == ("jumprelu", "resid_post.12", False)
    assert found.meta["l0"] == 82
    assert np.abs(np.asarray(found(X)) - published_reconstruction(sae, X)).max() < 1e-4
    assert gemma_scope_site("gemma-scope-9b-it-att/layer_3/width_16k") == "z.3"
    assert gemma_scope_site("gemma-scope-2b-pt-mlp/layer_0/width_65k") == "mlp_out.0"
    with pytest.raises(SAEError, match="give site="):
        load(gemma_scope_file(sae, tmp_path / "elsewhere"))


@pytest.mark.parametrize("site", ["resid_pre.3", "resid_mid.0", "resid_post.7", "attn_out.1", "mlp_out.2", "z.4"])
def test_names_of_sites_go_to_hooks_and_back(site: str) -> None:
    assert site_of(hook_of(site), "") == site


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "matching_pursuit"}, "'matching_pursuit' .* is not understood"),
        ({"architecture": "topk"}, "does not say k"),
        ({"architecture": "jumprelu"}, "needs threshold"),
        ({"normalize_activations": "covariance_whitening"}, "not normalised by 'covariance_whitening'"),
        ({"d_in": 31}, "says 31 -> 70, the weights are 30 -> 70"),
        ({"metadata": {"hook_name": "blocks.1.ln2.hook_normalized"}}, "is no site here; give site="),
        ({"metadata": {"hook_name": "blocks.1.hook_mlp_in", "hook_name_out": "blocks.1.hook_mlp_out"}}, "transcoder"),
        ({"activation_fn_str": "tanh-relu"}, "is not understood"),
    ],
)
def test_a_file_that_would_be_misread_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = rewritten(save(random_sae("relu", 30, "resid_post.1"), tmp_path / "one"), **changes)
    with pytest.raises(SAEError, match=message):
        load(folder)


def test_files_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match=r"not there; an autoencoder is a folder with cfg\.json"):
        load(tmp_path)
    folder = save(random_sae("relu", 30, "resid_post.1"), tmp_path / "one")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:500])
    with pytest.raises(SAEError, match=r"sae_weights\.safetensors: cannot be read"):
        load(folder)
    (folder / CONFIG).write_text("{")
    with pytest.raises(SAEError, match=r"cfg\.json: cannot be read"):
        load(folder)
    (folder / "params.npz").write_bytes(b"PK")
    with pytest.raises(SAEError, match=r"params\.npz: cannot be read"):
        load(folder / "params.npz")


def identity(d: int, layer: int = 3) -> SAE:
    both = mx.concatenate([mx.eye(d), -mx.eye(d)])
    weights = {"W_enc": both.T, "W_dec": both, "b_enc": mx.zeros(2 * d), "b_dec": mx.zeros(d)}
    return SAE("relu", f"resid_post.{layer}", weights)


def test_a_release_in_a_local_folder_passes_the_gate_or_is_refused_with_both_models_figures(tmp_path: Path) -> None:
    model, other = load_model("tiny-llama"), load_model("tiny-gemma2")
    save(identity(128), tmp_path / "layer_3")
    found = pretrained(model, str(tmp_path), "layer_3", TEXTS, reference=other)
    assert found.fidelity.reconstruction.fve > 0.999
    assert found.reference is not None
    assert "tiny-gemma2" in found.reference.model
    with pytest.raises(SAEError, match=r"L0 is 128.0, released with 20.*Unquantised: on tiny-gemma2"):
        pretrained(model, str(tmp_path), "layer_3", TEXTS, reference=other, l0=20.0)
    save(random_sae("relu", 128, "resid_post.3"), tmp_path / "wrong")
    with pytest.raises(SAEError, match=r"FVE .* is below .*Measured on tiny-llama"):
        pretrained(model, str(tmp_path), "wrong", TEXTS)
    with pytest.raises(SAEError, match=r"resid_post\.3 of tiny-llama is 128 wide"):
        pretrained(model, str(save(random_sae("relu", 30, "resid_post.3"), tmp_path / "narrow")), "", TEXTS)
    passed = pretrained(model, str(tmp_path / "wrong"), "", TEXTS, gate=Gate(-1e9, -1e9, 1e9))
    assert passed.sae.site == "resid_post.3"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = save(identity(128), tmp_path / "release")
    (folder / "trap.py").write_text("raise SystemExit('ran')")
    with serving(Hub(folders={"someone/saes": {COMMIT: folder}}, gated={"someone/closed"})) as server:
        yield server


DOWNLOAD = """
import sys, mlx_interp as mi
from mlx_interp.errors import MlxInterpError
model = mi.load("tiny-llama")
for repository in sys.argv[1:]:
    try:
        found = mi.sae.pretrained(model, repository, "", ["The state containing Drexton is Jania."])
        print("passed", found.fidelity)
    except MlxInterpError as error:
        print("refused", error)
"""


@pytest.mark.slow
def test_a_release_comes_through_the_hub_without_anything_executable(hub: Hub, tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_TOKEN": "",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", DOWNLOAD, "someone/saes", "someone/other", "someone/closed"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    passed, missing, gated = done.stdout.splitlines()
    assert passed.startswith("passed on tiny-llama")
    assert not list((tmp_path / "cache").rglob("trap.py"))
    assert "refused the Hub has no 'someone/other'" in missing
    assert "someone/closed is gated" in gated


def test_a_folder_without_an_autoencoder_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match=r"a folder with cfg\.json"):
        fetched(str(tmp_path), "")
