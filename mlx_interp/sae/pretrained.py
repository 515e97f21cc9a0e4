"""Released autoencoders, through huggingface_hub, behind a gate: measured on the model at hand before they are used.

Public ones were trained on 16-bit base weights: on 4-bit or instruction-tuned ones they may or may not describe what
the model does, and a wrong index or scale still explains most of the variance. `pretrained` returns none unmeasured.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_interp.deferred import hub_errors, huggingface_hub
from mlx_interp.errors import SAEError
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt
from mlx_interp.sae.files import CONFIG, NPZ, WEIGHTS, gemma_scope_site, load, with_meta
from mlx_interp.sae.metrics import Fidelity, Gate, check_fits, fidelity
from mlx_interp.sae.sae import SAE


@dataclass(frozen=True)
class Pretrained:
    """An autoencoder that passed the gate, and what was measured."""

    sae: SAE
    fidelity: Fidelity
    reference: Fidelity | None
    """The same on the unquantised model, where one was given."""


def pretrained(
    model: Model,
    repository: str,
    folder: str,
    prompts: Sequence[AnyPrompt],
    *,
    starts: Sequence[int] | None = None,
    reference: Model | None = None,
    gate: Gate | None = None,
    site: str | None = None,
    scale: float | None = None,
    l0: float | None = None,
    revision: str | None = None,
) -> Pretrained:
    """A released autoencoder for a model, measured on texts.

    repository, folder: on the Hub, e.g. "google/gemma-scope-2b-pt-res", "layer_12/width_16k/average_l0_82"; or a local
    folder and "". prompts, starts: texts to measure on, as in `fidelity`; a few dozen of ordinary prose.
    reference: the same model unquantised; beside it the gate's bounds must hold too, and the figures are kept.
    site, scale: as in `load`. l0: that of the release, where its name does not say.
    Raises SAEError for one that cannot be had, does not fit, or does not pass; the message has the figures.
    """
    sae = fetched(repository, folder, site=site, scale=scale, revision=revision)
    if l0 is not None:
        sae = with_meta(sae, l0=l0)
    gate = gate or Gate()
    found: list[Fidelity] = []
    for one in (model, *([] if reference is None else [reference])):
        check_fits(sae, one)
        found.append(fidelity(one, sae, one.prompts(list(prompts)), starts=starts))
    beside = f" Unquantised: {found[1]}." if len(found) > 1 else ""
    for measured in found:
        if faults := gate.faults(sae, measured):
            raise SAEError(f"{sae} does not describe this model: {'; '.join(faults)}. Measured {found[0]}.{beside}")
    return Pretrained(sae, found[0], found[1] if len(found) > 1 else None)


def fetched(
    repository: str,
    folder: str,
    *,
    site: str | None = None,
    scale: float | None = None,
    revision: str | None = None,
) -> SAE:
    """A released autoencoder as it is in its file, not measured. Raises SAEError."""
    if Path(repository).is_dir():
        where = Path(repository) / folder
    else:
        where = _downloaded(repository, folder.strip("/"), revision)
    if (where / NPZ).exists() and not (where / CONFIG).exists():
        named = f"{repository}/{folder}/"
        found = load(where / NPZ, site=site or gemma_scope_site(named))
        l0 = re.search(r"average_l0_(\d+)", named)
        return with_meta(found, l0=float(l0.group(1))) if l0 else found
    return load(where, site=site, scale=scale)


def _downloaded(repository: str, folder: str, revision: str | None) -> Path:
    prefix = f"{folder}/" if folder else ""
    patterns = [prefix + name for name in (CONFIG, WEIGHTS, NPZ)]
    try:
        root = Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except hub_errors.GatedRepoError as error:
        raise SAEError(f"{repository} is gated: accept its licence on the Hub, then run `hf auth login`") from error
    except (
        hub_errors.RepositoryNotFoundError,
        hub_errors.RevisionNotFoundError,
        hub_errors.HFValidationError,
    ) as error:
        raise SAEError(f"the Hub has no {repository!r} (revision {revision or 'main'}), or not for you") from error
    except (hub_errors.LocalEntryNotFoundError, hub_errors.OfflineModeIsEnabled) as error:
        raise SAEError(f"{repository}: not in this machine's cache, and the Hub cannot be reached") from error
    except (hub_errors.HfHubHTTPError, hub_errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]
        raise SAEError(f"downloading {repository} stopped: {' '.join(str(error).split())[:300]}") from error
    where = root / folder
    if not any((where / name).exists() for name in (CONFIG, NPZ)):
        raise SAEError(f"{repository} has no autoencoder in {folder!r}: a folder with {CONFIG} or {NPZ} is needed")
    return where
