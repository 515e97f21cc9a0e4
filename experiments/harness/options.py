"""The command line that all experiments share: its options, the experiment's own fields, and what --help says."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn

import yaml

from experiments.harness.experiment import LOOK, ConfigT, Experiment, Stage
from experiments.harness.fields import ConfigField, as_text, config_fields, from_text, from_value
from experiments.harness.schema import field_lines
from mlx_interp.errors import ConfigError, nearest
from mlx_interp.loading.names import DEFAULT_MODELS
from mlx_interp.loading.processes import Copies, Shard
from mlx_interp.loading.profile import Memory, add_memory_option
from mlx_interp.reporting.folders import PUBLISHED, RUNS, writable
from mlx_interp.studies import invocation, studies_folder

SHARED = (
    "model",
    "limit",
    "seed",
    "config",
    "set",
    "out",
    "fresh",
    "no_validate",
    "dry_run",
    "latex",
    "html",
    "shard",
    "copies",
    "workers",
    "memory",
    "help",
)
NONE: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Options(Generic[ConfigT]):
    """A command line, understood."""

    models: tuple[str, ...]
    config: ConfigT
    out: Path = RUNS
    fresh: bool = False
    validate: bool = True
    dry_run: bool = False
    latex: bool = False
    html: bool = False
    shard: Shard = False
    copies: Copies | None = None
    workers: str = "auto"
    memory: Memory = "auto"
    look: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Values that stand in for defaults because --limit is small."""


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are ConfigErrors, with the nearest option where one does not exist."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


def parse(experiment: Experiment[ConfigT], arguments: Sequence[str]) -> Options[ConfigT]:
    """Options from the command line; what stands further on in defaults, --config, --set, own flags wins.

    Raises ConfigError for an option, field or value that does not exist, with the nearest names. --help prints and
    raises SystemExit(0).
    """
    fields = config_fields(experiment.config)
    parser = build_parser(experiment, fields)
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        name = unknown[0].split("=")[0]
        kind = "unknown option" if name.startswith("-") else "unexpected argument"
        raise ConfigError(f"{kind} {name}: {nearest(name, flags)}see --help")
    values, named = _read_config(experiment, _config_file(given.config), fields) if given.config else ({}, ())
    values |= dict(_assignment(text, fields) for text in given.set)
    for name, field in fields.items():
        text = getattr(given, f"field_{name}")
        if text is not None:
            values[name] = from_text(text, field.kind, field.flag)
    look = _look(experiment, values)
    config = experiment.config(**look, **values)
    _check_numbers(config)
    return Options(
        models=tuple(dict.fromkeys(given.model or named or DEFAULT_MODELS)),
        config=config,
        out=writable(Path(given.out)),
        fresh=given.fresh,
        validate=not given.no_validate,
        dry_run=given.dry_run,
        latex=given.latex,
        html=given.html,
        shard=given.shard,
        copies=given.copies,
        workers=given.workers,
        memory=given.memory,
        look=look,
    )


