"""Transcoders: the formulas of the papers, training that finds what is planted, and layouts that others write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_interp import Model
from mlx_interp.errors import SAEError
from mlx_interp.sae import (
    TrainConfig,
    Transcoder,
    TranscoderSet,
    load_transcoders,
    save_transcoders,
    train_transcoders,
    transcoded,
    transcoder_rows,
)
from tests.sae.transcoder_examples import FEATURES, random_set

D, LAYERS = 12, 3
RNG = np.random.default_rng(5)
ROWS = {layer: RNG.standard_normal((40, D)).astype(np.float32) for layer in range(LAYERS)}


def arrays(one: Transcoder) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float64) for name, value in one.weights.items()}


def written_out(transcoders: TranscoderSet, layer: int) -> np.ndarray:
    """The reconstruction of a layer's MLP output, feature by feature."""
    found = np.zeros((40, D))
    for one in transcoders.transcoders:
        w = arrays(one)
        if one.layer == layer:
            found += w["b_dec"] + (ROWS[layer] @ w["W_skip"] if "W_skip" in w else 0)
        if not one.layer <= layer < one.layer + one.n_written:
            continue
        z = ROWS[one.layer] @ w["W_enc"] + w["b_enc"]
        for j in range(FEATURES):
            f = np.where(z[:, j] > w.get("threshold", np.zeros(FEATURES))[j], z[:, j], 0)
            found += f[:, None] * w["W_dec"][j, layer - one.layer]
    return found


def made(transcoders: TranscoderSet) -> dict[int, np.ndarray]:
    features = {one.layer: one.encode(ROWS[one.layer]) for one in transcoders.transcoders}
    found = transcoders.written(features, {layer: mx.array(rows) for layer, rows in ROWS.items()})
    return {layer: np.asarray(x) for layer, x in found.items()}


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_a_set_writes_what_the_formula_says(kind: str, cross: bool) -> None:
    transcoders = random_set(LAYERS, D, cross=cross, kind=kind, skip=not cross)
    assert transcoders.crosses == cross
    for layer, x in made(transcoders).items():
        assert np.allclose(x, written_out(transcoders, layer), atol=1e-5), layer


def test_fidelity_is_variance_explained_and_counts(llama: Model) -> None:
    transcoders = random_set(LAYERS, D)
    out = {layer: written_out(transcoders, layer) for layer in ROWS}
    found = transcoded(transcoders, ROWS, out)
    assert np.allclose(found.fve, 1, atol=1e-6)
    active = np.asarray(transcoders.transcoders[1].encode(ROWS[1])) > 0
    assert found.l0[1] == pytest.approx(active.sum(1).mean())
    assert found.dead[1] == pytest.approx((~active.any(0)).mean())
    noise = {layer: x + 3 * x.std() * RNG.standard_normal(x.shape) for layer, x in out.items()}
    assert np.all(transcoded(transcoders, ROWS, noise).fve < 0.3)
    with pytest.raises(SAEError, match=r"rows of layers \[1\] are missing"):
        transcoded(transcoders, ROWS, {0: out[0], 2: out[2]})


def test_rows_are_the_models_activations_behind_the_first_position(llama: Model) -> None:
    prompts = [llama.prompt(text) for text in ("5 8 13", "1 2 3 4 5", "7")]
    read, out = transcoder_rows(llama, prompts, [0, 2], reads="mlp_in")
    for rows, site in ((read, "mlp_in"), (out, "mlp_out")):
        for layer in (0, 2):
            alone = [np.asarray(llama.run(p, capture=f"{site}.{layer}")[f"{site}.{layer}"])[0, 1:] for p in prompts[:2]]
            assert np.allclose(rows[layer], np.concatenate(alone), atol=1e-5)
    normal, _ = transcoder_rows(llama, prompts, [2], reads="mlp_norm")
    gain = np.asarray(llama.network.layers[2].post_attention_layernorm.weight)
    assert np.allclose(normal[2] * gain, read[2], atol=1e-5)
    with pytest.raises(SAEError, match="none of two tokens"):
        transcoder_rows(llama, prompts[2:], [0])


