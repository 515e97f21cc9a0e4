"""Cached states of a set of chats at all layers, read in one pass and kept on disk, so that every mean of them is free.

1. Each chat is run once; of every layer's `resid_post` one vector is kept: at the last prompt token (what a generation
   prompt ends with, so "what comes next"), as the mean over the prompt, or as the mean over the reply that follows it.
   The first position is in no mean: in many models it holds an attention sink a hundred times as long as the rest.
2. The rows go to a file whose name is a hash of everything that changes them: weights, quantisation, computing dtype,
   template, site, rule, ids and tokens. A layer, pair or strength more is then no pass more.
3. Means are taken over any part of the rows, in float64: half precision loses small differences.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mlx_interp.deferred import mx
from mlx_interp.errors import ConfigError, DataError, nearest
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt

Rule: TypeAlias = Literal["last", "prompt mean", "reply mean"]
RULES: tuple[Rule, ...] = get_args(Rule)
SITE = "resid_post"
FORMAT = "mlx_interp states of a set 1"
ENDING = ".safetensors"


@dataclass(frozen=True)
class Row:
    """One chat as it is run."""

    id: str
    prompt: Prompt
    reply: str = ""


def set_states(
    model: Model, rows: Sequence[Row], rule: Rule = "last", *, folder: Path | None = None, name: str = ""
) -> np.ndarray:
    """(n_rows, n_layers, d_model), float32: `resid_post` of every layer, one vector a row, by the rule of position.

    folder: where such sets are kept; read from there if it has this very set, written there otherwise; a folder that
    cannot be written costs a pass the next time and nothing else. name: of the set, for lists of the cache.
    Raises ConfigError for an unknown rule, DataError for no row, and for a row without reply whose reply is asked for.
    """
    if rule not in RULES:
        raise ConfigError(f"no rule of position {rule!r}: {nearest(rule, RULES)}there are {', '.join(RULES)}")
    if not rows:
        raise DataError(f"{name or 'the set'}: has no row to take a mean of")
    tokens = [_tokens(model, row, rule, name) for row in rows]
    key = _key(model, rows, tokens, rule)
    path = folder / f"{key}{ENDING}" if folder is not None else None
    found = _read(path, key) if path is not None else None
    if found is None:
        found = _computed(model, rows, tokens, rule)
        if path is not None:
            about = {"name": name, "model": model.name, "rule": rule, "n": len(rows), "made": round(time.time())}
            _write(path, found, {**about, "n_layers": model.n_layers, "d_model": model.d_model}, key)
    return found


def mean(states: np.ndarray) -> np.ndarray:
    """(n_layers, d_model), float32: the mean over rows, summed in float64."""
    return np.asarray(states.mean(axis=0, dtype=np.float64), np.float32)


def about_file(path: Path) -> dict[str, Any]:
    """What a kept file is: name, model, rule, n, n_layers, d_model, made (seconds since 1970); {} if not readable."""
    try:
        with safe_open(path, framework="numpy") as file:
            content = json.loads((file.metadata() or {})["about"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _tokens(model: Model, row: Row, rule: Rule, name: str) -> list[int]:
    """What is run: the prompt, and for the rule that reads it the reply."""
    if rule != "reply mean":
        return row.prompt.tokens
    if not row.reply:
        raise DataError(f"{name or 'the set'}: row {row.id!r} has no reply, and the rule {rule!r} reads it")
    return row.prompt.tokens + [int(t) for t in model.tokenizer.encode(row.reply, add_special_tokens=False)]


def _key(model: Model, rows: Sequence[Row], tokens: Sequence[list[int]], rule: Rule) -> str:
    """A hash over everything that changes the states."""
    template = str(getattr(model.tokenizer, "chat_template", "") or "")
    parts = {
        "format": FORMAT,
        "weights": model.weights_hash or f"unknown, {model.path}",
        "quantization": model.quantization,
        "dtype": str(model.network.dtype),
        "device": str(mx.default_device()),
        "template": hashlib.sha256(template.encode()).hexdigest(),
        "site": SITE,
        "rule": rule,
        "rows": [[row.id, len(row.prompt), ids] for row, ids in zip(rows, tokens, strict=True)],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _computed(model: Model, rows: Sequence[Row], tokens: Sequence[list[int]], rule: Rule) -> np.ndarray:
    """One pass over all rows, the short ones first, so that batches hold little padding."""
    order = sorted(range(len(rows)), key=lambda index: (len(tokens[index]), index))
    found = np.empty((len(rows), model.n_layers, model.d_model), np.float32)
    waiting = iter(order)
    for out in model.batches([tokens[index] for index in order], capture=SITE, logits="none"):
        states = out.stack(SITE).astype(mx.float32)
        for row, length in enumerate(out.lengths):
            index = next(waiting)
            start, stop = _read_at(rule, len(rows[index].prompt), length)
            found[index] = np.asarray(mx.mean(states[:, row, start:stop], axis=1))
    return found


def _read_at(rule: Rule, n_prompt: int, length: int) -> tuple[int, int]:
    """First position that counts, and the one behind the last."""
    places: dict[Rule, Callable[[], tuple[int, int]]] = {
        "last": lambda: (n_prompt - 1, n_prompt),
        "prompt mean": lambda: (min(1, n_prompt - 1), n_prompt),
        "reply mean": lambda: (n_prompt, length),
    }
    return places[rule]()


def _read(path: Path, key: str) -> np.ndarray | None:
    """The rows of a file of that key; None where there is none or it is damaged, so that it is made anew."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            held = metadata.get("format") == FORMAT and metadata.get("key") == key
            return np.asarray(file.get_tensor("states")) if held else None
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _write(path: Path, states: np.ndarray, about: dict[str, Any], key: str) -> None:
    """In one step, so that a reader never sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"states": states}, part, metadata={"format": FORMAT, "key": key, "about": json.dumps(about)})
        os.replace(part, path)
    except (OSError, SafetensorError):
        with suppress(OSError):
            part.unlink(missing_ok=True)
