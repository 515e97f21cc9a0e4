"""Bad input is a clear error, raised before anything runs, and the model is as before."""

from __future__ import annotations

import re
import warnings
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Ablate, Add, Apply, Knockout, Patch, Scale
from mlx_interp.engine.network import Network
from mlx_interp.errors import CheckpointError, NeverFired, PositionError, PromptError, ShapeError, SiteError
from mlx_interp.interventions import Intervention
from mlx_interp.model import Model
from tests.engine.examples import TOKENS
from tests.tiny import tiny_model

ONES = mx.ones((30,))
NOT_FINITE = (mx.full((30,), float("nan")), np.full(30, -np.inf))

MISTAKES: list[tuple[Intervention, type[Exception], str]] = [
    (Patch("resid_pots.1", ONES), SiteError, "did you mean 'resid_post'"),
    (Patch("resid_post.3", ONES), SiteError, "layers 0 to 2"),
    (Patch("head_out.1", ONES), SiteError, "read only; change 'z'"),
    (Patch("resid_post.1", mx.ones((31,)), 2), ShapeError, r"the array is \(31,\).*\(1, 1, 30\)"),
    (Patch("resid_post.1", mx.ones((2, 30)), [1, 2, 3]), ShapeError, r"the array is \(2, 30\).*\(1, 3, 30\)"),
    (Patch("resid_post.1", mx.ones((1,)), 2), ShapeError, r"the array is \(1,\)"),
    (Patch("z.1", mx.ones((6, 7)), 2), ShapeError, r"\(1, 1, 6, 8\)"),
    (Patch("z.1", mx.ones((3, 8)), 2, heads=[0, 1]), ShapeError, r"\(1, 1, 2, 8\)"),
    (Patch("z.1", mx.ones((8,)), 2, heads=6), ShapeError, "head 6 does not exist, the site has 6 heads"),
    (Patch("z.1", mx.ones((8,)), 2, heads=[]), ShapeError, "list of heads is empty"),
    (Patch("k.1", mx.ones((8,)), 2, heads=3), ShapeError, "the site has 3 heads"),
    (Scale("resid_post.1", 2.0, heads=0), ShapeError, "has no heads"),
    (Patch("resid_post.1", ONES, 7), PositionError, "position 7 does not exist, the prompt has 7 tokens"),
    (Patch("resid_post.1", ONES, [0, -8]), PositionError, "position -8"),
    (Patch("resid_post.1", ONES, "last"), PositionError, "not 'last'"),
    (Patch("resid_post.1", ONES, [1.5]), PositionError, "is not an int"),
    (Add("resid_post.1", ONES, 1.0, slice(5, 5)), NeverFired, "prompts of 7 tokens"),
    (Add("resid_post.1", ONES, 1.0, slice(20, 30)), NeverFired, "touches nothing"),
    (Add("resid_post.1", ONES, 1.0, []), NeverFired, "touches nothing"),
    (Add("resid_post.1", ONES, 1.0, "generated"), NeverFired, "touches nothing"),
    (Knockout(1, query=2, keys=[4, 5]), NeverFired, "touches nothing"),
    (Knockout(5, query=2, keys=0), SiteError, "layers 0 to 2"),
    (Knockout(1, query=0, keys=0), ShapeError, "nothing to attend to"),
    (Ablate("resid_post.1", mx.zeros((30,))), ShapeError, "finite and not zero"),
    (Ablate("resid_post.1", mx.full((30,), float("nan"))), ShapeError, "finite and not zero"),
    (Patch("resid_post.1", ONES, [False, True, True]), PositionError, r"is a mask; give the numbers .* here \[1, 2\]"),
    (Patch("resid_post.1", ONES, np.array([False, True])), PositionError, r"is a mask.*here \[1\]"),
    (Patch("resid_post.1", ONES, mx.array([True, False])), PositionError, r"is a mask.*here \[0\]"),
    (Patch("resid_post.1", ONES, True), PositionError, "is a mask"),
    (Patch("resid_post.1", ONES, np.array([1.0, 2.0])), PositionError, "is not an int"),
    (Patch("resid_post.1", ONES, np.array([[1, 2]])), PositionError, "is not an int"),
    (Patch("resid_post.1", ONES, b"ab"), PositionError, "is not an int"),
    (Patch("resid_post.1", ONES, slice(0.5, 2)), PositionError, "is not an int"),
    (Patch("resid_post.1", ONES, slice(False, True)), PositionError, "is a mask"),
    (Patch("resid_post.1", ONES, slice(0, 3, 0)), PositionError, "a step of 0"),
    (Patch("z.1", 0.0, heads=[False, True]), ShapeError, r"is a mask.*here \[1\]"),
    (Patch("z.1", 0.0, heads="all"), ShapeError, "'all' is not an int"),
    (Knockout([False, True], query=2, keys=0), PositionError, "is a mask"),
    (Knockout([], query=2, keys=0), SiteError, "list of layers is empty"),
    (Knockout(1, query=[True, False], keys=0), PositionError, "is a mask"),
    (Knockout(1, query=2, keys=[True, False]), PositionError, "is a mask"),
    (Knockout(1, query=2, keys=0, heads=[True]), ShapeError, "is a mask"),
    (Patch("resid_post.1", None, 2), ShapeError, "None is no array of real numbers"),  # type: ignore[arg-type]
    (Patch("resid_post.1", "abc", 2), ShapeError, "'abc' is no array"),
    (Patch("resid_post.1", ["1", "2"], 2), ShapeError, "is no array"),
    (Patch("resid_post.1", [[1.0], [1.0, 2.0]], 2), ShapeError, "is no array"),
    (Patch("resid_post.1", True, 2), ShapeError, "True is no array"),
    (Patch("resid_post.1", np.ones(30, bool), 2), ShapeError, "an array of bool is no array of real numbers"),
    (Patch("resid_post.1", mx.ones((30,)) > 0, 2), ShapeError, "array of mlx.core.bool"),
    (Patch("resid_post.1", np.ones(30, complex), 2), ShapeError, "an array of complex128"),
    (Patch("resid_post.1", mx.ones((30,)).astype(mx.complex64), 2), ShapeError, "complex64"),
    (Patch("resid_post.1", np.ones(0), 2), ShapeError, r"the array is \(0,\)"),
    (Add("resid_post.1", None), ShapeError, "None is no array"),  # type: ignore[arg-type]
    (Add("resid_post.1"), ShapeError, r"there is no vector to add; give Add\(site, vector\) or Add\(direction\)"),
    (Ablate("resid_post.1", None), ShapeError, "None is no array of real numbers"),  # type: ignore[arg-type]
    (Ablate("resid_post.1", "mean"), ShapeError, r"give mi\.mean_ablation\(model, 'resid_post.1', prompts\)"),  # type: ignore[arg-type]
    (Add("resid_post.1", NOT_FINITE[0]), ShapeError, r"Add\(site='resid_post.1', .*its vector holds nan or inf"),
    (Add("resid_post.1", NOT_FINITE[1], 0.0), ShapeError, "its vector holds nan or inf"),
    (Patch("resid_post.1", float("inf"), 2), ShapeError, "its value holds nan or inf; give finite numbers"),
    (Patch("z.1", [0.0, float("nan"), *[0.0] * 6], heads=1), ShapeError, "its value holds nan or inf"),
    (Apply("resid_post.1", lambda x: x / 0), ShapeError, r"Apply\(.*the function returned nan or inf"),
    (Ablate("resid_post.1", "north"), ShapeError, "'north' is no array"),
    (Add("resid_post.1", ONES, np.linspace(0, 1, 7)), ShapeError, r"scale is one finite number, not an array \(7,\)"),  # type: ignore[arg-type]
    (Add("resid_post.1", ONES, [0.0, 1.0]), ShapeError, "scale is one finite number"),  # type: ignore[arg-type]
    (Add("resid_post.1", ONES, float("nan")), ShapeError, "scale is one finite number, not nan"),
    (Add("resid_post.1", ONES, 1e39), ShapeError, "scale is one finite number, not 1e"),
    (Scale("resid_post.1", ONES), ShapeError, r"factor is one finite number, not an array \(30,\)"),  # type: ignore[arg-type]
    (Scale("resid_post.1", None), ShapeError, "factor is one finite number, not None"),  # type: ignore[arg-type]
    (Scale("resid_post.1", "2"), ShapeError, "factor is one finite number, not '2'"),  # type: ignore[arg-type]
    (Scale("resid_post.1", True), ShapeError, "factor is one finite number, not True"),
    (Scale("resid_post.1", 1j), ShapeError, "factor is one finite number"),  # type: ignore[arg-type]
    (Apply("resid_post.1", 3), ShapeError, "3 is no function"),  # type: ignore[arg-type]
    (Apply("resid_post.1", lambda x: x > 0), ShapeError, "returned mlx.core.bool"),
    ("resid_post.1", ShapeError, "'resid_post.1' is no intervention; a list holds "),  # type: ignore[list-item]
    (Apply("resid_post.1", lambda x: x[0]), ShapeError, r"got \(1, 7, 30\) and returned \(7, 30\)"),
    (Apply("resid_post.1", lambda x: 3), ShapeError, "returned int"),
]