def planted(n: int, layers: int, *, cross: bool) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Sparse features of what is read, each with a direction of its own to read and others to write."""
    rng = np.random.default_rng(0)
    read, out = {}, {layer: np.zeros((n, 16), np.float32) for layer in range(layers)}
    for layer in range(layers):
        reads, writes = rng.standard_normal((2, 24, 16)).astype(np.float32)
        active = (rng.random((n, 24)) < 0.06) * (0.5 + rng.random((n, 24)).astype(np.float32))
        read[layer] = (active @ reads).astype(np.float32)
        for later in range(layer, layers if cross else layer + 1):
            out[later] += (active @ np.roll(writes, later, axis=1)).astype(np.float32)
    return read, out


CONFIG = TrainConfig("batchtopk", d_sae=48, k=4, steps=400, batch_size=256, learning_rate=1e-2, warm_up=20, dead="none")


@pytest.mark.parametrize("cross", [False, True])
def test_training_explains_what_sparse_features_write(cross: bool) -> None:
    read, out = planted(4000, 2, cross=True)
    kept, held = ({layer: x[part] for layer, x in read.items()} for part in (slice(3000), slice(3000, None)))
    of_kept, of_held = ({layer: x[part] for layer, x in out.items()} for part in (slice(3000), slice(3000, None)))
    found = train_transcoders(kept, of_kept, CONFIG, cross_layer=cross, model="planted")
    assert [one.n_written for one in found.transcoders] == ([2, 1] if cross else [1, 1])
    after = transcoded(found, held, of_held)
    assert after.fve[0] > 0.85
    # Half of what is added at the second layer is a matter of what the first one reads.
    assert (after.fve[1] > 0.8) == cross
    assert 2 < after.l0.mean() < 8
    assert found.transcoders[0].meta["model"] == "planted"
    one = TrainConfig(**{**vars(CONFIG), "steps": 1})
    assert (transcoded(train_transcoders(kept, of_kept, one, cross_layer=cross), held, of_held).fve < after.fve).all()


def test_scales_of_rows_change_nothing_but_the_scale() -> None:
    read, out = planted(1000, 1, cross=False)
    few = TrainConfig(**{**vars(CONFIG), "steps": 30})
    plain = train_transcoders(read, out, few).transcoders[0]
    scaled = train_transcoders({0: 8 * read[0]}, {0: out[0] / 4}, few).transcoders[0]
    made = [
        one.encode(x) @ one.weights["W_dec"][:, 0] + one.weights["b_dec"]
        for one, x in ((plain, read[0]), (scaled, 8 * read[0]))
    ]
    assert np.allclose(np.asarray(made[0]), 4 * np.asarray(made[1]), atol=1e-3)


def test_rows_that_do_not_fit_are_refused() -> None:
    read, out = planted(600, 3, cross=False)
    with pytest.raises(SAEError, match=r"read has rows of layers \[0, 1, 2\], out has those of \[0, 2\]"):
        train_transcoders(read, {0: out[0], 2: out[2]}, CONFIG)
    with pytest.raises(SAEError, match=r"layers \[0, 2\]: a cross-layer"):
        train_transcoders({0: read[0], 2: read[2]}, {0: out[0], 2: out[2]}, CONFIG, cross_layer=True)
    with pytest.raises(SAEError, match=r"\(500, 16\), \(600, 16\)"):
        train_transcoders(read, {**out, 1: out[1][:500]}, CONFIG)
    with pytest.raises(SAEError, match="layer 1 are all zero"):
        train_transcoders(read, {**out, 1: 0 * out[1]}, CONFIG)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("kind", ["relu", "jumprelu"])
def test_what_is_saved_comes_back(tmp_path: Path, kind: str, cross: bool) -> None:
    transcoders = random_set(LAYERS, D, cross=cross, kind=kind, skip=not cross, reads="mlp_norm")
    again = load_transcoders(save_transcoders(transcoders, tmp_path / "set", model_name="some-model"))
    assert (again.name, again.reads, again.transcoders[0].meta) == ("random", "mlp_norm", {"model": "some-model"})
    for one, other in zip(transcoders.transcoders, again.transcoders, strict=True):
        assert (one.layer, one.kind) == (other.layer, other.kind)
        assert {name: x.tolist() for name, x in one.weights.items()} == {
            n: x.tolist() for n, x in other.weights.items()
        }


def test_circuit_tracers_layout_has_its_names_and_sides(tmp_path: Path) -> None:
    """Key by key as circuit-tracer 0.5 writes them; its skip connection multiplies from the left."""
    (one, *_) = random_set(LAYERS, D, skip=True).transcoders
    save_transcoders(TranscoderSet((one,)), tmp_path)
    found = load_file(tmp_path / "layer_0.safetensors")
    assert set(found) == {"W_enc", "W_dec", "b_enc", "b_dec", "activation_function.threshold", "W_skip"}
    z = ROWS[0] @ found["W_enc"].T + found["b_enc"]
    f = z * (z > found["activation_function.threshold"])
    expected = f @ found["W_dec"] + found["b_dec"] + ROWS[0] @ found["W_skip"].T
    assert np.allclose(made(TranscoderSet((one,)))[0], expected, atol=1e-5)
    crossed = save_transcoders(random_set(LAYERS, D, cross=True), tmp_path / "clt")
    assert {name: x.shape for name, x in load_file(crossed / "W_dec_1.safetensors").items()} == {
        "W_dec_1": (FEATURES, 2, D)
    }
    assert set(load_file(crossed / "W_enc_1.safetensors")) == {"W_enc_1", "b_enc_1", "b_dec_1", "threshold_1"}


def saelens(folder: Path, layer: int, **changes: Any) -> Path:
    """A transcoder as SAELens 6 writes it, and the arrays beside it."""
    rng = np.random.default_rng(layer)
    shapes = {"W_enc": (D, FEATURES), "b_enc": (FEATURES,), "W_dec": (FEATURES, D), "b_dec": (D,)}
    shapes |= {"threshold": (FEATURES,), "W_skip": (D, D)}
    hooks = {"hook_name": f"blocks.{layer}.ln2.hook_normalized", "hook_name_out": f"blocks.{layer}.hook_mlp_out"}
    config = {"architecture": "jumprelu_skip_transcoder", "d_in": D, "d_sae": FEATURES, "d_out": D}
    config |= {"apply_b_dec_to_input": False, "normalize_activations": "none", "metadata": {**hooks, "model_name": "m"}}
    config = {**config, **changes, "metadata": {**config["metadata"], **changes.get("metadata", {})}}  # type: ignore[dict-item]
    folder.mkdir(parents=True)
    weights = {
        name: np.abs(rng.standard_normal(shape)).astype(np.float32) - 0.4 * (name != "threshold")
        for name, shape in shapes.items()
    }
    save_file({name: x.astype(np.float32) for name, x in weights.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def test_saelens_transcoders_are_read_one_by_one_or_as_folders(tmp_path: Path) -> None:
    folders = [saelens(tmp_path / "all" / f"layer_{layer}", layer) for layer in (2, 0)]
    found = load_transcoders(tmp_path / "all")
    assert (found.layers, found.reads) == ([0, 2], "mlp_norm")
    w = {name: x.astype(np.float64) for name, x in load_file(folders[0] / "sae_weights.safetensors").items()}
    z = ROWS[2] @ w["W_enc"] + w["b_enc"]
    expected = (z * (z > w["threshold"])) @ w["W_dec"] + w["b_dec"] + ROWS[2] @ w["W_skip"].T
    (alone,) = load_transcoders(folders[0]).transcoders
    written = made(TranscoderSet((alone,)))
    assert np.allclose(written[2], expected, rtol=1e-4, atol=1e-4)


def test_gemma_scopes_arrays_are_read_as_its_list_names_them(tmp_path: Path) -> None:
    w = {name: x.astype(np.float32) for name, x in arrays(random_set(1, D).transcoders[0]).items()}
    np.savez(tmp_path / "params.npz", **{**w, "W_dec": w["W_dec"][:, 0]})
    second = {
        "w_enc": w["W_enc"],
        "w_dec": w["W_dec"][:, 0],
        **{name: w[name] for name in ("b_enc", "b_dec", "threshold")},
    }
    skip = RNG.standard_normal((D, D)).astype(np.float32)
    save_file({**second, "affine_skip_connection": skip}, tmp_path / "second.safetensors")
    listed = "model_kind: transcoder_set\nfeature_input_hook: ln2.hook_normalized\nfeature_output_hook: hook_mlp_out\n"
    (tmp_path / "config.yaml").write_text(listed + "transcoders: [params.npz, second.safetensors]\n")
    first, other = load_transcoders(tmp_path).transcoders
    for one in (first, other):
        assert np.array_equal(np.asarray(one.weights["W_enc"]), w["W_enc"])
        assert np.array_equal(np.asarray(one.weights["W_dec"]), w["W_dec"])
    assert np.array_equal(np.asarray(other.weights["W_skip"]), skip)
    (tmp_path / "config.yaml").write_text(listed + "transcoders: ['hf://a/b/c.npz']\n")
    with pytest.raises(SAEError, match="is on the Hub: download it"):
        load_transcoders(tmp_path)


def test_files_that_are_not_understood_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match=r"no transcoders: a folder with config\.yaml"):
        load_transcoders(tmp_path)
    for number, (changes, said) in enumerate(
        (
            ({"architecture": "jumprelu"}, "is no transcoder.*mi.sae.load reads autoencoders"),
            ({"architecture": "transcoder"}, "but the weights are .*threshold"),
            ({"normalize_activations": "layer_norm"}, "normalised by 'layer_norm'"),
            ({"metadata": {"hook_name": "blocks.1.hook_resid_pre"}}, "reads 'blocks.1.hook_resid_pre'"),
            ({"metadata": {"hook_name_out": "blocks.2.hook_mlp_out"}}, "writes 'blocks.2.hook_mlp_out'"),
            ({"metadata": {"hook_name": ""}}, "names no layer"),
        )
    ):
        with pytest.raises(SAEError, match=said):
            load_transcoders(saelens(tmp_path / str(number), 1, **changes))
    with pytest.raises(SAEError, match="nothing by rank"):
        save_transcoders(random_set(1, D, kind="topk"), tmp_path / "topk")
    whole = save_transcoders(random_set(LAYERS, D), tmp_path / "whole")
    (whole / "layer_1.safetensors").write_bytes(b"torn")
    with pytest.raises(SAEError, match=r"layer_1\.safetensors: cannot be read"):
        load_transcoders(whole)
    text = (whole / "config.yaml").read_text()
    (whole / "config.yaml").write_text(text.replace("mlp.hook_in", "hook_q"))
    with pytest.raises(SAEError, match="reads 'hook_q'"):
        load_transcoders(whole)
