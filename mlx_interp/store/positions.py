"""Position rules: which positions of a prompt are stored, and the name that a rule goes by in a manifest."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from mlx_interp.engine.positions import resolve_positions
from mlx_interp.errors import ConfigError, PositionError, nearest
from mlx_interp.prompts import Prompt

PositionRule: TypeAlias = str | int | slice | Sequence[int] | Callable[[Prompt], Sequence[int]]
RULES = {
    "all": "every position of the prompt",
    "last": "the prompt's last position",
    "no_bos": "every position but the BOS token's, whose norm dwarfs all others",
    "content": "every position that is no special token of the tokenizer (BOS, roles, end of turn)",
    "generated": "none of the prompt: generated tokens alone",
}
SLICE = re.compile(r"(-?\d+)?:(-?\d+)?")


def parse_rule(rule: PositionRule) -> PositionRule:
    """A rule as it is used: text such as "-4:" or "-2,-1" becomes a slice or a list. Raises ConfigError."""
    if not isinstance(rule, str) or rule in RULES:
        return rule
    text = rule.replace(" ", "")
    if match := SLICE.fullmatch(text):
        return slice(*(int(part) if part else None for part in match.groups()))
    if re.fullmatch(r"-?\d+(,-?\d+)*", text):
        return [int(part) for part in text.split(",")]
    raise ConfigError(
        f"positions {rule!r}: {nearest(rule, RULES)}give {', '.join(RULES)}, numbers (-2,-1), a slice (-4:), or a "
        "function of a Prompt"
    )


def rule_name(rule: PositionRule) -> str:
    """A parsed rule in a manifest: what two sessions of one collection must share."""
    if isinstance(rule, str):
        return rule
    if isinstance(rule, slice):
        return ":".join("" if part is None else str(part) for part in (rule.start, rule.stop))
    if callable(rule):
        return f"function {getattr(rule, '__module__', '?')}.{getattr(rule, '__qualname__', type(rule).__name__)}"
    return ",".join(map(str, [rule] if isinstance(rule, int) else rule))


def positions_of(rule: PositionRule, prompt: Prompt) -> list[int]:
    """Absolute positions in a prompt, in order, each once. Raises PositionError for one that it does not have."""
    if callable(rule):
        return _absolute(list(rule(prompt)), prompt)
    if not isinstance(rule, str):
        return _absolute(rule, prompt)
    bos = getattr(prompt.tokenizer, "bos_token_id", None)
    special = set(getattr(prompt.tokenizer, "all_special_ids", None) or ()) if rule == "content" else {bos}
    match rule:
        case "all":
            return list(range(len(prompt)))
        case "last":
            return [len(prompt) - 1]
        case "generated":
            return []
        case _:
            return [at for at, token in enumerate(prompt.tokens) if token not in special]


def _absolute(spec: Any, prompt: Prompt) -> list[int]:
    try:
        found = resolve_positions(spec, len(prompt), "positions to store")
    except PositionError as error:
        raise PositionError(f"{error}; the prompt is {prompt.text[:60]!r}") from error
    assert found is not None
    return sorted(set(found))
