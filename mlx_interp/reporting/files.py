"""Writing files that are whole or absent: nothing half-written survives a kill, a full disk or Ctrl-C."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_interp.errors import RunError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into a RunError that says what to do; what was written before stays."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {_way_out(error, path)}") from error


def _way_out(error: OSError, path: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; everything measured so far is kept: free some space and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there; give another folder with --out DIR"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file of that name is in the way of a folder; give another folder with --out DIR"
    return f"{error.strerror or error}; give another folder with --out DIR, or run the same command again"


def write_atomically(path: Path, content: str | bytes, *, writer: str = "") -> None:
    """Replace a file in one step: readers see the old content or the new, whatever happens in between.

    writer: a name for each of several processes that may write the file at once, the same content.
    Raises RunError where the folder cannot be written or the disk is full; the old file is then untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    # One fixed name beside the target: what a kill leaves behind is overwritten the next time, and never piles up.
    partial = path.with_name(f".{path.name}{writer}.partial")
    with writing(path):
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def files_digest(paths: Iterable[Path], root: Path) -> str:
    """sha256 (hex) over the names, below `root` where they lie there, and the bytes of some files, in sorted order."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(root) if path.is_relative_to(root) else path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make_folder(path: Path) -> None:
    """Create a folder and its parents. Raises RunError where that is not possible."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def swap_folders(new: Path, old: Path) -> None:
    """Exchange two folders in one step of the file system: each name always leads to one of them, whole.

    Where the file system cannot, `old` is moved out of the way first; should the second step fail, it comes back.
    """
    if _exchanged(new, old):
        return
    aside = old.with_name(f".{old.name}.old")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(aside, old)
        raise
    os.rename(aside, new)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the system's own exchange of two names (Linux renameat2, macOS renamex_np) was there and did it."""
    system, exchange, here = ctypes.CDLL(None), 2, -100  # RENAME_EXCHANGE and RENAME_SWAP are both 2; AT_FDCWD
    names = [os.fsencode(path.absolute()) for path in (one, other)]
    if hasattr(system, "renameat2"):
        return bool(system.renameat2(here, names[0], here, names[1], exchange) == 0)
    if hasattr(system, "renamex_np"):
        return bool(system.renamex_np(names[0], names[1], exchange) == 0)
    return False
