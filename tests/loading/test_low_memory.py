"""A model in little memory computes what the dequantised one does, number for number, and holds a part of it.

What the engine does on such a model is tested where it is on any other: two of the small models of `tests/conftest.py`
are held so.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.tuner.lora import LoRALinear

import mlx_interp as mi
from experiments.harness import registry
from experiments.harness.local_pool import workers_here
from experiments.harness.options import parse
from experiments.harness.runner import run_experiment
from experiments.harness.worker import Worker
from mlx_interp import Ablate, Add, Patch
from mlx_interp.__main__ import main, parser
from mlx_interp.circuits import relevance_model
from mlx_interp.directions.orthogonalization import orthogonalized
from mlx_interp.engine import packed
from mlx_interp.engine.packed import Packed, PackedEmbedding, packed_like, unpacked
from mlx_interp.errors import ConfigError
from mlx_interp.loading import profile
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.loading.outline import outline
from mlx_interp.model import Model
from mlx_interp.sites import KINDS
from tests.engine.examples import TOKENS, example
from tests.loading.checkpoints import PACKABLE, write_checkpoint
from tests.loading.test_gguf_models import quantised_file

on_cpu = pytest.mark.skipif(not profile.on_cpu(), reason="the CPU profile; run where MLX computes on CPU")
pytestmark = on_cpu


@cache
def both(name: str) -> tuple[Model, Model]:
    return mi.load(name), mi.load(name, memory="low")


def equal(a: mx.array, b: mx.array) -> bool:
    return bool(mx.array_equal(a, b))


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_every_site_and_the_logits_are_those_of_the_dequantised_model(name: str) -> None:
    dense, low = both(name)
    wanted, found = (model.run(TOKENS, capture=model.sites, logits="all") for model in (dense, low))
    assert equal(found.logits, wanted.logits)
    assert all(equal(found[site], wanted[site]) for site in wanted)
    assert low.weights_hash == dense.weights_hash
    assert low.quantization == dense.quantization
    assert low.n_parameters == dense.n_parameters
    assert low.weight_bytes < dense.weight_bytes / 3


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2"])
def test_sweeps_texts_and_gradients_are_those_of_the_dequantised_model(name: str) -> None:
    dense, low = both(name)
    sites = [site for site in dense.sites if KINDS[site].writable]
    variants = [[example(dense, "add", site, 1, 2)] for site in sites]

    def metric(logits: mx.array) -> mx.array:
        return logits.max(axis=-1)

    assert equal(low.sweep(TOKENS, variants), dense.sweep(TOKENS, variants))
    steered = [Ablate("mlp_out.1"), Add("resid_post.0", mx.ones((dense.d_model,)), 0.3)]
    texts = [model.generate([TOKENS], interventions=steered, max_tokens=8)[0].tokens for model in (dense, low)]
    assert texts[0] == texts[1]
    slopes = [model.gradients(TOKENS, metric, ["z", "resid_post"], interventions=steered) for model in (dense, low)]
    for site in slopes[0]:
        np.testing.assert_allclose(
            slopes[1][site], slopes[0][site], rtol=1e-4, atol=1e-5 * float(mx.abs(slopes[0][site]).max())
        )


def test_a_jacobian_lens_and_relevance_pass_backwards_through_weights_that_are_unpacked_anew() -> None:
    dense, low = both("tiny-llama")
    lenses = [mi.lenses.jacobian_lens(model, [TOKENS * 2], skip=4) for model in (dense, low)]
    np.testing.assert_allclose(lenses[1].weight, lenses[0].weight, atol=1e-5)
    frozen = [relevance_model(model) for model in (dense, low)]
    found = [model.gradients(TOKENS, lambda logits: logits[:, 3], ["mlp_out"]) for model in frozen]
    for site in found[0]:
        np.testing.assert_allclose(found[1][site], found[0][site], atol=1e-5)


def test_edited_weights_are_those_of_the_dequantised_model() -> None:
    dense, low = both("tiny-qwen2")
    before = low.run(TOKENS).logits
    direction = np.random.default_rng(0).normal(size=dense.d_model)
    with orthogonalized(dense, direction) as wanted, orthogonalized(low, direction) as found:
        assert str(found) == str(wanted)
        assert low.weights_hash == dense.weights_hash
        assert equal(low.run(TOKENS).logits, dense.run(TOKENS).logits)
        assert not equal(low.run(TOKENS).logits, before)
    assert equal(low.run(TOKENS).logits, before)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
def test_numbers_are_unpacked_as_mlx_does_bit_for_bit(bits: int, group: int) -> None:
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        arrays = mx.quantize(mx.random.normal((3, 7, 384)).astype(dtype), group_size=group, bits=bits)
        words, scales, biases = arrays
        how: dict[str, Any] = {"group_size": group, "bits": bits}
        wanted = mx.dequantize(words, scales.astype(mx.float32), biases.astype(mx.float32), **how)
        assert equal(unpacked(*arrays, **how, mode="affine", dtype=mx.float32), wanted)


def linear(bits: int = 5) -> tuple[Packed, nn.Linear]:
    layer = packed_like(nn.QuantizedLinear.from_linear(nn.Linear(64, 70), group_size=32, bits=bits), mx.float32)
    dense = layer.dense()
    mx.eval(dense.parameters())
    return layer, dense


def test_a_matrix_of_several_parts_gives_one_product_forwards_and_backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "BLOCK", 0)
    monkeypatch.setattr(packed, "ROWS", 16)
    layer, dense = linear()
    assert [block.stop for block in layer.blocks()] == [16, 32, 48, 64, 70]
    x, slope = mx.random.normal((3, 5, 64)), mx.random.normal((4, 3, 5, 70))
    kinds: list[Callable[[Any], mx.array]] = [
        lambda f: f(x),
        lambda f: mx.vjp(f, [x], [slope[0]])[1][0],
        lambda f: mx.jvp(f, [x], [x])[1][0],
        lambda f: mx.vmap(f, in_axes=1, out_axes=1)(x),
        lambda f: mx.vmap(lambda one: mx.vjp(f, [x], [one])[1][0])(slope),
    ]
    for of in kinds:
        np.testing.assert_allclose(of(layer), of(dense), atol=1e-5)


def test_matrices_are_unpacked_one_after_another(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, bits=5, num_hidden_layers=40, **PACKABLE)
    model = mi.load(folder, memory="low", check=False)
    largest = 4 * 192 * 256  # bytes of an MLP's matrix, one of 280
    computed: list[tuple[Callable[[], Any], int]] = [
        # 4 where they wait for their turn, 12 where they do not
        (lambda: model.run(TOKENS).logits, 8),
        # 16, activations above all; 70 where what was unpacked is kept for the way back
        (lambda: model.gradients(TOKENS, lambda logits: logits.max(axis=-1), ["resid_post.0"])["resid_post.0"], 35),
    ]
    for compute, bound in computed:
        mx.eval(compute())
        mx.reset_peak_memory()
        held = mx.get_active_memory()
        mx.eval(compute())
        assert mx.get_peak_memory() - held < bound * largest


def test_loading_holds_no_model_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "PART", 2**14)
    folder = write_checkpoint(tmp_path, bits=5, num_hidden_layers=12, tie_word_embeddings=False, **PACKABLE)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = mi.load(folder, check=False)
    assert mx.get_peak_memory() - before < 1.1 * model.weight_bytes
    kept = [module for _, module in model.mlx_model.named_modules() if isinstance(module, Packed)]
    assert [type(module) for module in kept] == [PackedEmbedding]  # the one that only gives rows


def test_a_gguf_file_with_a_head_of_its_own_is_the_same_in_both_profiles(tmp_path: Path) -> None:
    path = quantised_file(tmp_path, "llama")
    dense, low, all_dense = mi.load(path), mi.load(path, memory="low"), mi.load(path, dequantize=True)
    wanted = all_dense.run(TOKENS, logits="all").logits
    assert equal(dense.run(TOKENS, logits="all").logits, wanted)
    assert equal(low.run(TOKENS, logits="all").logits, wanted)
    assert low.weight_bytes < dense.weight_bytes < all_dense.weight_bytes


def test_it_is_chosen_where_the_dequantised_weights_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path, bits=4)
    wanted = mi.load(folder).run(TOKENS).logits
    monkeypatch.setattr(profile, "free_memory", lambda: 1_000_000)
    with pytest.warns(UserWarning, match=r"memory='low' was chosen, which is slower: .* need .* GB, .* may be used"):
        model = mi.load(folder)
    assert any(isinstance(module, Packed) for _, module in model.mlx_model.named_modules())
    assert equal(model.run(TOKENS).logits, wanted)


def test_where_nothing_is_quantised_it_says_that_it_changes_nothing(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    with pytest.warns(UserWarning, match="memory='low' changes nothing: its weights are not quantised"):
        model = mi.load(folder, memory="low")
    assert equal(model.run(TOKENS).logits, mi.load(folder).run(TOKENS).logits)


def test_elsewhere_than_on_cpu_a_checkpoint_runs_as_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(tmp_path, bits=4, tie_word_embeddings=False)
    monkeypatch.setattr(profile, "on_cpu", lambda: False)
    with pytest.warns(UserWarning, match="memory='low' changes nothing: quantised weights are computed with as they"):
        low = mi.load(folder, memory="low")
    for model in (low, mi.load(folder)):
        kinds = {type(module) for _, module in profile.quantized_modules(model.mlx_model)}
        assert kinds == {nn.QuantizedLinear, nn.QuantizedEmbedding}


@pytest.mark.parametrize("dequantize", [True, False])
def test_two_options_that_contradict_each_other_are_refused(dequantize: bool) -> None:
    with pytest.raises(ConfigError, match=f"dequantize={dequantize} contradicts it, leave one of them out"):
        mi.load("tiny-llama", memory="low", dequantize=dequantize)


def test_commands_that_load_a_model_take_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(registry.experiment("exp14"), ["--memory", "low", "--out", str(tmp_path)]).memory == "low"
    assert parser().parse_args(["explore", "tiny-llama", "--memory", "low"]).memory == "low"
    with pytest.raises(SystemExit):
        main(["explore", "tiny-llama", "--memory", "none"])
    assert "choose from" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="invalid choice: 'none'"):
        parse(registry.experiment("exp14"), ["--memory", "none"])


def test_workers_hold_the_model_as_asked_and_none_are_started_unasked() -> None:
    study, model = registry.experiment("exp3"), both("tiny-llama")[1]
    with workers_here(study, study.config(), "tiny-llama", model, "auto", "low") as pool:
        assert pool is None
    with workers_here(study, study.config(), "tiny-llama", model, "2", "low") as pool:
        assert pool is not None
        held = Worker(*pool.arguments).run.model
    assert held.weight_bytes == model.weight_bytes


@pytest.mark.slow
def test_a_run_is_the_same_run_in_both_profiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = registry.experiment("exp3")
    given = ["--model", "tiny-qwen2", "--limit", "2", "--no-validate", "--out", str(tmp_path)]

    def records(*more: str) -> str:
        (folder,) = run_experiment(experiment, parse(experiment, [*given, *more]))
        return re.sub(r'"seconds": [\d.e-]+', "", (folder / "records.jsonl").read_text())

    measured = records("--memory", "low")
    capsys.readouterr()
    assert records() == measured
    assert "earlier" not in capsys.readouterr().err  # shown, not measured
    assert records("--fresh") == measured  # measured anew, on dequantised weights
    assert "earlier" in capsys.readouterr().err


def test_a_plan_names_the_memory_of_the_profile(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, bits=4, tie_word_embeddings=False)
    for memory, bound in (("auto", 0.03), ("low", 0.2)):
        held = mi.load(tmp_path, memory=memory, check=False).weight_bytes  # type: ignore[arg-type]
        assert outline(tmp_path, memory=memory).weight_bytes == pytest.approx(held, rel=bound)  # type: ignore[arg-type]


def test_fine_tuning_beside_it_learns_what_it_learns_beside_dense_weights() -> None:
    found = []
    for model in (mi.load("tiny-llama"), mi.load("tiny-llama", memory="low")):
        linear = model.network.layers[2].mlp.down_proj
        beside = LoRALinear.from_base(linear, r=2)
        beside.lora_a = mx.ones(beside.lora_a.shape) / 10
        model.network.layers[2].mlp.down_proj = beside

        def loss(model: Model = model) -> mx.array:
            return nn.losses.cross_entropy(model.mlx_model(mx.array([TOKENS])), mx.array([TOKENS])).mean()

        beside.freeze(keys=["linear"])
        _, slopes = nn.value_and_grad(beside, loss)()
        found.append(slopes["lora_b"])
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    assert float(mx.abs(found[0]).max()) > 1e-3


def test_no_warning_where_nothing_is_wrong() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mi.load("tiny-llama", memory="low", check=False)


def test_patching_a_later_layers_state_finds_the_same_cells() -> None:
    dense, low = both("tiny-llama")
    states = dense.run(TOKENS, capture="resid_post")
    pairs = [[Patch(f"resid_post.{t}", states[f"resid_post.{s}"][0, -2], -2)] for s in range(5) for t in range(s)]
    assert equal(low.sweep(TOKENS, pairs), dense.sweep(TOKENS, pairs))
