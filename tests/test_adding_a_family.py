"""The page on adding a family, followed to the letter for one that the package does not describe."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.nn as nn
import pytest

from mlx_interp import Model
from mlx_interp.architectures import FAMILIES, PACKAGED, PAGE, Family, Norms, family_of, register, understood
from mlx_interp.architectures.registered import SWITCH
from mlx_interp.errors import CheckpointError, UnsupportedModel
from mlx_interp.loading import proofs
from mlx_interp.loading.configs import normalised
from tests.loading.checkpoints import write_tokenizer
from tests.parity import reference
from tests.tiny import NumberTokenizer, random_mlx_model

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / PAGE).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
DESCRIBE, PROVE, COMPARE = BLOCKS
with_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None,
    reason="the page's comparison with transformers needs torch: pip install '.[parity]'",
)


@pytest.fixture(autouse=True)
def families_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(understood, "FAMILIES", dict(FAMILIES))
    monkeypatch.setattr(reference, "NAMES", dict(reference.NAMES))


def followed(*blocks: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, PAGE, "exec"), names)
    return names


def wrapped(family: Family, names: dict[str, Any]) -> Model:
    register(family)
    return Model(random_mlx_model(names["config"]), NumberTokenizer(), config=names["config"], path=Path("random"))


def test_a_family_that_is_not_described_is_refused_with_what_is_missing_and_the_page() -> None:
    assert "starcoder2" not in PACKAGED
    with pytest.raises(UnsupportedModel, match=rf"'starcoder2' is not described.*what is missing is a Family.*{PAGE}"):
        family_of({"model_type": "starcoder2"})
    with pytest.raises(UnsupportedModel, match=r"mlx-lm .* has no class for it either"):
        family_of({"model_type": "no_such_model"})


def test_the_described_model_proves_itself_and_has_every_site() -> None:
    model = followed(DESCRIBE, PROVE)["model"]
    assert model.family == "starcoder2"
    out = model.run([3, 5, 7], capture=["mlp_act.1", "head_out.2"])
    assert out["mlp_act.1"].shape == (1, 3, 100)
    assert out["head_out.2"].shape == (1, 3, 6, 48)


@with_torch
def test_every_site_of_the_described_model_equals_transformers() -> None:
    assert len(followed(*BLOCKS)["difference"]) > 30


@with_torch
def test_the_config_that_transformers_writes_is_understood() -> None:
    from transformers import Starcoder2Config

    followed(DESCRIBE)
    written = normalised(Starcoder2Config(num_hidden_layers=2).to_dict(), ["model.norm.weight"])
    assert family_of(written).model_type == "starcoder2"


@pytest.mark.parametrize(
    ("field", "hint"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "'rope_scaling'.*describe it in its Family"),
        ({"use_bias": False}, "'use_bias' = False"),
        ({"hidden_act": "relu"}, "'hidden_act' = 'relu'"),
    ],
)
def test_configs_that_mlx_lm_would_compute_wrongly_are_refused(field: dict[str, Any], hint: str) -> None:
    names = followed(DESCRIBE, PROVE)
    with pytest.raises(UnsupportedModel, match=hint):
        family_of({**names["config"], **field})


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ({"down": "down_proj"}, "not laid out as described.*down_proj"),
        ({"qkv": "fused"}, "not laid out as described.*qkv_proj"),
        ({"qk_norm": True}, "not laid out as described.*q_norm"),
        ({"rope": False}, "attention has rope, of which its Family says nothing"),
        ({"norms": Norms(before_mlp="input_layernorm")}, "layer has post_attention_layernorm, of which"),
    ],
)
def test_a_description_that_names_other_parts_is_refused_with_the_part(wrong: dict[str, Any], hint: str) -> None:
    names = followed(DESCRIBE, PROVE)
    with pytest.raises(UnsupportedModel, match=hint):
        wrapped(replace(names["STARCODER2"], **wrong), names)


def test_right_parts_in_a_wrong_combination_fail_the_self_check() -> None:
    names = followed(DESCRIBE, PROVE)
    family = replace(names["STARCODER2"], activation=lambda mlp, x: nn.relu(mlp.c_fc(x)))
    with pytest.raises(CheckpointError, match="differs from mlx-lm's own by"):
        wrapped(family, names).self_check()


def test_a_registered_family_proves_itself_at_every_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path))
    model = followed(DESCRIBE, PROVE)["model"]
    ran: list[str] = []
    monkeypatch.setattr(Model, "self_check", lambda self: ran.append(self.family))
    proofs.check_once(model)
    proofs.check_once(model)
    assert ran == ["starcoder2", "starcoder2"]


def command(folder: Path, described: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A study's plan of a checkpoint, with a file of families in the environment."""
    study = [sys.executable, "-m", "experiments.exp9_back_patching", "--model", str(folder), "--dry-run", *arguments]
    environment = {**os.environ, SWITCH: str(described)}
    return subprocess.run(study, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_command_takes_a_family_from_a_file_that_the_environment_names(tmp_path: Path) -> None:
    folder, described = tmp_path / "model", tmp_path / "starcoder2.py"
    folder.mkdir()
    config = followed(DESCRIBE, PROVE)["config"] | {"vocab_size": 1000}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)
    described.write_text(DESCRIBE)
    planned = command(folder, described, "--limit", "2", "--out", str(tmp_path / "none"))
    assert planned.returncode == 0, planned.stderr
    assert "forward passes" in planned.stdout
    refused = command(folder, tmp_path / "missing.py")
    assert refused.returncode == 2
    assert f"{SWITCH} names {tmp_path / 'missing.py'}: FileNotFoundError" in refused.stderr
    (tmp_path / "empty.py").write_text("")
    assert "is not described" in command(folder, tmp_path / "empty.py").stderr


def test_only_what_mlx_lm_can_run_and_the_package_does_not_describe_can_be_registered() -> None:
    with pytest.raises(UnsupportedModel, match="llama is described already"):
        register(FAMILIES["llama"])
    for name in ("no_such_model", "os.path", "../llama"):
        with pytest.raises(UnsupportedModel, match="mlx-lm has no class"):
            register(replace(FAMILIES["llama"], model_type=name))
