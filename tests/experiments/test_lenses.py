"""exp3's parts beside the two-hop queries: what they record is what the model's own lens shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from experiments.exp3_two_hop import EXPERIMENT, Config
from experiments.lenses.texts import split_texts
from experiments.runner import run
from mlx_interp.errors import DataError
from mlx_interp.reporting import figures
from tests.tiny import tiny_model

NAME = "tiny-qwen2"
PARTS = "text,input,basis"
FEW = ["--n-train-texts", "60", "--n-texts", "18", "--lens-steps", "20"]
FASTER = ["--n-directions", "3", "--n-basis-states", "24", "--basis-steps", "3", "--n-basis-texts", "4"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over all parts beside the two-hop queries."""
    out = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(figures, "DPI", 40)
        run(EXPERIMENT, ["--model", NAME, "--parts", PARTS, *FEW, *FASTER, "--no-validate", "--out", str(out)])
    assert ended.value.code in (0, None)
    return out / EXPERIMENT.name / NAME


def of(folder: Path, stage: str) -> Iterator[dict[str, Any]]:
    for line in (folder / "records.jsonl").read_text().splitlines():
        if (row := json.loads(line)).get("stage") == stage and "item" in row:
            yield row


def test_a_run_leaves_every_table_and_its_figures(finished: Path) -> None:
    table = (finished / "table.md").read_text()
    for title in (
        *("Lenses on held-out text", "Bias of each layer's lens", "Transfer of translators between layers"),
        *("The input's tokens in the logit lens", "Causal basis of lenses"),
    ):
        assert title in table
    assert "Bridge and answer" not in table
    assert {path.stem for path in (finished / "figures").glob("*.png")} >= {"bits_per_byte", "bias", "transfer"}


def test_the_last_layer_spends_what_the_model_spends_on_the_texts_own_words(finished: Path) -> None:
    model = mi.load(NAME)
    row = next(r for r in of(finished, "lenses on text") if r["item"].startswith("requests"))
    text = next(t for t in split_texts(model, Config(n_train_texts=60, n_texts=18))[1] if t.key == row["item"])
    logits = model.run(list(text.tokens), logits="all").logits
    assert logits is not None
    log_probs = np.asarray(logits[0] - mx.logsumexp(logits[0], axis=-1, keepdims=True))
    nats = -sum(log_probs[i, token] for i, token in zip(text.read, text.follows, strict=True))
    assert row["nats"][-1] == pytest.approx(nats, rel=1e-2, abs=1e-2)
    reply = text.key.rpartition("<assistant>")[2].removesuffix("<end_of_turn>")
    assert text.n_bytes == pytest.approx(len(reply.encode()), abs=1)


def test_texts_to_train_on_are_none_of_those_held_out_and_both_are_of_all_kinds() -> None:
    train, test = split_texts(mi.load(NAME), Config(n_train_texts=60, n_texts=18))
    assert len(train) == 60
    assert len(test) == 18
    assert not {t.tokens for t in train} & {t.tokens for t in test}
    assert len({t.kind for t in test}) == len({t.kind for t in train}) == 9


def test_a_model_of_no_world_asks_for_texts() -> None:
    with pytest.raises(DataError, match="--texts FILE"):
        split_texts(tiny_model("llama"), Config())


def test_a_files_texts_are_cut_into_pieces_and_read_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": f"The capital of number {n} is a word and so on and so forth."}) for n in range(8)]
    path.write_text("\n".join(lines))
    train, test = split_texts(mi.load(NAME), Config(texts=str(path), text_length=8))
    assert len(train) > 4
    for text in [*train, *test]:
        assert text.read == tuple(range(len(text.tokens)))
        assert text.tokens[1:] == text.follows[:-1]
        assert len(text.tokens) <= 8
