"""Progress callbacks and the progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlx_interp.deferred import rich
from mlx_interp.engine.sweep import Progress


@contextmanager
def reported(progress: Progress | bool, total: int | None, what: str = "sweep") -> Iterator[Progress | None]:
    """The function that a sweep reports to: the caller's, a progress bar's, or none. total: None where not known."""
    if not isinstance(progress, bool):
        yield progress
    elif not progress:
        yield None
    else:
        with rich.progress.Progress(
            *rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn()
        ) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done, _: bar.update(task, completed=done)
