"""A prompt's own run, kept: its residual stream to read, and all that sweeps need which patch that stream alone.

Back-patching takes its values from the prompt that it patches. The run that gives them is the sweep's clean run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_interp.deferred import mx
from mlx_interp.engine.clean_run import Clean, Entry, run_clean
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import EditPlan
from mlx_interp.engine.prefix_tree import alone
from mlx_interp.sites import Site


@dataclass(frozen=True)
class KeptRun:
    """One prompt's run, from `Model.keep`."""

    tokens: tuple[int, ...]
    clean: Clean
    n_layers: int

    def states(self, position: int) -> mx.array:
        """(n_layers + 1, d_model): resid_post of every layer at a position, and in the last row what enters layer 0."""
        captured = self.clean.captured
        return mx.concatenate([captured[site][:, position] for site in stream(self.n_layers)])

    def serves(self, tokens: Sequence[int], plan: EditPlan) -> bool:
        """Whether a sweep of these tokens needs nothing else of a clean run."""
        return self.tokens == tuple(tokens) and not plan.blocked and plan.edits.keys() <= set(stream(self.n_layers))


def stream(n_layers: int) -> list[Site]:
    """The residual stream behind every layer, and before the first one."""
    return [*(Site("resid_post", layer) for layer in range(n_layers)), Site("resid_pre", 0)]


def keep_run(net: Network, tokens: Sequence[int]) -> KeptRun:
    """See `Model.keep`."""
    sites = stream(net.n_layers)
    entries = [Entry(1, site.layer, net.order(site.layer).join_of[site.name]) for site in sites]
    clean = run_clean(net, alone(tokens), EditPlan(), entries, frozenset(sites), whole=True)
    last = clean.at[net.n_layers - 1, entries[-2].join]  # variants hold the last position alone there
    clean.at[net.n_layers - 1, entries[-2].join] = {name: x[:, -1:] for name, x in last.items()}
    mx.eval(clean.captured, clean.k, clean.v, clean.at)
    return KeptRun(tuple(tokens), clean, net.n_layers)
