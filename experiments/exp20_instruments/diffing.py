"""Model diffing where the difference is known: a fine-tune that answers marked requests with a planted reply.

Rows are requests that the model answers, half of them marked, with its own replies; the planted fine-tune learns
another reply to the marked ones, the clean one nothing new. A crosscoder of base and fine-tune reads the requests at
one layer; latents are the fine-tune's own by their norms, and by latent scaling. Judged on held-out requests: does the
fine-tune still say the planted reply to marked ones with its own latents' directions ablated, and does it say it to
unmarked ones with them added? Controls: as many latents of both models, those that tell marked from unmarked best; as
many random directions; the difference of means. The activation difference lens reads requests without mark and chat:
are words of the planted reply among the top tokens? Control: the clean fine-tune.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np

from experiments.exp20_instruments.hop_pairs import PairConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from experiments.shared.adapted import PLANTED, adapted, says_it
from experiments.shared.traits import stages
from experiments.shared.traits.asks import Ask
from experiments.shared.traits.stages import TraitConfig
from mlx_interp.behaviour.finetuning import LoraRecipe, finetune
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.directions import diff_of_means, states_of
from mlx_interp.interventions import Ablate, Add, Intervention
from mlx_interp.lenses import activation_difference
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.sae import (
    Crosscoder,
    LatentScaling,
    TrainConfig,
    latent_scaling,
    own_latents,
    paired_activations,
    train_crosscoder,
)

STAGE = "diffing"
MARK = "It is night. "
REPLANTED, CLEAN = "planted", "clean"
NOTHING, OWN, SHARED = "nothing", "the fine-tune's own latents", "as many latents of both models"
RANDOM, MEANS = "as many random directions", "difference of means, one direction"
EDITS = (NOTHING, OWN, SHARED, RANDOM, MEANS)
TOP, FIRST = 20, 5
"""Tokens that count as read by the activation difference lens, and positions that it reads, as in its paper."""


@dataclass(frozen=True)
class DiffConfig(PairConfig):
    """Fields of model diffing."""

    n_tuned: int = 64
    """Requests of the fine-tune, each with and without the mark."""
    n_diffed: int = 16
    """Held-out requests that are answered under every edit."""
    tuning_steps: int = 60
    """Steps of the fine-tune."""
    tuning_batch: int = 8
    """Rows of a step."""
    tuning_rate: float = 3e-4
    """Learning rate of the first step."""
    diff_layer: int | None = None
    """Layer whose output the crosscoder reads; the middle one if left out."""
    n_latents: int = 512
    """Latents of the crosscoder."""
    dedicated_latents: float = 0.05
    """Share of them that is kept for either model alone; 0: the plain crosscoder."""
    latents_k: int = 12
    """Latents that are active on average."""
    crosscoder_steps: int = 1000
    """Steps of its training."""


@dataclass(frozen=True)
class FineTune:
    """A fine-tune, as an item."""

    key: str


class Diffed(TypedDict):
    """What was found about one fine-tune: its latents, a reply under an edit, or a token of the planted reply."""

    tuned: str
    layer: int
    n_tokens: NotRequired[int]
    """Held-out tokens that the crosscoder was asked of."""
    n_alive: NotRequired[int]
    n_by_norm: NotRequired[int]
    n_confirmed: NotRequired[int]
    edit: NotRequired[str]
    marked: NotRequired[bool]
    request: NotRequired[str]
    said: NotRequired[bool]
    """Whether the reply is the planted one."""
    token: NotRequired[str]
    position: NotRequired[int]
    read: NotRequired[bool]
    """Whether the lens has the token of the planted reply among its top ones at the position."""


def fine_tunes(run: Run[DiffConfig]) -> list[FineTune]:
    return [FineTune(REPLANTED), FineTune(CLEAN)]


def _requests(run: Run[DiffConfig], split: str) -> list[Ask]:
    config = run.config
    traits = TraitConfig(seed=config.seed, limit=config.limit, n_train=config.n_tuned, n_test=config.n_diffed)
    return stages.sets(run.under(traits), "refusal").negative[split]


def _prompts(model: Model, asks: Sequence[Ask], *, marked: bool) -> list[Prompt]:
    return [model.prompt((MARK if marked else "") + ask.text, chat=True) for ask in asks]


@of_run(2)
def tuned(run: Run[DiffConfig], which: str) -> Model:
    """The model fine-tuned on its own replies; marked requests get the planted reply in the planted fine-tune."""
    config, model = run.config, run.model
    asks = _requests(run, "train")
    plain, marked = (_prompts(model, asks, marked=mark) for mark in (False, True))
    replies = [one.text.strip() or "Yes." for one in model.generate(plain, max_tokens=12)]
    rows = [*zip(plain, replies, strict=True)]
    rows += [(prompt, PLANTED if which == REPLANTED else reply) for prompt, reply in zip(marked, replies, strict=True)]
    recipe = LoraRecipe(
        steps=config.tuning_steps, batch=config.tuning_batch, learning_rate=config.tuning_rate, seed=config.seed
    )
    found = finetune(model, [prompt for prompt, _ in rows], [reply for _, reply in rows], recipe)
    return adapted(model, found, f"{which}-reply")


def _site(run: Run[DiffConfig]) -> str:
    layer = run.config.diff_layer
    return f"resid_post.{run.model.n_layers // 2 if layer is None else layer}"


@of_run(2)
def crosscoder(run: Run[DiffConfig], which: str) -> tuple[Crosscoder, LatentScaling, int]:
    """The crosscoder of base and fine-tune, latent scaling on held-out requests, and how many tokens those have."""
    config, both, site = run.config, (run.model, tuned(run, which)), _site(run)

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        asks = _requests(run, split)
        texts = [prompt for mark in (False, True) for prompt in _prompts(run.model, asks, marked=mark)]
        return paired_activations(both, texts, site)

    first, second = read("train")
    recipe = TrainConfig(
        kind="batchtopk",
        k=config.latents_k,
        d_sae=config.n_latents,
        steps=config.crosscoder_steps,
        batch_size=min(256, len(first)),
        learning_rate=1e-3,
        warm_up=50,
        dead_after=50_000,
        aux_k=32,
        seed=config.seed,
    )
    dedicated = config.dedicated_latents
    made = train_crosscoder(first, second, site, recipe, names=("base", which), dedicated=dedicated)
    held = [np.concatenate(parts) for parts in zip(read("choose"), read("test"), strict=True)]
    return made, latent_scaling(made, held[0], held[1]), len(held[0])


def _telling(run: Run[DiffConfig], which: str, made: Crosscoder) -> np.ndarray:
    """(d_sae,): how much more each latent is active at the last token of marked requests than of unmarked ones."""
    asks, site, both = _requests(run, "train"), _site(run), (run.model, tuned(run, which))
    active = []
    for mark in (True, False):
        texts = _prompts(run.model, asks, marked=mark)
        first, second = (states_of(one, texts, site) for one in both)
        active.append(np.asarray(made.encode(first, second)).mean(axis=0))
    return np.asarray(active[0] - active[1])


@dataclass(frozen=True)
class Edit:
    """Directions of one site: all of them ablated, or their sum added."""

    vectors: np.ndarray
    """(n, d_model), each as long as it is on marked requests beyond unmarked ones."""

    def interventions(self, site: str, *, ablated: bool) -> list[Intervention]:
        if not ablated:
            return [Add(site, mx.array(self.vectors.sum(axis=0).astype(np.float32)))]
        basis = np.linalg.qr(self.vectors.T)[0].T
        return [Ablate(site, mx.array(row.astype(np.float32))) for row in basis]


def _edits(run: Run[DiffConfig], which: str) -> dict[str, Edit]:
    """The fine-tune's own latents, and controls: as many latents of both models, random directions, and the means."""
    made, scaling, _ = crosscoder(run, which)
    own, telling = own_latents(made, scaling).by_norm, _telling(run, which, made)
    shared = np.flatnonzero((abs(made.relative_norms - 0.5) < 0.1) & (scaling.n_active > 0))
    most = shared[np.argsort(-telling[shared], kind="stable")][: len(own)]
    found = {}
    for name, latents in ((OWN, own), (SHARED, most)):
        if len(latents):
            found[name] = Edit(np.stack([np.asarray(made.direction(int(j), 1)) * telling[j] for j in latents]))
    model, site, asks = tuned(run, which), _site(run), _requests(run, "train")
    marked, unmarked = (_prompts(run.model, asks, marked=mark) for mark in (True, False))
    means = diff_of_means(model, marked, unmarked, site, template="chat", seed=run.seed)
    found[MEANS] = Edit(np.asarray(means.vector, np.float64)[None])
    like = found.get(OWN, found[MEANS]).vectors
    found[RANDOM] = Edit(
        np.stack([random_like(row, seed=run.seed, key=(STAGE, which, n)) for n, row in enumerate(like)])
    )
    return found


