"""Token identity and a second model as the reader: what a hidden state predicts, put into words by a Patchscope.

One position of each held-out text. The state of every layer replaces the placeholder of a prompt of tokens that stand
for themselves, at the same layer; read is the next token, against the model's own prediction at that position. Beside
it logit lens, tuned lens and an affine map to the last layer. Controls: another text's state, a random vector of the
same length, the placeholder as it is, and the placeholder alone, without tokens that stand for themselves.

Reader: another model that cuts text alike, at the same share of its depth, with an affine map fitted on paired states
of the training texts. It is no larger than the first: what a larger reader adds stays open. Controls: the state
as it is, and a map fitted on states paired with those of other positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired

import numpy as np

from experiments.exp19_lenses.lens_texts import (
    AFFINE,
    Text,
    TextConfig,
    held_out,
    linear_lens,
    of_world,
    read_states,
    split_texts,
    text_lens,
    training_states,
)
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from experiments.harness.schema import InBatch
from experiments.harness.state import Run, of_run
from experiments.shared.two_hop.tuned import LOGIT, TUNED
from mlx_interp.deferred import mx
from mlx_interp.errors import DataError
from mlx_interp.lenses.affine import AffineMap, affine_map
from mlx_interp.lenses.lens_measures import next_token_nats
from mlx_interp.lenses.patchscopes import IDENTITY, PLACEHOLDER, identity_readings
from mlx_interp.lenses.tuned import identity_lens
from mlx_interp.loading.load import load
from mlx_interp.model import Model
from mlx_interp.patching.back_patching import random_states
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import Estimate, difference_interval, stable_draw

STAGE, READER = "token identity", "another model reads"
WORLD_IDENTITY = f"dog -> dog, river -> river, Monday -> Monday, {PLACEHOLDER}"
PATCHSCOPE, ALONE = "Patchscope", "Patchscope without examples"
OTHER, RANDOM, UNPATCHED = "another text's state", "random vector", "unpatched"
READINGS = (PATCHSCOPE, LOGIT, TUNED, AFFINE)
CONTROLS = (ALONE, OTHER, RANDOM, UNPATCHED)
MAPPED, AS_IS, SHUFFLED = "affine map", "as it is", "map of shuffled pairs"
BATCH = 50


@dataclass(frozen=True)
class IdentityConfig(TextConfig):
    """Fields of token identity."""

    identity_prompt: str = "auto"
    """Tokens that stand for themselves, then the placeholder x; auto: words of the world for embedded models, else the
    paper's."""
    reader: str = "auto"
    """The model that reads states of the first one; auto: another embedded model, none for others."""


def texts(run: Run[IdentityConfig]) -> list[Text]:
    return held_out(run)


def prompt_of(run: Run[IdentityConfig]) -> str:
    if run.config.identity_prompt != "auto":
        return run.config.identity_prompt
    return WORLD_IDENTITY if of_world(run.model) else IDENTITY


def one_position(model: Model, batch: Sequence[Text], seed: int) -> mx.array:
    """(n_layers, n_texts, d_model): every layer at one position of each text."""
    states = read_states(model, batch)
    starts = np.cumsum([0, *(len(text.read) for text in batch)])[:-1]
    rows = [int(start) + stable_draw(seed, text.key, len(text.read)) for start, text in zip(starts, batch, strict=True)]
    return states[1:, mx.array(rows)]


class Reading(InBatch):
    """What one reading says at one position of a text, by layer."""

    reading: str
    hit: list[bool]
    """Whether the model's own prediction is on top; of the reader after the text itself, once."""
    nats: NotRequired[list[float]]
    """Surprisal of the model's own prediction."""
    reader: NotRequired[str]
    """The second model, where it reads the text itself."""


def measure(run: Run[IdentityConfig], batch: Sequence[Text]) -> Iterator[Reading]:
    """Whether each reading has the model's own prediction on top, and its surprisal, by layer."""
    model = run.model
    states = one_position(model, batch, run.config.seed)
    wanted = mx.argmax(model.unembed(states[-1]), axis=-1)
    prompt = prompt_of(run)
    others = mx.concatenate([states[:, 1:], states[:, :1]], axis=1)
    read: dict[str, Iterator[mx.array]] = {
        PATCHSCOPE: identity_readings(model, states, prompt),
        ALONE: identity_readings(model, states, PLACEHOLDER),
        OTHER: identity_readings(model, others, prompt),
        RANDOM: identity_readings(model, random_states(states, run.config.seed), prompt),
    }
    for name, lens in (
        (LOGIT, identity_lens(model)),
        (TUNED, text_lens(run)),
        (AFFINE, linear_lens(run)),
    ):
        first = lens.weight.shape[0] - model.n_layers + 1  # the embedding's translator is not needed
        rows = [lens.moved(first + layer, states[layer]) for layer in range(model.n_layers - 1)]
        read[name] = (model.unembed(row) for row in [*rows, states[-1]])
    logits = model.run(prompt).logits
    assert logits is not None
    read[UNPATCHED] = (mx.broadcast_to(logits, (len(batch), model.d_vocab)) for _ in range(model.n_layers))
    yield from _records(batch, read, wanted)


