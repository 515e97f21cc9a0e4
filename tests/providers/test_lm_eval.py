"""lm-eval asks, our own forward pass answers: compared with probabilities computed token by token."""

from __future__ import annotations

from typing import Any

import mlx_interp as mi  # isort: split

import numpy as np
import pytest

from mlx_interp.model import Model
from mlx_interp.providers import lm_eval_model

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install '.[lm-eval]' in an environment of its own")
from lm_eval.api.instance import Instance

ASKED = [
    ("The capital of France is", " Paris"),
    ("The capital of France is ", "Madrid"),
    ("", "The capital of"),
    ("A", " b c"),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return mi.load("tiny-llama")


def requests(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def stepwise(model: Model, tokens: list[int], begins: int, edits: Any = ()) -> tuple[float, bool]:
    """Log-likelihood of tokens[begins:], one run a token."""
    total, greedy = 0.0, True
    for end in range(begins, len(tokens)):
        out = model.run(tokens[:end], interventions=edits).logits
        row = np.asarray(out, dtype=np.float64)[0]
        total += row[tokens[end]] - row.max() - np.log(np.exp(row - row.max()).sum())
        greedy &= int(row.argmax()) == tokens[end]
    return total, greedy


def test_likelihoods_are_those_of_our_own_forward_pass_with_and_without_an_edit(model: Model) -> None:
    edit = mi.Ablate("mlp_out.2")
    for edits in ((), edit):
        found = lm_eval_model(model, edits).loglikelihood(requests("loglikelihood", ASKED))
        for (context, continuation), (value, greedy) in zip(ASKED, found, strict=True):
            whole = model.prompt(context + continuation).tokens
            begins = len(model.prompt(context.rstrip()).tokens) if context else 1
            wanted = stepwise(model, whole, begins, edits)
            assert value == pytest.approx(wanted[0], abs=2e-3)
            assert greedy == wanted[1]
    assert found != lm_eval_model(model).loglikelihood(requests("loglikelihood", ASKED))


def test_a_long_text_is_scored_once_a_token_in_windows(model: Model) -> None:
    text = "The capital of France is Paris and the capital of Spain is Madrid"
    tokens = model.prompt(text).tokens
    whole = lm_eval_model(model).loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]))
    assert whole[0] == pytest.approx(stepwise(model, tokens, 1)[0], abs=5e-3)
    (found,) = lm_eval_model(model, max_length=6).loglikelihood_rolling(requests("loglikelihood_rolling", [(text,)]))
    own = tokens[1:]  # behind BOS; then in sixes, each behind the token before it
    windows = [tokens[:7], *(own[n - 1 : n + 6] for n in range(6, len(own) - 5, 6))]
    last = own[-7:]  # as much context as there is room for, and only what was not scored yet
    begins = 7 - (len(own) - 6 * len(windows))
    wanted = [stepwise(model, window, 1)[0] for window in windows] + [stepwise(model, last, begins)[0]]
    assert found == pytest.approx(sum(wanted), abs=5e-3)


def test_texts_end_before_a_stop_and_follow_the_edit(model: Model) -> None:
    asked = requests("generate_until", [("The capital of France is", {"until": ["\n"], "max_gen_toks": 6})])
    plain = model.generate("The capital of France is", max_tokens=6)[0].text
    assert lm_eval_model(model).generate_until(asked) == [plain.split("\n")[0]]
    stop = plain.split()[0][-1]
    asked = requests("generate_until", [("The capital of France is", {"until": [stop], "max_gen_toks": 6})])
    assert lm_eval_model(model).generate_until(asked) == [plain[: plain.find(stop)]]
    edit = mi.Ablate("mlp_out")
    asked = requests("generate_until", [("The capital of France is", {"until": [], "max_gen_toks": 6})])
    edited = model.generate("The capital of France is", interventions=edit, max_tokens=6)[0].text
    assert edited != plain
    assert lm_eval_model(model, edit).generate_until(asked) == [edited]
