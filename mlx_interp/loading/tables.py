"""Rows of a data set: a local CSV, JSON (Lines) or parquet file, or such files of a data set on the Hub.

Files of the Hub are downloaded once into its own cache, and read from there without a network. Nothing that a data set
brings is executed; where a repository holds no plain files, the Hub's own parquet copy is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_interp.deferred import duckdb, hub_errors, huggingface_hub
from mlx_interp.errors import DataError, nearest

READERS = {
    ".csv": "read_csv(?, all_varchar=true)",
    ".tsv": "read_csv(?, all_varchar=true, delim='\t')",
    ".jsonl": "read_json(?, format='newline_delimited')",
    ".ndjson": "read_json(?, format='newline_delimited')",
    ".json": "read_json(?)",
    ".parquet": "read_parquet(?)",
}
KINDS = ", ".join(READERS)
CONVERTED = "refs/convert/parquet"
"""The branch on which the Hub keeps every public data set as parquet."""

Row = dict[str, Any]


def read_table(source: str | Path, *, subset: str = "", split: str = "") -> list[Row]:
    """All rows of a local file, or of a data set of the Hub (owner/name, owner/name@revision), in their order.

    subset, split: parts of the names of the files that are meant, e.g. "or-bench-toxic"; several files of one subset
    and split are read one after another.
    Raises DataError for what is not there, cannot be read, or is more than one table.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() in READERS or path.exists():
        return read_file(path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", str(source)):
        raise DataError(f"{source}: no such file, and no data set of the Hub (owner/name); files end in {KINDS}")
    files = hub_files(str(source), subset=subset, split=split)
    return [row for file in files for row in read_file(file)]


def read_file(path: Path) -> list[Row]:
    """All rows of one file. Raises DataError that names it."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: files of data end in {KINDS}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with duckdb.connect() as connection:
            found = connection.execute(f"SELECT * FROM {reader}", [str(path)])
            names = [column[0] for column in found.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    except duckdb.Error as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())[:300]}") from error
    if not rows:
        raise DataError(f"{path}: holds no row")
    return rows


def hub_files(source: str, *, subset: str, split: str) -> list[Path]:
    """Local copies of the files of one table of a data set. Raises DataError."""
    repository, _, revision = source.partition("@")
    for branch in (revision or None, CONVERTED):
        try:
            names = data_files(repository, branch)
            if names:
                chosen = one_table(names, source, subset, split)
                return [
                    Path(huggingface_hub.hf_hub_download(repository, name, repo_type="dataset", revision=branch))
                    for name in chosen
                ]
        except hub_errors.GatedRepoError as error:
            raise DataError(
                f"{source} is gated: accept its terms at https://huggingface.co/datasets/{repository}, then run "
                "`hf auth login` (or set HF_TOKEN)"
            ) from error
        except hub_errors.RevisionNotFoundError as error:
            if branch != CONVERTED:
                raise DataError(f"the data set {repository} has no revision {branch!r}") from error
        except hub_errors.RepositoryNotFoundError as error:
            raise DataError(f"the Hub has no data set {repository!r}, or not for you (`hf auth login`)") from error
        except (
            hub_errors.IncompleteSnapshotError,
            hub_errors.LocalEntryNotFoundError,
            hub_errors.OfflineModeIsEnabled,
        ) as error:
            raise DataError(
                f"{source}: not in this machine's cache, and the Hub cannot be reached: connect, or give a local file"
            ) from error
        except (hub_errors.EntryNotFoundError, hub_errors.HfHubHTTPError, hub_errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
            raise DataError(f"{source}: downloading stopped: {' '.join(str(error).split())[:300]}") from error
    raise DataError(f"{source}: holds no file that ends in {KINDS}")


def data_files(repository: str, revision: str | None) -> list[str]:
    """Names of a data set's files, as the Hub has them, or, without a network, as the cache has them."""
    try:
        names = huggingface_hub.HfApi().list_repo_files(repository, repo_type="dataset", revision=revision)
    except (hub_errors.OfflineModeIsEnabled, hub_errors.HTTPError) as error:  # type: ignore[attr-defined]
        if isinstance(error, hub_errors.HfHubHTTPError):
            raise
        folder = Path(
            huggingface_hub.snapshot_download(repository, repo_type="dataset", revision=revision, local_files_only=True)
        )
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in names if Path(name).suffix.lower() in READERS)


def one_table(names: Sequence[str], source: str, subset: str, split: str) -> list[str]:
    """The files of one subset and split. Raises DataError where the names leave open which table is meant."""
    chosen = [name for name in names if all(_named(part, name) for part in (subset, split) if part)]
    tables = sorted({re.sub(r"[-_]?\d{3,}(-of-\d+)?", "", name) for name in chosen})
    if len(tables) == 1:
        return chosen
    asked = " and ".join(repr(part) for part in (subset, split) if part) or "nothing"
    if not chosen:
        raise DataError(f"{source}: no file for {asked}: {nearest(subset or split, names)}there are {', '.join(names)}")
    raise DataError(f"{source}: {asked} leaves several tables: say which by subset and split: {', '.join(tables)}")


def _named(part: str, name: str) -> bool:
    """Whether a file's path has a folder or a name that is `part`, or begins with it ("train-00000-of-00001")."""
    return any(re.match(rf"{re.escape(part)}([-_.]|$)", piece) for piece in Path(name).parts) or any(
        re.search(rf"[-_.]{re.escape(part)}([-_.]|$)", piece) for piece in Path(name).parts
    )
