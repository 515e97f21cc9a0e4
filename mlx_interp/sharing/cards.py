"""Model cards of what is shared: written from the thing's own metadata, so that they cannot say something else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mlx_interp.deferred import huggingface_hub
from mlx_interp.directions.direction import Direction
from mlx_interp.directions.probes import Probe
from mlx_interp.lenses.tuned import TunedLens
from mlx_interp.reporting.tables import grid
from mlx_interp.sae.files import hook_of
from mlx_interp.sae.sae import SAE
from mlx_interp.stats import number
from mlx_interp.store.reader import ActivationStore

Shared: TypeAlias = Direction | Probe | Sequence[Direction] | Sequence[Probe] | SAE | TunedLens | ActivationStore
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def card_of(thing: Shared, repository: str) -> str:
    """README.md of a repository: what it holds, of which model, how it was made, the lines that load it."""
    if isinstance(thing, SAE):
        return _sae_card(thing, repository)
    if isinstance(thing, TunedLens):
        return _lens_card(thing, repository)
    if isinstance(thing, ActivationStore):
        return _store_card(thing, repository)
    found = [thing] if isinstance(thing, Direction | Probe) else list(thing)
    if isinstance(found[0], Probe):
        return _probe_card([one for one in found if isinstance(one, Probe)], repository)
    return _direction_card([one for one in found if isinstance(one, Direction)], repository)


def _direction_card(directions: Sequence[Direction], repository: str) -> str:
    return _page(
        repository,
        "Steering direction" if len(directions) == 1 else f"{len(directions)} steering directions",
        ["steering-vector"],
        directions[0].model_id,
        _made_on(directions[0]),
        ["site", "token", "made as", "prompts", "length", "p"],
        [_row(one) for one in directions],
        [
            f'directions = mi.sharing.directions_from_hub("{repository}", model)',
            'model.generate("...", interventions=directions[0].added(1.0))',
        ],
        "A strength of 1 is the length above, in the units of that site. They are for the weights named here: other "
        "weights are refused.",
    )


def _probe_card(probes: Sequence[Probe], repository: str) -> str:
    first = probes[0].direction
    return _page(
        repository,
        "Probe" if len(probes) == 1 else f"{len(probes)} probes",
        ["probe"],
        first.model_id,
        _made_on(first),
        ["site", "token", "made as", "prompts", "length", "p", "threshold"],
        [[*_row(one.direction), number(one.threshold)] for one in probes],
        [
            f'probes = mi.sharing.probes_from_hub("{repository}", model)',
            "states = mi.directions.states_of(model, prompts, probes[0].direction.site)",
            "probes[0].scores(states)  # positive: on the positive class's side",
        ],
        "The threshold is half-way between the means of the classes, along the direction of unit length. They are for "
        "the weights named here: other weights are refused.",
    )


def _made_on(first: Direction) -> dict[str, str]:
    return {
        "model": first.model_id,
        "weights (sha256)": first.weights_hash,
        "quantisation": first.quantization or "none",
        "layers, width": f"{first.n_layers}, {int(first.vector.shape[0])}",
    }


def _row(one: Direction) -> list[str]:
    p_value = "not tested" if one.p_value is None else number(one.p_value, digits=3)
    return [f"`{one.site}`", str(one.position), one.method, one.template, number(one.norm), p_value]


def _store_card(store: ActivationStore, repository: str) -> str:
    about = store.description
    facts = {
        "model": str(about["model"]),
        "weights (sha256)": str(about["weights_hash"]),
        "computed in, stored in": f"{about['computed_in']}, {about['dtype']}",
        "rows": f"{len(store)}, {store.n_bytes:,} bytes",
        "positions": str(about["positions"]),
        "prompts": f"{sum(store.categories.values())}, their tokens in samples.jsonl",
    }
    facts |= {f"of category {name or 'none'}": str(n) for name, n in sorted(store.categories.items())}
    return _page(
        repository,
        "Activations",
        ["activations"],
        str(about["model"]),
        facts,
        ["site", "numbers a row"],
        [[f"`{site}`", " x ".join(map(str, shape))] for site, shape in about["sites"].items()],
        [
            f'store = mi.sharing.store_from_hub("{repository}")',
            "store.check_model(model)  # StoreError for other weights",
            f'rows = store.array("{store.sites[0]}")',
        ],
        "A store of this library: safetensors of some rows each, with every row's token, position and prompt.",
        dataset=True,
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
    *,
    dataset: bool = False,
) -> str:
    every = ["mechanistic-interpretability", *tags]
    front = (
        huggingface_hub.DatasetCardData(tags=[*every, "mlx_interp"])
        if dataset
        else huggingface_hub.ModelCardData(
            library_name="mlx_interp", tags=every, base_model=model_id if HUB_ID.fullmatch(model_id) else None
        )
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
