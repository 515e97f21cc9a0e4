"""Pages of studies: made from a run's records alone, with what stands behind each cell."""

from __future__ import annotations

import pytest

from experiments import exp3_two_hop, exp8_function_vectors, exp9_back_patching
from experiments.exp8_function_vectors.layer_vectors import ARMS, FORMS
from experiments.harness.page_files import pages_of
from mlx_interp.patching.back_patching import back_patching_pairs

LAYERS = 3


def test_a_cell_of_back_patching_lists_its_queries_by_the_place_of_the_answer() -> None:
    pairs = back_patching_pairs(LAYERS)
    records = [{"stage": "screened", "item": "q", "n_layers": LAYERS}]
    for name, bridge, first in (("Dallas", "Texas", 0), ("Lyon", "France", 4)):
        common = {"stage": "patched", "item": f"failure: capital: The capital of {name}: is", "group": "failure"}
        common |= {"study": "back-patching", "position": "last", "length": "raw", "family": "capital", "bridge": bridge}
        for arm in ("patched", "other prompt"):
            records.append({**common, "arm": arm, "rank": [first + cell for cell in range(len(pairs))]})
    made = dict(exp9_back_patching.EXPERIMENT.pages(records, exp9_back_patching.Config()))
    data = made["fix_rate_raw"].data
    assert [panel["title"] for panel in data["panels"]] == [
        f"last position, {arm}, n = 2" for arm in ("patched", "other prompt")
    ]
    assert data["panels"][0]["values"][0][0] == 50.0  # of two failures one, layer 0 into the embedding
    cell = data["details"][0][0][0]
    text = data["strings"][cell["texts"][0][1]]
    assert text == "1. The capital of Dallas: is (Texas)\n5. The capital of Lyon: is (France)"
    assert data["details"][0][3][0] is None  # a layer is not written into those above it


def test_a_column_of_the_lens_is_a_query() -> None:
    ranks = {"bridge at last": [999, 9, 0], "answer at last": [5000, 99, 9]}
    records = [{"stage": "lens", "item": "capital: Dallas", "bridge": "Texas", "group": "correct", **ranks}]
    made = dict(exp3_two_hop.EXPERIMENT.pages(records, exp3_two_hop.Config()))
    data = made["lens_by_query"].data
    assert [panel["title"] for panel in data["panels"]] == list(ranks)
    assert [row[0] for row in data["panels"][0]["values"]] == pytest.approx([0, 2 / 3, 1], abs=1e-3)
    numbers = data["details"][0][1][0]["numbers"]
    assert {data["strings"][name]: value for name, value in numbers} == {
        "place of the bridge at last": 10,
        "place of the answer at last": 100,
    }


def test_a_cell_of_a_layer_and_a_strength_tells_each_task() -> None:
    config = exp8_function_vectors.Config(strengths=(1.0, 2.0))
    records = [
        {"stage": "grid", "item": task, "task": task, "form": form, "arm": arm, "layer": layer, "strength": strength}
        | {"half": "report", "right": task == "plural" and layer == 1, "log_prob": -1.0}
        for form in FORMS
        for arm in ARMS
        for layer in range(LAYERS)
        for strength in config.strengths
        for task in ("plural", "past")
    ]
    made = dict(pages_of(exp8_function_vectors.EXPERIMENT, records, config))
    data = made[f"{FORMS[0]}_by_layer_and_strength"].data
    cell = data["details"][0][1][1]
    assert data["panels"][0]["values"][1][1] == 0.5
    told = {data["strings"][name]: value for name, value in cell["numbers"]}
    assert told == {"queries": 2.0, "right, plural": 1.0, "right, past": 0.0}
