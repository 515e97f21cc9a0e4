"""What a model is: mlx-lm's modules by what they do, sizes, the table of a layer's steps, and the sites that it has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mlx_interp import sites
from mlx_interp.architectures import Family, mixers
from mlx_interp.engine.block import Order, Step, order_of
from mlx_interp.engine.modules import part_of, weights_of
from mlx_interp.engine.tables import (
    BORROWED,
    DELTA_NET,
    EXPERTS,
    GATED,
    LATENT,
    MAMBA2,
    PLAIN,
    SHARED_EXPERTS,
    SHORT_CONV,
    UNGATED,
    WHOLE,
    WITH_GATE,
    parallel,
    sequential,
    with_own_inputs,
)
from mlx_interp.errors import SiteError, UnsupportedModel
from mlx_interp.sites import Site

if TYPE_CHECKING:
    from mlx_interp.engine.stages import Relay

OF_MIXERS = {mixers.DELTA_NET: DELTA_NET, mixers.MAMBA2: MAMBA2, mixers.SHORT_CONV: SHORT_CONV}
OF_EXPERTS = frozenset({"router", "choice", "expert_weights", "experts", "expert_out", "shared_out"})
OF_ONE_MLP = frozenset({"mlp_gate", "mlp_up", "mlp_act"})
MIXERS_SITES = frozenset(name for step in (*DELTA_NET, *MAMBA2, *SHORT_CONV) for name in (*step.makes, *step.inside))


@dataclass(frozen=True)
class Anatomy:
    """mlx-lm's model of a described family: its modules, sizes and sites."""

    mlx_model: Any
    family: Family
    config: dict[str, Any]

    @cached_property
    def relay(self) -> Relay | None:
        """What processes that hold some layers each send each other (`stages.py`); None of a model that is whole."""
        found: Relay | None = getattr(self.mlx_model, "relay", None)
        return found

    @cached_property
    def staged(self) -> bool:
        """Whether passes hand the stream from process to process: layers read nothing else of each other."""
        return self.relay is not None and not (self.recurrent or self.lenders or self.d_ple)

    @cached_property
    def language_model(self) -> Any:
        """The part of mlx-lm's model that turns tokens into logits."""
        return getattr(self.mlx_model, self.family.root) if self.family.root else self.mlx_model

    @cached_property
    def args(self) -> Any:
        """The arguments that mlx-lm's class was made with: what it computes with, whatever the config leaves out."""
        return self.language_model.args

    @cached_property
    def decoder(self) -> Any:
        return getattr(self.language_model, self.family.decoder)

    @cached_property
    def layers(self) -> list[Any]:
        return list(getattr(self.decoder, self.family.layers))

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def n_heads(self) -> int:
        return int(getattr(self.args, self.family.sizes.n_heads))

    @cached_property
    def n_kv_heads(self) -> int:
        return int(getattr(self.args, self.family.sizes.n_kv_heads) or self.n_heads)

    @cached_property
    def d_model(self) -> int:
        return int(getattr(self.args, self.family.sizes.d_model))

    @cached_property
    def d_head(self) -> int:
        if (latent := self.family.latent) is not None:
            return int(getattr(self.args, latent.d_plain) + getattr(self.args, latent.d_turned))
        return int(getattr(self.args, "head_dim", None) or self.d_model // self.n_heads)

    @cached_property
    def d_v(self) -> int:
        """Size of a head's values, and of what it mixes: `d_head`, but for latent attention."""
        latent = self.family.latent
        return self.d_head if latent is None else int(getattr(self.args, latent.d_value))

    @cached_property
    def d_latent(self) -> int:
        """Size of what latent attention makes keys and values of; 0 without it."""
        latent = self.family.latent
        return 0 if latent is None else int(getattr(self.args, latent.rank))

    @cached_property
    def d_q_latent(self) -> int:
        """The same of queries; 0 where one matrix makes them."""
        latent = self.family.latent
        return 0 if latent is None else int(getattr(self.args, latent.q_rank) or 0)

    @cached_property
    def d_mlp(self) -> int:
        name = self.family.sizes.d_mlp
        if name == "":
            return self.d_mlp_at(0)
        return int(getattr(self.args, name)) if name else 4 * self.d_model

    def d_head_at(self, layer: int) -> int:
        """A layer's size of heads."""
        name = self.family.head_dim
        return int(getattr(self._attention(layer), name)) if name else self.d_head

    def d_v_at(self, layer: int) -> int:
        """A layer's size of values."""
        return self.d_v if self.family.latent is not None else self.d_head_at(layer)

    def d_mlp_at(self, layer: int) -> int:
        """A layer's hidden width of the MLP, or of one expert."""
        alone = self.family.experts is not None and not self.of_experts(layer)
        if self.family.sizes.d_mlp != "" and not alone:
            return self.d_mlp
        sizes = weights_of(self._mlp(layer)).items()
        return sum(size for name, size in sizes if name.partition(".")[0] == self.family.down) // self.d_model

    @cached_property
    def d_ple(self) -> int:
        """Width of a layer's own embedding of the token; 0 where there is none."""
        own = self.family.own_inputs
        return 0 if own is None else int(getattr(self.args, own.width) or 0)

    def kv_source(self, layer: int) -> int:
        """The layer whose keys and values a layer attends to: itself, or an earlier one."""
        return self.family.kv_source(self.decoder, layer)

    @cached_property
    def lenders(self) -> frozenset[int]:
        """Layers to whose keys and values later ones attend."""
        return frozenset(self.kv_source(layer) for layer in range(self.n_layers) if self.kv_source(layer) != layer)

    @cached_property
    def n_experts(self) -> int:
        """Experts of an MLP; 0 where it is not made of them."""
        experts = self.family.experts
        return 0 if experts is None else int(getattr(self.args, experts.count))

    @cached_property
    def n_chosen(self) -> int:
        """Experts that a token takes."""
        experts = self.family.experts
        return 0 if experts is None else int(getattr(self.args, experts.chosen))

    def of_experts(self, layer: int) -> bool:
        """Whether a layer's MLP is made of experts."""
        experts = self.family.experts
        return experts is not None and experts.experts in self._mlp(layer)

    @cached_property
    def d_shared(self) -> int:
        """Hidden width of the experts that every token takes, together; 0 where there are none."""
        experts = self.family.experts
        if experts is None or experts.shared is None:
            return 0
        mlp = next(self._mlp(layer) for layer in range(self.n_layers) if self.of_experts(layer))
        return sum(weights_of(getattr(mlp, experts.shared)).values()) // (3 * self.d_model)

    @cached_property
    def d_vocab(self) -> int:
        return int(self.args.vocab_size)

    @cached_property
    def n_parameters(self) -> int:
        """Weights, as if none were packed."""
        return sum(weights_of(self.mlx_model).values())

    @cached_property
    def n_mlp_inputs(self) -> int:
        """Matrices through which the MLP's input passes: two where one of them gates the other."""
        if self.family.experts is not None:
            return 2
        mlp = getattr(self.layers[0], self.family.mlp)
        parts = (size for name, size in weights_of(mlp).items() if name.partition(".")[0] not in ("", self.family.down))
        return round(sum(parts) / (self.d_model * self.d_mlp))

    def order(self, layer: int) -> Order:
        """The steps of a layer, with all its sites open."""
        return self._all_open[layer]

    @cached_property
    def _all_open(self) -> tuple[Order, ...]:
        return self.orders(frozenset(sites.KINDS))

    def orders(self, named: frozenset[str]) -> tuple[Order, ...]:
        """The steps of each layer where these sites are asked for."""
        made = {id(table): order_of(table, named) for table in {id(table): table for table in self.tables}.values()}
        return tuple(made[id(table)] for table in self.tables)

    @cached_property
    def tables(self) -> tuple[tuple[Step, ...], ...]:
        """The table of each layer's steps."""
        made: dict[tuple[int, int], tuple[Step, ...]] = {}
        found = []
        for layer in range(self.n_layers):
            mixer, mlp = self._mixer_of(layer), self._mlp_of(layer)
            if (key := (id(mixer), id(mlp))) not in made:
                made[key] = self._table(mixer, mlp)
            found.append(made[key])
        return tuple(found)

    def _table(self, mixer: tuple[Step, ...], mlp: tuple[Step, ...]) -> tuple[Step, ...]:
        if self.parallel:
            return parallel(mlp)
        steps = sequential(mlp, mixer, scaled=self.family.layer_scalar is not None and not self.d_ple)
        return with_own_inputs(steps) if self.d_ple else steps

    def _mlp_of(self, layer: int) -> tuple[Step, ...]:
        if self.of_experts(layer):
            return EXPERTS if self.family.experts is None or self.family.experts.shared is None else SHARED_EXPERTS
        form = self.family.form
        return WHOLE if form is None else GATED if form.gated else UNGATED

    def _mixer_of(self, layer: int) -> tuple[Step, ...]:
        if not self.attends(layer):
            return OF_MIXERS[self.family.mixer]  # type: ignore[index]
        if self.kv_source(layer) != layer:
            return BORROWED
        if self.family.latent is not None:
            return LATENT
        return WITH_GATE if self.family.attn_gate else PLAIN

    def attends(self, layer: int) -> bool:
        """Whether a layer has attention, and no other mixer in its place."""
        mixer = self.family.mixer
        return mixer is None or not mixer.is_in(self.layers[layer])

    @cached_property
    def recurrent(self) -> bool:
        """Whether some layers hold a state that each position changes: equal beginnings are then read text by text."""
        return not all(self.attends(layer) for layer in range(self.n_layers))

    @property
    def has_state(self) -> bool:
        """Whether what is no attention holds a state."""
        return self.family.mixer is not None and self.family.mixer.sizes is not None

    @cached_property
    def uniform(self) -> bool:
        """Whether all layers have the same steps."""
        return len({id(table) for table in self.tables}) == 1

    def layers_with(self, name: str) -> list[int]:
        """The layers that have a site."""
        return [layer for layer in range(self.n_layers) if name in self.order(layer).sites]

    @cached_property
    def parallel(self) -> bool:
        """Whether attention and MLP both read the layer's input."""
        says = self.family.parallel
        return bool(getattr(self.args, says)) if isinstance(says, str) else says

    @cached_property
    def qk_norm(self) -> bool | str:
        """Whether queries and keys are normed, each head by itself or "all heads" as one vector."""
        says = self.family.qk_norm
        return bool(getattr(self.args, says)) if isinstance(says, str) and says != "all heads" else says

    def site_shape(self, site: Site, length: int) -> tuple[int, int]:
        """(number of heads or 0, width) of a site; the width of a pattern is its number of keys, `length`."""
        first, *_ = axes = site.kind.axes
        return (self._size(first, site, length) if site.kind.has_heads else 0), self._size(axes[-1], site, length)

    def _size(self, axis: str, site: Site, length: int) -> int:
        if axis == "d_head":
            return self.d_head_at(site.layer)
        if axis == "d_v":
            return self.d_v_at(site.layer)
        if axis == "d_mlp":
            return self.d_mlp_at(site.layer)
        return length if axis == "key" else self._sizes[axis]

    @cached_property
    def _sizes(self) -> dict[str, int]:
        """Sizes of the axes that are the same in every layer."""
        return {
            "head": self.n_heads,
            "kv_head": self.n_kv_heads,
            "query": 0,
            "d_model": self.d_model,
            "d_ple": self.d_ple,
            "d_latent": self.d_latent,
            "expert": self.n_experts,
            "slot": self.n_chosen,
        } | self._mixer_sizes

    @cached_property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that the model has, in the order of `sites.KINDS`."""
        there = frozenset().union(*(self.order(layer).sites for layer in range(self.n_layers)))
        return tuple(name for name, kind in sites.KINDS.items() if not kind.layered or name in there)

    @property
    def _mixer_sizes(self) -> dict[str, int]:
        """Sizes of the mixers that are no attention."""
        return {}

    def has(self, site: Site, owner: object = None) -> Site:
        """The site. Raises SiteError, naming who asks, where the model, or this layer of it, has none of that name."""
        if site.name in self.sites:
            if not site.kind.layered or site.name in self.order(site.layer).sites:
                return site
            others = self.layers_with(site.name)
            named = f"{owner}: " if owner else ""
            raise SiteError(
                f"{named}no {site.name!r} in layer {site.layer} of this {self.family.model_type}: "
                f"{self._other(site)}; layers with it: write '{site.name}.{','.join(map(str, others))}'"
            )
        named = f"{owner}: " if owner else ""
        raise SiteError(
            f"{named}{self.family.model_type} has no site {site.name!r}: {self._lacks(site.name)}; "
            f"it has {', '.join(self.sites)}"
        )

    def there(self, named: Sequence[Site], selector: str, owner: object = None) -> list[Site]:
        """The sites that a selector names; one without layers names all layers that have the site.

        Raises SiteError for a layer that is named and lacks it, and where no layer has it.
        """
        if len(named) < 2 or self.uniform or sites.names_layers(selector):
            return [self.has(site, owner) for site in (named[:1] if self.uniform else named)] and list(named)
        having = set(self.layers_with(named[0].name))
        return [site for site in named if site.layer in having] or [self.has(named[0], owner)]

    def _other(self, site: Site) -> str:
        """What a layer has in a site's place where others have the site, in words."""
        layer = site.layer
        if self.family.experts is not None and site.name in (*OF_EXPERTS, *OF_ONE_MLP):
            return f"its MLP is {'made of experts' if self.of_experts(layer) else 'one, not made of experts'}"
        if (source := self.kv_source(layer)) != layer:
            return f"it attends to the keys and values of layer {source}"
        if self.attends(layer) or self.family.mixer is None:
            return "it attends to all positions"
        return f"its mixer is {self.family.mixer.noun}, no attention"

    def _lacks(self, name: str) -> str:
        """Why there is no such site, in words."""
        if name in MIXERS_SITES:
            return "its mixers have other parts" if self.recurrent else "all its layers have attention"
        if name == "attn_gate":
            return "its attention has no gate"
        if name.startswith("ple"):
            return "its layers have no embeddings of their own"
        if name == "kv_latent":
            return "each head's keys and values have matrices of their own"
        if name in OF_EXPERTS:
            return "none of its experts is every token's" if self.n_experts else "its MLPs are not made of experts"
        if self.family.experts is not None and name in OF_ONE_MLP:
            return "its MLPs are made of experts, each with hidden activations of its own"
        if name == "resid_mid":
            return "its attention and its MLP both read the layer's input"
        if self.family.form is None:
            return "its description says in one function what its MLP computes: name its matrices in a `Form`"
        return "its MLP has one matrix before the non-linearity, and that is 'mlp_up'"

    @cached_property
    def max_positions(self) -> int | None:
        """How many positions the model has learned; None where RoPE goes on for ever."""
        name = self.family.positions
        return int(getattr(self.decoder, name).weight.shape[0]) if name else None

    @cached_property
    def tied(self) -> bool:
        """Whether the embedding unembeds as well."""
        return self.family.tied(self.config) or part_of(self.language_model, self.family.head) is None

    def scale(self, layer: int) -> float:
        name = self.family.scale
        return float(getattr(self._attention(layer), name)) if name else math.sqrt(1 / self.d_head)

    @cached_property
    def softcap_scores(self) -> float | None:
        key = self.family.softcap_scores
        return float(getattr(self.args, key)) if key else None

    def window(self, layer: int) -> int | None:
        """How many positions back a layer attends, its own included; None for all."""
        return self.family.window(self.decoder, layer)

    def writers(self) -> Iterator[tuple[str, Any, Any]]:
        """All that writes into the residual stream: name, module, and the norm that its output passes (or None)."""
        family = self.family
        if family.experts is not None:
            raise UnsupportedModel(
                f"the MLPs of {family.model_type} write by matrices of experts, which are not edited here: take "
                "Ablate, which removes a direction while the model runs"
            )
        yield family.embed, getattr(self.decoder, family.embed), None
        if family.positions is not None:
            yield family.positions, getattr(self.decoder, family.positions), None
        for layer, block in enumerate(self.layers):
            mixer = None if self.attends(layer) else family.mixer
            for part, name, norm in (
                (family.attention, family.out, family.norms.after_attn)
                if mixer is None
                else (mixer.name, mixer.out, None),
                (family.mlp, family.down, family.norms.after_mlp),
            ):
                module = getattr(getattr(block, part), name)
                yield f"{layer}.{part}.{name}", module, getattr(block, norm) if norm else None
            if self.d_ple and (own := family.own_inputs) is not None:
                yield f"{layer}.{own.project}", getattr(block, own.project), getattr(block, own.norm)

    def _attention(self, layer: int) -> Any:
        return getattr(self.layers[layer], self.family.attention)

    def _mlp(self, layer: int) -> Any:
        return getattr(self.layers[layer], self.family.mlp)
