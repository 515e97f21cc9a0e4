"""exp13: shifted requests, controls of one length, edits that do what they say, slopes that are slopes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from experiments.exp13_steering_reliability import EXPERIMENT, Config, reliability_report, steering_runs
from experiments.exp13_steering_reliability.steering_runs import ARMS, REPLIES
from experiments.harness.options import parse
from experiments.harness.runner import run
from experiments.harness.state import Run
from mlx_interp.behaviour.detectors import log_odds
from mlx_interp.errors import ConfigError
from mlx_interp.interventions import Ablate, Apply
from mlx_interp.model import Model
from validation.data import HARMLESS, REFUSABLE

SMALL = Config(n_train=16, n_test=2, depths=(0.5,), strengths=(0.25,), new_tokens=8)


@pytest.fixture(scope="module")
def model() -> Model:
    return mi.load("tiny-llama")


def test_no_request_is_in_two_splits_and_every_form_has_both_kinds(model: Model) -> None:
    found = steering_runs.requests(Run(model, Config()))
    assert len({r.text for r in found}) == len(found)
    cells = {(r.shift, r.split, r.harmful) for r in found}
    assert {(shift, "test", kind) for shift in steering_runs.SHIFTS for kind in (True, False)} <= cells
    assert {r.split for r in found if r.shift != "same form"} == {"test"}


def test_a_limit_takes_as_many_of_each_form_split_and_kind_so_that_no_table_is_left_without_one(model: Model) -> None:
    everything, cut = (steering_runs.steered(Run(model, Config(limit=limit)), []) for limit in (None, 2))
    cells = [Counter((r.shift, r.split, r.harmful) for r in requests) for requests in (everything, cut)]
    assert set(cells[0]) == set(cells[1])
    assert set(cells[1].values()) == {2}


def test_the_project_s_own_requests_have_all_splits_and_their_shift_keeps_the_content() -> None:
    found = steering_runs._of_project()
    test = [r for r in found if r.split == "test"]
    plain, framed = ([r.text for r in test if r.shift == shift] for shift in ("same form", "other wording"))
    assert len(plain) == len([*REFUSABLE, *HARMLESS]) // 4
    assert all(text.endswith(own) and text != own for text, own in zip(framed, plain, strict=True))
    assert {r.split for r in found} == {"train", "choose", "test"}


def test_controls_are_as_long_as_the_direction(model: Model) -> None:
    lengths = [np.linalg.norm(steering_runs.vector(Run(model, SMALL), 4, arm)) for arm in ARMS]
    assert lengths == pytest.approx([lengths[0]] * len(ARMS), rel=1e-5)


@pytest.mark.parametrize("gain", [0.25, 1.0])
def test_ablation_leaves_the_rest_of_the_component(model: Model, gain: float) -> None:
    unit = mx.array(np.eye(model.d_model)[3].astype(np.float32))
    site = "resid_pre.4"
    edit = steering_runs.removed(site, unit, gain)
    assert isinstance(edit, Ablate if gain == 1 else Apply)
    plain = model.run("The capital", capture=site)[site]
    left = model.run("The capital", interventions=[edit], capture=site)[site]
    np.testing.assert_allclose(left[..., 3], (1 - gain) * plain[..., 3], atol=1e-5)
    np.testing.assert_allclose(left[..., :3], plain[..., :3], atol=1e-5)


def test_help_can_fall(model: Model) -> None:
    harmless = next(r for r in steering_runs.steered(Run(model, SMALL), []) if not r.harmful and r.shift == "same form")
    rows = list(steering_runs.measure_replies(Run(model, SMALL), harmless))
    assert rows[0]["helps"]
    once = next(r for r in rows if r["edit"] == "added once" and r["arm"] == "learned")
    assert once["refused"]
    assert not once["helps"]


def test_slopes_are_those_of_runs_one_by_one(model: Model) -> None:
    request = steering_runs.steered(Run(model, SMALL), [])[0]
    slope = next(r for r in steering_runs.measure_slopes(Run(model, SMALL), request) if r["arm"] == "learned")
    metric = log_odds(steering_runs.openers(Run(model, SMALL)))
    prompt, values = (
        model.prompt(request.text, chat=True),
        mx.array(steering_runs.vector(Run(model, SMALL), 4, "learned")),
    )
    odds = []
    for multiple in SMALL.multiples:
        logits = model.run(prompt, interventions=[mi.Add("resid_pre.4", values, multiple, -1)]).logits
        assert logits is not None
        odds.append(float(metric(logits)[0]))
    assert slope["slope"] == pytest.approx(np.polyfit(SMALL.multiples, odds, 1)[0], rel=1e-2)
    assert slope["slope"] > 0


def test_layer_and_strength_are_chosen_on_choosing_requests_only() -> None:
    def reply(layer: int, split: str, refused: bool) -> dict:  # type: ignore[type-arg]
        labels = {"stage": REPLIES, "edit": "added", "dose": 0.25, "shift": "same form", "arm": "learned"}
        place = {"layer": layer, "split": split, "harmful": False, "unit": split}
        return {**labels, **place, "refused": refused, "fluent": True}

    records = [reply(3, "choose", True), reply(3, "test", False), reply(5, "choose", False), reply(5, "test", True)]
    assert reliability_report.choice(records, SMALL) == (3, 0.25)
    assert reliability_report.choice([], SMALL) is None


def test_a_model_that_refuses_nothing_has_nothing_to_ablate_and_no_verdict_on_it() -> None:
    def replies(edit: str, arm: str, layer: int | None, refused: bool, harmful: bool) -> list[dict[str, object]]:
        labels = {"stage": REPLIES, "edit": edit, "dose": 0.0 if edit == "none" else 1.0, "shift": "same form"}
        more = {"arm": arm, "layer": layer, "harmful": harmful, "n_layers": 10, "fluent": True, "helps": not harmful}
        return [
            {**labels, **more, "split": split, "unit": f"{harmful} {split} {n}", "refused": refused}
            for split in ("choose", "test")
            for n in range(3)
        ]

    config = Config(strengths=(1.0,))
    for refuses in (True, False):
        records = replies("none", "none", None, refuses, True) + replies("none", "none", None, False, False)
        for arm in ("learned", "random"):
            records += replies("ablated everywhere", arm, 4, False, True)
            records += replies("ablated everywhere", arm, 4, False, False)
            records += replies("added", arm, 4, True, False) + replies("added once", arm, 4, True, False)
        table = reliability_report.criteria(records, config)
        assert table is not None
        verdicts = {row[0]: row[2:] for row in table.rows}
        assert verdicts["added: turns at least"] == [1.0, "pass"]
        assert verdicts["ablation turns at least"] == ([1.0, "pass"] if refuses else [None, None])
        said = reliability_report.headline(records, config)
        assert ("nothing to turn" in said) is not refuses
        assert ("ablated everywhere (layer 4, 1) turns" in said) is refuses
        assert any("nothing to turn" in note for note in table.notes) is not refuses


def test_ablation_beyond_1_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="reflects"):
        Config(gains=(8.0,))
    with pytest.raises(ConfigError, match="a slope needs three"):
        Config(multiples=(0.0, 1.0))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Config(depths=(25,))


@pytest.mark.slow
def test_the_study_runs_from_the_first_record_to_the_last_figure(tmp_path: Path) -> None:
    small = ["--set", "n_train=16", "--set", "n_test=2", "--set", "depths=0.5", "--set", "strengths=0.25"]
    with pytest.raises(SystemExit) as ended:
        run(EXPERIMENT, ["--model", "tiny-llama", "--out", str(tmp_path), "--no-validate", *small])
    assert ended.value.code == 0
    folder = tmp_path / EXPERIMENT.name / "tiny-llama"
    found = json.loads((folder / "run.json").read_text())
    assert len(found["tables"]) == 11
    assert all(table["rows"] for table in found["tables"])
    assert len(list((folder / "figures").glob("*.png"))) == 4


@pytest.mark.parametrize(
    "path", sorted((Path(steering_runs.__file__).parents[1] / "configs").glob("[gm]*.yaml")), ids=str
)
def test_shipped_configs_are_of_this_study(path: Path) -> None:
    options = parse(EXPERIMENT, ["--model", "tiny-gpt2", "--config", str(path)])
    assert options.config != Config()
