"""RoPE that depends on how long a text is: each prompt is computed as alone, whatever it is computed with."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Add, Patch
from mlx_interp.engine.rope import DynamicRoPE, LengthRoPE, LongRoPE
from mlx_interp.errors import PromptError
from mlx_interp.model import Model
from tests.tiny import tiny_model

LIMIT = 8
"""Beyond this length both RoPEs change."""
PROMPTS = [[3, 17, 42], [3, 17, 42, 5, 99, 8, 61, 2, 77, 30, 4], [3, 17, 42, 5, 99, 8, 61, 2, 77, 12], [9] * 8]


def dynamic(dims: int) -> LengthRoPE:
    return DynamicRoPE(dims, 100.0, 2.0, trained=LIMIT)


def long(dims: int, **fields: Any) -> LengthRoPE:
    plain = np.float32(100) ** -(np.arange(0, dims, 2, dtype=np.float32) / dims)
    return LongRoPE(plain, (plain / 3).astype(np.float32), 1.2, original=LIMIT, **fields)


def with_rope(make: Any, family: str = "llama", **fields: Any) -> Model:
    model = tiny_model(family)
    for layer in model.network.layers:
        layer.self_attn.rope = make(model.d_head, **fields)
    return model


@pytest.fixture(params=[dynamic, long], ids=["dynamic", "long"])
def model(request: pytest.FixtureRequest) -> Model:
    return with_rope(request.param)


def close(a: mx.array, b: mx.array) -> bool:
    return float(mx.linalg.norm(a - b)) <= 1e-5 * float(mx.linalg.norm(b))


def test_the_wrapped_forward_is_mlx_lms_own_with_the_same_rope(model: Model) -> None:
    model.self_check()
    for prompt in PROMPTS:
        assert mx.array_equal(model.run([prompt], logits="all").logits, model.mlx_model(mx.array([prompt])))


def test_a_prompt_in_a_padded_batch_is_computed_as_alone(model: Model) -> None:
    together = model.run(PROMPTS, logits="all", capture="k")
    for row, prompt in enumerate(PROMPTS):
        alone = model.run([prompt], logits="all", capture="k")
        assert close(together.logits[row, : len(prompt)], alone.logits[0])
        assert close(together["k.1"][row, : len(prompt)], alone["k.1"][0])


def test_a_sweep_over_prompts_that_begin_alike_equals_single_sweeps(model: Model) -> None:
    variants = [[], [Add("resid_post.0", mx.ones((model.d_model,)), 2.0, positions=-1)], [Patch("q.1", 0.0)]]
    together = model.sweep_prompts(PROMPTS, variants)
    for found, prompt in zip(together, PROMPTS, strict=True):
        assert close(found, model.sweep(prompt, variants))
        assert close(found[0], model.run([prompt]).logits[0])


def test_a_text_is_written_as_alone_across_the_length_where_rope_changes(model: Model) -> None:
    together = [completion.tokens for completion in model.generate(PROMPTS, max_tokens=9)]
    assert together == [model.generate([prompt], max_tokens=9)[0].tokens for prompt in PROMPTS]
    assert together[0] == model.sweep_generate(PROMPTS[0], [[]], max_tokens=9)[0].tokens


def test_cached_keys_keep_the_rope_they_were_written_with(model: Model) -> None:
    """What mlx-lm does with the same module, and transformers: only new tokens are turned by the new frequencies."""
    from mlx_lm.models.cache import make_prompt_cache

    prompt = PROMPTS[3]
    cache = make_prompt_cache(model.mlx_model)
    logits = model.mlx_model(mx.array([prompt]), cache=cache)[:, -1]
    expected = []
    for _ in range(4):
        token = mx.argmax(logits, axis=-1)
        expected.append(int(token.item()))
        logits = model.mlx_model(token[None], cache=cache)[:, -1]
    assert model.generate([prompt], max_tokens=4)[0].tokens == expected


def test_a_text_that_would_be_read_anew_is_refused_before_it_is_begun() -> None:
    model = with_rope(long, rereads=True)
    assert len(model.generate([PROMPTS[0]], max_tokens=6)[0].tokens) == 6  # the last one is not read any more
    assert len(model.generate([PROMPTS[1]], max_tokens=6)[0].tokens) == 6  # beyond it from the start
    for write in (model.generate, lambda *a, **k: model.sweep_generate(PROMPTS[0], [[]], **k), model.stream):
        with pytest.raises(PromptError, match=r"prompt of 3 tokens .* go beyond 8.* max_tokens is at most 6 here"):
            write(PROMPTS[0], max_tokens=7)


def test_prompts_of_two_regimes_share_no_column(model: Model) -> None:
    regimes = [model.network.rope_regime(len(prompt)) for prompt in PROMPTS]
    assert regimes[0] == regimes[3] != regimes[1]
    assert tiny_model("llama").network.rope_regime(5) == tiny_model("llama").network.rope_regime(500)
