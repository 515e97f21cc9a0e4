"""The command line: what it understands, and what it says to a mistake."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from experiments.__main__ import experiments
from experiments.harness.experiment import FEWEST, LOOK, ExperimentConfig, limited
from experiments.harness.fields import config_fields
from experiments.harness.options import DEFAULT_MODELS, look_lines, parse
from mlx_interp.errors import ConfigError
from tests.experiments.fake_study import EXPERIMENT, Config


def config(*arguments: str) -> Config:
    parsed = parse(EXPERIMENT, arguments).config
    assert isinstance(parsed, Config)
    return parsed


def test_defaults_are_the_embedded_models_and_the_fields_own():
    options = parse(EXPERIMENT, [])
    assert options.models == DEFAULT_MODELS
    assert options.config == Config()
    assert options.out == Path("runs")
    assert (options.fresh, options.validate, options.dry_run) == (False, True, False)


def test_every_shared_option_is_understood():
    options = parse(
        EXPERIMENT,
        "--model a --model b --model a --limit 3 --seed 4 --out x --fresh --no-validate --dry-run".split(),
    )
    assert options.models == ("a", "b")
    assert (options.config.limit, options.config.seed) == (3, 4)
    assert options.out == Path("x")
    assert (options.fresh, options.validate, options.dry_run) == (True, False, True)


def test_a_field_can_be_set_in_three_ways_and_the_nearest_wins(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text("strength: 2\nlayers: [3, 4]\nposition: bridge\nrescale: true\nlimit: null\n")
    assert config("--config", str(file)) == Config(strength=2.0, layers=(3, 4), position="bridge", rescale=True)
    assert config("--config", str(file), "--set", "strength=3", "--set", "layers=7").layers == (7,)
    assert config("--set", "strength=3", "--strength", "4").strength == 4.0
    assert config("--rescale").rescale
    assert not config("--rescale", "no").rescale
    assert config("--limit", "none").limit is None
    assert config("--set", "data=a=b").data == "a=b"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--limt 3", "unknown option --limt: did you mean '--limit'"),
        ("stray", "unexpected argument stray"),
        ("--seed", "argument --seed: expected one argument"),
        ("--seed 1.5", "--seed: '1.5' is not a whole number"),
        ("--seed -1", "--seed -1: must be 0 or more"),
        ("--limit 0", "--limit 0: must be 1 or more"),
        ("--limit few", "--limit: 'few' is not a whole number, or none"),
        ("--strength nan", "--strength: 'nan' is not a number"),
        ("--position lost", "'lost' is none of bridge, last. did you mean 'last'?"),
        ("--layers 1,x", "--layers: 'x' is not a whole number"),
        ("--rescale maybe", "--rescale: 'maybe' is not true or false"),
        ("--set strengt=1", "--set: no field 'strengt': did you mean 'strength'? fields are seed, limit, position"),
        ("--set strength", "--set strength: give KEY=VALUE"),
        ("--config nowhere.yaml", "--config nowhere.yaml: cannot be read"),
    ],
)
def test_a_mistake_is_answered_with_what_would_be_right(arguments: str, said: str):
    with pytest.raises(ConfigError) as error:
        parse(EXPERIMENT, arguments.split())
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strengt: 1", "no field 'strengt': did you mean 'strength'?"),
        ("strength: much", "field 'strength': 'much' is not a number"),
        ("seed: true", "field 'seed': True is not a whole number"),
        ("position: 3", "field 'position': 3 is not one of bridge, last"),
        ("layers: 3", "field 'layers': 3 is not a list (a,b,c) of N"),
        ("- a", "expected `name: value` lines, found list"),
        ("a: [", "not YAML"),
    ],
)
def test_a_config_file_is_checked_like_the_command_line(tmp_path: Path, text: str, said: str):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        parse(EXPERIMENT, ["--config", str(tmp_path / "c.yaml")])
    assert said in str(error.value)
    assert "c.yaml" in str(error.value)


def test_help_teaches_the_experiment_its_options_and_examples(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        parse(EXPERIMENT, ["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "Question Does a resumed run end with the files",
        "--position bridge|last Where to patch: end of the first hop, or end of the prompt. (default: last)",
        "in 100 % of the norm",
        "--no-validate",
        "python -m experiments.exp0_numbers --dry-run",
    ):
        assert part in text


def test_fields_without_a_text_or_of_a_strange_type_are_refused():
    @dataclass(frozen=True)
    class NoText(ExperimentConfig):
        width: int = 3

    @dataclass(frozen=True)
    class Strange(ExperimentConfig):
        width: dict[str, int] | None = None
        """A width."""

    with pytest.raises(TypeError, match=r"NoText.width: write a string below the field"):
        config_fields(NoText)
    with pytest.raises(TypeError, match=r"Strange.width: .* is not a type of a field"):
        config_fields(Strange)


def test_every_kind_of_field_is_read_from_text():
    @dataclass(frozen=True)
    class Kinds(ExperimentConfig):
        level: Literal[1, 2] | None = None
        """A level."""
        names: tuple[str, ...] | None = None
        """Names."""

    fields = config_fields(Kinds)
    assert list(fields) == ["seed", "limit", "level", "names"]
    assert fields["names"].flag == "--names"


def test_a_look_stands_in_for_defaults_and_for_nothing_that_was_given(capsys: pytest.CaptureFixture[str]):
    study = replace(EXPERIMENT, look={"strength": 0.25})

    def understood(*arguments: str) -> tuple[float, list[str]]:
        options = parse(study, arguments)
        assert isinstance(options.config, Config)
        return options.config.strength, look_lines(options, config_fields(Config))

    whole = Config().strength
    assert understood() == (whole, [])
    assert understood("--limit", str(LOOK + 1)) == (whole, [])
    strength, (line,) = understood("--limit", str(LOOK))
    assert strength == 0.25
    assert f"--limit {LOOK}: --strength 0.25 (default {whole})" in line
    assert understood("--limit", "2", "--set", "strength=3") == (3.0, [])
    with pytest.raises(SystemExit):
        parse(study, ["--help"])
    assert f"0.25 with --limit up to {LOOK}" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(TypeError, match="look has strenght"):
        replace(EXPERIMENT, look={"strenght": 0.25})


def test_under_a_limit_a_choice_still_has_some_prompts_to_be_made_on():
    assert [Config(limit=limit).at_most(12) for limit in (None, 20, 5, 1)] == [12, 12, 5, FEWEST]
    assert Config(limit=9).at_most(3) == 3


def test_limited_keeps_order_and_takes_evenly():
    items = ["a1", "a2", "a3", "b1", "c1", "c2"]
    assert limited(items, 4, lambda item: item[0]) == ["a1", "a2", "b1", "c1"]
    assert limited(items, None, lambda item: item[0]) == items


def test_the_list_holds_experiments_alone_in_order_of_number(tmp_path: Path):
    for name in ("exp10_b", "exp9_a", "harness"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f'"""{name}: first line.\n\nMore."""\n\nEXPERIMENT = None\n')
    assert experiments(tmp_path) == {"exp9_a": "exp9_a: first line.", "exp10_b": "exp10_b: first line."}
