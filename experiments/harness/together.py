"""A run on several processes: with --shard one model, or copies of it, split over them; else each measures a share.

The first process opens the run folder, writes and prints; what the others do is here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from experiments.harness.experiment import ConfigT, Experiment
from experiments.harness.gated import Gate, passed
from experiments.harness.measuring import measure
from experiments.harness.options import Options
from experiments.harness.state import Run
from mlx_interp.copies import launched_as_ring
from mlx_interp.errors import ConfigError, MlxInterpError
from mlx_interp.loading.outline import outline
from mlx_interp.loading.processes import check_layout, chosen_copies, processes
from mlx_interp.ranks import Ranks, launched, said
from mlx_interp.reporting.folders import locked
from mlx_interp.reporting.records import open_records


def launched_for(experiment: Experiment[ConfigT], options: Options[ConfigT]) -> Ranks:
    """The launched ranks. Raises ConfigError for --shard on one process alone, or where a study needs whole weights."""
    check_layout(options.shard, None, options.copies)
    if not options.shard:
        return launched()
    if experiment.whole_model:
        raise ConfigError(
            f"{experiment.name} {experiment.whole_model}, which a split model does not do: leave --shard out, and "
            "mlx.launch shares the prompts over whole models"
        )
    asked = options.copies if options.copies is not None else "auto" if launched_as_ring() else None
    copies = chosen_copies(asked, lambda: _heaviest(options), shard=options.shard)
    return replace(processes("--shard", copies), one_model=True)


def _heaviest(options: Options[ConfigT]) -> int:
    """Bytes of the largest of a run's models."""
    return max(outline(name, memory=options.memory).weight_bytes for name in options.models)


@contextmanager
def locked_by(path: Path, ranks: Ranks) -> Iterator[None]:
    """The lock of a run folder; where another run holds it, the other ranks hear of it too."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except MlxInterpError as error:
            ranks.succeeded(said(error))
            raise
        yield


def memory_of_gate(out: Path, ranks: Ranks) -> Path | None:
    """Where the gate keeps what has passed; None where all ranks must compute it together, remembered or not."""
    return None if ranks.one_model else out / ".validation"


def help_measuring(
    experiment: Experiment[ConfigT], options: Options[ConfigT], under: Run[ConfigT], gate: Gate, ranks: Ranks
) -> None:
    """What the other ranks do: measure their share, from and into a copy of rank 0's records.

    Where one model is split over them they compute the gate's checks too.
    """
    if ranks.one_model:
        ranks.succeeded(None)
        if options.validate:
            try:
                passed(gate, under.model, None)
            except Exception as error:
                ranks.succeeded(said(error))
                raise
    ranks.succeeded(None)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "records.jsonl"
        copy.write_text(ranks.gather("")[0], encoding="utf-8")
        measure(experiment, under, open_records(copy), ranks)