def _records(batch: Sequence[Text], read: dict[str, Iterator[mx.array]], wanted: mx.array) -> Iterator[Reading]:
    for name, layers in read.items():
        found = [(mx.argmax(rows, axis=-1) == wanted, next_token_nats(rows, wanted)) for rows in layers]
        hits, nats = (np.stack([np.asarray(part) for part in parts], axis=1) for parts in zip(*found, strict=True))
        for row, text in enumerate(batch):
            yield {"item": text.key, "reading": name, "hit": hits[row].tolist(), "nats": nats[row].round(4).tolist()}


@of_run(2)
def reader_of(run: Run[IdentityConfig]) -> Model | None:
    """The second model, None where there is none. Raises DataError where it does not cut text as the first does."""
    model = run.model
    name = run.config.reader
    if name == "auto":
        if not of_world(model):
            return None
        name = "tiny-llama" if model.name == "tiny-qwen2" else "tiny-qwen2"
    reader = load(name)
    if own_tokens(reader, held_out(run)[0], model) is None:
        raise DataError(f"{name} does not cut text into the tokens of {model.name}: a state has no counterpart there")
    return reader


def own_tokens(reader: Model, text: Text, model: Model) -> Text | None:
    """A text as another model's tokens: the same but for BOS. None where the vocabularies differ."""
    if reader.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        return None
    tokens = text.tokens
    bos, own = (one.tokenizer.bos_token_id for one in (reader, model))
    shift = 0
    if own is not None and tokens[0] == own:
        tokens, shift = tokens[1:], shift - 1
    if bos is not None:
        tokens, shift = (int(bos), *tokens), shift + 1
    read = tuple(position + shift for position in text.read)
    return Text(text.key, text.kind, tokens, read, text.follows, text.n_bytes)


def depth_of(layer: int, model: Model, reader: Model) -> int:
    """The reader's layer at the same share of the depth."""
    return round(layer * (reader.n_layers - 1) / (model.n_layers - 1))


@of_run(2)
def maps(run: Run[IdentityConfig], shuffled: bool) -> list[AffineMap]:
    """By layer the map from the model's states to the reader's; shuffled: of pairs that are none."""
    reader = reader_of(run)
    assert reader is not None
    train = [own_tokens(reader, text, run.model) for text in split_texts(run)[0]]
    there = read_states(reader, [text for text in train if text is not None])
    here = training_states(run)
    if shuffled:
        there = there[:, mx.array(np.random.default_rng(run.config.seed).permutation(there.shape[1]))]
    return [
        affine_map(here[layer + 1], there[depth_of(layer, run.model, reader) + 1])
        for layer in range(run.model.n_layers)
    ]


def reader_texts(run: Run[IdentityConfig]) -> list[Text]:
    return held_out(run) if reader_of(run) is not None else []


def measure_reader(run: Run[IdentityConfig], batch: Sequence[Text]) -> Iterator[Reading]:
    """The same, read by the second model; and whether that model by itself says the same after the text."""
    model = run.model
    reader = reader_of(run)
    assert reader is not None
    states = one_position(model, batch, run.config.seed)
    wanted = mx.argmax(model.unembed(states[-1]), axis=-1)
    prompt = prompt_of(run.on(reader))
    read: dict[str, Iterator[mx.array]] = {PATCHSCOPE: identity_readings(model, states, prompt_of(run))}
    arms = {
        MAPPED: [one(states[layer]) for layer, one in enumerate(maps(run, shuffled=False))],
        SHUFFLED: [one(states[layer]) for layer, one in enumerate(maps(run, shuffled=True))],
    }
    if reader.d_model == model.d_model:
        arms[AS_IS] = list(states)
    for name, rows in arms.items():
        read[name] = _read_at(model, reader, rows, prompt)
    yield from _records(batch, read, wanted)
    own = [own_tokens(reader, text, model) for text in batch]
    said = mx.argmax(
        reader.unembed(one_position(reader, [t for t in own if t is not None], run.config.seed)[-1]), axis=-1
    )
    for row, text in enumerate(batch):
        yield {"item": text.key, "reading": "text", "reader": reader.name, "hit": [bool(said[row] == wanted[row])]}


def _read_at(model: Model, reader: Model, rows: Sequence[mx.array], prompt: str) -> Iterator[mx.array]:
    """Readings of states of the first model at the reader's layers, layer by layer of the first."""
    held: dict[int, list[int]] = {}
    for layer in range(model.n_layers):
        held.setdefault(depth_of(layer, model, reader), []).append(layer)
    for turn in range(max(map(len, held.values()))):
        filled = [
            rows[held[at][min(turn, len(held[at]) - 1)]] if at in held else rows[0] for at in range(reader.n_layers)
        ]
        found = list(identity_readings(reader, mx.stack(filled), prompt))
        for at, layers in held.items():
            if turn < len(layers):
                yield found[at]


