"""Injects every fault and writes docs/faults_caught.md: `python -m tests.validation.fault_table`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import mlx_interp
import validation
from mlx_interp.engine.rope import LongRoPE
from mlx_interp.model import Model
from mlx_interp.reporting.tables import grid
from tests.tiny import FAMILY_CONFIGS, random_mlx_model
from tests.validation import family_faults, more_faults, real_faults  # noqa: F401  (they fill FAULTS)
from tests.validation.faults import FAULTS, Fault
from validation.check import Level, Result

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults_caught.md"
RANDOM = "random-"
HEADS = ["fault", "model", "caught by", "measured", "bound"]
INTRODUCTION = """# Faults that the validation suite catches

Each fault is injected into the library while it runs, one at a time; the suite at level `standard` (`full` for what
lies beyond a window) must then fail, at the check named. Where the real model SmolLM2 135M is installed, seventeen of
them are injected into it as well, at level `quick` (`tests/validation/test_faults_in_a_real_model.py`). Made by
`python -m tests.validation.fault_table`; `tests/validation` injects all of them again. Figures depend on the machine in
their last digits.

Bugs of [BUGFIX.md](../BUGFIX.md) that a model can have are among them (the tokenizer's wrapper; edits of a sweep that
reach a neighbour; a lens in another dtype). The others are of building, resuming or speed, and are guarded by the tests
that they name.

"""


@cache
def loaded(name: str) -> Model:
    """A model by its name, by name and dtype ("tiny-llama, float16"), or a random one of a family ("random-qwen3")."""
    if name.startswith(RANDOM):
        return random_of(name.removeprefix(RANDOM))
    name, _, dtype = name.partition(", ")
    return mlx_interp.load(name, **({"dtype": dtype} if dtype else {}))


def random_of(name: str) -> Model:
    """A random model of a family, with the tokenizer of an embedded one, so that it can be asked in words.

    name: the family; "llama, LongRoPE" turns the texts beyond the shortest of them otherwise.
    """
    known = loaded("tiny-llama")
    family, _, rope = name.partition(", ")
    config = {**FAMILY_CONFIGS[family], "vocab_size": known.d_vocab}
    if "text_config" in config:
        config["text_config"] = {**config["text_config"], "vocab_size": known.d_vocab}
    if "vocab_size_per_layer_input" in config:
        config["vocab_size_per_layer_input"] = known.d_vocab
    if "n_positions" in config:
        config |= {"n_positions": 256, "n_ctx": 256}
    model = Model(random_mlx_model(config), known.tokenizer, config=config, path=Path(RANDOM + name))
    if rope:
        plain = (1e4 ** -(np.arange(0, model.d_head, 2) / model.d_head)).astype(np.float32)
        for layer in model.network.layers:
            layer.self_attn.rope = LongRoPE(plain, plain / 4, 1.1, original=8)
    return model


def caught(fault: Fault, patch: pytest.MonkeyPatch) -> Result:
    """What the check named by a fault finds while the fault is there."""
    return caught_on(loaded(fault.model), fault, fault.level, patch)


def caught_on(model: Model, fault: Fault, level: Level, patch: pytest.MonkeyPatch) -> Result:
    """The same on another model than the fault's own."""
    fault.inject(patch, model)
    (result,) = validation.validate(model, level, only=[fault.caught_by]).results
    return result


def page(results: dict[str, Result]) -> str:
    rows = [[f.name, f.model, f.caught_by, results[f.name].measured, results[f.name].bound] for f in FAULTS]
    return INTRODUCTION + grid(HEADS, rows, [False] * 5)


def main() -> None:
    results = {}
    for fault in FAULTS:
        with pytest.MonkeyPatch.context() as patch:
            results[fault.name] = caught(fault, patch)
            print(f"{results[fault.name].status:15}{fault.name}: {results[fault.name].measured}", flush=True)
    PAGE.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