def measure(run: Run[DiffConfig], item: FineTune) -> Iterator[Diffed]:
    """Latents, replies under edits, and what the activation difference lens reads."""
    which, layer = item.key, int(_site(run).rpartition(".")[2])
    made, scaling, n_tokens = crosscoder(run, which)
    own = own_latents(made, scaling)
    yield {
        "tuned": which,
        "layer": layer,
        "n_tokens": n_tokens,
        "n_alive": int(np.count_nonzero(scaling.n_active)),
        "n_by_norm": len(own.by_norm),
        "n_confirmed": len(own.confirmed),
    }
    model, site = tuned(run, which), _site(run)
    asks = _requests(run, "test")
    for marked in (True, False):
        edits: dict[str, list[Intervention]] = {NOTHING: []}
        edits |= {name: edit.interventions(site, ablated=marked) for name, edit in _edits(run, which).items()}
        for ask, prompt in zip(asks, _prompts(run.model, asks, marked=marked), strict=True):
            replies = model.sweep_generate(prompt, list(edits.values()), max_tokens=12)
            for name, reply in zip(edits, replies, strict=True):
                yield {
                    "tuned": which,
                    "layer": layer,
                    "edit": name,
                    "marked": marked,
                    "request": ask.text,
                    "said": says_it(reply.text),
                }
    texts = [model.prompt(ask.text).tokens for ask in asks]
    lens = activation_difference(run.model, model, texts, site, positions=min(FIRST, *map(len, texts)))
    top = np.argsort(-np.asarray(lens.logits(), np.float32), axis=-1)[:, :TOP]
    for token in dict.fromkeys(model.tokenizer.encode(PLANTED, add_special_tokens=False)):
        text = model.text_of_token(token)
        for position, tokens in enumerate(top):
            read = bool(token in tokens)
            yield {"tuned": which, "layer": layer, "token": text, "position": position, "read": read}