def table(records: Records, config: IdentityConfig) -> Table | None:
    """Precision and surprisal of each reading, by layer."""
    return _table(records, config, STAGE, READINGS, CONTROLS, "Token identity: readings of a state by layer")


def _table(
    records: Records, config: TextConfig, stage: str, arms: Sequence[str], controls: Sequence[str], title: str
) -> Table | None:
    own = {name: of(records, stage, reading=name) for name in (*arms, *controls)}
    own = {name: mine for name, mine in own.items() if mine}
    if not own:
        return None
    first = next(iter(own.values()))
    arms = [name for name in arms if name in own]
    rows: list[list[Cell]] = []
    for layer in range(len(first[0]["hit"])):
        precise = [_mean([r["hit"][layer] for r in mine], mine, config) for mine in own.values()]
        surprised = [_mean([r["nats"][layer] for r in own[name]], own[name], config) for name in arms]
        rows.append([layer, len(first), *precise, *surprised])
    return Table(
        title,
        [
            *("layer", "n texts"),
            *(Column(f"precision, {name}", "%") for name in own),
            *(Column(f"surprisal, {name}", "nats") for name in arms),
        ],
        rows,
        [
            "Precision: the model's own prediction at that position is on top of the reading; surprisal: minus its "
            "log-probability there. One position of each held-out text."
        ],
    )


def gain_table(records: Records, config: IdentityConfig) -> Table | None:
    """The Patchscope against each other reading, paired by text."""
    own = {name: of(records, STAGE, reading=name) for name in READINGS}
    if len(own[PATCHSCOPE]) < 2:
        return None
    units = [r["item"] for r in own[PATCHSCOPE]]
    rows: list[list[Cell]] = []
    for layer in range(len(own[PATCHSCOPE][0]["hit"]) - 1):
        gains = [
            difference_interval(
                [float(r["hit"][layer]) for r in own[PATCHSCOPE]],
                [float(r["hit"][layer]) for r in own[name]],
                unit=units,
                seed=config.seed,
            )
            for name in READINGS[1:]
        ]
        rows.append([layer, len(units), *gains])
    return Table(
        "Token identity against lenses and map",
        ["layer", "n texts", *(Column(f"precision beyond {name}", "%") for name in READINGS[1:])],
        rows,
        ["Differences paired by text. Below 0: the other reading is better."],
    )


def reader_table(records: Records, config: IdentityConfig) -> Table | None:
    """Readings by the second model."""
    found = _table(
        records,
        config,
        READER,
        (PATCHSCOPE, MAPPED),
        (SHUFFLED, AS_IS),
        "Another model as the reader",
    )
    alone = of(records, READER, reading="text")
    if found is None or not alone:
        return found
    agreed = _mean([r["hit"][0] for r in alone], alone, config)
    said = agreed.text(percent=True) if agreed else "-"
    note = (
        f"Reader: {alone[0]['reader']}, no larger than the model. First column: the model reads itself. After the text "
        f"itself the reader predicts what the model does in {said} %."
    )
    return Table(found.title, found.columns, found.rows, [*found.notes, note])


def figures(records: Records, config: IdentityConfig) -> Iterator[Plot]:
    """Precision by layer, of one model and of the reader."""
    yield from _figure(records, config, STAGE, (*READINGS, OTHER, RANDOM), "token_identity", "Readings of a state")
    yield from _figure(
        records, config, READER, (PATCHSCOPE, MAPPED, SHUFFLED, AS_IS), "another_reader", "Another model as the reader"
    )


def _figure(
    records: Records, config: TextConfig, stage: str, names: Sequence[str], file: str, title: str
) -> Iterator[Plot]:
    own = {name: of(records, stage, reading=name) for name in names}
    own = {name: mine for name, mine in own.items() if mine}
    if not own:
        return
    layers = range(len(next(iter(own.values()))[0]["hit"]))
    n = len(next(iter(own.values())))
    yield line_with_band(
        list(layers),
        [
            Series(name, [_mean([r["hit"][at] for r in mine], mine, config) for at in layers])
            for name, mine in own.items()
        ],
        name=file,
        title=title,
        x_label="layer (resid_post)",
        y_label="the model's prediction on top, share",
        limits=(0, 1.02),
        caption=f"Share of {n} held-out texts for which a reading of the layer's state has the model's own prediction "
        "on top; 95 % intervals over texts.",
    )


def _mean(values: Sequence[float], own: Sequence[Record], config: TextConfig) -> Estimate | None:
    return Frame(own).mean((float(value) for value in values), seed=config.seed)


TABLES = (table, gain_table, reader_table)
