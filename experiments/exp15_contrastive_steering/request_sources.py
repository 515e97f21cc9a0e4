"""Subsets by key: of the embedded world, of this project, of Tulu 3, of any data set on the Hub, of a local file.

A key is a number or a name. Numbers of Tulu 3 stand for the `source` strings of `TULU`, matched as strings, never by
position in the data; those of the world and the project for lists of their own; those of a local file for the order of
first appearance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from experiments.exp15_contrastive_steering.chats import Chat, column_values, distinct, parse_chat, read_rows
from experiments.exp15_contrastive_steering.hub import Draw, drawn
from experiments.shared import project_texts
from mlx_interp.embedded import load_world
from mlx_interp.embedded.world import ChatPrompt
from mlx_interp.errors import DataError, nearest
from mlx_interp.stats import stable_draw

WORLD, PROJECT, TULU_NAME, AUTO = "world", "project", "tulu", "auto"
TULU_REPOSITORY = "allenai/tulu-3-sft-mixture"
_ADAPT = "ai2-adapt-dev/"
TULU = (
    f"{_ADAPT}numinamath_tir_math_decontaminated",
    f"{_ADAPT}tulu_v3.9_synthetic_finalresp_wildguardmixtrain_decontaminated_50k",
    f"{_ADAPT}oasst1_converted",
    f"{_ADAPT}tulu_v3.9_table_gpt_5k",
    "allenai/tulu-3-sft-personas-math-grade",
    f"{_ADAPT}flan_v2_converted",
    f"{_ADAPT}tulu_v3.9_sciriff_10k",
    f"{_ADAPT}no_robots_converted",
    f"{_ADAPT}personahub_code_v2_34999",
    f"{_ADAPT}tulu_v3.9_personahub_math_interm_algebra_20k",
    f"{_ADAPT}tulu_v3.9_wildjailbreak_decontaminated_50k",
    f"{_ADAPT}tulu_v3.9_open_math_2_gsm8k_50k",
    f"{_ADAPT}coconot_converted",
    f"{_ADAPT}tulu_hard_coded_repeated_10",
    f"{_ADAPT}tulu_v3.9_wildchat_100k",
    f"{_ADAPT}tulu_v3.9_aya_100k",
    f"{_ADAPT}evol_codealpaca_heval_decontaminated",
    f"{_ADAPT}personahub_math_v5_regen_149960",
    f"{_ADAPT}personahub_ifdata_manual_seed_v3_29980",
)
"""Key -> `source` of the 19 parts of the Tulu 3 mixture."""
SENSITIVE = frozenset({TULU[1], TULU[10], TULU[12]})
"""Hold safety material: results name their rows by id, and do not repeat the prompts."""
PROJECT_SUBSETS = (
    *(f"{kind}_{language}" for language in ("en", "es", "fr", "de", "zh") for kind in ("requests", "harmful")),
    *("user_likes", "user_dislikes", "unsure_questions", "certain_questions"),
)
"""Key -> subset of what is written in this project; 12 is, as in Tulu 3, what is answered by not answering."""
LEAST = 8
"""Rows of a subset from which a mean, its halves and held-out rows can be told."""


@dataclass(frozen=True)
class Subset:
    """One set of chats, cut in two parts that share no prompt."""

    key: str
    name: str
    fit: tuple[Chat, ...]
    """From these the mean is taken, and the classifier is fitted to their replies."""
    held: tuple[Chat, ...]
    """Held out: for separation, for the classifier's accuracy, and as prompts to steer."""
    sensitive: bool = False


@dataclass(frozen=True)
class Source:
    """Where subsets come from, and how much of each is drawn."""

    data: str
    """"world", "project", "tulu", a repository on the Hub, or the path of a file."""
    split: str
    column: str
    n_fit: int
    n_held: int | None
    """None for as many as there are."""
    seed: int


def keys(source: Source) -> list[str]:
    """All keys of a source, for those whose subsets are known without reading all of it."""
    if source.data == WORLD:
        return [str(number) for number in range(len(SELECTIONS))]
    if source.data in (PROJECT, TULU_NAME):
        return [str(number) for number in range(len(PROJECT_SUBSETS if source.data == PROJECT else TULU))]
    if is_file(source.data):
        return [str(number) for number in range(len(_file_values(source.data, source.column)))]
    raise DataError(
        f"--data {source.data}: the subsets of a data set on the Hub are not known without reading all of it: "
        "compare two of them with --study pair, named by the string in their column"
    )


@lru_cache(maxsize=64)
def subset(source: Source, key: str) -> Subset:
    """A subset by number or name, cut into its two parts.

    A key may also be a file, or a whole data set of the Hub as "hub:owner/name". Raises DataError for a key that does
    not exist, with the nearest ones, for no rows, and for fewer than 8.
    """
    number, name, chats = _found(source, key)
    chats = distinct(chats)
    if len(chats) < LEAST:
        raise DataError(
            f"subset {key!r} ({name}): {len(chats)} rows with different prompts; a mean, its halves and held-out rows "
            f"need {LEAST} or more"
        )
    ranked = sorted(chats, key=lambda chat: (stable_draw(source.seed, (chat.id, chat.prompt), 2**62), chat.id))
    most = len(ranked) // 3 if len(ranked) < 3 * source.n_fit else len(ranked) - source.n_fit
    n_held = most if source.n_held is None else min(most, source.n_held)
    held, rest = ranked[:n_held], ranked[n_held:]
    return Subset(number, name, tuple(rest[: source.n_fit]), tuple(held), name in SENSITIVE)


