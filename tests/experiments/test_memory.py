"""What a run computes dies with its model: studies may follow each other over many models in one process."""

from __future__ import annotations

import ast
import gc
import weakref
from pathlib import Path

import pytest

import mlx_interp as mi  # isort: split

import mlx.core as mx

from experiments.harness import registry
from experiments.harness.options import parse
from experiments.harness.runner import run_experiment
from experiments.harness.state import Run, of_run

MODELS = ("tiny-llama", "tiny-qwen2", "tiny-gemma2")
ROOT = Path(__file__).resolve().parents[2]
OF_A_MODEL = {"model", "run", "judge"}


@pytest.mark.slow
def test_three_models_in_turn_leave_no_more_than_one_takes(tmp_path: Path) -> None:
    """A lens trained on each model, which its stages share."""
    study = registry.experiment("exp3_two_hop")
    options = ["--limit", "2", "--no-validate", "--out", str(tmp_path), "--lens", "tuned", "--lens-steps", "3"]
    gc.collect()
    before = mx.get_active_memory()
    model = mi.load(MODELS[0])
    one = mx.get_active_memory() - before
    del model
    gc.collect()
    left = []
    for model_name in MODELS:
        run_experiment(study, parse(study, [*options, "--model", model_name]))
        left.append(mx.get_active_memory() - before)
    assert max(left) < 0.05 * one, f"{left} bytes are held after {MODELS}; a model has {one}"


def test_no_module_keeps_what_belongs_to_a_model() -> None:
    """A cache of a module that is asked with a model keeps it alive; `@of_run` is there for that."""
    for path in sorted([*(ROOT / "experiments").rglob("*.py"), *(ROOT / "validation").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            kept = [ast.unparse(one) for one in getattr(node, "decorator_list", ())]
            if isinstance(node, ast.FunctionDef) and any("cache" in one and "property" not in one for one in kept):
                asked = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
                where = f"{path.relative_to(ROOT)}: {node.name}"
                assert not asked & OF_A_MODEL, f"{where} is kept by its module; mark it with @of_run"
                assert "load(" not in ast.unparse(node), f"{where} keeps a model; mark it with @of_run"


def test_what_is_kept_on_a_run_goes_with_it() -> None:
    class Whole:
        pass

    @of_run(2)
    def whole(run: Run, number: int) -> Whole:  # type: ignore[type-arg]
        return Whole()

    study = registry.experiment("exp3_two_hop")
    run = Run(mi.load("tiny-qwen2"), study.config())
    made = whole(run, 1)
    assert whole(run, 1) is made
    assert whole(run.under(study.config(seed=1)), 1) is not made, "other options are other results"
    assert whole(run.under(study.config()), 1) is made, "the same options are asked for again"
    known = weakref.ref(made)
    model = weakref.ref(run.model)
    del made, run
    gc.collect()
    assert known() is None
    assert model() is None


def test_the_result_unused_longest_goes_first() -> None:
    @of_run(2)
    def numbered(run: Run, number: int) -> list[int]:  # type: ignore[type-arg]
        return [number]

    run = Run(mi.load("tiny-qwen2"), registry.experiment("exp3_two_hop").config())
    first, second = numbered(run, 1), numbered(run, 2)
    assert numbered(run, 1) is first
    numbered(run, 3)
    assert numbered(run, 1) is first
    assert numbered(run, 2) is not second


def test_a_model_ends_without_the_cycle_collector() -> None:
    model = mi.load("tiny-qwen2")
    gc.collect()
    gc.disable()
    try:
        before = mx.get_active_memory()
        del model
        assert before - mx.get_active_memory() > 10**6
    finally:
        gc.enable()