@pytest.mark.parametrize(("mistake", "error", "hint"), MISTAKES, ids=[repr(mistake)[:60] for mistake, _, _ in MISTAKES])
@pytest.mark.parametrize("call", ["run", "sweep"])
def test_a_mistake_is_a_clear_error_and_leaves_the_model_as_before(
    llama: Model, call: str, mistake: Intervention, error: type[Exception], hint: str
) -> None:
    before = llama.run(TOKENS, logits="all").logits
    with pytest.raises(error, match=hint):
        if call == "run":
            llama.run(TOKENS, interventions=[mistake])
        else:
            llama.sweep(TOKENS, [[], [mistake]])
    assert mx.array_equal(llama.run(TOKENS, logits="all").logits, before)


def test_a_position_past_the_end_of_one_prompt_of_a_batch_is_an_error(llama: Model) -> None:
    with pytest.raises(PositionError, match="the prompt has 2 tokens"):
        llama.run([TOKENS, [1, 2]], interventions=[Patch("resid_post.1", ONES, 5)])


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError, MemoryError])
@pytest.mark.parametrize("call", ["run", "sweep"])
def test_an_exception_in_the_middle_leaves_the_model_as_before(
    llama: Model, call: str, interruption: type[BaseException]
) -> None:
    def interrupt(x: mx.array) -> mx.array:
        raise interruption

    before = llama.run(TOKENS, logits="all").logits
    steered: list[Intervention] = [Add("resid_post.0", ONES, 50.0), Apply("resid_post.1", interrupt)]
    with pytest.raises(interruption):
        llama.run(TOKENS, interventions=steered) if call == "run" else llama.sweep(TOKENS, [steered])
    assert mx.array_equal(llama.run(TOKENS, logits="all").logits, before)
    assert mx.array_equal(llama.mlx_model(mx.array([TOKENS])), before)


