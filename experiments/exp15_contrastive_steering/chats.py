"""Chats as a data set gives them: what the user says before the first reply, and that reply.

Understood are columns `messages` (a list of {role, content}) and `conversations` (a list of {from, value}), or two
columns of text, a prompt and a reply, under their usual names. Local files are JSON Lines, JSON (a list) or CSV.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_interp.errors import DataError, nearest

PROMPTS = ("prompt", "instruction", "question", "input", "query", "text")
REPLIES = ("response", "reply", "completion", "output", "answer", "chosen")
USERS, ASSISTANTS = ("user", "human"), ("assistant", "gpt", "model")
IDS = ("id", "prompt_id", "uuid")


@dataclass(frozen=True)
class Chat:
    """The start of a conversation."""

    id: str
    prompt: str
    """All that the user says before the first reply."""
    reply: str = ""
    system: str = ""


def parse_chat(row: Mapping[str, Any], number: int, where: str) -> Chat:
    """A chat from one row. Raises DataError, naming the columns there are, where none of them is understood."""
    name = next((str(row[column]) for column in IDS if row.get(column) not in (None, "")), str(number))
    for column, role, content in (("messages", "role", "content"), ("conversations", "from", "value")):
        if isinstance(row.get(column), str):  # CSV and some data sets keep the list as JSON text
            return _of_turns(_loaded(row[column], where), role, content, name, where)
        if row.get(column) is not None:
            return _of_turns(row[column], role, content, name, where)
    prompt = next((row[column] for column in PROMPTS if row.get(column)), None)
    if not isinstance(prompt, str):
        raise DataError(
            f"{where}: no column holds a chat: found {', '.join(map(str, row))}; needed is messages, conversations, or "
            f"a prompt ({', '.join(PROMPTS)}) and, where there is one, a reply ({', '.join(REPLIES)})"
        )
    reply = next((row[column] for column in REPLIES if row.get(column)), "")
    return Chat(name, prompt.strip(), str(reply).strip(), str(row.get("system") or ""))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All rows of a local file. Raises DataError, naming file and line, for one that cannot be read or is empty."""
    readers = {".jsonl": _json_lines, ".json": _json_list, ".csv": _csv}
    if path.suffix not in readers:
        raise DataError(f"{path}: chats are read from {', '.join(readers)}, not from {path.suffix or 'such a file'}")
    try:
        rows = list(readers[path.suffix](path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    if not rows:
        raise DataError(f"{path}: holds no row; give one chat a line")
    return rows


def column_values(rows: Sequence[Mapping[str, Any]], column: str, where: str) -> list[str]:
    """The values of a column, in the order of their first appearance. Raises DataError if it is not there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    if column not in names:
        raise DataError(f"{where}: no column {column!r}: {nearest(column, names)}columns are {', '.join(names)}")
    return list(dict.fromkeys(str(row.get(column)) for row in rows))


def distinct(chats: Sequence[Chat]) -> list[Chat]:
    """Chats whose prompts differ, and whose ids do: a repeated prompt could fall on both sides of a split."""
    found: dict[tuple[str, str], Chat] = {}
    ids: set[str] = set()
    for chat in chats:
        if not chat.prompt.strip() or (chat.system, chat.prompt) in found:
            continue
        name = chat.id if chat.id not in ids else f"{chat.id} ({len(ids)})"
        ids.add(name)
        found[chat.system, chat.prompt] = Chat(name, chat.prompt, chat.reply, chat.system)
    return list(found.values())


def _of_turns(turns: Any, role: str, content: str, name: str, where: str) -> Chat:
    """System turns, the user's turns up to the first reply, and that reply."""
    said: dict[str, list[str]] = {"system": [], "user": [], "assistant": []}
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) for turn in turns):
        raise DataError(f"{where}: a conversation is a list of {{{role}, {content}}}, found {str(turns)[:80]!r}")
    for turn in turns:
        who, text = str(turn.get(role, "")).lower(), str(turn.get(content) or "").strip()
        kind = "user" if who in USERS else "assistant" if who in ASSISTANTS else "system"
        if kind == "assistant" and said["user"]:
            said[kind].append(text)
            break
        if kind != "assistant":
            said[kind].append(text)
    joined = {kind: "\n\n".join(text for text in texts if text) for kind, texts in said.items()}
    return Chat(name, joined["user"], joined["assistant"], joined["system"])


def _loaded(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: a conversation is a list, found text that is not JSON: {text[:80]!r}") from error


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            yield _row(_parsed(line, f"{path}, line {number}"), f"{path}, line {number}")


def _json_list(path: Path) -> Iterator[dict[str, Any]]:
    content = _parsed(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of rows, found {type(content).__name__}")
    yield from (_row(row, f"{path}, row {number}") for number, row in enumerate(content, 1))


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error}") from error


def _row(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(content).__name__}")
    return content
