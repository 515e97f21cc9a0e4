"""Values of interventions as users hold them: whatever array of numbers is given is the one that is put in."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Add, Knockout, Patch, Scale
from mlx_interp.errors import ConfigError, ShapeError
from mlx_interp.model import Model
from tests.engine.examples import TOKENS
from tests.tiny import tiny_model

STATES = np.random.default_rng(0).normal(size=(len(TOKENS), 30)).astype(np.float32)
SITE = "resid_post.1"


def state(model: Model, *interventions: Any) -> np.ndarray:
    return np.asarray(model.run(TOKENS, interventions=interventions, capture=SITE)[SITE])[0]


@pytest.mark.parametrize(
    "given",
    [
        STATES[::-1][::-1],
        np.asfortranarray(STATES),
        np.repeat(STATES, 2, 0)[::2],
        STATES.astype(np.float64),
        STATES.tolist(),
        mx.array(STATES),
        [mx.array(row) for row in STATES],
    ],
    ids=["forwards", "columns first", "every second row", "float64", "lists", "mlx", "list of mlx"],
)
def test_a_patch_holds_the_array_that_was_given(llama: Model, given: Any) -> None:
    assert np.array_equal(state(llama, Patch(SITE, given)), STATES)


def test_a_view_that_runs_backwards_is_read_backwards(llama: Model) -> None:
    assert np.array_equal(state(llama, Patch(SITE, STATES[::-1])), STATES[::-1])
    assert np.array_equal(state(llama, Patch(SITE, STATES[:1, ::-1], 2))[2], STATES[0, ::-1])


def test_a_torch_tensor_is_an_array_of_numbers(llama: Model) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")
    assert np.array_equal(state(llama, Patch(SITE, torch.tensor(STATES))), STATES)
    with pytest.raises(ShapeError, match=r"of torch: \.detach\(\)\.float\(\)"):
        state(llama, Patch(SITE, torch.tensor(STATES, requires_grad=True)))
    with pytest.raises(ShapeError, match=r"of torch: \.detach\(\)\.float\(\)"):
        state(llama, Patch(SITE, torch.tensor(STATES, dtype=torch.bfloat16)))


@pytest.mark.parametrize("number", [2, 2.0, np.float32(2), np.int64(2), mx.array(2.0), np.array(2)])
def test_a_number_is_one_of_any_kind(llama: Model, number: Any) -> None:
    clean = state(llama)
    assert np.array_equal(state(llama, Scale(SITE, number)), clean * 2)
    assert np.array_equal(state(llama, Add(SITE, STATES, number)), clean + 2 * STATES)


@pytest.mark.parametrize("where", [[3, 5], (3, 5), range(3, 6, 2), np.array([3, 5]), mx.array([3, 5]), slice(3, 6, 2)])
def test_positions_are_numbers_in_any_kind_of_list(llama: Model, where: Any) -> None:
    changed = state(llama, Add(SITE, np.ones(30), 1.0, where)) - state(llama)
    assert np.flatnonzero(np.abs(changed).max(-1)).tolist() == [3, 5]


@pytest.mark.parametrize(
    ("query", "keys"), [(11, [8, 9, 10, 11]), (8, slice(5, 9)), (slice(0, 12), slice(0, 12)), (8, None)]
)
@pytest.mark.parametrize("call", ["run", "sweep", "sweep_prompts", "generate", "gradients"])
def test_a_knockout_of_all_that_a_window_shows_is_refused(call: str, query: Any, keys: Any) -> None:
    model = tiny_model("gemma3_text")
    tokens = list(range(1, 13))
    assert model.network.window(0) == 4
    cut = [Knockout(0, query, keys)]
    calls: dict[str, Any] = {
        "run": lambda: model.run(tokens, interventions=cut),
        "sweep": lambda: model.sweep(tokens, [cut]),
        "sweep_prompts": lambda: model.sweep_prompts([tokens, [*tokens, 5]], [cut]),
        "generate": lambda: model.generate([tokens, [*tokens, 5]], interventions=cut, max_tokens=2),
        "gradients": lambda: model.gradients(tokens, lambda x: x.max(-1), "z", interventions=cut),
    }
    with pytest.raises(ShapeError, match="nothing to attend to"):
        calls[call]()


def test_a_knockout_that_leaves_one_key_of_the_window_leaves_it_everything() -> None:
    model = tiny_model("gemma3_text")
    row = model.run(list(range(1, 13)), interventions=[Knockout(0, 11, [8, 9, 11])], capture="pattern.0")["pattern.0"]
    assert np.asarray(row)[0, 0, 11].tolist() == [0.0] * 10 + [1.0, 0.0]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": float("nan")}, "temperature is a finite number, 0 or more, not nan"),
        ({"temperature": float("inf")}, "not inf"),
        ({"temperature": -1}, "not -1"),
        ({"temperature": "0.7"}, "not '0.7'"),
        ({"temperature": None}, "not None"),
        ({"temperature": True}, "not True"),
        ({"top_p": 0}, r"top_p is a number in \(0, 1\], not 0"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": "1"}, "top_p"),
        ({"max_tokens": 0}, "max_tokens is a whole number, 1 or more, not 0"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"max_tokens": 2.0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"seed": "a"}, "seed is a whole number, not 'a'"),
        ({"seed": 0.5}, "seed"),
    ],
)
@pytest.mark.parametrize("call", ["generate", "sweep_generate", "stream"])
def test_settings_of_sampling_that_are_no_number_are_refused(
    llama: Model, call: str, setting: dict[str, Any], message: str
) -> None:
    calls: dict[str, Any] = {
        "generate": lambda: llama.generate(TOKENS, **setting),
        "sweep_generate": lambda: llama.sweep_generate(TOKENS, [[]], **setting),
        "stream": lambda: llama.stream(TOKENS, **setting),
    }
    with pytest.raises(ConfigError, match=message):
        calls[call]()


def test_a_temperature_near_zero_is_greedy_and_not_even(llama: Model) -> None:
    greedy = llama.generate(TOKENS, max_tokens=4)[0].tokens
    for temperature in (1e-3, 1e-30, 1e-44):
        assert llama.generate(TOKENS, max_tokens=4, temperature=temperature)[0].tokens == greedy
