"""Controls in numbers: many random directions and many shuffles of the labels, where the learned direction does most;
and the directions themselves, with what says whether they are more than noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.exp13_steering_reliability.reliability_report import ADDITIONS, compared
from experiments.exp13_steering_reliability.steering_runs import (
    SITE,
    OfRequest,
    ReliabilityConfig,
    Request,
    contrast_of,
    edit_of,
    facts_of,
    layers,
    requests,
    steered,
    vector,
)
from experiments.harness.experiment import Records, Stage
from experiments.harness.state import Run, of_run
from mlx_interp.behaviour.detectors import refusal
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx

DIRECTIONS, DRAWS = "directions", "draws"
LEARNED, RANDOM, SHUFFLED = "learned", "random", "shuffled labels"


@dataclass(frozen=True)
class LayerItem:
    """One layer of the study."""

    key: str
    layer: int


@dataclass(frozen=True)
class DrawItem:
    """A request, and the edits (edit, dose, layer) that are for it."""

    key: str
    request: Request
    edits: tuple[tuple[str, float, int], ...]


def layer_items(run: Run[ReliabilityConfig], earlier: Records) -> list[LayerItem]:
    return [LayerItem(f"layer {layer}", layer) for layer in layers(run)]


class Learned(TypedDict):
    """The learned direction of a layer: all that a direction file needs."""

    layer: int
    n_layers: int
    site: str
    norm: float
    """Length of the difference of means."""
    relative_norm: float
    """The same over the mean norm of the stream there."""
    floor: float
    """Length that rounding alone may give."""
    p_value: float
    stability: float
    """Cosine of the directions of random halves of the prompts."""
    n: list[int]
    """Prompts of each kind."""
    vector: list[float]
    model_id: str
    weights_hash: str
    quantization: str


def measure_direction(run: Run[ReliabilityConfig], item: LayerItem) -> Iterator[Learned]:
    """The learned vector of a layer and its figures; all that a direction file needs."""
    model = run.model
    found = contrast_of(run, LEARNED)
    norm, stream = float(found.norms[item.layer, 0]), float(found.stream[item.layer, 0])
    yield {
        "layer": item.layer,
        "n_layers": model.n_layers,
        "site": f"{SITE}.{item.layer}",
        "norm": norm,
        "relative_norm": norm / stream,
        "floor": float(found.floor[item.layer, 0]),
        "p_value": float(found.p_values[item.layer, 0]),
        "stability": float(found.stability[item.layer, 0]),
        "n": list(found.n),
        "vector": found.vectors[item.layer, 0].tolist(),
        "model_id": model.model_id,
        "weights_hash": model.weights_hash,
        "quantization": model.quantization or "",
    }


def draw_items(run: Run[ReliabilityConfig], earlier: Records) -> list[DrawItem]:
    """Held-out requests of the trained form, under the edits that were chosen on others."""
    chosen = compared(earlier, run.config)
    found = []
    for request in steered(run, earlier):
        own = tuple(one for one in chosen if (one[0] in ADDITIONS) != request.harmful)
        if own and request.split == "test" and request.shift == "same form":
            found.append(DrawItem(f"draws: {request.text}", request, own))
    return found


class Drawn(OfRequest):
    """A request under the learned direction, or under one draw of a control."""

    edit: str
    dose: float
    layer: int
    arm: str
    draw: int
    done: bool
    """Whether the edit did what it is for: a refusal where something is added, none where something is removed."""


def measure_draws(run: Run[ReliabilityConfig], item: DrawItem) -> Iterator[Drawn]:
    """The request under the learned direction and all draws of both controls, as one batch."""
    cells = [(edit, arm, draw) for edit in item.edits for arm, draw in arms(run.config)]
    variants = []
    for (edit, dose, layer), arm, draw in cells:
        stream = float(contrast_of(run, LEARNED).stream[layer, 0])
        variants.append(edit_of(edit, dose, layer, mx.array(drawn(run, layer, arm, draw)), stream))
    prompt = run.model.prompt(item.request.text, chat=True)
    texts = run.model.sweep_generate(prompt, variants, max_tokens=run.config.new_tokens)
    for ((edit, dose, layer), arm, draw), text in zip(cells, texts, strict=True):
        refused = refusal(text.text, ["en"]) is not None
        yield {
            "edit": edit,
            "dose": dose,
            "layer": layer,
            "arm": arm,
            "draw": draw,
            **facts_of(run.model, item.request),
            "done": refused == (edit in ADDITIONS),
        }


def arms(config: ReliabilityConfig) -> list[tuple[str, int]]:
    """The learned direction, and every draw of both controls."""
    return [(LEARNED, 0), *((arm, draw) for arm in (RANDOM, SHUFFLED) for draw in range(config.n_draws))]


@of_run(512)
def drawn(run: Run[ReliabilityConfig], layer: int, arm: str, draw: int) -> np.ndarray:
    """(d_model,): a draw of a control, as long as the learned vector."""
    learned = vector(run, layer, LEARNED)
    if arm == LEARNED:
        return learned
    rng = np.random.default_rng([run.config.seed, layer, draw, arm == RANDOM])
    if arm == RANDOM:
        return random_like(learned, seed=rng).astype(np.float32)
    rows = activations(run)[layer]
    order = rng.permutation(len(rows))
    other = rows[order[: len(rows) // 2]].mean(axis=0) - rows[order[len(rows) // 2 :]].mean(axis=0)
    return np.asarray(other * (np.linalg.norm(learned) / max(float(np.linalg.norm(other)), 1e-12)), np.float32)


@of_run(2)
def activations(run: Run[ReliabilityConfig]) -> dict[int, np.ndarray]:
    """(n_train requests, d_model) of every layer of the study, at the last prompt token, in float64."""
    prompts = [run.model.prompt(r.text, chat=True) for r in requests(run) if r.split == "train"]
    chosen: Sequence[int] = layers(run)
    held: dict[int, list[np.ndarray]] = {layer: [] for layer in chosen}
    for out in run.model.batches(prompts, capture=f"{SITE}.{','.join(map(str, chosen))}"):
        for layer in chosen:
            values = np.asarray(out[f"{SITE}.{layer}"].astype(mx.float32), np.float64)
            held[layer] += [values[row, length - 1] for row, length in enumerate(out.lengths)]
    return {layer: np.stack(rows) for layer, rows in held.items()}


STAGES = (
    Stage(DIRECTIONS, layer_items, measure_direction, record=Learned),
    Stage(DRAWS, draw_items, measure_draws, record=Drawn),
)
