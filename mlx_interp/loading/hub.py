"""Checkpoints of the Hugging Face Hub: downloaded once into its own cache, then read from there, online or not."""

from __future__ import annotations

from pathlib import Path

from mlx_interp.deferred import hub_errors, huggingface_hub
from mlx_interp.errors import CheckpointError, UnknownModel, nearest
from mlx_interp.loading.names import MODELS, Source

PATTERNS = ["*.json", "model*.safetensors", "tokenizer.model", "*.txt", "*.jinja"]
"""Weights as safetensors, configs, tokenizers: nothing that could be executed."""


def snapshot(source: Source, *, weights: bool = True) -> Path:
    """The local folder of a Hub model, downloading what is missing; config and tokenizer alone with weights=False.

    Raises UnknownModel for a repository or revision that does not exist, CheckpointError for one that cannot be had.
    """
    patterns = [pattern for pattern in PATTERNS if weights or not pattern.endswith(".safetensors")]
    try:
        return Path(
            huggingface_hub.snapshot_download(source.model_id, revision=source.revision, allow_patterns=patterns)
        )
    except hub_errors.GatedRepoError as error:
        raise CheckpointError(
            f"{source.model_id} is gated: accept its licence at https://huggingface.co/{source.model_id}, "
            "then run `hf auth login` (or set HF_TOKEN)"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise UnknownModel(f"{source.model_id} has no revision {source.revision!r}") from error
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError) as error:
        known = [model.hub_id for model in MODELS.values()]
        raise UnknownModel(
            f"the Hub has no {source.model_id!r}, or not for you: {nearest(source.model_id, known)}"
            "a private repository needs `hf auth login`"
        ) from error
    except (
        hub_errors.IncompleteSnapshotError,
        hub_errors.LocalEntryNotFoundError,
        hub_errors.OfflineModeIsEnabled,
    ) as error:
        raise CheckpointError(
            f"{source.model_id} is not whole in this machine's cache, and the Hub cannot be reached: connect and run "
            f"`python -m mlx_interp download {source.name}`, or give a local folder or an embedded model"
        ) from error
    except (hub_errors.HfHubHTTPError, hub_errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise CheckpointError(
            f"downloading {source.model_id} stopped: {' '.join(str(error).split())[:300]}; run the same command again: "
            "files that arrived whole are kept"
        ) from error


def cached_folder(source: Source) -> Path | None:
    """The folder of a Hub model if it is in the cache with its config; the network is not asked."""
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                source.model_id,
                revision=source.revision,
                allow_patterns=["config.json"],
                local_files_only=True,
            )
        )
    except (hub_errors.LocalEntryNotFoundError, OSError, ValueError):
        return None
    weights = list(folder.glob("model*.safetensors"))
    return folder if (folder / "config.json").is_file() and weights else None
