"""Causal tracing: which states carry a fact through noise (Meng et al. 2022, ROME).

1. Noise is added to the subject's embeddings, at three times their spread, until the answer is lost; several draws.
2. In each noisy run one state of the clean run is put back: the stream after a layer at one position, or what attention
   or MLPs added there in a window of layers. All of them are one sweep.
3. The indirect effect is how much of the answer's probability comes back, averaged over the draws of noise.

The control puts back the state of another prompt, which holds no such fact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.errors import CircuitError
from mlx_interp.interventions import Add, Intervention, Patch
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Kind = Literal["resid_post", "attn_out", "mlp_out"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NOISE = 3.0
"""Of the spread of the subject's embeddings, as in the paper."""
PAPERS_WINDOW, PAPERS_LAYERS = 10, 48
ROLES = (
    *("before the subject", "first subject token", "middle subject tokens", "last subject token"),
    *("first token after", "further tokens", "last token"),
)


@dataclass(frozen=True)
class Trace:
    """Probability of the answer: clean, with noise, and with one state put back (n_layers, n_positions)."""

    clean: float
    noisy: float
    restored: Floats

    @property
    def effects(self) -> Floats:
        """Indirect effect: what each state restores, (n_layers, n_positions)."""
        return self.restored - self.noisy


def window_of(n_layers: int) -> int:
    """Layers in which attention or MLPs are put back together: the paper's ten of 48, in proportion."""
    return max(1, round(PAPERS_WINDOW * n_layers / PAPERS_LAYERS))


def spread(model: Model, prompts: Sequence[Prompt]) -> float:
    """Standard deviation of the prompts' embeddings over all positions and channels."""
    rows = [np.array(model.run(p, capture="resid_pre.0", logits="none")["resid_pre.0"]).ravel() for p in prompts]
    return float(np.concatenate(rows).std())


def causal_trace(
    model: Model,
    prompt: Prompt,
    subject: Sequence[int],
    answer: int,
    *,
    kind: Kind = "resid_post",
    noise: float,
    samples: int = 3,
    seed: int = 0,
    window: int | None = None,
    donor: Prompt | None = None,
) -> Trace:
    """One prompt's trace. subject: positions that get noise of standard deviation `noise`; answer: its token.

    window: layers put back together (default: 1 for the stream, else `window_of`). donor: put back this prompt's
    states instead, which must be of equal length: the control.
    Raises CircuitError for positions outside the prompt or a donor of another length.
    """
    if not subject or not all(0 <= position < len(prompt) for position in subject):
        raise CircuitError(f"subject positions {list(subject)} of a prompt of {len(prompt)} tokens")
    if donor is not None and len(donor) != len(prompt):
        raise CircuitError(f"a donor of {len(donor)} tokens for a prompt of {len(prompt)}")
    width = window or (1 if kind == "resid_post" else window_of(model.n_layers))
    states = model.run(donor or prompt, capture=kind, logits="none").stack(kind)[:, 0]
    cells = [(layer, position) for layer in range(model.n_layers) for position in range(len(prompt))]
    variants: list[list[Intervention]] = [[]]
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        vector = mx.array(rng.normal(0, noise, (len(subject), model.d_model)).astype(np.float32))
        corrupted = Add("resid_pre.0", vector, positions=list(subject))
        variants.append([corrupted])
        for layer, position in cells:
            layers = range(max(layer - (width - 1) // 2, 0), min(layer + width // 2, model.n_layers - 1) + 1)
            variants.append([corrupted, *(Patch(f"{kind}.{n}", states[n, position], position) for n in layers)])
    found = model.sweep(
        prompt, variants, metric=lambda logits: mx.softmax(logits.astype(mx.float32), axis=-1)[:, answer]
    )
    values = np.asarray(found, dtype=np.float64)
    noisy = values[1:].reshape(samples, len(cells) + 1).mean(0)
    return Trace(float(values[0]), float(noisy[0]), noisy[1:].reshape(model.n_layers, len(prompt)))


def roles(length: int, subject: Sequence[int]) -> list[int]:
    """For each position, the index of its role in ROLES."""
    first, last = min(subject), max(subject)

    def role(position: int) -> int:
        if position < first:
            return 0
        if position <= last:
            return 3 if position == last else 1 if position == first else 2
        return 6 if position == length - 1 else 4 if position == last + 1 else 5

    return [role(position) for position in range(length)]


def by_role(effects: Floats, subject: Sequence[int]) -> Floats:
    """(n_layers, n_positions) -> (n_layers, n_roles), the mean over positions of a role; nan where there is none."""
    found = np.full((effects.shape[0], len(ROLES)), np.nan)
    mine = np.array(roles(effects.shape[1], subject))
    for number in range(len(ROLES)):
        if (mine == number).any():
            found[:, number] = effects[:, mine == number].mean(1)
    return found
