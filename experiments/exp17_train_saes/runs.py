"""The autoencoders of exp17: which are trained, and what is measured of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from experiments.exp17_train_saes import texts
from experiments.harness.experiment import ExperimentConfig, Records
from experiments.harness.state import Run, of_run
from mlx_interp import sites
from mlx_interp.reporting import finite
from mlx_interp.sae import (
    KINDS,
    SAE,
    Baselines,
    Kind,
    Loss,
    Reconstruction,
    TrainConfig,
    baselines,
    loss,
    reconstruction,
    save,
    train,
)
from mlx_interp.sae.controls import control_dictionary, shuffled_apart
from mlx_interp.store import ActivationStore

TRAINED, POSITIONS, TRUTH, SEEDS, PAGES = "autoencoders", "positions", "truth", "seeds", "pages"
Role = Literal["kind", "control", "layer", "width", "seed", "data", "nested"]
CONTROLS = ("untrained", "PCA", "neurons", "shuffled")


@dataclass(frozen=True)
class SAEConfig(ExperimentConfig):
    layers: tuple[str, ...] = ("resid_post.50%",)
    """Sites of which the curves over sparsity are drawn; the first one is where features are looked at."""
    kinds: tuple[Kind, ...] = KINDS
    """Kinds to train."""
    k: tuple[int, ...] = (4, 16, 48)
    """Sparsities of topk and batchtopk, and the L0 that jumprelu aims at."""
    relu_sparsity: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Weights of the penalty of relu."""
    gated_sparsity: tuple[float, ...] = (0.05, 0.2, 0.6)
    """Weights of the penalty of gated."""
    expansion: int = 4
    """Features for each dimension."""
    widths: tuple[int, ...] = (2, 8)
    """Further expansions, topk at the middle k."""
    steps: int = 400
    """Of training."""
    batch_size: int = 256
    """Tokens of a step."""
    learning_rate: float = 4e-3
    """At its height."""
    layer_step: int = 3
    """Also a topk one at the middle k for every so many layers; 0 for none."""
    n_tasks: int = 600
    """In-context prompts to train on."""
    most_texts: int = 0
    """Texts to train on, at most, of each group; 0: all."""
    n_texts: int = 90
    """Held-out texts to measure on."""
    per_concept: int = 30
    """Labelled tokens of each concept in each half, at most."""
    probed_k: tuple[int, ...] = (1, 2, 5)
    """Features of a sparse probe."""
    reseeds: int = 0
    """Further seeds that the topk one at the middle k is trained from, for the spread of every metric."""
    shift_languages: tuple[str, ...] = ()
    """Languages between which harm and language are confounded, to remove the latents of language from a classifier of
    harm (SHIFT), in every order of two; none: not measured."""
    shift_latents: int = 60
    """Latents that the classifier uses most, which are judged."""
    shift_removed: tuple[int, ...] = ()
    """Latents to remove by a reader's own judgement; none: by what their strongest examples have in common."""
    store: str = ""
    """Folder of an activation store to train from, instead of the world's texts; it must hold the sites. {model} stands
    for the model's name. What is measured may then have been trained on: the store's texts are not the study's."""
    save_to: str = ""
    """Folder to write one topk autoencoder of each layer to, for exp18; {model} stands for the model's name."""

    @property
    def middle_k(self) -> int:
        return self.k[len(self.k) // 2]


@dataclass(frozen=True)
class Item:
    """One dictionary: trained, or a control."""

    key: str
    role: Role
    site: str
    kind: str
    setting: float
    """k, the L0 aimed at, or the weight of the penalty."""
    expansion: int
    seed: int = 0
    only: str = ""
    """Trained on texts of one group alone."""

    @property
    def label(self) -> str:
        """As tables call it."""
        names = {"seed": "another seed", "data": f"trained on {self.only} only", "nested": "Matryoshka topk"}
        return names.get(self.role, self.kind)


def site_names(run: Run[SAEConfig]) -> list[str]:
    return [str(site) for site in sites.parse_all(run.config.layers, run.model.n_layers)]


def items(run: Run[SAEConfig], earlier: Records) -> list[Item]:
    """Every dictionary of the study."""
    config = run.config
    names = site_names(run)
    found = [one for site in names for one in _curves(config, site)]
    first = next(one for one in found if one.kind == "topk" and one.setting == config.middle_k)
    site = names[0]
    # Seeds of their own: from the same start two runs would share features that neither has learnt.
    found += [
        replace(first, key=f"{site}: {name}, k {first.setting:g}", role="control", kind=name, seed=2)
        for name in CONTROLS
    ]
    found += [
        replace(first, key=f"{site}: topk, {width} d_model", role="width", expansion=width) for width in config.widths
    ]
    found.append(replace(first, key=f"{site}: topk, seed 1", role="seed", seed=1))
    found.append(replace(first, key=f"{site}: topk, chats only", role="data", only="chat", seed=3))
    found.append(replace(first, key=f"{site}: nested topk", role="nested"))
    if config.layer_step:
        others = [f"resid_post.{layer}" for layer in range(0, run.model.n_layers, config.layer_step)]
        found += [
            replace(first, key=f"{other}: topk", role="layer", site=other) for other in others if other not in names
        ]
    return found


def _curves(config: SAEConfig, site: str) -> Iterator[Item]:
    for kind in config.kinds:
        settings: Sequence[float] = {"relu": config.relu_sparsity, "gated": config.gated_sparsity}.get(kind, config.k)
        for setting in settings:
            yield Item(f"{site}: {kind}, {setting:g}", "kind", site, kind, setting, config.expansion)


def train_config(item: Item, config: SAEConfig, d_model: int) -> TrainConfig:
    """How one is trained: short runs on little text, so dead features are found early and ramps are wide."""
    kind: Kind = next((one for one in KINDS if one == item.kind), "topk")
    return TrainConfig(
        kind=kind,
        d_sae=item.expansion * d_model,
        k=int(item.setting) if kind in ("topk", "batchtopk") else 1,
        sparsity={"relu": item.setting, "gated": item.setting, "jumprelu": 0.3}.get(kind, 0.0),
        target_l0=item.setting if kind == "jumprelu" else None,
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warm_up=max(1, config.steps // 10),
        sparsity_warm_up=max(1, config.steps // 4),
        dead_after=config.steps * config.batch_size // 8,
        aux_k=d_model // 2,
        bandwidth=0.05,
        threshold=0.03,
        nested=(0.125, 0.25, 0.5) if item.role == "nested" else (),
        seed=config.seed + 1000 * item.seed,
    )


def store_of(run: Run[SAEConfig], item: Item) -> ActivationStore | None:
    """The store that an item is trained from; none for controls, and for those trained on one group of texts.

    Raises StoreError for a store of another model.
    """
    if not run.config.store or item.kind not in KINDS or item.only:
        return None
    store = verified(run.config.store.replace("{model}", run.model.name))
    store.check_model(run.model)
    return store


@lru_cache(maxsize=2)
def verified(folder: str) -> ActivationStore:
    """A store whose shards were all read once: one whose bytes have changed is left out, with a warning."""
    return ActivationStore(folder, verify=True)


def training_rows(run: Run[SAEConfig], item: Item) -> npt.NDArray[np.float32]:
    """Activations that an item is trained on."""
    config = run.config
    return texts.training_rows(run, item.site, config.seed, config.n_tasks, item.only, config.most_texts)


@of_run(64)
def dictionary(run: Run[SAEConfig], item: Item) -> SAE:
    """The autoencoder of an item: trained here, or made up."""
    config = run.config
    settings = train_config(item, config, run.model.d_model)
    if (store := store_of(run, item)) is not None:
        return train(store, item.site, settings)
    x = training_rows(run, item)
    if item.kind in ("untrained", "PCA", "neurons"):
        return control_dictionary(item.kind, x, item.site, k=int(item.setting), d_sae=settings.d_sae or 0)  # type: ignore[arg-type]
    return train(shuffled_apart(x, config.seed) if item.kind == "shuffled" else x, item.site, settings)


@of_run(64)
def measured(run: Run[SAEConfig], item: Item) -> Reconstruction:
    return reconstruction(
        dictionary(run, item), texts.measured_rows(run, item.site, run.config.seed, run.config.n_texts)
    )


class Trained(TypedDict):
    """A dictionary: how well it rebuilds held-out activations, and then what that costs each held-out text."""

    role: str
    label: str
    site: str
    kind: str
    setting: float
    """k, the L0 aimed at, or the weight of the penalty."""
    d_sae: int
    what: str
    """reconstruction or loss."""
    n_tokens: NotRequired[int]
    """Reconstruction; so for the fields up to recovered_mean: held-out tokens."""
    distinct_tokens: NotRequired[int]
    """Tokens that it was trained on."""
    seen_tokens: NotRequired[int]
    """Tokens of all its steps."""
    l0: NotRequired[float | None]
    """Active features of a token."""
    fve: NotRequired[float | None]
    """Share of variance explained."""
    cosine: NotRequired[float | None]
    norm_ratio: NotRequired[float | None]
    relative_bias: NotRequired[float | None]
    dead: NotRequired[float]
    """Share of features that are never active."""
    dense: NotRequired[float]
    """Share of features that are active on many tokens."""
    recovered: NotRequired[float | None]
    """Share of the loss between zero and clean that is recovered."""
    recovered_mean: NotRequired[float | None]
    """The same between mean and clean."""
    unit: NotRequired[int]
    """Loss; so for the following fields: number of the text."""
    group: NotRequired[str]
    clean: NotRequired[float]
    """Nats a token; so for the next three."""
    spliced: NotRequired[float]
    zero: NotRequired[float]
    mean: NotRequired[float]
    kl: NotRequired[float]
    """From the clean model's predictions, nats."""


@of_run(16)
def without_dictionary(run: Run[SAEConfig], site: str) -> Baselines:
    """Losses of the held-out texts that no dictionary of a site changes."""
    held, x = held_out(run, site)
    return baselines(run.model, site, [text.prompt for text in held], x.mean(0), starts=[text.start for text in held])


def losses(run: Run[SAEConfig], sae: SAE, site: str) -> Loss:
    """Losses of the held-out texts with a dictionary spliced in, and without."""
    held, x = held_out(run, site)
    prompts, starts = [text.prompt for text in held], [text.start for text in held]
    return loss(run.model, sae, prompts, x.mean(0), starts=starts, known=without_dictionary(run, site))


def held_out(run: Run[SAEConfig], site: str) -> tuple[tuple[texts.Text, ...], npt.NDArray[np.float32]]:
    """The texts on which dictionaries are measured, and their activations at a site."""
    config = run.config
    return (
        texts.measured_texts(run, config.seed, config.n_texts),
        texts.measured_rows(run, site, config.seed, config.n_texts),
    )


def measure(run: Run[SAEConfig], item: Item) -> Iterator[Trained]:
    """Reconstruction of held-out activations, and the loss of every held-out text."""
    config = run.config
    sae, found = dictionary(run, item), measured(run, item)
    if config.save_to and item.role in ("kind", "layer") and (item.kind, item.setting) == ("topk", config.middle_k):
        save(sae, Path(config.save_to.replace("{model}", run.model.name)) / item.site, model_name=run.model.name)
    held = texts.measured_texts(run, config.seed, config.n_texts)
    costs = losses(run, sae, item.site)
    store = store_of(run, item)
    rows = training_rows(run, item) if store is None else store
    common: Trained = {
        "what": "",
        "role": item.role,
        "label": item.label,
        "site": item.site,
        "kind": item.kind,
        "setting": item.setting,
        "d_sae": sae.d_sae,
    }
    yield {
        **common,
        "what": "reconstruction",
        "n_tokens": found.n_tokens,
        "distinct_tokens": len(rows),
        "seen_tokens": config.steps * config.batch_size if item.kind not in CONTROLS[:3] else 0,
        "l0": finite(found.l0),
        "fve": finite(found.fve),
        "cosine": finite(found.cosine),
        "norm_ratio": finite(found.norm_ratio),
        "relative_bias": finite(found.relative_bias),
        "dead": found.dead,
        "dense": found.dense,
        "recovered": finite(costs.recovered()),
        "recovered_mean": finite(costs.recovered("mean")),
    }
    for number, text in enumerate(held):
        yield {
            **common,
            "what": "loss",
            "unit": number,
            "group": text.group,
            "clean": float(costs.clean[number]),
            "spliced": float(costs.spliced[number]),
            "zero": float(costs.zero[number]),
            "mean": float(costs.mean[number]),
            "kl": float(costs.kl[number]),
        }


def middle_items(run: Run[SAEConfig], earlier: Records) -> list[Item]:
    """The dictionaries whose features are looked at: every kind at its middle setting, and the controls."""
    found = [one for one in items(run, earlier) if one.site == site_names(run)[0]]
    by_kind: dict[str, list[Item]] = {}
    for one in found:
        if one.role == "kind":
            by_kind.setdefault(one.kind, []).append(one)
    middle = [same[len(same) // 2] for same in by_kind.values()]
    return [*middle, *(one for one in found if one.role in ("control", "nested", "data"))]