def test_a_site_that_was_not_captured_names_what_was(llama: Model) -> None:
    out = llama.run(TOKENS, capture=["resid_post.1", "z.0"])
    with pytest.raises(SiteError, match=re.escape("captured: z.0, resid_post.1): add capture=['resid_post.2']")):
        out["resid_post.2"]
    with pytest.raises(SiteError, match="did you mean 'resid_post'"):
        out["resid_pst.1"]


@pytest.mark.parametrize(
    ("prompts", "hint"),
    [
        ("", "empty prompt"),
        ([[]], "empty list"),
        ([], "empty list"),
        ([3, 101], "outside the vocabulary of 101"),
        ([-1], "outside"),
    ],
)
def test_a_prompt_without_position_or_vocabulary_is_an_error(llama: Model, prompts: Any, hint: str) -> None:
    with pytest.raises(PromptError, match=hint):
        llama.run(prompts)


def test_a_mistyped_choice_is_an_error(llama: Model) -> None:
    with pytest.raises(ValueError, match="'last', 'all' or 'none', not 'every'"):
        llama.run(TOKENS, logits="every")
    with pytest.raises(ValueError, match="at least one variant"):
        llama.sweep(TOKENS, [])


@pytest.mark.parametrize("family", ["gemma2", "mistral", "phi3"])
def test_a_prompt_beyond_a_window_that_mlx_lm_leaves_out_is_warned_of(family: str) -> None:
    model = tiny_model(family, sliding_window=4)
    with pytest.warns(RuntimeWarning, match="7 tokens is longer than the model's sliding window of 4"):
        model.run(TOKENS)
    with pytest.warns(RuntimeWarning, match="sliding window of 4"):
        model.sweep(TOKENS, [[]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.run(TOKENS[:4])


def test_a_description_that_does_not_fit_fails_the_self_check(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gemma2")
    model.self_check()
    monkeypatch.setattr(Network, "embed", lambda net, tokens: net.decoder.embed_tokens(tokens))
    with pytest.raises(CheckpointError, match="differs from mlx-lm's own by"):
        model.self_check()


def test_weights_that_overflow_fail_the_self_check() -> None:
    model = tiny_model("llama")
    model.mlx_model.model.norm.weight = model.mlx_model.model.norm.weight * float("inf")
    with pytest.raises(CheckpointError, match="not finite"):
        model.self_check()


def test_a_prompt_longer_than_the_learned_positions_is_refused() -> None:
    model = tiny_model("gpt2")
    tokens = list(range(1, 41))
    assert model.run(tokens).lengths == [40]
    with pytest.raises(PromptError, match="41 tokens does not fit its 40 learned positions"):
        model.run([*tokens, 1])
    with pytest.raises(PromptError, match="41 tokens"):
        model.sweep([*tokens, 1], [[]])
    assert len(model.generate(tokens, max_tokens=1)[0].tokens) == 1  # the last token is never read back
    with pytest.raises(PromptError, match="40 tokens and 1 new ones"):
        model.generate(tokens, max_tokens=2)


@pytest.mark.parametrize("family", ["gemma3_text", "gemma3"])
def test_windows_that_mlx_lm_has_are_its_own_bit_for_bit_beyond_the_window(family: str) -> None:
    model = tiny_model(family)
    tokens = list(range(1, 24))
    assert [model.network.window(layer) for layer in range(3)] == [4, 4, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = model.run(tokens, capture="pattern", logits="all")
    assert mx.array_equal(ours.logits, model.mlx_model(mx.array([tokens])))
    pattern = ours["pattern.0"][0]
    assert float(mx.abs(pattern[:, 10, :7]).max()) == 0 < float(pattern[:, 10, 7:11].min())


def test_clipped_sums_of_a_float16_stream_are_mlx_lms_own() -> None:
    model = tiny_model("gemma3_text")
    model.mlx_model.set_dtype(mx.float16)
    for layer in model.network.layers:
        layer.post_attention_layernorm.weight = layer.post_attention_layernorm.weight + 30000
    tokens = [1, 2, 3, 4]
    out = model.run(tokens, capture="resid_mid", logits="all")
    assert bool(mx.all(mx.isfinite(out["resid_mid.2"])))
    assert float(mx.abs(out["resid_mid.2"]).max()) == 65504
    assert mx.array_equal(out.logits, model.mlx_model(mx.array([tokens])), equal_nan=True)


def test_each_part_of_the_self_check_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_with(name: str, change: Any) -> None:
        original = getattr(Network, name)
        with monkeypatch.context() as patch:
            patch.setattr(Network, name, lambda self, *args, **kwargs: change(original(self, *args, **kwargs)))
            tiny_model("gemma2").self_check()

    def looking_ahead(pattern: mx.array) -> mx.array:
        return mx.full(pattern.shape, 1 / pattern.shape[-1])

    for name, change, message in (
        ("attn_out", lambda x: x * 1.001, "the wrapped forward differs"),
        ("pattern", lambda x: x * 1.001, "rows of the attention pattern differ from 1 by 0.001"),
        ("pattern", looking_ahead, "layer 0: attention looks ahead with 0.14"),
        ("pattern", lambda x: mx.tri(x.shape[-1]) / mx.arange(1, x.shape[-1] + 1)[:, None] + 0 * x, "differs from z"),
    ):
        with pytest.raises(CheckpointError, match=message):
            check_with(name, change)
    calls: list[int] = []

    def second_call_without_cap(self: Network, x: mx.array) -> mx.array:
        calls.append(1)
        logits = self.decoder.embed_tokens.as_linear(x)
        return mx.tanh(logits / 3.0) * 3.0 if len(calls) == 1 else logits

    monkeypatch.setattr(Network, "unembed", second_call_without_cap)
    with pytest.raises(CheckpointError, match="the lens of the last layer differs"):
        tiny_model("gemma2").self_check()