def _found(source: Source, key: str) -> tuple[str, str, Sequence[Chat]]:
    """Key, name and rows."""
    limit = None if source.n_held is None else 2 * (source.n_fit + source.n_held)
    if is_file(key):
        rows = read_rows(Path(key))
        return key, Path(key).stem, [parse_chat(row, n, f"{key}, row {n}") for n, row in enumerate(rows, 1)]
    if key.startswith("hub:"):
        repository = key.removeprefix("hub:")
        return key, repository, drawn(Draw(repository, source.split, None, "", limit))
    if source.data == WORLD:
        number = _number(key, [name for name, _ in SELECTIONS], "the embedded world")
        name, selects = SELECTIONS[number]
        return str(number), name, [_chat(chat) for chat in load_world().chats if selects(chat)]
    if source.data == PROJECT:
        number = _number(key, PROJECT_SUBSETS, "the project")
        return str(number), PROJECT_SUBSETS[number], list(project_chats(PROJECT_SUBSETS[number]))
    if source.data == TULU_NAME:
        number = _number(key, TULU, "Tulu 3")
        return str(number), TULU[number], drawn(Draw(TULU_REPOSITORY, source.split, "source", TULU[number], limit))
    if is_file(source.data):
        values = _file_values(source.data, source.column)
        number = _number(key, values, f"{source.data}, column {source.column!r}")
        rows = [row for row in _file_rows(source.data) if str(row.get(source.column)) == values[number]]
        chats = [parse_chat(row, n, f"{source.data}, row {n} of {values[number]!r}") for n, row in enumerate(rows, 1)]
        return str(number), values[number], chats
    return key, key, drawn(Draw(source.data, source.split, source.column, key, limit))


@lru_cache(maxsize=len(PROJECT_SUBSETS))
def project_chats(name: str) -> tuple[Chat, ...]:
    """What a user says, by name of the subset; no replies are written to it."""
    kind, _, part = name.partition("_")
    if kind in ("requests", "harmful"):
        label = "harmless" if kind == "requests" else kind
        texts = [one.text for one in project_texts.requests(part) if one.label == label]
    elif kind == "user":
        texts = [one.text for one in project_texts.opinions(frame=part)]
    else:
        texts = [one.text for one in project_texts.questions() if one.label == kind]
    return tuple(Chat(f"{name} {number}", text) for number, text in enumerate(texts))


def is_file(text: str) -> bool:
    """Whether a name means a local file of chats."""
    return Path(text).suffix in (".jsonl", ".json", ".csv")


def _number(key: str, names: Sequence[str], where: str) -> int:
    """The number of a key given as number, name, or the last part of a name."""
    short = [name.rpartition("/")[2] for name in names]
    if key.isdecimal() and int(key) < len(names):
        return int(key)
    for known in (list(names), short):
        if key in known:
            return known.index(key)
    listed = ", ".join(f"{number} {name}" for number, name in enumerate(short))
    raise DataError(f"{where} has no subset {key!r}: {nearest(key, short)}there are {listed}")


@lru_cache(maxsize=4)
def _file_rows(path: str) -> tuple[dict[str, object], ...]:
    return tuple(read_rows(Path(path)))


def _file_values(path: str, column: str) -> list[str]:
    return column_values(_file_rows(path), column, path)


def _chat(chat: ChatPrompt) -> Chat:
    return Chat(f"{chat.kind} {chat.language}: {chat.text}", chat.text, chat.reply)


def _requests(language: str, *, harmful: bool) -> Callable[[ChatPrompt], bool]:
    def selects(chat: ChatPrompt) -> bool:
        kind = (chat.kind, chat.language, chat.harmful, chat.shift)
        return kind == ("refusal", language, harmful, "")

    return selects


def _opinions(stance: str, *, firm: bool = False) -> Callable[[ChatPrompt], bool]:
    return lambda chat: (chat.kind, chat.stance, chat.firm, chat.language) == ("opinion", stance, firm, "en")


def _certainty(label: str) -> Callable[[ChatPrompt], bool]:
    return lambda chat: chat.kind == "certainty" and chat.label == label


SELECTIONS: tuple[tuple[str, Callable[[ChatPrompt], bool]], ...] = (
    *(
        (f"{kind}_{language}", _requests(language, harmful=harmful))
        for language in ("en", "es", "fr", "de", "zh", "it")
        for kind, harmful in (("requests", False), ("harmful", True))
    ),
    ("unknown_names", _certainty("unsure")),
    ("known_names", _certainty("certain")),
    ("opinion_asked", _opinions("")),
    ("user_likes", _opinions("likes")),
    ("user_dislikes", _opinions("dislikes")),
    ("firm_views", lambda chat: chat.kind == "opinion" and chat.firm),
)
"""Key -> name and rows of the embedded world; 12 is, as in Tulu 3, what is answered by not answering."""
