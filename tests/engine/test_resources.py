"""Memory stays within what was asked for, and Ctrl-C is heard in the middle of a long sweep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_interp import Patch
from mlx_interp.errors import TooLarge
from mlx_interp.model import Model
from tests.tiny import FAMILY_CONFIGS, RECENT, each_family, tiny_model

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def peak(model: Model, variants: list, memory: int) -> int:
    tokens = list(range(1, 41))
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    model.sweep(tokens, variants, memory=memory, metric=lambda logits: logits[:, 0])
    return mx.get_peak_memory() - before


def test_a_sweep_keeps_the_memory_it_was_given() -> None:
    model = tiny_model("llama", **SIZES)
    variants = [[Patch(f"resid_post.{i % 3}", mx.full((64,), float(i)), i % 40)] for i in range(600)]
    small, large = (peak(model, variants, memory) for memory in (2_000_000, 10**9))
    values = 600 * 64 * 4 * 3  # the variants' own arrays, and the clean run's
    assert small < 2_000_000 + values
    assert large > 3 * small  # the bound is what kept it small


@pytest.mark.slow
def test_ctrl_c_in_a_long_sweep_is_heard_and_leaves_the_model_as_before() -> None:
    script = """
        import signal
        import mlx_interp
        import mlx.core as mx
        from tests.tiny import tiny_model
        model = tiny_model("llama", hidden_size=512, intermediate_size=2048, num_attention_heads=8,
                           num_key_value_heads=4, head_dim=64)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with it ignored
        tokens = list(range(1, 65))
        before = model.run(tokens).logits
        variants = [[mlx_interp.Add("resid_pre.0", mx.full((512,), float(i)))] for i in range(20_000)]
        try:
            model.sweep(tokens, variants, memory=10**8, progress=lambda done, total: print("batch", flush=True))
            print("finished")
        except KeyboardInterrupt:
            print("same" if mx.array_equal(model.run(tokens).logits, before) else "different", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "batch\n"
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0].split()
    finally:
        process.kill()
    assert rest[-1] == "same"
    assert time.monotonic() - start < 30  # the whole sweep takes minutes


def test_a_progress_bar_counts_variants(llama: Model, capsys: pytest.CaptureFixture[str]) -> None:
    llama.sweep([3, 5, 7], [[Patch("resid_post.1", 0.0, -1)]] * 5, progress=True)
    assert "5/5" in capsys.readouterr().out


def packable(family: str) -> Model:
    """A random model whose widths groups of 64 divide."""
    if family == "gpt2":
        return tiny_model(family, n_embd=64, n_head=4)
    if family == "gptj":
        return tiny_model(family, n_embd=64, n_head=4)
    if family == "qwen3_moe":
        return tiny_model(family, **SIZES, moe_intermediate_size=SIZES["intermediate_size"])
    if family == "gemma3":
        sizes = {**FAMILY_CONFIGS["gemma3_text"], **SIZES, "tie_word_embeddings": True}
        return tiny_model(family, text_config=sizes)
    if family == "gpt_neox":  # whose MLP has one width
        return tiny_model(family, **{**SIZES, "intermediate_size": 4 * SIZES["hidden_size"]})
    return tiny_model(family, **SIZES)


@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (4, 64), (8, 32), (8, 64)])
@pytest.mark.parametrize("family", each_family(FAMILY_CONFIGS.keys() - RECENT))
def test_quantised_weights_are_bitwise_mlx_lms_own_and_can_be_patched(family: str, bits: int, group_size: int) -> None:
    model = packable(family)
    nn.quantize(model.mlx_model, group_size=group_size, bits=bits)
    model.self_check()
    tokens = [3, 5, 7, 11]
    value = mx.ones((model.d_head,))
    variants = [[Patch(f"z.{layer}", value, -1, heads=head)] for layer in range(3) for head in range(4)]
    alone = mx.concatenate([model.run(tokens, interventions=variant).logits for variant in variants])
    assert mx.allclose(model.sweep(tokens, variants), alone, rtol=1e-4, atol=1e-4)
    clean = model.run(tokens, capture="resid_post.1", logits="all")
    itself = [Patch("resid_post.1", clean["resid_post.1"])]
    assert mx.array_equal(model.run(tokens, interventions=itself, logits="all").logits, clean.logits)


@pytest.mark.parametrize(
    ("capture", "logits", "shape"),
    [
        ((), "last", (4, 64)),
        ("resid_post", "none", (8, 64)),
        (["z", "mlp_act", "q"], "last", (2, 100)),
        ("pattern", "none", (2, 100)),
        ((), "all", (4, 64)),
    ],
)
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_run_takes_no_more_memory_than_estimated_and_not_much_less(
    family: str, capture: object, logits: str, shape: tuple[int, int]
) -> None:
    sizes = {"n_embd": 192, "n_head": 6, "n_positions": 128} if family == "gpt2" else {}
    if not sizes:
        sizes = {"hidden_size": 192, "intermediate_size": 512, "head_dim": 32}
    model = tiny_model(family, vocab_size=3000, **sizes)
    prompts = [[(7 * row + i) % 3000 for i in range(shape[1])] for row in range(shape[0])]
    model.run(prompts[:1])
    estimate = model.memory(prompts, capture=capture, logits=logits)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    out = model.run(prompts, capture=capture, logits=logits)
    measured = mx.get_peak_memory() - before
    assert out.lengths == [shape[1]] * shape[0]
    assert measured <= estimate <= 4 * measured


def test_a_capture_that_cannot_fit_is_refused_with_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    needed = model.memory([[1, 2, 3]] * 4, capture="resid_post")
    monkeypatch.setattr("mlx_interp.engine.memory.free_memory", lambda: needed)  # of which 80 % may be used
    with pytest.raises(TooLarge, match=r"3 captured sites over 4 rows needs about .* GB, .* may be used: .*batches"):
        model.run([[1, 2, 3]] * 4, capture="resid_post")
    assert len(list(model.batches([[1, 2, 3]] * 4, capture="resid_post"))) > 1
    with pytest.raises(TooLarge, match="over 500 rows"):
        model.sweep([1, 2, 3], [[]] * 500, capture="resid_post")


def test_batches_are_the_runs_of_their_prompts_in_order_whatever_the_memory() -> None:
    model = tiny_model("gemma2")
    prompts = [list(range(1, n)) for n in (5, 9, 3, 12, 4, 4, 7)]
    whole = model.run(prompts, capture="resid_post.1", logits="last")
    for memory in (1, 200_000, None):
        seen: list[int] = []
        parts = list(
            model.batches(
                prompts,
                capture="resid_post.1",
                logits="last",
                memory=memory,
                progress=lambda done, _, seen=seen: seen.append(done),
            )
        )
        assert [n for part in parts for n in part.lengths] == whole.lengths
        assert seen[-1] == len(prompts)
        assert mx.allclose(mx.concatenate([part.logits for part in parts]), whole.logits, rtol=1e-4, atol=1e-5)
        assert (len(parts) == len(prompts)) == (memory == 1)
