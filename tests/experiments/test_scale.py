"""The figure over all models: made of run.json alone, models that were not run say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.harness import scale
from experiments.harness.experiment import Records
from experiments.shared.traits.layer_choice import chosen_layer
from experiments.shared.traits.over_models import chosen_depth
from experiments.shared.traits.trait_records import DIRECTIONS, EFFECTS
from mlx_interp.reporting.folders import FORMAT


def write(folder: Path, study: str, name: str, parameters: int, metric: str, value: float | None, **more: Any) -> None:
    estimate = None if value is None else {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 20}
    model = {"name": name, "family": "llama", "parameters": parameters, "layers": 8, "quantization": None}
    run = {
        "format": FORMAT,
        "status": "complete",
        "validated": True,
        "model": model,
        "scaling": [{"name": metric, "unit": "", "estimate": estimate}],
        **more,
    }
    (folder / study / name).mkdir(parents=True)
    (folder / study / name / "run.json").write_text(json.dumps(run))


def test_models_stand_by_size_and_the_first_study_that_ran_counts(tmp_path: Path) -> None:
    write(tmp_path, "exp6_twohop_scaling", "large", 500, "gap over depth", 0.3)
    write(tmp_path, "exp3_two_hop", "large", 500, "gap over depth", 0.9)
    write(tmp_path, "exp3_two_hop", "small", 100, "gap over depth", 0.2)
    write(tmp_path, "exp7_refusal_scaling", "small", 100, "refusal, depth", 0.5)
    write(tmp_path, "exp8_function_vectors", "unvalidated", 50, "right with the mean", 0.5, validated=False)
    write(tmp_path, "exp8_function_vectors", "stopped", 50, "right with the mean", 0.5, status="stopped")
    write(tmp_path, "exp8_function_vectors", "nothing", 50, "right with the mean", None)
    found = scale.measured(tmp_path)
    assert list(found) == ["small", "large"]
    assert [[one and one.value for one in row] for _, row in found.values()] == [[0.2, 0.5, None], [0.3, None, None]]
    rows = scale.table(found).printed().rows
    assert rows[0][4:] == [".20 [.10, .30]", "50 [40, 60]", "-"]
    assert ["gemma-2-9b", "9,200", "42", "", "not run", "not run", "not run"] in [list(row) for row in rows]
    page, picture = scale.write_scale(tmp_path)
    assert picture.is_file()
    assert "run_all --experiments exp6,exp7,exp8" in page.read_text()


def test_nothing_to_draw_is_an_error_that_names_the_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scale.main(["--from", str(tmp_path)]) == 2
    assert "no complete run of exp6_twohop_scaling, exp3_two_hop" in capsys.readouterr().err


def effects(hits: dict[tuple[str, int], str]) -> Records:
    """Records of the choosing split: by kind and layer, which prompts are hit."""
    measured = [
        {"stage": EFFECTS, "trait": "refusal", "split": "choose", "arm": "direction", "kind": kind, "layer": layer}
        | {"unit": f"{kind} {number}", "hit": hit == "1"}
        for (kind, layer), all_hits in hits.items()
        for number, hit in enumerate(all_hits)
    ]
    return [{"stage": DIRECTIONS, "trait": "refusal", "n_layers": 10}, *measured]


def test_the_depth_is_that_of_the_chosen_layer_and_moves_with_the_prompts() -> None:
    sure = effects({("positive", 2): "1111", ("negative", 2): "0000", ("positive", 6): "0000", ("negative", 6): "1111"})
    depth = chosen_depth(sure, "refusal", 0)
    assert depth is not None
    assert (depth.value, depth.low, depth.high, depth.n) == (0.6, 0.6, 0.6, 8)
    close = effects(
        {("positive", 2): "0101", ("negative", 2): "0101", ("positive", 6): "0000", ("negative", 6): "0001"}
    )
    depth = chosen_depth(close, "refusal", 0)
    assert depth is not None
    assert depth.value == (chosen_layer(close, "refusal") or 0) / 10
    assert (depth.low, depth.high) == (0.2, 0.6)
    deep = effects({("positive", 2): "1111", ("negative", 2): "1000", ("positive", 9): "0000", ("negative", 9): "1111"})
    depth = chosen_depth(deep, "refusal", 0)
    assert depth is not None
    assert depth.value == 0.2  # a layer below 80 % of the depth, as the study chooses
    assert chosen_depth(effects({("positive", 2): "11"}), "refusal", 0) is None
