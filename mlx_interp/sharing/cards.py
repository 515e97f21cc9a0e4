"""Model cards of what is shared: written from the thing's own metadata, so that they cannot say something else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mlx_interp.deferred import huggingface_hub
from mlx_interp.directions.direction import Direction
from mlx_interp.lenses.tuned import TunedLens
from mlx_interp.reporting.tables import grid
from mlx_interp.sae.files import hook_of
from mlx_interp.sae.sae import SAE
from mlx_interp.stats import number

Shared: TypeAlias = Direction | Sequence[Direction] | SAE | TunedLens
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def card_of(thing: Shared, repository: str) -> str:
    """README.md of a repository: what it holds, of which model, how it was made, the lines that load it."""
    if isinstance(thing, SAE):
        return _sae_card(thing, repository)
    if isinstance(thing, TunedLens):
        return _lens_card(thing, repository)
    return _direction_card([thing] if isinstance(thing, Direction) else list(thing), repository)


def _direction_card(directions: Sequence[Direction], repository: str) -> str:
    first = directions[0]
    rows = [
        [
            f"`{one.site}`",
            str(one.position),
            one.method,
            one.template,
            number(one.norm),
            "not tested" if one.p_value is None else number(one.p_value, digits=3),
        ]
        for one in directions
    ]
    facts = {
        "model": first.model_id,
        "weights (sha256)": first.weights_hash,
        "quantisation": first.quantization or "none",
        "layers, width": f"{first.n_layers}, {int(first.vector.shape[0])}",
    }
    return _page(
        repository,
        "Steering direction" if len(directions) == 1 else f"{len(directions)} steering directions",
        ["steering-vector"],
        first.model_id,
        facts,
        ["site", "token", "made as", "prompts", "length", "p"],
        rows,
        [
            f'directions = mi.sharing.directions_from_hub("{repository}", model)',
            'model.generate("...", interventions=directions[0].added(1.0))',
        ],
        "A strength of 1 is the length above, in the units of that site. They are for the weights named here: other "
        "weights are refused.",
    )


def _sae_card(sae: SAE, repository: str) -> str:
    facts = {
        "kind": sae.kind,
        "site": f"`{sae.site}` (`{hook_of(sae.site)}`)",
        "features, width": f"{sae.d_sae}, {sae.d_model}",
        **({"k": str(sae.k)} if sae.k else {}),
    }
    rows = [[name, _shown(value)] for name, value in sorted(sae.meta.items()) if _is_fact(value)]
    return _page(
        repository,
        "Sparse autoencoder",
        ["sparse-autoencoder", "saelens"],
        str(sae.meta.get("model", "")),
        facts,
        ["training", "value"],
        rows,
        [f'sae = mi.sharing.sae_from_hub("{repository}")'],
        "In SAELens's layout: a folder named as the hook, with cfg.json and sae_weights.safetensors.",
    )


def _lens_card(lens: TunedLens, repository: str) -> str:
    n, width = lens.bias.shape
    return _page(
        repository,
        "Tuned lens",
        ["tuned-lens"],
        lens.model.split(" ")[0],
        {"model and weights": lens.model or "not said", "translators, width": f"{n}, {width}"},
        [],
        [],
        [f'lens = mi.sharing.lens_from_hub("{repository}")'],
        "Translators of every layer but the last (Belrose et al. 2023). For the weights named here alone.",
    )


def _page(
    repository: str,
    title: str,
    tags: Sequence[str],
    model_id: str,
    facts: Mapping[str, str],
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    code: Sequence[str],
    note: str,
) -> str:
    front = huggingface_hub.ModelCardData(
        library_name="mlx_interp",
        tags=["mechanistic-interpretability", *tags],
        base_model=model_id if HUB_ID.fullmatch(model_id) else None,
    )
    parts = ["---", front.to_yaml(), "---", "", f"# {repository.split('/')[-1]}", ""]
    parts += [f"{title}.", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    if rows:
        parts += [grid(list(heads), [list(row) for row in rows], [False] * len(heads))]
    lines = ["import mlx_interp as mi", "", f'model = mi.load("{model_id or "MODEL"}")', *code]
    return "\n".join([*parts, "```python", *lines, "```", "", note, ""])


def _is_fact(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _shown(value: str | int | float | bool) -> str:
    return number(value) if isinstance(value, float) else str(value).replace("|", "\\|")
