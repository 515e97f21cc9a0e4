"""Amplified differences: alpha 0 is a, alpha -1 is b, every step is what recomputing gives."""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import pytest

import mlx_interp as mi
from mlx_interp.errors import DataError
from mlx_interp.methods.amplification import amplify
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from tests.tiny import tiny_model


@cache
def model(name: str = "tiny-llama") -> Model:
    return mi.load(name)


def pair(name: str = "tiny-llama") -> tuple[list[Prompt], list[Prompt]]:
    one = ["I hate tea. Is tea good?", "I really hate coffee and I think it is awful. Is coffee good?"]
    two = ["Is tea good?", "Is coffee good?"]
    return [model(name).prompt(t, chat=True) for t in one], [model(name).prompt(t, chat=True) for t in two]


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2", "tiny-gpt2"])
def test_strength_0_writes_what_a_writes_and_minus_1_what_b_writes(name: str) -> None:
    a, b = pair(name)
    found = amplify(model(name), a, b, [0.0, -1.0], max_tokens=8)
    for prompts, at in ((a, 0), (b, 1)):
        plain = model(name).generate(prompts, max_tokens=8)
        assert [row[at].text for row in found] == [one.text for one in plain]
    assert max(found[0][0].kl) < 1e-5


def test_every_step_is_what_two_whole_passes_give() -> None:
    a, b = pair()
    (row, _) = amplify(model(), a, b, [1.5], max_tokens=5)
    tokens: list[int] = []
    for step, token in enumerate(row[0].tokens):
        logs = []
        for prompt in (a[0], b[0]):
            logits = model().run(prompt.tokens + tokens).logits
            assert logits is not None
            logs.append(logits[0] - mx.logsumexp(logits[0]))
        mixed = logs[0] + 1.5 * (logs[0] - logs[1])
        mixed = mixed - mx.logsumexp(mixed)
        assert int(mx.argmax(mixed)) == token
        kl = float(mx.sum(mx.exp(logs[0]) * (logs[0] - mixed)))
        assert row[0].kl[step] == pytest.approx(kl, rel=1e-3, abs=1e-4)
        assert row[0].log_prob[step] == pytest.approx(float(logs[0][token]), abs=1e-4)
        tokens.append(token)


def test_a_row_does_not_depend_on_the_others_in_its_batch() -> None:
    a, b = pair()
    options = {"max_tokens": 6, "temperature": 1.0, "seed": 3}
    whole = amplify(model(), a, b, [0.5, 2.0], **options)  # type: ignore[arg-type]
    alone = amplify(model(), a[:1], b[:1], [0.5, 2.0], **options)  # type: ignore[arg-type]
    assert [one.tokens for one in whole[0]] == [one.tokens for one in alone[0]]


def test_two_models_with_the_same_words_can_be_subtracted() -> None:
    other = mi.load("tiny-llama")
    a, _ = pair()
    same = amplify(model(), a, a, [3.0], other=other, max_tokens=6)
    assert [row[0].text for row in same] == [one.text for one in model().generate(a, max_tokens=6)]
    with pytest.raises(DataError, match="do not share a tokenizer"):
        amplify(model(), a, a, [1.0], other=tiny_model("llama"))


def test_the_top_k_alone_draws_nothing_from_beyond_them() -> None:
    a, b = pair()
    logits = model().run(a[0]).logits
    assert logits is not None
    allowed = set(mx.argsort(-logits[0])[:3].tolist())  # type: ignore[arg-type]
    for seed in range(10):
        (row,) = amplify(model(), a[:1], b[:1], [1.0], max_tokens=1, temperature=5.0, seed=seed, top_k=3)
        assert not row[0].tokens or row[0].tokens[0] in allowed


def test_a_shuffled_difference_is_another_one() -> None:
    a, b = pair()
    (real, _), (null, _) = (amplify(model(), a, b, [2.0], max_tokens=6, control=c) for c in ("none", "shuffled"))  # type: ignore[arg-type]
    assert real[0].kl != null[0].kl


def test_mistakes_are_named() -> None:
    a, b = pair()
    with pytest.raises(DataError, match="2 and 1 were given"):
        amplify(model(), a, b[:1], [1.0])
    with pytest.raises(DataError, match="not finite at step 0"):
        amplify(model(), a, b, [float("inf")])
    with pytest.raises(ValueError, match="max_tokens"):
        amplify(model(), a, b, [1.0], max_tokens=0)
