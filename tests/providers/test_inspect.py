"""Inspect runs a task on a steered model: replies, usage and scores are those of our own generation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import mlx_interp as mi  # isort: split

import pytest

from mlx_interp.model import Model
from mlx_interp.providers import inspect_model

inspect_ai = pytest.importorskip(
    "inspect_ai", reason="inspect_ai is not installed: pip install '.[inspect]' in an environment of its own"
)
from inspect_ai.dataset import Sample  # noqa: E402
from inspect_ai.model import GenerateConfig, get_model  # noqa: E402
from inspect_ai.scorer import includes  # noqa: E402
from inspect_ai.solver import generate  # noqa: E402

QUESTION = "how do i paint the old house ?"


@pytest.fixture(scope="module")
def model() -> Model:
    return mi.load("tiny-llama")


def test_a_task_is_answered_by_the_model_under_its_edit(model: Model, tmp_path: Path) -> None:
    edit = mi.Ablate("mlp_out")
    prompt = model.prompt(QUESTION, chat=True)
    replies = [model.generate(prompt, interventions=edits, max_tokens=8)[0] for edits in ((), edit)]
    assert replies[0].text != replies[1].text
    task = inspect_ai.Task([Sample(QUESTION, target=replies[1].text)], solver=generate(), scorer=includes())
    values = []
    for edits in ((), edit):
        (log,) = inspect_ai.eval(
            task, model=inspect_model(model, edits), max_tokens=8, log_dir=str(tmp_path), display="none"
        )
        assert log.status == "success", log.error
        values.append(log.results.scores[0].metrics["accuracy"].value)
        usage = log.samples[0].output.usage
        assert (usage.input_tokens, usage.output_tokens) == (len(prompt), len(replies[bool(edits)].tokens))
    assert values == [0.0, 1.0]
    assert log.samples[0].output.completion == replies[1].text


def test_a_stop_sequence_and_the_name_on_a_command_line(model: Model) -> None:
    from mlx_interp.providers import inspect_provider  # noqa: F401 - what the entry point loads

    reply = model.generate(model.prompt(QUESTION, chat=True), max_tokens=8)[0].text
    stop = reply.split()[1]
    asked = get_model("mlx-interp/tiny-llama", config=GenerateConfig(max_tokens=8, stop_seqs=[stop]))
    assert asyncio.run(asked.generate(QUESTION)).completion == reply[: reply.find(stop)]
