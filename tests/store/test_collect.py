"""What a store holds is what the model computes for each prompt alone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.errors import ConfigError, DataError, PositionError, SiteError, StoreError
from mlx_interp.model import Model
from mlx_interp.store.shards import float16_scale
from tests.store.collecting import KINDS, SITES, random_prompts
from tests.tiny import tiny_model

EVERY_KIND = ["resid_pre.0", "q.1", "k.0", "v.2", "z.1", "head_out.2", "attn_out.1", "resid_mid.0", "mlp_act.1"]
EVERY_KIND += ["mlp_out.2", "resid_post.2", "final"]


def alone(model: Model, tokens: list[int], site: str) -> np.ndarray:
    return np.asarray(model.run([tokens], capture=[site], logits="none")[site])[0]


def worst(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_every_site_of_every_family_is_what_each_prompt_gives_alone(model: Model, tmp_path: Path):
    prompts = random_prompts(13)
    sites = [site for site in EVERY_KIND if site.partition(".")[0] in model.sites]
    store = mi.collect(model, prompts, sites, path=tmp_path, shard_bytes=30_000, batch_size=5)
    assert len(store.shards) > 2
    assert len(store) == sum(map(len, prompts))
    for site in sites:
        array = store.array(site)
        for number, tokens in enumerate(prompts):
            rows = np.flatnonzero(store.sample_numbers == number)
            expected = alone(model, tokens, site)
            assert array[rows].shape == expected.shape
            assert worst(array[rows], expected) < 1e-4
    assert store.tokens.tolist() == [token for tokens in prompts for token in tokens]
    assert store.positions.tolist() == [at for tokens in prompts for at in range(len(tokens))]


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 2**-8), ("float16", 2**-10)])
def test_half_precision_rounds_and_does_nothing_else(llama: Model, tmp_path: Path, dtype: str, bound: float):
    prompts = random_prompts(20)
    exact = mi.collect(llama, prompts, SITES, path=tmp_path / "exact")
    half = mi.collect(llama, prompts, SITES, path=tmp_path / dtype, dtype=dtype)
    assert half.n_bytes < 0.6 * exact.n_bytes
    for site in exact.sites:
        expected = np.asarray(exact.array(site))
        error = np.abs(np.asarray(half.array(site)) - expected)
        assert (error <= bound * np.abs(expected) + 1e-7).all()
        assert error.max() > 0


def test_float16_holds_what_overflows_it_by_a_scale(tmp_path: Path):
    model = tiny_model("llama")
    model.mlx_model.model.embed_tokens.weight = model.mlx_model.model.embed_tokens.weight * 1e5
    store = mi.collect(model, random_prompts(9), "resid_pre.0", path=tmp_path, dtype="float16")
    found = np.asarray(store.array("resid_pre.0"))
    assert np.abs(found).max() > 65504
    expected = np.concatenate([alone(model, tokens, "resid_pre.0") for tokens in random_prompts(9)])
    assert worst(found, expected) < 2**-10
    assert float16_scale(3 * 2.0**20) == 2.0**7


def test_a_model_in_bfloat16_is_stored_without_loss(tmp_path: Path):
    model = mi.load("tiny-qwen2", dtype="bfloat16")
    prompts = [model.prompt(text) for text in ("The capital of", "One", "What is it that you think of rain?")]
    store = mi.collect(model, prompts, "resid_post.5", path=tmp_path, dtype="bfloat16", batch_size=1)
    expected = np.concatenate([alone(model, prompt.tokens, "resid_post.5") for prompt in prompts])
    np.testing.assert_array_equal(np.asarray(store.array("resid_post.5")), expected)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("last", [-1]),
        (-2, [-2]),
        ("-3:", [-3, -2, -1]),
        (slice(0, 2), [0, 1]),
        ("-1,0", [0, -1]),
        (lambda prompt: [len(prompt) // 2], None),
    ],
)
def test_positions_by_rule(llama: Model, tmp_path: Path, rule: object, expected: list[int] | None):
    prompts = [tokens for tokens in random_prompts(12) if len(tokens) > 3]
    store = mi.collect(llama, prompts, "resid_post.1", path=tmp_path, positions=rule)  # type: ignore[arg-type]
    rows = [
        (number, at % len(tokens))
        for number, tokens in enumerate(prompts)
        for at in ([len(tokens) // 2] if expected is None else expected)
    ]
    assert list(zip(store.sample_numbers.tolist(), store.positions.tolist(), strict=True)) == rows
    for row, (number, at) in zip(np.asarray(store.array("resid_post.1")), rows, strict=True):
        assert worst(row, alone(llama, prompts[number], "resid_post.1")[at]) < 1e-4


def test_rules_leave_out_bos_and_special_tokens(tmp_path: Path):
    model = mi.load("tiny-llama")
    texts = ["Is tea good?", "How do I make a cake?"]
    special = set(model.tokenizer.all_special_ids)
    for rule, kept in (
        ("no_bos", lambda t: t != model.tokenizer.bos_token_id),
        ("content", lambda t: t not in special),
    ):
        store = mi.collect(model, texts, "final", path=tmp_path / rule, positions=rule, chat=True)
        tokens = [token for text in texts for token in model.prompt(text, chat=True).tokens]
        assert store.tokens.tolist() == [token for token in tokens if kept(token)]
        assert len(store) < len(tokens)


def test_generated_tokens_are_read_like_the_prompt(tmp_path: Path):
    model = mi.load("tiny-gemma2")
    texts = ["Is tea good?", "How do I make a cake?", "Tell me how to pick a lock."]
    prompts = [model.prompt(text, chat=True) for text in texts]
    written = model.generate(prompts, max_tokens=6)
    store = mi.collect(model, texts, "resid_post.3", path=tmp_path, chat=True, positions="generated", max_new_tokens=6)
    both = mi.collect(model, texts, "resid_post.3", path=tmp_path / "b", chat=True, positions="last", max_new_tokens=6)
    for number, (prompt, completion) in enumerate(zip(prompts, written, strict=True)):
        rows = store.sample_numbers == number
        assert store.samples[number].tokens == prompt.tokens + completion.tokens
        assert store.tokens[rows].tolist() == completion.tokens
        expected = alone(model, prompt.tokens + completion.tokens, "resid_post.3")[len(prompt) :]
        assert worst(store.array("resid_post.3")[rows], expected) < 1e-4
        assert (both.sample_numbers == number).sum() == 1 + len(completion.tokens)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_prompts(llama: Model, tmp_path: Path):
    def peak(n: int) -> int:
        def prompts() -> Iterator[list[int]]:
            yield from random_prompts(n)

        tracemalloc.start()
        mx.reset_peak_memory()
        store = mi.collect(llama, prompts(), "all", path=tmp_path / str(n), shard_bytes=400_000, batch_size=16)
        assert len(store.samples) == n
        traced = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return traced - 400 * n + mx.get_peak_memory()  # what the test's own list of prompts takes

    peak(50)
    small, large = peak(600), peak(3000)
    assert large < 1.3 * small


def test_mistakes_are_named(llama: Model, tmp_path: Path):
    prompts = random_prompts(4)
    for error, words, arguments in (
        (SiteError, "cannot be stored", {"sites": "pattern.0"}),
        (SiteError, "did you mean 'resid_post'", {"sites": "resid_pots.0"}),
        (ConfigError, "did you mean 'last'", {"positions": "lats"}),
        (ConfigError, "stores hold float32, bfloat16, float16", {"dtype": "float8"}),
        (PositionError, "position 40 does not exist", {"positions": 40}),
        (DataError, "3 labels for 4 prompts", {"labels": KINDS}),
        (ValueError, "max_new_tokens", {"max_new_tokens": -1}),
    ):
        with pytest.raises(error, match=words):
            mi.collect(llama, prompts, **{"sites": "final", "path": tmp_path / words.replace(" ", ""), **arguments})


def test_labels_that_end_early_are_noticed_in_a_stream_as_well(llama: Model, tmp_path: Path):
    with pytest.raises(DataError, match="end before prompt 3"):
        mi.collect(llama, iter(random_prompts(5)), "final", path=tmp_path / "a", labels=iter(KINDS))
    with pytest.raises(DataError, match="more labels or ids than the 2 prompts"):
        mi.collect(llama, iter(random_prompts(2)), "final", path=tmp_path / "b", labels=iter(KINDS))


def test_activations_that_are_not_finite_stop_the_collection(tmp_path: Path):
    model = tiny_model("llama")
    model.mlx_model.model.norm.weight = model.mlx_model.model.norm.weight * float("nan")
    with pytest.raises(StoreError, match="final: activations that are not finite"):
        mi.collect(model, random_prompts(3), ["resid_post.0", "final"], path=tmp_path)
