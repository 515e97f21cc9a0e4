"""Distributed alignment search: the subspace of a site that carries a variable, learnt by interchange (Geiger et al.).

1. An exchange is a base prompt, a source prompt, and the token that the base should be answered by if one variable had
   the source's value and all else stayed.
2. A basis of few orthonormal columns says where the variable might be: the base runs with the source's component there
   (`Interchange`). It is trained to raise the probability of the counterfactual token; the model stays as it is.
3. The slope by the basis follows from the slope g by the site's activation behind the interchange: with d = source -
   base, (g d^T + d g^T) B. So a step is one backward pass; then Adam, and the columns are made orthonormal again (QR).
4. Judged on exchanges that were not trained on: how often the counterfactual token is on top, beside random subspaces
   of equal size, which move the same share of the activation's variance on average, and the whole activation patched.

Geiger, Wu, Potts, Icard, Goodman (2024), "Finding Alignments Between Interpretable Causal Variables and Distributed
Neural Representations", arXiv 2303.02536; a rotation is learnt there, of which the first columns are exchanged: only
these matter, and they alone are held here. Cost: `search_cost`; what is held are the rows of one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp import sites
from mlx_interp.deferred import mx, nn, optim
from mlx_interp.engine.cost import Cost
from mlx_interp.engine.gradients import gradients
from mlx_interp.engine.memory import bytes_per_position
from mlx_interp.engine.plan import plan_edits
from mlx_interp.engine.positions import resolve_positions
from mlx_interp.errors import DataError
from mlx_interp.interventions import Interchange, Intervention
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.shapes import ShapesShown
from mlx_interp.sites import Site


@dataclass(frozen=True)
class Exchange:
    """A base and a source prompt, and what the base is answered by with the source's value of a variable."""

    base: Prompt
    source: Prompt
    answer: int
    """Token id."""
    position: int = -1
    """Where the base's activation is changed; negative ones count from the prompt's end."""
    source_position: int = -1
    """Where the source's is read."""

    @property
    def place(self) -> int:
        """The base's position, counted from the start. Raises PositionError where it has none; so `source_place`."""
        return _place(self.base, self.position)

    @property
    def source_place(self) -> int:
        return _place(self.source, self.source_position)

    def edit(self, site: str, value: mx.array, basis: mx.array) -> Intervention:
        """The source's component in place of the base's."""
        return Interchange(site, value, basis, self.place)


def _place(prompt: Prompt, position: int) -> int:
    (found,) = resolve_positions(position, len(prompt), "an exchange") or [0]
    return found


@dataclass(frozen=True, eq=False, repr=False)
class Subspace(ShapesShown):
    """A subspace of one site, and how it was learnt."""

    basis: mx.array
    """(d_model, size), orthonormal columns, float32."""
    site: str
    losses: np.ndarray
    """(steps,): mean surprisal of the counterfactual token in each step's batch, nats."""


def distributed_alignment_search(
    model: Model,
    exchanges: Sequence[Exchange],
    site: str,
    *,
    size: int,
    steps: int = 100,
    batch: int = 16,
    rate: float = 1e-2,
    seed: int = 0,
) -> Subspace:
    """The subspace of a site, of `size` dimensions, that carries what the exchanges vary.

    rate: Adam's, falling linearly to 0. Starts from a random subspace of the seed. Raises DataError for no exchanges,
    a size that the site does not have, no steps, SiteError for a site that is no state of the stream's width, and
    PositionError for a position that a prompt does not have.
    """
    where, states = _read(model, exchanges, site)
    if not 1 <= size <= model.d_model or steps < 1 or batch < 1:
        raise DataError(
            f"size={size}, steps={steps}, batch={batch}: a subspace of {where} has 1 to {model.d_model} dimensions, "
            "and is learnt in a step or more of an exchange or more"
        )
    rng = np.random.default_rng(seed)
    basis = random_subspace(model, size, seed=seed)
    optimizer = optim.Adam(learning_rate=optim.linear_schedule(rate, 0.0, steps))
    losses = np.zeros(steps)
    for step in range(steps):
        rows = rng.permutation(len(exchanges))[:batch]
        chosen = states[:, mx.array(rows)]
        losses[step], slope = _slope(model, [exchanges[row] for row in rows], where, chosen, basis)
        basis = optimizer.apply_gradients({"basis": slope}, {"basis": basis})["basis"]
        basis = _orthonormal(basis)
        mx.eval(basis, optimizer.state)
    return Subspace(basis, str(where), losses)


