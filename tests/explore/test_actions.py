"""What the page asks for: the lines of Python that are shown give what is shown; bad requests are told why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mlx_interp as mi
from mlx_interp.directions import diff_of_means, save_direction
from mlx_interp.errors import ConfigError, DirectionError, MlxInterpError, PromptError
from mlx_interp.explore import Explorer
from mlx_interp.model import Model
from tests.explore.served import PROMPT

STEER = {"prompt": PROMPT, "plus": "7 8 20", "minus": "60 1", "layer": 1, "strength": 2.0, "max_tokens": 5}


@pytest.fixture(scope="module")
def explorer(llama: Model) -> Explorer:
    return Explorer(llama, "tiny")


def run(lines: list[str], model: Model) -> dict[str, Any]:
    """The names that lines of Python leave."""
    names: dict[str, Any] = {"mi": mi, "model": model}
    exec("\n".join(lines), names)
    return names


def test_lines_of_reading_give_what_is_shown(explorer: Explorer, llama: Model) -> None:
    answer = explorer.read({"prompt": PROMPT})
    names = run(answer["code"], llama)
    assert answer["lens"] == names["lens"].page().html
    assert answer["attention"] == names["heads"].page().html
    (top,) = llama.top_tokens(llama.run(PROMPT), len(answer["top"]))
    assert dict(answer["top"]) == pytest.approx(dict(top), rel=1e-3)


@pytest.mark.parametrize("source", ["", "8 40", "1 2 3 4 5 6"])
def test_lines_of_patching_give_what_is_shown(
    explorer: Explorer, llama: Model, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = explorer.patch({"prompt": PROMPT, "layer": 1, "position": 2, "source": source})
    edit = run(answer["code"], llama)["edit"]
    said = eval(capsys.readouterr().out)
    assert dict(answer["after"]) == pytest.approx(dict(said), rel=1e-3)
    (clean,) = llama.top_tokens(llama.run(PROMPT), 6)
    assert dict(answer["before"]) == pytest.approx(dict(clean), rel=1e-3)
    assert answer["before"] != answer["after"]
    assert (edit.site, edit.positions) == ("resid_post.1", 2)
    if source:
        taken = min(2, len(source.split()) - 1)
        assert f"(position {taken}) of the source" in answer["what"]


def test_lines_of_steering_give_what_is_shown(explorer: Explorer, llama: Model) -> None:
    answer = explorer.steer(STEER)
    names = run(answer["code"], llama)
    assert (answer["plain"], answer["steered"]) == (names["plain"].text, names["steered"].text)
    assert answer["plain"] != answer["steered"]


def test_a_saved_direction_is_chosen_by_its_file(llama: Model, tmp_path: Path) -> None:
    sets = [[1, 2, 3], [4, 2, 6], [9, 1, 1], [2, 2, 8]], [[30, 31], [33, 40], [8, 50], [60, 1]]
    direction = diff_of_means(llama, *sets, site="resid_post.1")
    path = str(tmp_path / "direction.safetensors")
    save_direction(direction, path)
    explorer = Explorer(llama, "tiny", {path: direction})
    answer = explorer.steer({**STEER, "direction": path, "strength": 1.5})
    assert answer["steered"] == run(answer["code"], llama)["steered"].text
    with pytest.raises(ConfigError, match=r"no direction 'other': there are .*direction\.safetensors"):
        explorer.steer({**STEER, "direction": "other"})


@pytest.mark.parametrize(
    ("action", "request_", "error", "message"),
    [
        ("read", {}, ConfigError, "prompt: type a text; given was None"),
        ("read", {"prompt": "1 " * 97}, PromptError, "prompt: 97 tokens, and the page shows up to 96"),
        ("patch", {"prompt": PROMPT, "layer": 3, "position": 0}, ConfigError, "layer: .* from 0 to 2, not 3"),
        ("patch", {"prompt": PROMPT, "layer": 1, "position": True}, ConfigError, "position: .* from 0 to 3, not True"),
        ("steer", {**STEER, "strength": float("nan")}, ConfigError, "strength: give a finite number, not nan"),
        ("steer", {**STEER, "max_tokens": 5000}, ConfigError, "max_tokens: .* from 1 to 128"),
        ("steer", {**STEER, "strength": 1e38}, DirectionError, "not finite: give a smaller one"),
    ],
)
def test_a_wrong_request_is_told_what_would_be_right(
    explorer: Explorer, action: str, request_: dict[str, Any], error: type[MlxInterpError], message: str
) -> None:
    with pytest.raises(error, match=message):
        explorer.actions[action](request_)
