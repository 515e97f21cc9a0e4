"""A file of a publisher, fetched once, kept with its checksum, and verified whenever it is read again.

1. The file is looked for in the cache folder, under its whole address, so that two revisions are two files.
2. If it is not there it is fetched. A file put there by hand is as good as one that was fetched.
3. Its SHA-256 must be the known one; where none is known, that of the first reading, which is written beside it: what
   changed since then, here or at the publisher's, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from mlx_interp.errors import DataError
from mlx_interp.loading.cache_folder import cache_folder
from mlx_interp.reporting.files import write_atomically

MIRROR = "MLX_INTERP_MIRROR"
"""Environment variable: an address which takes the place of a publisher's host, where only a mirror is reached."""
SECONDS = 60
LARGEST = 64 * 2**20
"""Bytes; the largest file of the catalogue has 5 million."""


@dataclass(frozen=True)
class Fetched:
    """A file in the cache, verified."""

    path: Path
    sha256: str
    known: bool
    """Whether the checksum was known before; otherwise it is that of the first reading."""


def fetched(address: str, sha256: str = "") -> Fetched:
    """The file at an address, from the cache or from there.

    sha256: what it is known to be, if it is. Raises DataError, saying what to do, for an address that cannot be read
    and a file that is not what it was or should be.
    """
    path = _kept_at(address)
    notes = path.with_name(f"{path.name}.checksum.json")
    content = path.read_bytes() if path.is_file() else _downloaded(address)
    found, wanted = hashlib.sha256(content).hexdigest(), sha256 or _noted(notes)
    if wanted and found != wanted:
        raise DataError(
            f"{address}: SHA-256 {found[:12]}... is not the {'known one' if sha256 else 'one of its first reading'}, "
            f"{wanted[:12]}...: another text than before. Delete {path} to fetch it again"
            + ("" if sha256 else f", and {notes.name} beside it to accept a new one")
        )
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content, writer=f".{os.getpid()}")
    if not notes.is_file():
        read_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        noted = json.dumps({"address": address, "sha256": found, "first read": read_at}, indent=1)
        write_atomically(notes, noted, writer=f".{os.getpid()}")
    return Fetched(path, found, bool(sha256))


def _kept_at(address: str) -> Path:
    parts = urllib.parse.urlsplit(address)
    return cache_folder() / "prompt_sets" / parts.netloc.replace(":", "_") / parts.path.strip("/")


def _downloaded(address: str) -> bytes:
    where = _mirrored(address)
    try:
        with urllib.request.urlopen(where, timeout=SECONDS) as answer:
            content: bytes = answer.read(LARGEST + 1)
    except (urllib.error.URLError, TimeoutError, OSError, ValueError) as error:
        raise DataError(
            f"{where}: cannot be fetched: {error}; on a machine without access, fetch it elsewhere and put it at "
            f"{_kept_at(address)}, or give a mirror's address in {MIRROR}"
        ) from error
    if len(content) > LARGEST:
        raise DataError(f"{where}: more than {LARGEST} bytes, which no prompt set has")
    return content


def _mirrored(address: str) -> str:
    mirror = os.environ.get(MIRROR)
    return f"{mirror.rstrip('/')}{urllib.parse.urlsplit(address).path}" if mirror else address


def _noted(notes: Path) -> str:
    """The checksum beside a file; "" where it was not read before."""
    try:
        return str(json.loads(notes.read_text(encoding="utf-8"))["sha256"])
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{notes}: cannot be read ({error}): delete it, and the file beside it, to fetch anew"
        ) from error
