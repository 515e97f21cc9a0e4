"""The steps of an MLP that is made of experts: router, choice, weights, what each chosen expert gives, their sum."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_interp.architectures import Experts
from mlx_interp.architectures.experts import computed, spread
from mlx_interp.deferred import mx
from mlx_interp.engine.mixers import Mixers


@dataclass(frozen=True)
class ExpertMLPs(Mixers):
    """MLPs made of experts."""

    def router(self, layer: int, x: mx.array) -> mx.array:
        """What the MLP reads (..., d_model) -> a logit for each expert (..., expert)."""
        router = getattr(self._mlp(layer), self._experts.router)
        logits: mx.array = x @ router.weight.T if self._experts.bare_router else router(x)
        return logits

    def shared_out(self, layer: int, x: mx.array) -> mx.array:
        """What the MLP reads (..., d_model) -> what the experts give that every token takes (..., d_model)."""
        assert self._experts.shared is not None
        out: mx.array = getattr(self._mlp(layer), self._experts.shared)(x)
        return out

    def expert_mlp(self, layer: int, x: mx.array, router: mx.array, *shared: mx.array) -> mx.array:
        """What the MLP reads, the router's logits, any `shared_out` -> what it adds to the stream (..., d_model)."""
        weights, picked = self._picked(router, self.choice(layer, router))
        return self._mixed(layer, self.expert_out(layer, x, picked), weights, *shared)

    def choice(self, layer: int, router: mx.array) -> mx.array:
        """Logits -> what experts are chosen by (..., expert)."""
        return self._experts.choice(router)

    def expert_weights(self, layer: int, router: mx.array, choice: mx.array) -> tuple[mx.array, mx.array]:
        """Logits and what experts are chosen by -> each one's weight (..., expert), and who was picked (..., slot)."""
        weights, picked = self._picked(router, choice)
        return spread(weights, picked, self.n_experts), picked

    def experts(self, layer: int, weights: mx.array, picked: mx.array) -> mx.array:
        """Numbers of the experts to compute (..., slot)."""
        return computed(weights, picked)

    def expert_out(self, layer: int, x: mx.array, experts: mx.array) -> mx.array:
        """What the MLP reads, and numbers of experts -> what each of them gives (..., slot, d_model)."""
        flat = x.reshape(-1, x.shape[-1])
        out: mx.array = getattr(self._mlp(layer), self._experts.experts)(flat, experts.reshape(len(flat), -1))
        return out.reshape(*experts.shape, -1)

    def mixed_experts(
        self, layer: int, out: mx.array, weights: mx.array, experts: mx.array, *shared: mx.array
    ) -> mx.array:
        """What experts give, weighted by (..., expert) -> what the MLP adds to the stream (..., d_model)."""
        return self._mixed(layer, out, mx.take_along_axis(weights, experts, axis=-1), *shared)

    def _picked(self, router: mx.array, choice: mx.array) -> tuple[mx.array, mx.array]:
        picked = self._experts.picked(choice, self.n_chosen)
        return self._experts.weights(self.args, router, picked), picked

    def _mixed(self, layer: int, out: mx.array, weights: mx.array, *shared: mx.array) -> mx.array:
        mixed = (out * weights[..., None]).sum(axis=-2).astype(out.dtype)
        for one in shared:
            mixed = mixed + one
        return self._after(layer, self.family.norms.after_mlp, mixed)

    @property
    def _experts(self) -> Experts:
        assert self.family.experts is not None
        return self.family.experts
