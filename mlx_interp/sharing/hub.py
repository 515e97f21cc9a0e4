"""Repositories of the Hub for what this library makes: pushed in one commit, pulled and checked against the model.

A push is one commit: cut off, it leaves the repository as it was. New repositories are private unless asked otherwise.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from mlx_interp.deferred import hub_errors, huggingface_hub
from mlx_interp.directions.direction import Direction, load_direction, save_direction
from mlx_interp.directions.probes import Probe, load_probe, save_probe
from mlx_interp.errors import DataError, DirectionError, RunError, SAEError, SharingError
from mlx_interp.lenses.tuned import TunedLens, load_lens
from mlx_interp.model import Model
from mlx_interp.sae import files as sae_files
from mlx_interp.sae.sae import SAE
from mlx_interp.sharing.cards import Shared, card_of
from mlx_interp.store.manifest import STORE_FILE, held, manifests
from mlx_interp.store.reader import ActivationStore

CARD, LENS = "README.md", "tuned_lens.safetensors"


def push_to_hub(thing: Shared, repository: str, *, private: bool = True, message: str = "") -> str:
    """Upload directions, probes, an autoencoder, a tuned lens or a store, with a card; returns the commit's address.

    repository: "user/name", made if it is not there, private unless private=False; of a store a data set, of all else
    a model. Raises SharingError for nothing to share, a name that is none, a missing token, a damaged store, or an
    upload that stopped (the repository is then as it was), and RunError for a store that is being collected.
    """
    kind = "dataset" if isinstance(thing, ActivationStore) else "model"
    with tempfile.TemporaryDirectory() as folder, _explained(repository, "uploading"), _held(thing):
        if isinstance(thing, ActivationStore):
            thing = ActivationStore(thing.path)  # it may have grown since it was opened
        _write(thing, Path(folder), repository)
        files = {str(path.relative_to(folder)): path for path in Path(folder).rglob("*") if path.is_file()}
        if isinstance(thing, ActivationStore):
            files |= {name: thing.path / name for name in _files_of(thing)}
        api = huggingface_hub.HfApi()
        api.create_repo(repository, private=private, exist_ok=True, repo_type=kind)
        done = api.create_commit(
            repository,
            [huggingface_hub.CommitOperationAdd(name, path) for name, path in sorted(files.items())],
            commit_message=message or f"Upload {_named(thing)}",
            repo_type=kind,
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


def probes_from_hub(repository: str, model: Model, *, revision: str | None = None) -> list[Probe]:
    """The probes of a repository, by site, each checked against the model.

    Raises SharingError for a repository that holds none or cannot be had, and DirectionError for another model, or for
    a direction without a threshold.
    """
    folder = _pulled(repository, revision, ["*.safetensors"])
    found = [load_probe(path, model) for path in sorted(folder.glob("*.safetensors")) if path.name != LENS]
    if not found:
        raise SharingError(f"{repository}: holds no probe of this library")
    return found


def store_from_hub(repository: str, *, revision: str | None = None) -> ActivationStore:
    """The store of activations in a data set of the Hub; every shard is held against its checksum.

    Raises SharingError where the data set cannot be had or holds no store; a shard with other bytes than were written
    is left out with a warning, as from a store on disk.
    """
    folder = _pulled(repository, revision, [STORE_FILE, "samples*.jsonl", "*.safetensors"], kind="dataset")
    if not (folder / STORE_FILE).is_file():
        raise SharingError(f"{repository}: holds no store of activations ({STORE_FILE} is not there)")
    return ActivationStore(folder, verify=True)


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
    elif not isinstance(thing, ActivationStore):
        _write_directions(thing, folder, repository)
    (folder / CARD).write_text(card_of(thing, repository), encoding="utf-8")


def _write_directions(thing: Direction | Probe | Sequence[Direction | Probe], folder: Path, repository: str) -> None:
    """Directions, or probes, one file a site."""
    found = [thing] if isinstance(thing, Direction | Probe) else list(thing)
    if not any(found and all(isinstance(one, kind) for one in found) for kind in (Direction, Probe)):
        raise SharingError(
            "nothing to share: give a Direction or a Probe, some of one model, an SAE, a TunedLens or a store"
        )
    directions = [one.direction if isinstance(one, Probe) else one for one in found]
    if len({one.weights_hash for one in directions}) > 1:
        raise SharingError(f"{repository}: directions of different weights; give each model a repository of its own")
    if len({one.site for one in directions}) < len(directions):
        raise SharingError(f"{repository}: two directions of one site; give each a repository of its own")
    for one, direction in zip(found, directions, strict=True):
        path = folder / f"{direction.site}.safetensors"
        if isinstance(one, Probe):
            save_probe(one, path)
        else:
            save_direction(one, path)


def _named(thing: Shared) -> str:
    if isinstance(thing, SAE | TunedLens | Direction | Probe | ActivationStore):
        names = {SAE: "autoencoder", TunedLens: "tuned lens", Direction: "direction", Probe: "probe"}
        return names.get(type(thing), "store of activations")
    return f"{len(thing)} {'probes' if isinstance(thing[0], Probe) else 'directions'}"


def _held(thing: Shared) -> AbstractContextManager[None]:
    """A store may not grow while it is sent: its list would name shards that were not."""
    return held(thing.path) if isinstance(thing, ActivationStore) else nullcontext()


def _files_of(store: ActivationStore) -> list[str]:
    """What of a folder is the store, by name. Raises SharingError for damaged shards, which its list names."""
    if damaged := store.verify():
        raise SharingError(
            f"{store.path}: {', '.join(damaged)} cannot be read: collect into this folder again, which makes them anew"
        )
    return [STORE_FILE, *(file.name for file in manifests(store.path)), *(info.shard for info in store.shards)]


def _pulled(repository: str, revision: str | None, patterns: list[str], kind: str = "model") -> Path:
    with _explained(repository, "downloading"):
        return Path(
            huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=patterns, repo_type=kind)
        )


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
    except (DataError, DirectionError, SAEError, SharingError, RunError):
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
