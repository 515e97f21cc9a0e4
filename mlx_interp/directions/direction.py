"""Directions: found as a difference of means, applied, and kept in files that say what they are.

1. Run both sets of prompts in batches; keep one site's activation at one position of each; sum in float32.
2. The direction is the difference of the two means (diff-of-means; Marks and Tegmark 2023, Arditi et al. 2024), with
   its length: how far apart the classes are, in the units of that site.
3. A p value says whether the classes differ by more than chance (direction_test); what does not is a direction
   all the same, and carries the p value with it. With causal attention, activations before the texts diverge are
   identical, and their difference is rounding noise that normalising would hide: that is refused.
4. A file carries all that is needed to apply a direction rightly; one that does not fit the model is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mlx_interp import sites
from mlx_interp.deferred import mx
from mlx_interp.directions.states import compared, states_of
from mlx_interp.errors import DataError, DirectionError
from mlx_interp.interventions import Ablate, Add, Intervention, Positions
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt
from mlx_interp.shapes import ShapesShown
from mlx_interp.stats.distance import LEVEL

FORMAT = "mlx_interp direction 1"


@dataclass(frozen=True, eq=False, repr=False)
class Direction(ShapesShown):
    """A direction of one site of one model, with its length."""

    vector: mx.array
    """(d_model,), float32, not normalised."""
    site: str
    """Where it was found, e.g. "resid_post.5"."""
    position: int
    """Of the token it was read at; negative ones count from the prompt's end."""
    method: str
    """How it was made, in a sentence."""
    template: str
    """"chat" or "plain": how its prompts were presented."""
    model_id: str
    weights_hash: str
    quantization: str
    """Of the checkpoint; "" if it is unquantised."""
    n_layers: int
    floor: float
    """Noise floor: the length that rounding alone may give; no direction is as short. In files of versions without a
    p value, the length that random halves of one class give."""
    p_value: float | None = None
    """P value of the test for a difference of the classes, for the family of sites it was found among; None in older
    files."""

    @classmethod
    def of(
        cls,
        model: Model,
        vector: np.ndarray,
        site: str,
        *,
        position: int,
        method: str,
        template: str,
        floor: float,
        p_value: float | None,
    ) -> Direction:
        """A direction (d_model,) of a model, with the facts by which a file is held against it."""
        return cls(
            vector=mx.array(vector.astype(np.float32)),
            site=site,
            position=position,
            method=method,
            template=template,
            model_id=model.model_id,
            weights_hash=model.weights_hash,
            quantization=model.quantization or "",
            n_layers=model.n_layers,
            floor=floor,
            p_value=p_value,
        )

    @property
    def significant(self) -> bool | None:
        """Whether the classes differ by more than chance, at 5 %; None where that was not tested."""
        return None if self.p_value is None else self.p_value <= LEVEL

    @property
    def norm(self) -> float:
        return float(mx.linalg.norm(self.vector))

    @property
    def unit(self) -> mx.array:
        return self.vector / self.norm

    def interventions(self) -> list[Intervention]:
        """What it does where interventions are listed: it is added at its own site, at all positions, once."""
        return [self.added()]

    def added(self, scale: float = 1.0, *, positions: Positions = None) -> Add:
        """Activation addition at the direction's own site; scale 1 moves from one class's mean to the other's."""
        return Add(self.site, self.vector, scale, positions)

    def ablated(self, site: str | None = None, *, positions: Positions = None) -> Ablate:
        """Directional ablation, at the direction's own site or another selector, e.g. "resid_post" for all layers."""
        return Ablate(site or self.site, self.vector, positions)

    def ablated_everywhere(self, *, positions: Positions = None) -> list[Intervention]:
        """Directional ablation of everything that is written to the stream, at all layers (Arditi et al. 2024)."""
        return [Ablate(site, self.vector, positions) for site in ("resid_pre", "attn_out", "mlp_out")]


def diff_of_means(
    model: Model,
    positive: Sequence[AnyPrompt],
    negative: Sequence[AnyPrompt],
    site: str,
    *,
    position: int = -1,
    template: str = "plain",
    seed: int = 0,
) -> Direction:
    """Difference of means of one site: over the positive prompts minus over the negative ones, in float32.

    Its p value says whether the classes differ by more than chance. Raises DirectionError if they differ by no more
    than rounding, and DataError for fewer than four prompts in a class, which no test can tell apart at 5 %, and for a
    position that a prompt does not have.
    """
    if min(len(positive), len(negative)) < 4:
        raise DataError(f"four prompts of each class or more are needed, found {len(positive)} and {len(negative)}")
    where = str(sites.parse_one(site, model.n_layers))
    above, below = (states_of(model, prompts, where, position=position) for prompts in (positive, negative))
    floor, p_value = compared(model, above, below, f"{where} at position {position}", seed=seed)
    vector = above.mean(axis=0) - below.mean(axis=0)
    made = f"difference of means of {len(positive)} and {len(negative)} prompts"
    return Direction.of(
        model, vector, where, position=position, method=made, template=template, floor=floor, p_value=p_value
    )


def direction_bytes(direction: Direction, more: Mapping[str, str] | None = None) -> bytes:
    """A direction as the content of a safetensors file, which `load_direction` reads; more: metadata beside it."""
    facts = {field.name: getattr(direction, field.name) for field in fields(direction) if field.name != "vector"}
    metadata = {"format": FORMAT, "direction": json.dumps(facts), **(more or {})}
    return bytes(save({"vector": np.asarray(direction.vector, dtype=np.float32)}, metadata=metadata))


def save_direction(direction: Direction, path: Path | str) -> None:
    """Writes a direction as safetensors, in one step: a reader sees the old file or the new."""
    write_direction(direction_bytes(direction), path)


def write_direction(content: bytes, path: Path | str) -> None:
    """The bytes of a direction's file in one step. Raises DirectionError where they cannot be written."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DirectionError(f"{path}: the direction cannot be written: {error}") from error


def load_direction(path: Path | str, model: Model | None = None) -> Direction:
    """Reads a direction; for `model`, if given, it must be one of that model's own.

    Raises DirectionError for a file that is none, is damaged, or does not fit the model, saying what differs.
    """
    return read_direction(path, model)[0]


def read_direction(path: Path | str, model: Model | None = None) -> tuple[Direction, dict[str, str]]:
    """What `load_direction` reads, and the file's metadata. Raises what it raises."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise DirectionError(f"{path}: not a direction of this library (format {metadata.get('format')!r})")
            vector = mx.array(file.get_tensor("vector"))
        direction = Direction(vector=vector, **json.loads(metadata["direction"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DirectionError(f"{path}: cannot be read as a direction: {error}") from error
    if model is not None:
        refuse_misfit(direction, model, path)
    return direction, metadata


def refuse_misfit(direction: Direction, model: Model, path: Path | str) -> None:
    """Raises DirectionError, naming `path`, for a direction of another model or of other weights."""
    width = int(direction.vector.shape[0])
    if width != model.d_model or direction.n_layers != model.n_layers:
        raise DirectionError(
            f"{path}: made on {direction.model_id} ({direction.n_layers} layers, width {width}), "
            f"which is not {model.name} ({model.n_layers} layers, width {model.d_model})"
        )
    if direction.weights_hash != model.weights_hash:
        kept, here = (text[:12] or "unknown" for text in (direction.weights_hash, model.weights_hash))
        raise DirectionError(
            f"{path}: made on other weights: {direction.model_id}, {direction.quantization or 'unquantised'} ({kept}), "
            f"not {model.model_id}, {model.quantization or 'unquantised'} ({here}); make it anew on this model"
        )
