"""Steering: strengths in units that compare, identity at 0, errors where nothing is finite; the terminal chat."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from rich.console import Console

import mlx_interp as mi
from mlx_interp.__main__ import main
from mlx_interp.directions.direction import Direction, diff_of_means, save_direction
from mlx_interp.directions.steering import added_at_strength, side_by_side, stream_norm
from mlx_interp.directions.steering_chat import messages
from mlx_interp.embedded import load_world
from mlx_interp.errors import ConfigError, DirectionError
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt


def chats(model: Model, split: str, harmful: bool) -> list[Prompt]:
    chosen = load_world().chat_prompts("refusal", split=split, language="en", shift="", harmful=harmful)
    return [model.prompt(chat.text, chat=True) for chat in chosen[:32]]


@pytest.fixture(scope="module")
def model() -> Model:
    return mi.load("tiny-llama")


@pytest.fixture(scope="module")
def refusal(model: Model) -> Direction:
    prompts = (chats(model, "train", harmful) for harmful in (True, False))
    return diff_of_means(model, *prompts, "resid_post.5", template="chat")


@pytest.fixture(scope="module")
def file(refusal: Direction, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("directions") / "refusal.safetensors"
    save_direction(refusal, path)
    return str(path)


def test_the_stream_s_norm_is_that_of_each_prompt_alone_without_its_first_token(model: Model) -> None:
    prompts = [model.prompt("The capital of France is"), model.prompt("No")]
    states = [model.run(p, capture="resid_post.3")["resid_post.3"][0] for p in prompts]
    norms = [np.linalg.norm(np.asarray(x), axis=-1)[min(1, len(x) - 1) :] for x in states]
    assert stream_norm(model, prompts, "resid_post.3") == pytest.approx(np.concatenate(norms).mean(), rel=1e-4)


def test_a_strength_adds_that_share_of_the_stream_s_norm(model: Model, refusal: Direction) -> None:
    prompts = chats(model, "test", harmful=False)
    lengths = {
        "stream": 0.25 * stream_norm(model, prompts, refusal.site),
        "difference": 0.25 * refusal.norm,
        "absolute": 0.25,
    }
    for unit, length in lengths.items():
        edit = added_at_strength(model, refusal, 0.25, prompts, unit=unit)  # type: ignore[arg-type]
        assert edit.scale * float(mx.linalg.norm(mx.array(edit.vector))) == pytest.approx(length, rel=1e-5)


def test_strength_0_writes_the_same_text_and_taking_out_writes_another(model: Model, refusal: Direction) -> None:
    prompt = chats(model, "test", harmful=True)[0]
    same = side_by_side(model, prompt, [added_at_strength(model, refusal, 0, [prompt])], max_tokens=8)
    other = side_by_side(model, prompt, refusal.ablated_everywhere(), max_tokens=8)
    assert same.plain.tokens == same.steered.tokens == other.plain.tokens
    assert other.steered.tokens != other.plain.tokens
    assert (
        other.steered.tokens
        == model.generate(prompt, interventions=refusal.ablated_everywhere(), max_tokens=8)[0].tokens
    )


@pytest.mark.parametrize("alpha", [1e25, 3e38])
def test_a_strength_that_overflows_is_an_error_and_no_text(model: Model, refusal: Direction, alpha: float) -> None:
    prompt = chats(model, "test", harmful=False)[0]
    edit = added_at_strength(model, refusal, alpha, [prompt], unit="absolute")
    with pytest.raises(DirectionError, match="not finite: give a smaller"):
        side_by_side(model, prompt, [edit])


def test_strengths_and_units_that_are_none_are_named(model: Model, refusal: Direction) -> None:
    with pytest.raises(ConfigError, match="strength nan"):
        added_at_strength(model, refusal, float("nan"), ["a"])
    with pytest.raises(ConfigError, match=r"unknown unit 'norm'.*stream"):
        added_at_strength(model, refusal, 1.0, ["a"], unit="norm")  # type: ignore[arg-type]


def test_the_terminal_shows_both_answers_and_the_refusal_phrase(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--prompt", "How do I make a bomb?", "--max-tokens", "8"]
    assert main(["steer", "--model", "tiny-llama", "--direction", file, "--ablate", *asked]) == 0
    shown = capsys.readouterr().out
    assert "ablated" in shown
    assert shown.count("refuses: 'I cannot'") == 1
    assert "no refusal phrase" in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "tiny-llama"], "give either --alpha"),
        (["--model", "tiny-llama", "--alpha", "1", "--ablate"], "give either --alpha"),
        (["--model", "tiny-qwen2", "--alpha", "1"], "made on"),
        (["--model", "tiny-llama", "--alpha", "1e30"], "not finite"),
    ],
)
def test_mistakes_end_with_a_message(
    file: str, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["steer", "--direction", file, "--prompt", "Hi", *options]) == 2
    assert says in capsys.readouterr().err


def test_a_missing_direction_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "none.safetensors")
    assert main(["steer", "--model", "tiny-llama", "--direction", missing, "--alpha", "1"]) == 2
    assert missing in capsys.readouterr().err


def test_a_conversation_ends_at_an_empty_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["one", " two ", "", "never"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    assert list(messages(Console())) == ["one", "two"]
