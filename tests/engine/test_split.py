"""A model split over processes computes what one process does: every family, every site, sweeps, gradients, text."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mlx_interp as mi
from mlx_interp.engine.split import share
from mlx_interp.errors import ConfigError
from tests.tiny import FAMILY_CONFIGS

LAUNCHER = Path(sys.executable).parent / "mlx.launch"
ROOT = Path(__file__).resolve().parents[2]
BOUND = 1e-5
LOOSE = {"qwen3_5": 2e-4}
"""A recurrence multiplies rounding: so much comes of a change of 1e-6 of its input on one process as well."""

pytestmark = [
    pytest.mark.skipif(not LAUNCHER.exists(), reason="mlx.launch is not installed beside Python"),
    pytest.mark.slow,
]


def launched(ranks: int, *command: str) -> subprocess.CompletedProcess[str]:
    line = [str(LAUNCHER), "-n", str(ranks), "--backend", "ring", sys.executable, *command]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(line, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=300, check=False)


def found(ranks: int, families: list[str]) -> dict[str, dict[str, Any]]:
    done = launched(ranks, "-m", "tests.engine.split_worker", *families)
    lines = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    assert lines, done.stdout + done.stderr
    return json.loads(lines[0].removeprefix("found "))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("ranks", "families"), [(2, sorted(FAMILY_CONFIGS)), (3, ["llama", "gpt2", "mixtral", "qwen3_5"])]
)
def test_every_family_computes_on_several_processes_what_it_does_on_one(ranks: int, families: list[str]) -> None:
    results = found(ranks, families)
    assert list(results) == families
    for family, result in results.items():
        assert result.pop("same size")
        assert result.pop("kept") < 1 / ranks + 0.05, family
        assert result.pop("gathered") > 0
        assert max(result.values()) < LOOSE.get(family, BOUND), (family, result)


def test_a_model_loaded_in_parts_answers_as_the_whole_one() -> None:
    script = (
        "import mlx_interp as mi\n"
        "model = mi.load('tiny-qwen2', shard=True)\n"
        "whole = mi.load('tiny-qwen2')\n"
        "import mlx.core as mx\n"
        "a, b = (m.run('The capital of France is').logits for m in (model, whole))\n"
        "said = [m.generate('The capital of France is', max_tokens=3)[0].text for m in (model, whole)]\n"
        "if mx.distributed.init().rank() == 0: print('found', float(mx.abs(a - b).max() / mx.abs(b).max()), said)\n"
    )
    done = launched(2, "-c", script)
    line = next((line for line in done.stdout.splitlines() if line.startswith("found ")), "")
    assert line, done.stdout + done.stderr
    _, error, *said = line.split(maxsplit=2)
    assert float(error) < BOUND
    first, second = json.loads(said[0].replace("'", '"'))
    assert first == second


@pytest.mark.parametrize(("layout", "bound"), [("True", 1e-4), ("'pipeline'", 1e-6)])
def test_a_split_model_learns_what_the_whole_one_does_and_is_as_before(layout: str, bound: float) -> None:
    script = (
        "import json, mlx_interp as mi, mlx.core as mx\n"
        "from mlx_interp.behaviour.finetuning import LoraRecipe, finetune\n"
        "from mlx_interp.ranks import launched\n"
        "model, whole = mi.load('tiny-qwen2', shard=LAYOUT), mi.load('tiny-qwen2')\n"
        "rows = ['The capital of France is', 'The king of Spain'], [' Paris.', ' is.'], LoraRecipe(steps=6, batch=2)\n"
        "before = model.run(rows[0][0]).logits\n"
        "a, b = (finetune(one, *rows) for one in (whole, model))\n"
        "after = model.run(rows[0][0]).logits\n"
        "found = {\n"
        "    'apart': max(float(mx.abs(a.weights[k] - b.weights[k]).max()) for k in a.weights),\n"
        "    'moved': max(float(mx.abs(v).max()) for k, v in a.weights.items() if k.endswith('lora_b')),\n"
        "    'same': list(a.weights) == list(b.weights) and a.config == b.config,\n"
        "    'left': float(mx.abs(before - after).max()),\n"
        "}\n"
        "every = launched().gather([found, sorted((k, float(v.sum())) for k, v in b.weights.items())])\n"
        "if launched().first: print('found', json.dumps([found, every[0] == every[1]]))\n"
    )
    done = launched(2, "-c", script.replace("LAYOUT", layout))
    line = next((line for line in done.stdout.splitlines() if line.startswith("found ")), "")
    assert line, done.stdout + done.stderr
    found, alike = json.loads(line.removeprefix("found "))
    assert alike
    assert found["same"]
    assert found["left"] == 0
    assert found["apart"] < bound < found["moved"]


def test_processes_with_other_weights_are_stopped() -> None:
    script = (
        "import os, mlx_interp as mi\n"
        "mi.load('tiny-qwen2' if os.environ['MLX_RANK'] == '0' else 'tiny-llama', shard=True)\n"
    )
    done = launched(2, "-c", script)
    assert "has another checkpoint than rank 0" in done.stdout + done.stderr


def test_a_link_that_changes_what_it_carries_is_found_with_rank_and_site() -> None:
    script = (
        "import mlx_interp as mi, mlx.core as mx\n"
        "from mlx_interp.engine import split\n"
        "right = split.Exchange.gather\n"
        "def wrong(self, y):\n"
        "    found = right(self, y)\n"
        "    self.n = getattr(self, 'n', 0) + 1\n"
        "    return found + (1e-3 if self.rank == 1 and self.n == 12 else 0)\n"
        "split.Exchange.gather = wrong\n"
        "mi.load('tiny-qwen2', shard=True)\n"
    )
    done = launched(2, "-c", script)
    assert re.search(r"rank 1 has another [a-z_]+\.\d+ than rank 0", done.stdout + done.stderr)


def test_a_process_that_waits_for_one_that_is_gone_ends_and_says_so() -> None:
    script = (
        "import os, signal, mlx_interp as mi\n"
        "model = mi.load('tiny-qwen2', shard=True)\n"
        "for turn in range(10**6):\n"
        "    if turn == 3 and os.environ['MLX_RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    model.run('The capital of France is')\n"
    )
    done = launched(2, "-c", script)
    assert "rank 0 was waiting for another rank" in done.stderr or "rank 1 is gone" in done.stderr


def test_one_process_alone_is_told_how_to_start_several() -> None:
    with pytest.raises(ConfigError, match=r"mlx\.launch -n 2"):
        mi.load("tiny-qwen2", shard=True)


def test_rows_are_shared_out_without_gap_or_overlap() -> None:
    class Group:
        def __init__(self, rank: int, size: int) -> None:
            self.rank, self.size = rank, size

    for rows in (1, 2, 7, 12, 101):
        for size in (1, 2, 3, 5):
            parts = [share(rows, Group(rank, size)) for rank in range(size)]  # type: ignore[arg-type]
            assert [row for part in parts for row in range(part.start, part.stop)] == list(range(rows))