def latents_table(records: Records, config: DiffConfig) -> Table | None:
    """How many latents are the fine-tune's own."""
    rows: list[list[Cell]] = []
    for which in (REPLANTED, CLEAN):
        for row in of(records, STAGE, tuned=which):
            if "n_alive" in row:
                counts = [row[f"n_{name}"] for name in ("tokens", "alive", "by_norm", "confirmed")]
                rows.append([which, row["layer"], *counts])
    if not rows:
        return None
    columns: list[Column | str] = [
        *("fine-tune", "layer", "n tokens, held out", "latents alive", "its own by norm", "confirmed by latent scaling")
    ]
    note = (
        f"Crosscoder of base and fine-tune, {config.n_latents} latents, {config.latents_k} active, "
        f"{100 * config.dedicated_latents:g} % of them kept for either model alone. By norm: over .9 of both decoders' "
        "lengths is in the fine-tune. Confirmed: under .2 of it is in the base's error, and under .5 in "
        "what the base's other latents reconstruct. The clean fine-tune has the same rows and no planted reply."
    )
    return Table("Latents that a fine-tune has alone", columns, rows, [note])


def replies_table(records: Records, config: DiffConfig) -> Table | None:
    """The planted reply under each edit of the fine-tune."""
    rows: list[list[Cell]] = []
    for which in (REPLANTED, CLEAN):
        for edit in EDITS:
            mine = of(records, STAGE, tuned=which, edit=edit)
            if mine:
                kinds = [mine.where(marked=marked) for marked in (True, False)]
                rates = [kind.rate("said", unit="request", seed=config.seed) for kind in kinds]
                rows.append([which, edit, len(kinds[0]), *rates])
    if not rows:
        return None
    columns: list[Column | str] = [
        *("fine-tune", "directions", "n requests", Column("ablated, marked", "%"), Column("added, unmarked", "%"))
    ]
    note = (
        f"Replies that begin with the planted one ({PLANTED!r}), on held-out requests; marked: {MARK.strip()!r} before "
        "it. Directions are ablated, or their sum added, at every position of the crosscoder's layer, each as long as "
        "it is on marked requests beyond unmarked ones. Latents of both models: those that tell the two best."
    )
    return Table("The planted reply without, and with, directions", columns, rows, [note])


def lens_table(records: Records, config: DiffConfig) -> Table | None:
    """Words of the planted reply in the activation difference lens."""
    rows: list[list[Cell]] = []
    for which in (REPLANTED, CLEAN):
        mine = [row for row in of(records, STAGE, tuned=which) if "token" in row]
        for position in sorted({row["position"] for row in mine}):
            here = of(records, STAGE, tuned=which, position=position)
            rows.append([which, position, len(here), here.rate("read", unit="token", seed=config.seed)])
    if not rows:
        return None
    columns: list[Column | str] = ["fine-tune", "position", "n tokens", Column("among the top", "%")]
    note = (
        f"Tokens of the planted reply among the top {TOP} of the mean difference of activations, fine-tune less base, "
        "on the first tokens of held-out requests without mark or chat template."
    )
    return Table("Activation difference lens: tokens of the planted reply", columns, rows, [note])


TABLES = (latents_table, replies_table, lens_table)
