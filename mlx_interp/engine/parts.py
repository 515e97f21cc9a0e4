"""Is mlx-lm's model laid out as its family says? What is named and missing, or there and not named, is refused."""

from __future__ import annotations

from mlx_interp.architectures import PAGE, Family
from mlx_interp.deferred import nn
from mlx_interp.engine.network import Network
from mlx_interp.errors import UnsupportedModel


def check_parts(network: Network) -> None:
    """Raises UnsupportedModel for a part that the family names and the model lacks, or the other way round."""
    family, norms = network.family, network.family.norms
    try:
        decoder = network.decoder
        block = network.layers[next(layer for layer in range(network.n_layers) if network.attends(layer))]
        attention = getattr(block, family.attention)
        in_attention = _attention_parts(network)
        in_block = [n for n in (norms.before_attn, norms.after_attn, norms.before_mlp, norms.after_mlp) if n]
        if network.d_ple and (own := family.own_inputs) is not None:
            in_block += [own.gate, own.project, own.norm]
        parts = [(decoder, family.embed), (decoder, family.norm)]
        parts += [
            (getattr(each, family.mlp), name)
            for layer, each in enumerate(network.layers)
            for name in _mlp_parts(network, layer)
        ]
        parts += [(decoder, family.positions)] if family.positions else []
        parts += [(attention, name) for name in in_attention] + [(block, name) for name in in_block]
        for owner, name in parts:
            getattr(owner, name)
    except (AttributeError, IndexError, StopIteration) as error:
        raise UnsupportedModel(
            f"{family.model_type}: mlx-lm's model is not laid out as described: {error} ({PAGE})"
        ) from error
    _refuse_unnamed(family, "layer", block, {family.attention, family.mlp, *in_block})
    _refuse_unnamed(family, "attention", attention, set(in_attention))
    for layer, other in enumerate(network.layers):
        if network.of_experts(layer):
            _refuse_unnamed(family, "MLP", getattr(other, family.mlp), set(_mlp_parts(network, layer)))
        if not network.attends(layer) and (mixer := family.mixer) is not None:
            _refuse_unnamed(family, "layer", other, {mixer.name, family.mlp, *in_block})
            _refuse_unnamed(family, "mixer", other[mixer.name], set(mixer.parts))


def _attention_parts(network: Network) -> list[str]:
    family = network.family
    if (latent := family.latent) is not None:
        names = [*(latent.q_parts if network.d_q_latent else ["q_proj"]), latent.down, latent.norm, latent.up]
    else:
        names = ["q_proj", "k_proj", "v_proj"] if family.qkv == "separate" else [family.qkv_name]
    names += [family.q_norm, family.k_norm] if network.qk_norm else []
    names += ["rope"] if family.rope else []
    names += [family.scale] if family.scale else []
    names += [family.v_norm] if family.v_norm else []
    return [*names, family.out]


def _mlp_parts(network: Network, layer: int) -> list[str]:
    experts = network.family.experts
    if experts is None or not network.of_experts(layer):
        return [network.family.down]
    return [experts.router, experts.experts, *([experts.shared] if experts.shared else [])]


def _refuse_unnamed(family: Family, where: str, owner: nn.Module, named: set[str]) -> None:
    """A part that nobody described would be left out of the forward pass."""
    parts = {name for name, part in owner.children().items() if isinstance(part, nn.Module)}
    unnamed = sorted(name for name in parts - named if not isinstance(owner[name], nn.Dropout))
    if unnamed:
        raise UnsupportedModel(
            f"{family.model_type}: mlx-lm's {where} has {', '.join(unnamed)}, of which its Family says nothing ({PAGE})"
        )
