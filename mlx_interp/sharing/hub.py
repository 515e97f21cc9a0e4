"""Repositories of the Hub for what this library makes: pushed in one commit, pulled and checked against the model.

A push is one commit: cut off, it leaves the repository as it was. New repositories are private unless asked otherwise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_interp.deferred import hub_errors, huggingface_hub
from mlx_interp.directions.direction import Direction, load_direction, save_direction
from mlx_interp.errors import DataError, DirectionError, SAEError, SharingError
from mlx_interp.lenses.tuned import TunedLens, load_lens
from mlx_interp.model import Model
from mlx_interp.sae import files as sae_files
from mlx_interp.sae.sae import SAE
from mlx_interp.sharing.cards import Shared, card_of

CARD, LENS = "README.md", "tuned_lens.safetensors"


def push_to_hub(thing: Shared, repository: str, *, private: bool = True, message: str = "") -> str:
    """Upload a direction, several, an autoencoder or a tuned lens with its model card; returns the commit's address.

    repository: "user/name", made if it is not there, private unless private=False. Raises SharingError for nothing to
    share, a name that is none, a missing token, or an upload that stopped (the repository is then as it was).
    """
    with tempfile.TemporaryDirectory() as folder, _explained(repository, "uploading"):
        _write(thing, Path(folder), repository)
        api = huggingface_hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=message or f"Upload {_named(thing)}"
        )
        return str(done.commit_url)


def directions_from_hub(repository: str, model: Model, *, revision: str | None = None) -> list[Direction]:
    """The directions of a repository, by site, each checked against the model.

    Raises SharingError for a repository that holds none or cannot be had, and DirectionError for another model.
    """
    folder = _pulled(repository, revision, ["*.safetensors"])
    found: list[Direction] = []
    for path in sorted(folder.glob("*.safetensors")):
        if path.name != LENS:
            found.append(load_direction(path, model))
    if not found:
        raise SharingError(f"{repository}: holds no direction of this library")
    return found


def sae_from_hub(repository: str, *, site: str | None = None, revision: str | None = None) -> SAE:
    """The autoencoder of a repository in SAELens's layout; `site` chooses where there are several.

    Raises SharingError where there is none, or several and none was chosen, and SAEError for one that cannot be read.
    """
    folder = _pulled(repository, revision, [f"*{sae_files.CONFIG}", f"*{sae_files.WEIGHTS}"])
    folders = sorted(path.parent for path in folder.rglob(sae_files.CONFIG))
    found = {sae.site: sae for sae in map(sae_files.load, folders)}
    if site is not None and site in found:
        return found[site]
    if len(found) == 1 and site is None:
        return next(iter(found.values()))
    held = ", ".join(found) or "no autoencoder"
    raise SharingError(f"{repository}: holds {held}; " + (f"none of {site!r}" if site else "say which: site=..."))


def lens_from_hub(repository: str, *, revision: str | None = None) -> TunedLens:
    """The tuned lens of a repository. Raises SharingError where there is none."""
    path = _pulled(repository, revision, [LENS]) / LENS
    if not path.is_file():
        raise SharingError(f"{repository}: holds no {LENS}")
    return load_lens(path)


def _write(thing: Shared, folder: Path, repository: str) -> None:
    if isinstance(thing, SAE):
        sae_files.save(thing, folder / sae_files.hook_of(thing.site))
    elif isinstance(thing, TunedLens):
        thing.save(folder / LENS)
    else:
        directions = [thing] if isinstance(thing, Direction) else list(thing)
        if not directions or not all(isinstance(one, Direction) for one in directions):
            raise SharingError("nothing to share: give a Direction, some of one model, an SAE or a TunedLens")
        if len({one.weights_hash for one in directions}) > 1:
            raise SharingError(
                f"{repository}: directions of different weights; give each model a repository of its own"
            )
        if len({one.site for one in directions}) < len(directions):
            raise SharingError(f"{repository}: two directions of one site; give each a repository of its own")
        for one in directions:
            save_direction(one, folder / f"{one.site}.safetensors")
    (folder / CARD).write_text(card_of(thing, repository), encoding="utf-8")


def _named(thing: Shared) -> str:
    if isinstance(thing, SAE | TunedLens | Direction):
        return {SAE: "autoencoder", TunedLens: "tuned lens", Direction: "direction"}[type(thing)]
    return f"{len(thing)} directions"


def _pulled(repository: str, revision: str | None, patterns: list[str]) -> Path:
    with _explained(repository, "downloading"):
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))


@contextmanager
def _explained(repository: str, doing: str) -> Iterator[None]:
    """Errors of the Hub as SharingError, with the way out."""
    try:
        yield
    except hub_errors.HFValidationError as error:
        raise SharingError(f"{repository!r} is no repository's name: user/name, letters, digits and - _ .") from error
    except hub_errors.LocalTokenNotFoundError as error:
        raise SharingError(f"{doing} {repository} needs a token: run `hf auth login`, or set HF_TOKEN") from error
    except (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError) as error:
        raise SharingError(
            f"{repository}: the Hub has it not, or not for you; a private one needs `hf auth login`"
        ) from error
    except (DataError, DirectionError, SAEError):
        raise
    except (hub_errors.HfHubHTTPError, hub_errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise SharingError(
                f"{doing} {repository}: the Hub refuses this token ({status}): `hf auth login` with one that may write"
            ) from error
        what = " ".join(str(error).split())[:300]
        kept = "nothing there was changed" if doing == "uploading" else "files that arrived whole are kept"
        raise SharingError(f"{doing} {repository} stopped, {kept}: {what}") from error