def interchanged(model: Model, exchanges: Sequence[Exchange], subspace: Subspace) -> mx.array:
    """Last logits of every base with its source's component in a subspace: (n_exchanges, d_vocab)."""
    where, states = _read(model, exchanges, subspace.site)
    if subspace.basis.shape[0] != model.d_model:
        raise DataError(
            f"the subspace is of {subspace.basis.shape[0]} dimensions, {where} of {model.name} of {model.d_model}"
        )
    edits = (one.edit(str(where), states[1, row], subspace.basis) for row, one in enumerate(exchanges))
    return mx.concatenate([model.sweep(one.base, [[edit]]) for one, edit in zip(exchanges, edits, strict=True)])


def interchange_accuracy(model: Model, exchanges: Sequence[Exchange], subspace: Subspace) -> np.ndarray:
    """Interchange accuracy of each exchange (n_exchanges,), bool: the counterfactual token is on top."""
    tops = np.array(mx.argmax(interchanged(model, exchanges, subspace), axis=-1))
    return np.asarray(tops == np.array([one.answer for one in exchanges]))


def random_subspace(model: Model, size: int, *, seed: int) -> mx.array:
    """A random basis (d_model, size), orthonormal columns: the control."""
    drawn = np.random.default_rng(seed).standard_normal((model.d_model, size)).astype(np.float32)
    return _orthonormal(mx.array(drawn))


def search_cost(model: Model, exchanges: Sequence[Exchange], *, steps: int = 100, batch: int = 16) -> Cost:
    """What a search costs, in operations and forward passes; nothing is computed. A backward pass counts as two."""
    if not exchanges:
        raise DataError("no exchanges: nothing to learn from")
    longest = max((one.base for one in exchanges), key=len)
    plain = model.cost(longest, [[]])
    passes = 2.0 * len(exchanges) + 3.0 * steps * min(batch, len(exchanges))
    held = min(batch, len(exchanges)) * len(longest) * model.n_layers * 4 * bytes_per_position(model.network)
    return Cost(passes * plain.flops / plain.forward_passes, passes, held)


def _read(model: Model, exchanges: Sequence[Exchange], site: str) -> tuple[Site, mx.array]:
    """The site, and its states of bases and sources: (2, n_exchanges, d_model), float32."""
    if not exchanges:
        raise DataError("no exchanges: nothing to learn from")
    where = model.network.has(sites.parse_one(site, model.n_layers))
    if where.kind.axes != ("d_model",) or not where.kind.writable:
        raise DataError(f"{where} is no state of the stream's width: take resid_post, resid_mid, attn_out or mlp_out")
    states = [
        _states(model, [one.base for one in exchanges], [one.place for one in exchanges], str(where)),
        _states(model, [one.source for one in exchanges], [one.source_place for one in exchanges], str(where)),
    ]
    return where, mx.stack(states)


def _states(model: Model, prompts: Sequence[Prompt], places: Sequence[int], site: str) -> mx.array:
    """One position's state of each prompt: (n, d_model), float32."""
    rows: list[mx.array] = []
    for out in model.batches(prompts, capture=site):
        for row in range(len(out.lengths)):
            rows.append(out[site][row, places[len(rows)]].astype(mx.float32))
    return mx.stack(rows)


def _slope(
    model: Model, batch: Sequence[Exchange], site: Site, states: mx.array, basis: mx.array
) -> tuple[float, mx.array]:
    """Mean surprisal of the counterfactual tokens, and its slope by the basis. states: (2, row, d_model)."""
    answers = mx.array([one.answer for one in batch])[:, None]

    def surprisal(logits: mx.array) -> mx.array:
        found = -mx.take_along_axis(nn.log_softmax(logits.astype(mx.float32), axis=-1), answers, axis=-1)
        return found[:, 0]

    tokens = [one.base.tokens for one in batch]
    edits = [[one.edit(str(site), states[1, row], basis)] for row, one in enumerate(batch)]
    plan = plan_edits(model.network, edits, [len(row) for row in tokens])
    found = gradients(model.network, tokens, plan, [site], surprisal, "last")
    places = mx.array([one.place for one in batch])
    slopes, apart = found.slopes[site][mx.arange(len(batch)), places].astype(mx.float32), states[1] - states[0]
    by_basis = (slopes.T @ (apart @ basis) + apart.T @ (slopes @ basis)) / len(batch)
    return float(found.metric.mean()), by_basis


def _orthonormal(columns: mx.array) -> mx.array:
    """Orthonormal columns that span the same: Q of a QR decomposition, with R's diagonal above 0."""
    q, r = np.linalg.qr(np.asarray(columns, np.float64))
    signs = np.where(np.diag(r) < 0, -1.0, 1.0)
    return mx.array((q * signs).astype(np.float32))
