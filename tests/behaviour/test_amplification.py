"""Amplified differences: alpha 0 is a, alpha -1 is b, every step is what recomputing gives."""

from __future__ import annotations

import copy
import math
from functools import cache
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.behaviour.amplification import amplify, forced
from mlx_interp.errors import DataError, NeverFired
from mlx_interp.interventions import Add
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


@pytest.mark.slow
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
    (real, _), (null, _) = (amplify(model(), a, b, [2.0], max_tokens=6, control=c) for c in ("none", "shuffled"))
    assert real[0].kl != null[0].kl


def test_a_lone_distribution_amplified_is_a_lower_temperature() -> None:
    a, b = pair()
    (row, _) = amplify(model(), a, b, [1.0, 4.0], max_tokens=1, control="sharpened")
    logits = model().run(a[0]).logits
    assert logits is not None
    for one, factor in zip(row, (2.0, 5.0), strict=True):
        log = factor * logits[0] - mx.logsumexp(factor * logits[0])
        assert one.entropy[0] == pytest.approx(float(-mx.sum(mx.exp(log) * log)), abs=1e-4)
        assert one.agrees == [1.0]


def test_a_against_itself_is_a_at_every_strength() -> None:
    a, _ = pair()
    options = {"max_tokens": 6, "temperature": 1.0, "seed": 1}
    for alpha in (0.5, 4.0):
        found = amplify(model(), a, a, [0.0], **options)  # type: ignore[arg-type]
        same = amplify(model(), a, a, [alpha], **options)  # type: ignore[arg-type]
        assert [row[0].tokens for row in found] == [row[0].tokens for row in same]
        assert max(same[0][0].kl) < 1e-5


def test_implausible_tokens_are_never_drawn() -> None:
    a, b = pair()
    log = model().run(a[0]).logits[0]  # type: ignore[index]
    allowed = set(np.flatnonzero(np.asarray(log) >= float(mx.max(log)) + math.log(0.1)).tolist())
    drawn = {
        amplify(model(), a[:1], b[:1], [8.0], max_tokens=1, temperature=3.0, seed=seed, beta=beta)[0][0].tokens[0]
        for seed in range(12)
        for beta in (0.1,)
    }
    assert drawn <= allowed


def test_interventions_act_on_a_alone() -> None:
    a, _ = pair()
    vector = np.random.default_rng(0).normal(size=model().d_model).astype(np.float32)
    edits = [Add("resid_post.3", vector, 3.0)]
    (row, _) = amplify(model(), a, a, [0.0, -1.0], interventions=edits, max_tokens=5)
    assert row[0].tokens == model().generate(a[0], interventions=edits, max_tokens=5)[0].tokens
    assert row[1].tokens == model().generate(a[0], max_tokens=5)[0].tokens
    assert row[0].tokens != row[1].tokens
    with pytest.raises(NeverFired):
        amplify(model(), a, a, [1.0], interventions=[Add("resid_post.3", vector, 0.5, "generated")], max_tokens=1)


def test_what_lies_beyond_20_logits_is_what_a_did_not_show() -> None:
    a, b = pair()
    (row, _) = amplify(model(), a, b, [3.0], max_tokens=1)
    logs = [x - mx.logsumexp(x) for x in (model().run(p[0]).logits[0] for p in (a, b))]  # type: ignore[index]
    mixed = logs[0] + 3.0 * (logs[0] - logs[1])
    held = np.exp(np.asarray(mixed - mx.logsumexp(mixed)))
    hidden = np.argsort(-np.asarray(logs[0]))[20:]
    assert row[0].outside[0] == pytest.approx(held[hidden].sum(), abs=1e-4)
    difference = np.asarray(logs[0] - logs[1])
    assert row[0].spread[0] == pytest.approx(difference.std(), rel=1e-3)
    assert row[0].largest[0] == pytest.approx(difference.max(), rel=1e-3)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2"])
def test_forced_texts_have_the_probabilities_of_the_decode(name: str) -> None:
    a, b = pair(name)
    written = amplify(model(name), a, b, [0.0, 1.5], max_tokens=5)
    texts = [row[1].tokens for row in written]
    read = forced(model(name), a, b, texts, [0.0, 1.5])
    for row, one in zip(written, read, strict=True):
        np.testing.assert_allclose(one.log_a, row[1].log_prob, atol=1e-3)
        np.testing.assert_allclose(one.amplified[0], one.log_a, atol=1e-5)
        assert (one.kl >= 0).all()
        assert one.kl.max() > 0.1
    logs = [x - mx.logsumexp(x) for x in (model(name).run(p[0]).logits[0] for p in (a, b))]  # type: ignore[index]
    mixed = logs[0] + 1.5 * (logs[0] - logs[1])
    assert read[0].amplified[1, 0] == pytest.approx(float((mixed - mx.logsumexp(mixed))[texts[0][0]]), abs=1e-4)
    assert read[0].kl[0] == pytest.approx(float(mx.sum(mx.exp(logs[0]) * (logs[0] - logs[1]))), rel=1e-3)
    with pytest.raises(DataError, match="not empty"):
        forced(model(name), a, b, [[1], []])


def test_an_overflow_is_flagged_and_the_other_strengths_go_on() -> None:
    a, b = pair()
    (row, _) = amplify(model(), a, b, [1.0, 3e38], max_tokens=4)
    assert row[1].finish == "not finite"
    assert row[1].tokens == []
    assert row[0].tokens == amplify(model(), a, b, [1.0], max_tokens=4)[0][0].tokens


def test_mistakes_are_named() -> None:
    a, b = pair()
    with pytest.raises(DataError, match="2 and 1 were given"):
        amplify(model(), a, b[:1], [1.0])
    with pytest.raises(DataError, match="finite number"):
        amplify(model(), a, b, [float("inf")])
    with pytest.raises(DataError, match="one strength or more"):
        amplify(model(), a, b, [])
    with pytest.raises(ValueError, match="max_tokens"):
        amplify(model(), a, b, [1.0], max_tokens=0)


def test_the_same_words_in_another_order_are_another_tokenizer() -> None:
    a, _ = pair()
    other = mi.load("tiny-llama")
    swapped = copy.copy(other)
    swapped.tokenizer = SimpleNamespace(get_vocab=lambda: {**other.tokenizer.get_vocab(), "▁tea": 0})
    with pytest.raises(DataError, match=r"e\.g\. '▁tea'"):
        amplify(model(), a, a, [1.0], other=swapped)
