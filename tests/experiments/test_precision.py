"""exp21: what it records of a version is what a model quantised by hand shows, and fewer bits move more."""

from __future__ import annotations

import json
from typing import Any

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from experiments.exp21_precision import EXPERIMENT, Config, precision_report, repairs
from experiments.exp21_precision.dictionaries import OF_STORED, OTHER_SEED, OWN
from experiments.exp21_precision.moved_texts import split_texts
from experiments.exp21_precision.versions import STORED, Version, version, version_items
from experiments.harness.runner import run
from experiments.harness.state import Run
from mlx_interp.directions.contrasts import contrast
from mlx_interp.errors import ConfigError
from mlx_interp.patching.back_patching import back_patching_pairs

FEW = ["--n-train", "12", "--n-choose", "6", "--n-texts", "12", "--n-queries", "40", "--n-failures", "8"]
FEW += [
    "--n-train-texts",
    "40",
    "--n-loss-texts",
    "4",
    "--steps",
    "20",
    "--layer-step",
    "2",
    "--families",
    "state_capital_short",
]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("results")
    with pytest.raises(SystemExit) as ended:
        run(EXPERIMENT, ["--model", "tiny-qwen2", "--bits", "8,2", *FEW, "--no-validate", "--out", str(out)])
    assert not ended.value.code
    folder = out / "exp21_precision" / "tiny-qwen2"
    assert "What fewer bits move" in (folder / "table.md").read_text()
    lines = (folder / "records.jsonl").read_text().splitlines()
    return [one for line in lines if "version" in (one := json.loads(line))]


def of(records: list[dict[str, Any]], stage: str, **labels: object) -> list[dict[str, Any]]:
    return [r for r in records if r["stage"] == stage and all(r.get(name) == value for name, value in labels.items())]


def test_the_stored_version_does_not_move_and_fewer_bits_move_more(records: list[dict[str, Any]]) -> None:
    by = {name: of(records, "texts", version=name) for name in (STORED, "8 bits", "2 bits")}
    assert all(r["kl"] < 1e-6 and r["same"] == 1 for r in by[STORED])
    kl = [np.mean([r["kl"] for r in by[name]]) for name in ("8 bits", "2 bits")]
    assert 0 < kl[0] < 0.01 < kl[1]
    cosine = {name: np.mean([r["cosine"] for r in of(records, "directions", version=name)]) for name in by}
    assert cosine[STORED] == pytest.approx(1, abs=1e-6)
    assert cosine["2 bits"] < cosine["8 bits"] <= 1
    for r in of(records, "directions"):
        assert r["low"] <= r["high"]
        assert (r["cosine"], r["norm_ratio"]) == pytest.approx((1, 1), abs=1e-6) or r["version"] != STORED


def test_a_texts_loss_and_divergence_are_those_of_a_model_quantised_by_hand(records: list[dict[str, Any]]) -> None:
    stored, other = mi.load("tiny-qwen2"), mi.load("tiny-qwen2", bits=2)
    texts = split_texts(Run(stored, Config(families=("state_capital_short",))))[1]
    first = of(records, "texts", version="2 bits")[0]
    prompt = stored.prompt(texts[0].text)
    p, q = (
        np.asarray(mx.softmax(model.run(prompt, logits="all").logits[0].astype(mx.float32), axis=-1), float)  # type: ignore[index]
        for model in (stored, other)
    )
    assert first["tokens"] == len(prompt) - 1
    assert first["kl"] == pytest.approx(np.sum(p[:-1] * np.log(p[:-1] / q[:-1]), axis=-1).mean(), rel=1e-3)
    following = q[np.arange(len(prompt) - 1), prompt.tokens[1:]]
    assert first["loss"] == pytest.approx(-np.log(following).mean(), rel=1e-4)


def test_failures_are_the_stored_models_and_every_version_is_repaired_on_them(records: list[dict[str, Any]]) -> None:
    screened = {r["item"]: r for r in of(records, "screened", version=STORED)}
    wrong = [key for key, r in screened.items() if r["hops_known"] and not r["answered"]]
    assert len(wrong) >= 2
    for name in (STORED, "8 bits", "2 bits"):
        keys = {r["item"] for r in of(records, "repaired", version=name, arm="own")}
        assert keys <= set(wrong)
        assert len(keys) == min(8, len(wrong))
    pairs = repairs.pairs_of(8, 2)
    assert set(pairs) < set(back_patching_pairs(8))
    assert all(len(r["fixed"]) == len(pairs) for r in of(records, "repaired"))


def test_dictionaries_are_each_versions_own_the_stored_models_and_one_from_another_seed(
    records: list[dict[str, Any]],
) -> None:
    found = {(r["version"], r["dictionary"]): r for r in of(records, "dictionaries")}
    assert set(found) == {
        (STORED, OWN),
        (STORED, OTHER_SEED),
        *((name, which) for name in ("8 bits", "2 bits") for which in (OWN, OF_STORED)),
    }
    assert found["8 bits", OF_STORED]["fve"] == pytest.approx(found[STORED, OWN]["fve"], abs=0.02)


def test_a_layer_is_chosen_by_the_papers_rule_and_its_interval_by_prompts_drawn_again() -> None:
    def scored(kind: str, number: int, **values: list[float]) -> dict[str, Any]:
        empty: dict[str, list[float]] = {"bypass": [], "induce": [], "kl": []}
        return {
            "stage": "scores",
            "version": STORED,
            "kind": kind,
            "item": f"{kind} {number}",
            "layers": [1, 2, 3, 9],
            "plain": 5.0,
            "n_layers": 10,
            **empty,
            **values,
        }

    # Layer 9 is too deep, layer 3 breaks harmless prompts, layer 2 removes most of the rest.
    rows = [scored("harmful", n, bypass=[-1.0, -2.0, -5.0, -9.0]) for n in range(4)]
    rows += [scored("harmless", n, induce=[1.0, 1.0, 1.0, 1.0], kl=[0.0, 0.0, 0.5, 0.0]) for n in range(4)]
    layer, depth = precision_report.chosen(rows, STORED, 0)
    assert layer == 2
    assert depth is not None
    assert (depth.value, depth.low, depth.high) == (0.2, 0.2, 0.2)
    none = [r | {"induce": [-1.0] * 4} if r["kind"] == "harmless" else r for r in rows]
    assert precision_report.chosen(none, STORED, 0) == (None, None)
    assert precision_report.chosen([], STORED, 0) == (None, None)


def test_versions_share_the_stored_models_prompts_and_none_to_compare_with_is_refused() -> None:
    stored = mi.load("tiny-qwen2")
    under = Run(stored, Config(bits=(8,), n_train=8))
    assert version(under, Version(None)) is stored
    assert version(under, Version(8)) is version(under, Version(8))
    with pytest.raises(ConfigError, match="nothing to compare the stored model with"):
        version_items(Run(stored, Config(bits=())), ())


def test_draws_of_prompts_are_the_same_in_every_version() -> None:
    stored = mi.load("tiny-qwen2")
    texts = [
        [f"How can I {verb} a {thing}?" for thing in ("lamp", "bell", "boat", "ring")] for verb in ("steal", "find")
    ]
    a, b = (
        contrast(stored, *([stored.prompt(t, chat=True) for t in kind] for kind in texts), seed=3) for _ in range(2)
    )
    assert np.array_equal(a.resampled, b.resampled)
