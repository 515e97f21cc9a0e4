"""Control vectors: a vector for each layer's output, to and from the GGUF files of llama.cpp and repeng.

1. A file names its vectors `direction.L`; llama.cpp (common_control_vector_load) and repeng 0.4.0 add `direction.L`,
   times a strength, to the output of block L, counted from 0, at every position: that is `Add("resid_post.L")` here.
2. llama.cpp takes no vector for layer 0 (its buffer begins at layer 1), so that none is written here either.
3. The file says a family (`controlvector.model_hint`) and no more of the model it was made on: width and layers are
   checked, weights cannot be. What llama.cpp would leave out in silence (a layer that the model lacks) is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_interp import sites
from mlx_interp.deferred import mx
from mlx_interp.directions.direction import Direction, refuse_misfit
from mlx_interp.errors import CheckpointError, DirectionError
from mlx_interp.interventions import Add, Intervention
from mlx_interp.loading.gguf.quantised import dense, readable
from mlx_interp.loading.gguf.reader import GGUFFile, read_file
from mlx_interp.model import Model
from mlx_interp.shapes import ShapesShown

ARCHITECTURE = "controlvector"
NAME = re.compile(r"direction\.(\d+)")


@dataclass(frozen=True, eq=False, repr=False)
class ControlVector(ShapesShown):
    """Vectors that are added to the outputs of layers, one each."""

    vectors: Mapping[int, mx.array]
    """(d_model,) in float32 by layer, counted from 0."""
    model_hint: str
    """The family that a file names, e.g. "llama"; a hint, as its name says."""

    def added(self, strength: float = 1.0, *, layers: Sequence[int] | None = None) -> list[Intervention]:
        """Activation additions at every position, of all layers or the ones named, as `--control-vector-scaled` does.

        Raises DirectionError for a layer that has no vector.
        """
        chosen = list(self.vectors) if layers is None else list(layers)
        if missing := [layer for layer in chosen if layer not in self.vectors]:
            raise DirectionError(f"no vector for layer {missing[0]}; there are {_listed(self.vectors)}")
        return [Add(f"resid_post.{layer}", self.vectors[layer], strength) for layer in chosen]

    def interventions(self) -> list[Intervention]:
        """What it does where interventions are listed: added at strength 1."""
        return self.added()


def save_control_vector(path: Path | str, directions: Direction | Sequence[Direction], model: Model) -> None:
    """A control vector from directions of block outputs, as a GGUF file that llama.cpp and repeng read.

    Strength 1 there is what `Direction.added()` is here. Raises DirectionError for a direction of another model or
    site, of layer 0, for two of one layer, and for a file that cannot be written.
    """
    from gguf import GGUFWriter  # deferred: only who writes one waits for it

    path = Path(path)
    vectors = _by_layer([directions] if isinstance(directions, Direction) else list(directions), model)
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        writer = GGUFWriter(part, ARCHITECTURE)
        writer.add_string(f"{ARCHITECTURE}.model_hint", model.family)
        writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
        for layer, vector in sorted(vectors.items()):
            writer.add_tensor(f"direction.{layer}", np.asarray(vector.astype(mx.float32)))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DirectionError(f"{path}: the control vector cannot be written: {error}") from error


def load_control_vector(path: Path | str, model: Model) -> ControlVector:
    """The control vector of a GGUF file, for a model that it fits.

    Raises DirectionError for a file that is none, is damaged, holds numbers that are none, or does not fit.
    """
    path = Path(path)
    try:
        file = read_file(path)
    except CheckpointError as error:
        raise DirectionError(f"{path}: cannot be read as a control vector: {error}") from error
    if file.architecture != ARCHITECTURE:
        what = file.architecture or "nothing"
        raise DirectionError(f"{path}: a GGUF file of {what}, not a control vector ({ARCHITECTURE})")
    vectors: dict[int, mx.array] = {}
    for name in file.tensors:
        layer = NAME.fullmatch(name)
        if layer is None:
            raise DirectionError(f"{path}: holds {name!r}; a control vector's tensors are named direction.LAYER")
        vectors[int(layer[1])] = _vector(file, name, model)
    if not vectors:
        raise DirectionError(f"{path}: a control vector without vectors")
    if beyond := [layer for layer in vectors if layer >= model.n_layers]:
        raise DirectionError(
            f"{path}: has a vector for layer {beyond[0]}; {model.name} has {model.n_layers} layers, counted from 0"
        )
    return ControlVector(dict(sorted(vectors.items())), str(file.metadata.get(f"{ARCHITECTURE}.model_hint", "")))


def _vector(file: GGUFFile, name: str, model: Model) -> mx.array:
    stored = file.tensors[name]
    if stored.shape != (model.d_model,):
        width = " x ".join(map(str, stored.shape))
        raise DirectionError(f"{file.path}: {name} has width {width}; {model.name} has {model.d_model}")
    if not readable(stored.kind):
        raise DirectionError(f"{file.path}: {name} is stored as {stored.kind.name}, which is not read here")
    values = np.asarray(dense(stored.kind, file.blocks(name)), np.float32).reshape(-1)
    if not np.isfinite(values).all():
        raise DirectionError(f"{file.path}: {name} holds values that are not finite")
    return mx.array(values)


def _by_layer(directions: Sequence[Direction], model: Model) -> dict[int, mx.array]:
    if not directions:
        raise DirectionError("a control vector needs a direction at least")
    vectors: dict[int, mx.array] = {}
    for one in directions:
        site = sites.parse_one(one.site, model.n_layers)
        if site.name != "resid_post" or site.layer is None:
            raise DirectionError(f"{one.site}: a control vector is added to outputs of blocks: resid_post.LAYER")
        refuse_misfit(one, model, one.site)
        if site.layer == 0:
            raise DirectionError("resid_post.0: llama.cpp takes no control vector for layer 0; choose a later layer")
        if site.layer in vectors:
            raise DirectionError(f"{one.site}: two directions of one layer; add them first")
        vectors[site.layer] = one.vector
    return vectors


def _listed(vectors: Mapping[int, mx.array]) -> str:
    return ", ".join(map(str, vectors))
