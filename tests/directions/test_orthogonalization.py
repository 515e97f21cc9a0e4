"""Orthogonalised weights write nothing along a direction; what quantisation leaves of it is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_interp as mi
from mlx_interp import Ablate, Model
from mlx_interp.directions import orthogonalization
from mlx_interp.directions.direction import diff_of_means, load_direction, save_direction
from mlx_interp.directions.orthogonalization import orthogonalize, orthogonalized, save_checkpoint
from mlx_interp.embedded import load_world
from mlx_interp.errors import CheckpointError, DirectionError, ShapeError, UnsupportedModel
from tests.tiny import tiny_model

TOKENS = [3, 5, 7, 11, 13]
STATES = ("resid_pre", "resid_mid", "resid_post")


def direction_of(model: Model) -> np.ndarray:
    return np.random.default_rng(0).normal(size=model.d_model).astype(np.float32)


def states_of(model: Model) -> list[str]:
    """The states of a layer; there is none between attention and MLP that stand side by side."""
    return [site for site in STATES if site in model.sites]


def share_along(states: mx.array, direction: np.ndarray) -> float:
    """How much of the states lies along the direction, against what lies along one at random."""
    unit = direction / np.linalg.norm(direction)
    rows = np.asarray(states).reshape(-1, len(direction))
    return float(np.abs(rows @ unit).max() / np.linalg.norm(rows, axis=1).max())


def test_no_state_has_a_component_along_the_direction(model: Model) -> None:
    direction = direction_of(model)
    if "expert_out" in model.sites:
        with pytest.raises(UnsupportedModel, match="expert"), orthogonalized(model, direction):
            pass
        return
    clean = model.run(TOKENS, capture=states_of(model))
    with orthogonalized(model, direction) as report:
        edited = model.run(TOKENS, capture=states_of(model))
    for site in clean.captured:
        assert share_along(edited[str(site)], direction) < 1e-5
    assert max(share_along(clean[str(site)], direction) for site in clean.captured) > 0.1
    assert report.remains < 1e-5 <= min(matrix.before for matrix in report.matrices)
    expected = 2 * model.n_layers + 1 + (model.family == "gpt2")
    assert len(report.matrices) == expected


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "qwen3", "mistral", "phi3", "granite", "gemma", "gpt2", "gpt_neox", "phi"]
)
def test_it_is_directional_ablation_at_every_write(family: str) -> None:
    """Where no norm stands between a matrix and the stream: in these families."""
    model = tiny_model(family)
    direction = direction_of(model)
    everywhere = [Ablate(site, direction) for site in ("resid_pre.0", "attn_out", "mlp_out")]
    ablated = model.run(TOKENS, capture=states_of(model), interventions=everywhere)
    with orthogonalized(model, direction):
        edited = model.run(TOKENS, capture=states_of(model))
    for site in ablated.captured:
        a, b = (np.asarray(out[str(site)]) for out in (ablated, edited))
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(a), site
    if not model.network.tied:
        assert mx.allclose(ablated.logits, edited.logits, rtol=1e-3, atol=1e-4)


def test_without_the_embedding_only_the_layers_are_edited(llama: Model) -> None:
    direction = direction_of(llama)
    before = llama.run(TOKENS, capture="resid_pre.0")["resid_pre.0"]
    with orthogonalized(llama, direction, embedding=False) as report:
        after = llama.run(TOKENS, capture="resid_pre.0")["resid_pre.0"]
    assert mx.array_equal(before, after)
    assert len(report.matrices) == 2 * llama.n_layers
    assert not report.unembedding_changed


def test_the_weights_come_back_bit_for_bit_even_after_an_exception(llama: Model) -> None:
    before = dict(tree_flatten(llama.mlx_model.parameters()))
    kept = llama.weights_hash
    with pytest.raises(KeyboardInterrupt), orthogonalized(llama, direction_of(llama)):
        assert llama.weights_hash != kept
        raise KeyboardInterrupt
    after = dict(tree_flatten(llama.mlx_model.parameters()))
    assert all(mx.array_equal(before[name], after[name]) for name in before)
    assert llama.weights_hash == kept


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (4, 64), (8, 32)])
def test_what_quantisation_leaves_of_the_direction_is_measured(bits: int, group: int) -> None:
    model = tiny_model("llama", hidden_size=64, head_dim=32, intermediate_size=64, num_attention_heads=4)
    nn.quantize(model.mlx_model, group_size=group, bits=bits)
    direction = direction_of(model)
    unit = mx.array(direction / np.linalg.norm(direction))
    down = model.network.layers[1].mlp.down_proj
    report = orthogonalize(model, direction)
    kept = mx.dequantize(down.weight, down.scales, down.biases, group_size=group, bits=bits)
    written = float(mx.sqrt(mx.sum((unit @ kept) ** 2) + mx.sum(unit * down.bias) ** 2))
    (entry,) = [matrix for matrix in report.matrices if matrix.name == "1.mlp.down_proj"]
    assert entry.after == pytest.approx(written, rel=1e-4)
    assert 0 < report.remains < (0.2 if bits == 4 else 0.02)
    assert report.quantization == f"{bits}-bit, group {group}"
    assert report.worst.name in str(report)
    assert report.table().splitlines()[2].startswith(f"| {report.worst.name} |")
    assert len(report.table().splitlines()) == 2 + len(report.matrices)


def test_rounding_anew_leaves_less_of_the_direction_than_rounding_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mi.load("tiny-llama", dequantize=False)
    with orthogonalized(model, direction_of(model)) as anew:
        pass
    monkeypatch.setattr(orthogonalization, "ROUNDS", 1)
    with orthogonalized(model, direction_of(model)) as once:
        pass
    pairs = list(zip(anew.matrices, once.matrices, strict=True))
    assert all(few.after <= many.after for few, many in pairs)
    assert anew.remains < 0.8 * once.remains


def test_an_edited_model_is_another_model_for_direction_files(tmp_path: Path) -> None:
    model = mi.load("tiny-llama")
    chats = load_world().chat_prompts
    harmful, harmless = (
        [model.prompt(c.text, chat=True) for c in chats("refusal", language="en", split="train", harmful=kind)[:12]]
        for kind in (True, False)
    )
    found = diff_of_means(model, harmful, harmless, "resid_post.3", template="chat")
    save_direction(found, tmp_path / "d.safetensors")
    load_direction(tmp_path / "d.safetensors", model)
    orthogonalize(model, found)
    with pytest.raises(DirectionError, match="made on other weights"):
        load_direction(tmp_path / "d.safetensors", model)


@pytest.mark.parametrize("how", [{"dequantize": False}, {"dequantize": True}, {"memory": "low"}], ids=str)
def test_an_edited_checkpoint_loads_again_as_it_was_saved(tmp_path: Path, how: dict[str, Any]) -> None:
    model = mi.load("tiny-gemma2", **how)
    orthogonalize(model, direction_of(model))
    folder = save_checkpoint(model, tmp_path / "edited")
    again = mi.load(folder, dequantize=how.get("dequantize", "auto"))
    assert again.weights_hash != mi.load("tiny-gemma2").weights_hash
    assert not {"README.md", "card.json"} & {file.name for file in folder.iterdir()}
    prompt = "The capital of France is"
    assert mx.array_equal(again.run(prompt).logits, model.run(prompt).logits)
    assert (again.quantization is None) == (how != {"dequantize": False})
    assert mx.array_equal(again.run(prompt).logits, model.run(prompt).logits)  # saving leaves the model as it was
    with pytest.raises(CheckpointError, match="is there already"):
        save_checkpoint(model, folder)


def test_mistakes_are_named(llama: Model) -> None:
    with pytest.raises(ShapeError, match=r"\(7,\).*\(30,\)"):
        orthogonalize(llama, np.ones(7))
    with pytest.raises(ShapeError, match="not zero"):
        orthogonalize(llama, np.zeros(30))


MX_FORMATS = [("mxfp4", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8)]


@pytest.mark.parametrize(("mode", "group", "bits"), MX_FORMATS, ids=[mode for mode, _, _ in MX_FORMATS])
def test_formats_whose_scales_are_bytes_are_edited_and_rounded_in_their_own_format(
    mode: str, group: int, bits: int
) -> None:
    model = tiny_model(
        "llama", hidden_size=64, head_dim=32, intermediate_size=96, num_attention_heads=4, num_key_value_heads=2
    )
    nn.quantize(model.mlx_model, group_size=group, bits=bits, mode=mode)
    before = dict(tree_flatten(model.mlx_model.parameters()))
    direction = direction_of(model)
    unit = mx.array(direction / np.linalg.norm(direction))
    with orthogonalized(model, direction) as report:
        held = dict(tree_flatten(model.mlx_model.parameters()))
        assert {name: (x.dtype, x.shape) for name, x in held.items()} == {
            name: (x.dtype, x.shape) for name, x in before.items()
        }
        module = model.network.layers[1].mlp.down_proj
        dense = mx.dequantize(module.weight, module.scales, group_size=group, bits=bits, mode=mode, dtype=mx.float32)
        worst = next(m for m in report.matrices if "1" in m.name and "down" in m.name)
        assert worst.after == pytest.approx(float(mx.linalg.norm(unit @ dense)), rel=1e-3, abs=1e-6)
        assert 0 < report.remains < (0.5 if bits == 4 else 0.1)
        assert f"({mode})" in str(report)
        edited = model.run(TOKENS).logits
    after = dict(tree_flatten(model.mlx_model.parameters()))
    assert all(mx.array_equal(before[name], after[name]) for name in before)
    assert not mx.array_equal(edited, model.run(TOKENS).logits)


@pytest.mark.parametrize(("bits", "group"), [(2, 32), (3, 64), (5, 32), (6, 64), (8, 128), (4, 128)])
def test_every_width_and_group_of_affine_weights_is_edited(bits: int, group: int) -> None:
    model = tiny_model("llama", hidden_size=128, head_dim=32, intermediate_size=256, num_attention_heads=4)
    nn.quantize(model.mlx_model, group_size=group, bits=bits)
    with orthogonalized(model, direction_of(model)) as report:
        assert report.quantization == f"{bits}-bit, group {group}"
    assert 0 < report.remains < {2: 0.9, 3: 0.5, 4: 0.3, 5: 0.15, 6: 0.1, 8: 0.03}[bits]


def test_a_report_says_how_the_checkpoint_keeps_what_was_dequantised_on_loading(tmp_path: Path) -> None:
    direction = np.arange(1.0, 129.0)
    dense, kept = "dequantised from 4-bit, group 64", "4-bit, group 64"
    ways: list[tuple[dict[str, Any], str]] = [({"dequantize": True}, dense), ({"dequantize": False}, kept)]
    for how, held in (*ways, ({"memory": "low"}, dense)):
        model = mi.load("tiny-llama", **how)
        with orthogonalized(model, direction) as report:
            assert f"matrices ({held}): " in str(report)