def _look(experiment: Experiment[ConfigT], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """What stands in for the defaults of fields that were not given: nothing, but for a look."""
    limit = values.get("limit")
    if limit is None or limit > LOOK:
        return NONE
    return {name: value for name, value in experiment.look.items() if name not in values}


def look_lines(options: Options[Any], fields: Mapping[str, ConfigField]) -> list[str]:
    """What a look measures less of, and how to have it whole: a line, or none where nothing stands in for a default."""
    changed = ", ".join(
        f"{fields[name].flag} {as_text(value)} (default {fields[name].default_text or 'empty'})"
        for name, value in options.look.items()
    )
    return [f"a look, by --limit {options.config.limit}: {changed}; what is given by name stays"] if changed else []


def build_parser(experiment: Experiment[ConfigT], fields: Mapping[str, ConfigField]) -> Parser:
    """The parser: shared options, then one flag for each field of the experiment's Config."""
    parser = Parser(
        prog=invocation(f"experiments.{experiment.name}"),
        description=experiment.doc,
        epilog=_examples(experiment, fields),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    shared = parser.add_argument_group("options of every experiment")
    models = ", ".join(DEFAULT_MODELS)
    shared.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help=f"model: a short name, Hub id, local folder, GGUF file or embedded model; repeatable (default: {models})",
    )
    _add_field(shared, fields["limit"], "N")
    _add_field(shared, fields["seed"], "N")
    shared.add_argument(
        "--config",
        metavar="FILE.yaml",
        help="config file: fields as `name: value` lines; experiments/configs has some",
    )
    shared.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one field; repeatable")
    shared.add_argument(
        "--out",
        default=str(RUNS),
        metavar="DIR",
        help=f"folder of runs (default: {RUNS})",
    )
    shared.add_argument(
        "--fresh", action="store_true", help="start over instead of resuming; the earlier run is kept aside"
    )
    shared.add_argument(
        "--no-validate", action="store_true", help="skip the validation gate; results are marked UNVALIDATED"
    )
    shared.add_argument(
        "--dry-run",
        action="store_true",
        help="print prompts, counterfactuals, forward passes and memory of the run; write nothing",
    )
    shared.add_argument("--latex", action="store_true", help="also write the tables as LaTeX (table.tex)")
    shared.add_argument(
        "--html", action="store_true", help="also write pages to click through, one HTML file each (pages/)"
    )
    shared.add_argument(
        "--shard",
        nargs="?",
        const=True,
        default=False,
        choices=("pipeline",),
        help="under mlx.launch: split the model over the processes, each of which keeps a part of every matrix, or "
        "with `pipeline` some of the layers; without it each has the whole model and measures its share of the prompts",
    )
    shared.add_argument(
        "--copies",
        type=_copies,
        metavar="N",
        help="with --shard, where there are more processes than one model needs: how many copies of it they hold side "
        "by side, each over its share of the processes; the copies share the prompts (default: auto, as many as memory "
        "allows)",
    )
    shared.add_argument(
        "--workers",
        default="auto",
        metavar="N",
        help="processes on this machine that measure, each with a model of its own; auto: as many as there are idle "
        "cores and memory for, once that saves time; 1 on a GPU (default: auto)",
    )
    add_memory_option(shared)
    shared.add_argument("-h", "--help", action="help", help="show this text and exit")
    own = [field for name, field in fields.items() if name not in ("seed", "limit")]
    if own:
        group = parser.add_argument_group("options of this experiment (also fields for --set and --config)")
        for field in own:
            if field.name in SHARED:
                raise ConfigError(f"{experiment.name}: field {field.name!r} has the name of a shared option; rename it")
            _add_field(group, field, field.metavar, experiment.look)
    return parser


def _copies(text: str) -> Copies:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number or auto") from error


def _add_field(group: Any, field: ConfigField, metavar: str, look: Mapping[str, Any] = NONE) -> None:
    brief = f"; {as_text(look[field.name])} with --limit up to {LOOK}" if field.name in look else ""
    text = f"{field.doc} (default: {field.default_text or 'empty'}{brief})".replace("%", "%%")
    optional: dict[str, Any] = {"nargs": "?", "const": "true"} if field.kind is bool else {}
    group.add_argument(field.flag, dest=f"field_{field.name}", metavar=metavar, help=text, **optional)


def _examples(experiment: Experiment[ConfigT], fields: Mapping[str, ConfigField]) -> str:
    command = invocation(f"experiments.{experiment.name}")
    lines = [
        ("the embedded models, offline", ""),
        ("what it would cost, without doing it", " --dry-run"),
        ("a first look at a larger model", " --model gemma-2-9b --limit 20"),
    ]
    own = next((field for name, field in fields.items() if name not in ("seed", "limit")), None)
    if own is not None:
        lines.append(
            ("a field of its own, elsewhere", f" --set {own.name}={shlex.quote(own.default_text)} --out elsewhere")
        )
    examples = "\n".join(f"  {command}{options}\n      {what}" for what, options in lines)
    records = "\n\n".join(_record_text(stage) for stage in experiment.stages)
    shown = f"records (records.parquet; stage and item stand in front):\n{records}\n\n"
    publish = f"{invocation('experiments publish')} {experiment.name.partition('_')[0]}"
    return (
        f"{shown}examples:\n{examples}\n\nA run that was stopped goes on where it was when the same command is given "
        f"again; `{publish}` puts a finished one into {PUBLISHED}/."
    )


def _record_text(stage: Stage[Any, Any, Any]) -> str:
    """The fields of a stage's records."""
    return "\n".join([f"  {stage.name}", *field_lines(stage.record)])


def _assignment(text: str, fields: Mapping[str, ConfigField]) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals:
        raise ConfigError(f"--set {text}: give KEY=VALUE, for example --set {next(iter(fields))}=1")
    field = _known(name, fields, "--set")
    return name, from_text(value.strip(), field.kind, f"--set {name}")


def _config_file(text: str) -> Path:
    """The file that --config names: a path, or one of the ready-made files, which an installed package holds inside."""
    path = Path(text)
    if path.exists() or path.is_absolute():
        return path
    shipped = (studies_folder() / path, studies_folder() / "experiments" / "configs" / path)
    return next((one for one in shipped if one.is_file()), path)


def _read_config(
    experiment: Experiment[ConfigT], path: Path, fields: Mapping[str, ConfigField]
) -> tuple[dict[str, Any], Sequence[str]]:
    """Values of fields, and the models that the file names, if it is of a kind that does."""
    if experiment.read_config is None:
        return _read_yaml(path, fields), ()
    values, models = experiment.read_config(path)
    return dict(values), models


def _read_yaml(path: Path, fields: Mapping[str, ConfigField]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path}: not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path}: expected `name: value` lines, found {type(content).__name__}")
    return {
        str(name): from_value(value, _known(str(name), fields, f"--config {path}").kind, f"{path}, field {name!r}")
        for name, value in content.items()
    }


def _known(name: str, fields: Mapping[str, ConfigField], where: str) -> ConfigField:
    if name not in fields:
        raise ConfigError(f"{where}: no field {name!r}: {nearest(name, fields)}fields are {', '.join(fields)}")
    return fields[name]


def _check_numbers(config: ConfigT) -> None:
    if config.seed < 0:
        raise ConfigError(f"--seed {config.seed}: must be 0 or more")
    if config.limit is not None and config.limit < 1:
        raise ConfigError(f"--limit {config.limit}: must be 1 or more")


def as_values(config: ConfigT) -> dict[str, Any]:
    """A config's fields as JSON values."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(config).items()
    }
