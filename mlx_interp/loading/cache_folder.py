"""The folder of this user's caches: what is kept there can be computed again, so nothing here may fail a load."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

SWITCH = "MLX_INTERP_CACHE"
"""Environment variable that names another folder."""


def cache_folder() -> Path:
    """Where caches live on this platform; not created here."""
    if os.environ.get(SWITCH):
        return Path(os.environ[SWITCH]).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlx_interp"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx_interp"


def read_cache(name: str) -> dict[str, Any]:
    """A cached JSON object; {} when there is none or it cannot be read."""
    try:
        content = json.loads((cache_folder() / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_cache(name: str, content: dict[str, Any]) -> None:
    """Replace a cached JSON object in one step, so that a reader never sees half of it. Failures are ignored."""
    folder = cache_folder()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file)
            os.replace(temporary, folder / name)
        finally:
            Path(temporary).unlink(missing_ok=True)
