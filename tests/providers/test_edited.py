"""What a provider runs: options of a command line as interventions; the way out where a package is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_interp as mi
from mlx_interp.errors import ConfigError, MlxInterpError
from mlx_interp.providers import edited, inspect_model, lm_eval_model
from mlx_interp.providers.edited import cut
from tests.tiny import tiny_model

WARM, COLD = (
    ["I am glad", "How lovely", "A good day", "You are kind"],
    ["I am angry", "How awful", "A bad day", "You lie"],
)


def test_options_are_the_interventions_that_they_say(tmp_path: Path) -> None:
    model = mi.load("tiny-llama")
    direction = mi.diff_of_means(model, WARM, COLD, "resid_post.3")
    mi.save_direction(direction, tmp_path / "warm.safetensors")
    given = edited("tiny-llama", direction=str(tmp_path / "warm.safetensors"), strength="-0.5")
    plain, steered = (
        model.run("The capital of France is", interventions=edits).logits for edits in ((), direction.added(-0.5))
    )
    found = given.model.run("The capital of France is", interventions=given.interventions).logits
    assert plain is not None
    assert steered is not None
    assert found is not None
    assert mx.array_equal(found, steered)
    assert not mx.array_equal(found, plain)
    gone = edited("tiny-llama", ablate=tmp_path / "warm.safetensors")
    assert mx.array_equal(
        gone.model.run(WARM, interventions=gone.interventions).logits,
        model.run(WARM, interventions=direction.ablated_everywhere()).logits,
    )


def test_options_that_do_not_exist_are_named() -> None:
    with pytest.raises(ConfigError, match="no option 'streength' of a model; there are direction, strength, ablate"):
        edited("tiny-llama", streength=2)
    with pytest.raises(ConfigError, match="a strength needs a direction"):
        edited("tiny-llama", strength=2)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    for package, extra, make in (("inspect_ai", "inspect", inspect_model), ("lm_eval", "lm-eval", lm_eval_model)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MlxInterpError, match=rf"{package} is not installed: pip install 'mlx_interp\[{extra}\]'"):
            make(model)


def test_a_text_ends_before_its_first_stop() -> None:
    assert cut("one\ntwo. three", [".", "\n"]) == "one"
    assert cut("one", ["", "x"]) == "one"
