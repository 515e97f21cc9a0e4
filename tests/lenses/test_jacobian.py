"""Jacobian lens: its matrices are the slopes that finite differences give; with nothing above it is the logit lens."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp import Add, Model, lenses
from mlx_interp.architectures import FAMILIES
from mlx_interp.errors import DataError
from mlx_interp.lenses.jacobian import jacobian_cost, read_through
from tests.tiny import each_family, tiny_model

PROMPTS = [[3, 5, 8, 13, 21, 34, 2], [7, 11, 6, 40, 9]]
SKIP = 1


def by_differences(model: Model, tokens: list[int], layer: int, output: int, source: int, step: float = 2e-2) -> float:
    """One entry of J on one prompt: what a small change at each valid position moves at all valid ones, on average."""
    valid = range(SKIP, len(tokens) - 1)
    last = f"resid_post.{model.n_layers - 1}"
    vector = mx.zeros((model.d_model,))
    vector[source] = 1.0
    variants = [[Add(f"resid_post.{layer}", vector, sign * step, at)] for at in valid for sign in (1, -1)]
    moved = np.asarray(model.sweep(tokens, variants, capture=last)[last], np.float64)[:, list(valid), output].sum(1)
    return float((moved[::2] - moved[1::2]).mean() / (2 * step))


@pytest.mark.parametrize("family", each_family(FAMILIES))
def test_its_matrices_are_what_small_changes_do_in_every_family(family: str) -> None:
    model = tiny_model(family)
    matrices = list(read_through(lenses.jacobian_lens(model, PROMPTS[1:], skip=SKIP)))
    assert len(matrices) == model.n_layers - 1
    for layer, output, source in ((1, 2, 17), (0, 20, 5)):
        expected = by_differences(model, PROMPTS[1], layer, output, source)
        assert matrices[layer][output, source].item() == pytest.approx(
            expected, abs=0.02 * float(mx.abs(matrices[layer]).max())
        )


def test_it_does_not_depend_on_how_many_products_are_computed_at_once(llama: Model) -> None:
    many, few = (lenses.jacobian_lens(llama, PROMPTS, skip=SKIP, memory=memory) for memory in (2**30, 2**14))
    assert mx.allclose(many.weight, few.weight, atol=1e-6)


def test_dimensions_spread_over_prompts_are_rows_of_the_single_prompts(llama: Model) -> None:
    spread = list(read_through(lenses.jacobian_lens(llama, PROMPTS, skip=SKIP, per_prompt=15)))
    alone = [list(read_through(lenses.jacobian_lens(llama, [one], skip=SKIP))) for one in PROMPTS]
    for layer in range(2):
        assert mx.allclose(spread[layer][:15], alone[0][layer][:15], atol=1e-6)
        assert mx.allclose(spread[layer][15:], alone[1][layer][15:], atol=1e-6)
    assert not mx.allclose(alone[0][0], alone[1][0], atol=1e-3)


def test_where_nothing_is_written_above_a_layer_it_is_the_logit_lens_there() -> None:
    model = tiny_model("qwen2")
    for layer in (1, 2):
        block = model.network.layers[layer]
        block.self_attn.o_proj.weight = mx.zeros_like(block.self_attn.o_proj.weight)
        block.mlp.down_proj.weight = mx.zeros_like(block.mlp.down_proj.weight)
    lens = lenses.jacobian_lens(model, PROMPTS, skip=SKIP)
    assert not mx.any(lens.weight)
    plain = lenses.logit_lens(model, PROMPTS[0])
    assert mx.allclose(lenses.tuned_lens(model, PROMPTS[0], lens), plain, atol=1e-5)


def test_it_is_kept_in_a_file_and_refused_by_another_model(llama: Model, tmp_path: Path) -> None:
    lens = lenses.jacobian_lens(llama, PROMPTS, skip=SKIP, per_prompt=15)
    lens.save(tmp_path / "jacobian.safetensors")
    assert mx.array_equal(lenses.load_lens(tmp_path / "jacobian.safetensors").weight, lens.weight)
    with pytest.raises(DataError, match="this lens was trained on random-llama"):
        lenses.tuned_lens(tiny_model("mistral"), PROMPTS[0], lens)


def test_its_cost_counts_products_as_passes(llama: Model) -> None:
    whole = jacobian_cost(llama, PROMPTS, skip=SKIP, memory=2**30)
    half = jacobian_cost(llama, PROMPTS, skip=SKIP, per_prompt=15, memory=2**30)
    assert whole.forward_passes == 2 * (30 + 1)
    assert half.forward_passes == 2 * (15 + 1)
    assert half.flops < whole.flops
    assert whole.memory_bytes > 8 * 2 * 30**2


def test_it_refuses_prompts_too_short_or_too_few(llama: Model) -> None:
    with pytest.raises(DataError, match=r"skip=16 leaves nothing: 7 tokens .*need skip \+ 2"):
        lenses.jacobian_lens(llama, PROMPTS)
    with pytest.raises(
        DataError, match=r"per_prompt=14 on 2 prompts: random-llama has 30 output dimensions.* 3 prompts"
    ):
        lenses.jacobian_lens(llama, PROMPTS, skip=SKIP, per_prompt=14)
    with pytest.raises(DataError, match="needs prompts and two layers; got 0 and 3"):
        mi.lenses.jacobian_lens(llama, [])
