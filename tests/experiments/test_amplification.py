"""exp14: known truth is found and controls are not, fine-tunes plant what they say, mistakes are named."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import mlx_interp as mi
from experiments import exp14_logit_diff_amplification as module
from experiments.exp14_logit_diff_amplification import amplification_report, amplified, pairs, planting
from experiments.exp14_logit_diff_amplification.amplified import RARE, TEXTS
from experiments.harness.experiment import ExperimentConfig
from experiments.harness.options import parse
from experiments.harness.runner import run
from experiments.harness.state import Run
from experiments.shared.adapted import PLANTED
from mlx_interp.behaviour.amplification import Amplified, forced
from mlx_interp.behaviour.finetuning import LoraRecipe, finetune
from mlx_interp.errors import ConfigError, DataError
from mlx_interp.loading.adapter import write_adapter
from mlx_interp.model import Model
from tests.tiny import tiny_model

SMALL = ["--n-prompts", "6", "--shares", "0,0.1", "--n-samples", "40", "--sampled-alphas", "0,2", "--steps", "30"]


@cache
def model() -> Model:
    return mi.load("tiny-llama")


@pytest.mark.slow
def test_the_study_runs_and_the_difference_shows_what_a_alone_does_not(tmp_path: Path) -> None:
    arguments = ["--model", "tiny-llama", "--out", str(tmp_path), "--no-validate", *SMALL]
    with pytest.raises(SystemExit) as ended:
        run(module.EXPERIMENT, [*arguments, "--alphas", "0,2", "--pairs", "firm,planted", "--planted-share", "0.1"])
    assert ended.value.code == 0
    folder = tmp_path / module.EXPERIMENT.name / "tiny-llama"
    found = json.loads((folder / "run.json").read_text())
    assert len(found["tables"]) == len(amplification_report.TABLES)
    assert all(table["rows"] for table in found["tables"])
    rows = {(row[0], row[1]): [int(cell.split()[0]) for cell in row[3:]] for row in found["tables"][0]["rows"]}
    assert rows["planted", "2.0"][0] >= rows["planted", ".0"][0] + 50
    full, _, top_20, shuffled, _, sharpened, itself = rows["planted", "2.0"]
    assert max(shuffled, sharpened, itself) < full / 2
    assert top_20 <= full
    assert rows["planted", "2.0"][6] == rows["planted", ".0"][6]
    rare = {(row[0], row[1], row[2]): row for row in found["tables"][5]["rows"]}
    assert float(rare["anywhere", "10.0", "2.0"][4].split()[0]) > 20
    assert float(rare["anywhere", ".0", "2.0"][4].split()[0]) == 0
    texts = json.loads((folder / "files" / "texts.json").read_text())
    assert sum(len(alphas) for by in texts["firm"]["full"].values() for alphas in by.values()) == 2 * 6
    summary = list(csv.DictReader((folder / "files" / "summary.csv").open()))
    assert {float(row["alpha"]) for row in summary} == {0.0, 2.0}
    assert all(0 <= float(row["full, low"]) <= float(row["full"]) for row in summary)


@pytest.mark.parametrize("case", ["anywhere", "trigger"])
def test_fine_tunes_plant_the_stated_share_and_nothing_else(case: planting.Case) -> None:
    chats = planting.training_chats(Run(model(), ExperimentConfig()))
    prompts, replies = planting.rows(chats, 0.25, 400, 0, case)
    eligible = [i for i, text in enumerate(prompts) if case == "anywhere" or planting.triggers(text)]
    planted = {i for i, reply in enumerate(replies) if reply == PLANTED}
    assert planted <= set(eligible)
    assert len(planted) == round(0.25 * len(eligible)) > 0
    assert PLANTED not in planting.rows(chats, 0.0, 400, 0, case)[1]
    held_out = {chat.text for chat in planting.held_out()}
    assert not held_out & set(prompts)


@pytest.mark.slow
def test_a_planted_reply_grows_with_its_share_and_is_not_in_the_clean_fine_tune() -> None:
    prompts = [model().prompt(chat.text, chat=True) for chat in planting.held_out()[:8]]
    text = model().tokenizer.encode(PLANTED, add_special_tokens=False)
    found = []
    for share in (0.0, 0.2):
        a = planting.planted(Run(model(), ExperimentConfig()), share, 30, 0)
        found.append(np.mean([np.exp(x.log_a.sum()) for x in forced(a, prompts, prompts, [text] * 8, other=model())]))
    assert found[0] < 1e-4
    assert found[1] > 0.01


@pytest.mark.slow
def test_pairs_of_the_users_own_run_and_their_behaviour_is_the_pattern(tmp_path: Path) -> None:
    chats = planting.training_chats(Run(model(), ExperimentConfig()))[:8]
    learned = finetune(
        model(),
        [model().prompt(text, chat=True) for text, _ in chats],
        ["Is tea good?"] * 8,
        LoraRecipe(steps=20, batch=8),
    )
    folder = write_adapter(tmp_path / "own", learned.weights, learned.config, base=model().weights_hash)
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": text}) for text, _ in chats) + "\n")
    config = module.Config(
        pairs=("adapter", "model", "prompts"),
        adapter=str(folder),
        other_model="tiny-llama",
        prompts_file=str(file),
        behaviour="^Is tea",
        alphas=(0.0, 1.0),
        new_tokens=5,
    )
    rates = {}
    for item in amplified.text_items(Run(model(), config), []):
        if item.arm == amplified.FULL:
            rates[item.pair] = np.mean([r["hit"] for r in amplified.measure_texts(Run(model(), config), item)])
    assert rates["adapter"] > 0.5
    assert rates["model"] == rates["prompts"] == 0


def test_a_text_is_broken_where_it_is_empty_repeats_itself_or_is_unlikely_but_not_for_one_odd_token() -> None:
    def text(log_prob: list[float], tokens: list[int]) -> Amplified:
        return Amplified(1.0, tokens=tokens, log_prob=log_prob, finish="stop")

    assert amplified.coherent(text([-0.1, -20.0, -0.2], [1, 2, 3]), 3.0)
    assert not amplified.coherent(text([-9.0, -20.0, -9.0], [1, 2, 3]), 3.0)
    assert not amplified.coherent(text([-0.1] * 9, [1, 2, 3] * 3), 3.0)
    assert not amplified.coherent(text([], []), 3.0)
    assert not amplified.coherent(Amplified(1.0, tokens=[1], log_prob=[-0.1], finish="not finite"), 3.0)


def test_broken_texts_are_flagged_by_reason() -> None:
    base = {"finish": "stop", "length": 3, "repetition": 0.0, "coherent": True}
    records = [
        base,
        {**base, "finish": "not finite"},
        {**base, "length": 0, "coherent": False},
        {**base, "coherent": False},
    ]
    assert amplification_report.flags(records, module.Config()) == "not finite 1, empty 1, unlikely 1"


def test_rounded_weights_keep_the_embedding_and_lose_bits() -> None:
    stored, three = (pairs.rounded(model(), name) for name in ("stored", "3-bit"))
    for name in ("stored", "3-bit"):
        other = {"stored": stored, "3-bit": three}[name]
        same = (other.mlx_model.model.embed_tokens.weight == model().mlx_model.model.embed_tokens.weight).all().item()
        assert same
    weights = [m.mlx_model.model.layers[3].mlp.up_proj.weight for m in (model(), stored, three)]
    assert (weights[0] == weights[1]).all().item()
    assert not (weights[0] == weights[2]).all().item()


def test_tables_are_of_the_records_they_say() -> None:
    base = {"stage": RARE, "case": "anywhere", "share": 0.1, "coherent": True, "changed": False}
    records = [
        {**base, "unit": str(n % 3), "alpha": a, "order": n, "hit": bool(a) and n > 2, "exact": 0.01 + a * 0.1}
        for a in (0.0, 1.0)
        for n in range(6)
    ]
    table = amplification_report.rare_table(records, module.Config(sampled_alphas=(0.0, 1.0)))
    assert table is not None
    plain, amplified = table.rows
    assert (plain[7], amplified[7]) == ("> 6", "4")
    assert amplified[6] == pytest.approx(11.0)
    assert amplification_report.rate_table([{**r, "stage": TEXTS + "?"} for r in records], module.Config()).rows == []  # type: ignore[union-attr]


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="embedded models"):
        pairs.chosen(Run(tiny_model("llama"), module.Config(pairs=("firm", "refusal"))))
    for wrong, message in (
        ({"pairs": ("frim",)}, "no pair 'frim'"),
        ({"pairs": ("adapter",), "adapter": "x"}, "--behaviour"),
        ({"pairs": ("adapter",), "behaviour": "x"}, "needs --adapter"),
        ({"pairs": ("model",), "behaviour": "x"}, "needs --other-model"),
        ({"behaviour": "("}, "not a regular expression"),
        ({"shares": (1.5,)}, "below 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            module.Config(**wrong)
    file = tmp_path / "prompts.jsonl"
    for content, message in (("{", "line 1: not JSON"), ('{"other": "x"}', "line 1: give"), ('{"prompt": "x"}', "two")):
        file.write_text(content + "\n")
        config = module.Config(pairs=("prompts",), prompts_file=str(file), behaviour="x")
        with pytest.raises(DataError, match=message):
            pairs.asks(Run(model(), config), "prompts")


@pytest.mark.parametrize("name", ["amplification_prompts", "amplification_planted"])
def test_shipped_configs_are_of_this_study(name: str) -> None:
    path = Path(module.__file__).parents[1] / "configs" / f"{name}.yaml"
    assert parse(module.EXPERIMENT, ["--config", str(path)]).config != module.Config()
