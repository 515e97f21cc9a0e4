"""A collection's file: every mistake is named with its line, and data is taken by category."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from mlx_interp.errors import ConfigError, DataError
from mlx_interp.store.config import check_layers, read_collection
from mlx_interp.store.rows import PromptRow, balanced, prompt_rows

CONFIGS = sorted((Path(__file__).parents[2] / "experiments" / "configs").glob("collect_*.yaml"))
GOOD = """\
model:
  name: tiny-llama
  activation_layers:
    - residuals_0
    - mlp_2-4
inference: {positions: prompt_last, max_new_tokens: 3}
data:
  path: world
  category_balance_strategy: equalize
"""


def written(tmp_path: Path, old: str = "", new: str = "") -> Path:
    assert old in GOOD
    path = tmp_path / "c.yaml"
    path.write_text(GOOD.replace(old, new) if old else GOOD)
    return path


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    found = read_collection(written(tmp_path))
    assert (found.model, found.config.activation_layers) == ("tiny-llama", ("residuals_0", "mlp_2-4"))
    assert (found.config.positions, found.config.max_new_tokens, found.config.dtype) == ("last", 3, "float32")
    assert (found.config.path, found.config.category_balance_strategy, found.config.result_dir) == (
        "world",
        "equalize",
        "stores",
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("residuals_0", "residual_0", r"c.yaml, line 4: no site 'residual_0': did you mean 'residuals'"),
        ("mlp_2-4", "mlp_2-9", r"c.yaml, line 5: 'mlp_2-9': layer 9 does not exist, .* 0 to 7"),
        ("mlp_2-4", "mlp_4-2", r"line 5: .* runs backwards"),
        ("  name:", "  nmae:", r"line 2: model has no field 'nmae': did you mean 'name'"),
        ("inference:", "inferense:", r"line 6: no section 'inferense': did you mean 'inference'"),
        ("positions: prompt_last, ", "", r"inference.positions is missing: say which are stored"),
        ("prompt_last", "lats", r"line 6: positions 'lats': did you mean 'last'"),
        (
            "max_new_tokens: 3",
            "max_new_tokens: many",
            r"line 6: inference.max_new_tokens is a whole number, not 'many'",
        ),
        ("max_new_tokens: 3", "batch_size: 0", r"line 6: batch_size is 1 or more"),
        ("equalize", "equal", r"line 9: category_balance_strategy 'equal': did you mean 'equalize'"),
        ("  name:", "  torch_dtype: float8\n  name:", r"line 2: torch_dtype: dtype 'float8'"),
        ("max_new_tokens: 3", "save_activations: false", r"line 6: save_activations: false leaves nothing"),
        ("  path: world\n", "", r"data.path is missing"),
        ("data:\n", "data:\n  - ", r"not YAML|expected `name: value`"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_collection(written(tmp_path, old, new))


def test_a_range_beyond_another_model_is_named_with_its_line(tmp_path: Path) -> None:
    found = read_collection(written(tmp_path))
    with pytest.raises(ConfigError, match=r"c.yaml, line 5: 'mlp_2-4': layer 4 does not exist"):
        check_layers(found.config.activation_layers, 4)


def test_what_is_not_needed_here_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="line 2: model.device is not needed here: MLX computes"):
        read_collection(written(tmp_path, "  name:", "  device: cuda\n  name:"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_preset_can_be_read(path: Path) -> None:
    assert read_collection(path).config.activation_layers
    assert len(CONFIGS) == 9


def test_categories_are_balanced_by_drawing_from_the_larger_ones() -> None:
    rows = [PromptRow(str(n), f"text {n}", "abbbcccc"[n % 8]) for n in range(64)]
    assert Counter(row.category for row in balanced(rows)) == {"a": 8, "b": 24, "c": 32}
    even = balanced(rows, strategy="equalize", seed=1)
    assert Counter(row.category for row in even) == {"a": 8, "b": 8, "c": 8}
    assert even == sorted(even, key=lambda row: int(row.key))
    assert even != balanced(rows, strategy="equalize", seed=2)
    assert {row.category for row in balanced(rows, ["a", "c"])} == {"a", "c"}
    with pytest.raises(DataError, match=r"no category 'd', 'bb': .*there are a \(8\), b \(24\), c \(32\)"):
        balanced(rows, ["a", "d", "bb"])


def test_columns_are_found_or_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"id": 1, "question": "Why?", "topic": "x"}, {"id": 2, "question": "Why?", "topic": "x"}]
    rows.append({"id": 3, "question": "How?", "topic": "y"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = prompt_rows(path)
    assert [(row.text, row.category) for row in found] == [("Why?", "x"), ("How?", "y")]
    assert prompt_rows(path, category_column="id")[1].category == "2"
    with pytest.raises(DataError, match="no column 'queston': did you mean 'question'"):
        prompt_rows(path, text_column="queston")
    with pytest.raises(DataError, match="row 1: column 'id' holds 1, not a text"):
        prompt_rows(path, text_column="id")
    (tmp_path / "b.jsonl").write_text('{"x": "a"}\n')
    with pytest.raises(DataError, match="none of the columns x is one of prompt"):
        prompt_rows(tmp_path / "b.jsonl")
