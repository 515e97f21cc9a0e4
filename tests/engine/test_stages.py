"""A model split by layers over processes computes what one process does: every family, every site, edits, gradients."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import mlx_interp as mi
from mlx_interp.engine.stages import check_stages, pipeline, stages_by_memory, weights_by_layer
from mlx_interp.errors import ConfigError
from mlx_interp.ranks import Ranks
from tests.engine.test_split import LAUNCHER, launched
from tests.tiny import FAMILY_CONFIGS, tiny_model

BOUND = 1e-5
LOOSE = {"qwen3_5": 2e-4}
"""A recurrence multiplies rounding: so much comes of a change of 1e-6 of its input on one process as well."""
EACH_PRODUCT = {"qwen3_5", "gemma4_text", "lfm2", "granitemoehybrid"}
"""Families whose layers read of each other more than the stream."""

under_launcher = [
    pytest.mark.skipif(not LAUNCHER.exists(), reason="mlx.launch is not installed beside Python"),
    pytest.mark.slow,
]


def found(ranks: int, families: list[str]) -> dict[str, dict[str, Any]]:
    done = launched(ranks, "-m", "tests.engine.stages_worker", *families)
    lines = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    assert lines, done.stdout + done.stderr
    return json.loads(lines[0].removeprefix("found "))  # type: ignore[no-any-return]


class TestUnderALauncher:
    pytestmark = under_launcher

    @pytest.mark.parametrize(
        ("ranks", "families"), [(2, sorted(FAMILY_CONFIGS)), (3, ["llama", "gemma2", "gpt2", "mixtral", "qwen3_5"])]
    )
    def test_every_family_computes_in_stages_what_it_does_on_one_process(self, ranks: int, families: list[str]) -> None:
        results = found(ranks, families)
        assert list(results) == families
        for family, result in results.items():
            assert result.pop("same size")
            assert result.pop("staged") is (family not in EACH_PRODUCT), family
            kept = result.pop("kept")
            assert len(kept) == ranks
            assert all(share < 0.9 for share in kept), (family, kept)
            assert sum(kept) < 1.4, (family, kept)  # norms and learned positions are whole everywhere
            assert max(result.values()) < LOOSE.get(family, BOUND), (family, result)

    @pytest.mark.parametrize(
        ("ranks", "families"), [(2, ["llama", "gemma2", "gpt_oss", "deepseek_v2", "qwen3_5"]), (3, ["cohere2", "phi3"])]
    )
    def test_texts_that_pass_in_pieces_give_what_whole_ones_do(self, ranks: int, families: list[str]) -> None:
        results = found(ranks, ["--pieces", *families])
        assert list(results) == families
        for family, result in results.items():
            assert result.pop("staged") is (family not in EACH_PRODUCT)
            values = [value for name, value in result.items() if name not in ("kept", "same size")]
            assert bool(values) is (family not in EACH_PRODUCT)
            assert max(values, default=0) < BOUND, (family, result)

    def test_a_model_loaded_in_stages_answers_as_the_whole_one(self) -> None:
        script = (
            "import mlx_interp as mi\n"
            "model = mi.load('tiny-qwen2', shard='pipeline', stages=(3, 1))\n"
            "whole = mi.load('tiny-qwen2')\n"
            "import mlx.core as mx\n"
            "a, b = (m.run('The capital of France is').logits for m in (model, whole))\n"
            "said = [m.generate('The capital of France is', max_tokens=3)[0].text for m in (model, whole)]\n"
            "if mx.distributed.init().rank() == 0:\n"
            "    kept = model.weight_bytes / whole.weight_bytes\n"
            "    print('found', float(mx.abs(a - b).max()), said[0] == said[1], kept)\n"
        )
        done = launched(2, "-c", script.replace("(3, 1)", f"({mi.load('tiny-qwen2').n_layers - 1}, 1)"))
        line = next((line for line in done.stdout.splitlines() if line.startswith("found ")), "")
        assert line, done.stdout + done.stderr
        _, error, same, kept = line.split()
        assert float(error) == 0
        assert same == "True"
        assert 0.5 < float(kept) < 0.99

    @pytest.mark.parametrize("copies", ["2", "'auto'"])
    def test_two_copies_answer_other_prompts_as_the_whole_model_does(self, copies: str) -> None:
        script = (
            "import mlx_interp as mi\n"
            "model = mi.load('tiny-qwen2', shard='pipeline', copies=COPIES)\n"
            "from mlx_interp.ranks import launched\n"
            "ranks = launched()\n"
            "copy = ranks.rank // 2\n"
            "whole = mi.load('tiny-qwen2')\n"
            "texts = ['The capital of France is', 'The capital of the country of the Colosseum is'][copy:]\n"
            "said = [[m.generate(t, max_tokens=3)[0].text for t in texts] for m in (model, whole)]\n"
            "every = ranks.gather([said, model.n_layers, [ranks.rank, ranks.group.rank(), ranks.group.size()]])\n"
            "import json\n"
            "if ranks.first: print('found', json.dumps(every))\n"
        )
        done = launched(4, "-c", script.replace("COPIES", copies))
        line = next((line for line in done.stdout.splitlines() if line.startswith("found ")), "")
        assert line, done.stdout + done.stderr
        every = json.loads(line.removeprefix("found "))
        assert [place for _, _, place in every] == [[0, 0, 2], [1, 1, 2], [2, 0, 2], [3, 1, 2]]
        for (split, whole), _, _ in every:
            assert split == whole
        assert len(every[0][0][0]) == 2
        assert every[2][0][0] == every[0][0][0][1:]

    def test_a_link_that_changes_the_stream_is_found_with_rank_and_site(self) -> None:
        script = (
            "import mlx_interp as mi, mlx.core as mx\n"
            "from mlx_interp.engine import stages\n"
            "right = stages.Relay.relayed\n"
            "def wrong(self, y, owner, given=None):\n"
            "    found = right(self, y, owner, given)\n"
            "    self.n = getattr(self, 'n', 0) + 1\n"
            "    return found + (1e-3 if self.rank == 1 and self.n == 12 else 0)\n"
            "stages.Relay.relayed = wrong\n"
            "mi.load('tiny-qwen2', shard='pipeline')\n"
        )
        done = launched(2, "-c", script)
        assert re.search(r"rank 1 has another [a-z_]+\.\d+ than rank 0", done.stdout + done.stderr)

    def test_a_process_that_waits_for_one_that_is_gone_ends_and_says_so(self) -> None:
        script = (
            "import os, signal, mlx_interp as mi\n"
            "model = mi.load('tiny-qwen2', shard='pipeline')\n"
            "for turn in range(10**6):\n"
            "    if turn == 3 and os.environ['MLX_RANK'] == '1': os.kill(os.getpid(), signal.SIGKILL)\n"
            "    model.generate('The capital of France is', max_tokens=8)\n"
        )
        done = launched(2, "-c", script)
        assert re.search(r"waiting for another rank|rank 1 is gone|connection to a peer was lost", done.stderr)

    def test_stages_that_are_not_the_models_are_refused_by_all_at_once(self) -> None:
        n = mi.load("tiny-qwen2").n_layers
        done = launched(2, "-c", f"import mlx_interp as mi; mi.load('tiny-qwen2', shard='pipeline', stages=(1, {n}))")
        assert f"{n + 1} layers, and the model has {n}" in done.stderr


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ((2, 2), r"stages=\(2, 2\): 4 layers, and the model has 3"),
        ((1, 1, 1), r"3 stages for 2 processes"),
        ((3, 0), "one layer at least"),
        ((2.0, 1), "one layer at least"),
    ],
)
def test_stages_that_do_not_fit_are_named(stages: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_stages(stages, 3, 2)


def test_a_model_that_has_computed_as_a_whole_passes_in_stages_once_it_is_split() -> None:
    model = tiny_model("llama")
    model.run([3, 5, 7])
    assert not model.network.staged
    pipeline(model.network, Ranks(0, 1), (model.n_layers,))
    assert model.network.staged


def test_more_processes_than_layers_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"5 processes for a model of 3 layers.*shard=True"):
        stages_by_memory(tiny_model("llama").network, [1] * 5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("free", [[10, 10], [30, 10], [1, 9], [5, 5, 5], [1, 1, 20]])
def test_stages_leave_no_process_fuller_than_any_other_choice_would(family: str, free: list[int]) -> None:
    net = tiny_model(family, **({"n_layer": 6} if family == "gpt2" else {"num_hidden_layers": 6})).network
    layers, first, last = weights_by_layer(net)

    def fullest(stages: tuple[int, ...]) -> float:
        ends = [sum(stages[: rank + 1]) for rank in range(len(stages))]
        held = [sum(layers[end - n : end]) for n, end in zip(stages, ends, strict=True)]
        held[0], held[-1] = held[0] + first, held[-1] + last
        return max(size / room for size, room in zip(held, free, strict=True))

    def every(n: int, parts: int) -> list[tuple[int, ...]]:
        if parts == 1:
            return [(n,)]
        return [(k, *rest) for k in range(1, n - parts + 2) for rest in every(n - k, parts - 1)]

    chosen = stages_by_memory(net, free)
    assert fullest(chosen) == min(map(fullest, every(6, len(free))))


def test_a_layout_that_does_not_exist_and_stages_of_another_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"shard='layers': give True .* 'pipeline'"):
        mi.load("tiny-qwen2", shard="layers")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"stages=\(1, 3\) are those of a pipeline: give shard='pipeline'"):
        mi.load("tiny-qwen2", stages=(1, 3))
    with pytest.raises(ConfigError, match=r"mlx\.launch -n 2"):
        mi.load("tiny-qwen2", shard="pipeline")
