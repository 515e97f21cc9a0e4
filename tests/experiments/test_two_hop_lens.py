"""exp3 and exp6: what they record is what the model's own lens shows, and the order is read from it."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from experiments import exp3_two_hop, exp6_twohop_scaling
from experiments.harness.runner import run
from experiments.shared.two_hop import lens
from experiments.shared.two_hop.queries import STUDY
from mlx_interp.datasets import read_two_hop
from mlx_interp.embedded import load_world


@pytest.mark.slow
@pytest.mark.parametrize("module", [exp3_two_hop, exp6_twohop_scaling])
def test_a_run_ends_with_its_tables(module: object, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(module.EXPERIMENT, ["--model", "tiny-qwen2", "--limit", "36", "--no-validate", "--out", str(tmp_path)])
    assert stopped.value.code in (0, None)
    folder = tmp_path / module.EXPERIMENT.name / "tiny-qwen2"
    table = (folder / "table.md").read_text()
    assert "logit lens" in table
    assert (folder / "figures" / "lens.png").is_file()
    row = next(json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines() if '"lens"' in line)
    query = next(q for q in load_world().two_hop_queries() if row["item"].endswith(q.key))
    model = mi.load("tiny-qwen2")
    states = model.run(query.two_hop, capture="resid_post").stack("resid_post")[:, 0, -1]
    token = model.prompt(f"{query.two_hop} {query.answer}").tokens[len(model.prompt(query.two_hop))]
    ranks = [int(mx.sum(logits > logits[token])) for logits in model.unembed(states)]
    assert row["answer at last"] == ranks


def test_the_gap_is_from_the_first_visible_layers_at_either_place() -> None:
    record = {
        "bridge at subject": [90, 40, 2, 0],
        "bridge at last": [90, 20, 50, 50],
        "answer at subject": [90, 90, 90, 90],
        "answer at last": [90, 90, 90, 5],
    }
    assert lens.visible(record, "bridge", 30) == 1
    assert lens.visible(record, "bridge", 30, "subject") == 2
    assert lens.gap(record, 30) == 2
    assert lens.gap(record, 3) is None
    assert lens.visible(record, "bridge", 30, whose="other ") is None


def test_the_studys_prompts_are_there_and_name_their_bridges() -> None:
    queries = read_two_hop(STUDY)
    assert [query.answer for query in queries] == ["Austin", "Yoko Ono", "Euro", "German"]
    assert np.all([query.bridge in query.second_hop for query in queries])
