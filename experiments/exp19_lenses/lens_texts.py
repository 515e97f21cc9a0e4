"""The texts that lenses are trained and measured on, and the lens of a run.

Embedded models: the world's own texts (sentences and short forms of facts and of two hops, in-context tasks, chats),
half of them for training, the other half for measuring; the model has seen both, the lens only the first. Read are the
positions that the model was trained at: its predictions of other tokens, a subject's name for one, mean nothing.
All others: this project's texts, read at a few positions each; or a file or a data set of the Hub, in pieces of
`text_length` tokens, read at every position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run, of_run
from experiments.shared import project_texts
from experiments.shared.two_hop.tuned import EXCHANGED, LOGIT, TUNED
from mlx_interp.behaviour.answers import question
from mlx_interp.deferred import mx
from mlx_interp.embedded import load_world
from mlx_interp.embedded.corpus import Corpus, Row
from mlx_interp.embedded.world import InContextTask
from mlx_interp.errors import DataError
from mlx_interp.lenses.affine import affine_lens
from mlx_interp.lenses.tuned import TunedLens, exchanged, identity_lens, positions_of, train_on_states
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.massive_activations import first_position, massive_at_first
from mlx_interp.model import Model
from mlx_interp.stats import split_halves, stable_draw
from mlx_interp.store.rows import prompt_rows

AFFINE = "affine map"
IN_CONTEXT = 400
"""In-context prompts drawn from the world's tasks."""
BATCH = 64
READ = 8
"""Positions of each of this project's texts that are read: states of all layers are kept."""


@dataclass(frozen=True)
class TextConfig(ExperimentConfig):
    """Fields of all parts: the texts, and how long the tuned lens is trained on them."""

    texts: str = "auto"
    """Texts that lenses are trained and measured on: auto (the embedded world's, for other models this project's), or a
    file (CSV, JSON Lines, parquet) or data set of the Hub with a column of text."""
    n_train_texts: int = 1200
    """Texts that the lenses are trained on, evenly of all kinds."""
    n_texts: int = 100
    """Held-out texts, evenly of all kinds."""
    n_transfer: int = 100
    """Held-out texts on which every layer's translator is tried at every layer, the costliest measure."""
    text_length: int = 64
    """Tokens of a piece of a file's text."""
    lens_steps: int = 300
    """Training steps of the tuned lens."""


@dataclass(frozen=True)
class Text:
    """A text, and the positions whose next token is asked for."""

    key: str
    kind: str
    tokens: tuple[int, ...]
    read: tuple[int, ...]
    follows: tuple[int, ...]
    """The token after each of the positions read."""
    n_bytes: int
    """Bytes of text that these tokens are."""


@of_run(2)
def split_texts(run: Run[TextConfig]) -> tuple[list[Text], list[Text]]:
    """Texts to train on, and held-out ones, each evenly of all kinds."""
    config = run.config
    own = _world_texts if of_world(run.model) else _project_texts
    known = own(run.model) if config.texts == "auto" else _file_texts(run)
    train, test = split_halves(list(known), config.seed)
    n_test = min(config.n_texts, config.limit or config.n_texts)
    return _even([known[key] for key in train], config.n_train_texts), _even([known[key] for key in test], n_test)


def held_out(run: Run[TextConfig]) -> list[Text]:
    return split_texts(run)[1]


def place(row: int) -> str:
    """A row of states that begin with the embedding, as tables name it."""
    return "embedding" if row == 0 else str(row - 1)


def of_world(model: Model) -> bool:
    """Whether a model was trained on the embedded world."""
    return model.name in EMBEDDED


def needs_world(model: Model) -> None:
    """Raises DataError for a model that the embedded world's prompts mean nothing to."""
    if not of_world(model):
        raise DataError(f"{model.name} is not of the embedded world: leave this part out")


def _world_texts(model: Model) -> dict[str, Text]:
    """The world's texts in a model's tokens."""
    world = load_world()
    corpus = Corpus(world, model.tokenizer)
    kinds = {
        "two hops": corpus.sentence_two_hop,
        "two hops, short": corpus.short_two_hop,
        "facts": corpus.sentence_facts,
        "facts, short": corpus.short_facts,
        "everyday": corpus.everyday,
        **dict(zip(("requests", "opinions", "certainty"), corpus.chats, strict=True)),
    }
    texts = [text for kind, rows in kinds.items() for row in rows if (text := _of_row(model, kind, row))]
    return {text.key: text for text in [*texts, *_in_context(model, world.tasks)]}


def _project_texts(model: Model) -> dict[str, Text]:
    """This project's English texts, each read at a few positions behind its chat template, if it has one."""
    found = {}
    for one in project_texts.english():
        prompt = project_texts.prompt_of(model, one)
        places = range(prompt.find(one.text)[0] if one.chat else first_position(model, prompt), len(prompt) - 1)
        kept = sorted(sorted(places, key=lambda i: stable_draw(i, one.text, 2**62))[:READ])
        follows = tuple(prompt.tokens[i + 1] for i in kept)
        text = _text(model, one.kind, prompt.tokens, tuple(kept), follows)
        found[text.key] = text
    return found


def _in_context(model: Model, tasks: Sequence[InContextTask]) -> Iterator[Text]:
    """Queries behind up to six examples of their task; the answer is read."""
    rng = np.random.default_rng(0)
    sizes = np.array([len(task.pairs) for task in tasks])
    for pick in rng.choice(len(tasks), IN_CONTEXT, p=sizes / sizes.sum()):
        task = tasks[pick]
        (word, image), *shots = [task.pairs[i] for i in rng.permutation(len(task.pairs))[: rng.integers(2, 8)]]
        asked = question(model, task.prompt(shots, word), [image])
        name, start = asked.names[0], len(asked.prompt)
        read = tuple(range(start - 1, start - 1 + len(name)))
        yield _text(model, "in context", (*asked.prompt.tokens, *name[:-1]), read, name)


def _of_row(model: Model, kind: str, row: Row) -> Text | None:
    """A row's text. Targets that do not follow (the bridge at a subject) or are no text (end of turn) are left out."""
    asked = {
        position: target
        for position, target in row.targets
        if row.tokens[position + 1 : position + 2] in ((), (target,)) and target not in model.stop_tokens
    }
    read, follows = tuple(asked), tuple(asked.values())
    return _text(model, kind, row.tokens, read, follows) if read else None


def _file_texts(run: Run[TextConfig]) -> dict[str, Text]:
    """Pieces of a file's texts; the first token is not predicted, nor is what follows a massive one."""
    config, first = run.config, int(massive_at_first(run.model))
    found: dict[str, Text] = {}
    for row in prompt_rows(config.texts, chat=False):
        ids = run.model.prompt(row.text).tokens
        for start in range(0, len(ids) - 1, config.text_length):
            piece = tuple(ids[start : start + config.text_length])
            if len(piece) > 1 + first:
                read = tuple(range(first, len(piece) - 1))
                text = _text(run.model, "text", piece[:-1], read, piece[1 + first :])
                found.setdefault(text.key, text)
        if len(found) >= 4 * (config.n_train_texts + config.n_texts):
            break
    return found


def _text(model: Model, kind: str, tokens: Sequence[int], read: tuple[int, ...], follows: tuple[int, ...]) -> Text:
    decode = model.tokenizer.decode
    n_bytes = sum(
        len(decode([*tokens[: i + 1], token]).encode()) - len(decode(list(tokens[: i + 1])).encode())
        for i, token in zip(read, follows, strict=True)
    )
    words = decode([*tokens, *follows[-1:]] if read[-1] == len(tokens) - 1 else list(tokens))
    return Text(f"{kind}: {words}", kind, tuple(tokens), read, follows, n_bytes)


def _even(texts: Sequence[Text], n: int) -> list[Text]:
    """The first n, taking turns over the kinds; in their order."""
    rounds: dict[str, int] = {}
    turns = []
    for index, text in enumerate(texts):
        rounds[text.kind] = turn = rounds.get(text.kind, 0) + 1
        turns.append((turn, index))
    return [texts[index] for index in sorted(index for _, index in sorted(turns)[:n])]


def read_states(model: Model, texts: Sequence[Text]) -> mx.array:
    """(n_layers + 1, n_positions, d_model): the embedding and every layer at the positions read, text after text."""
    return mx.concatenate(list(_read(model, texts)), axis=1)


def last_states(model: Model, prompts: Sequence[Sequence[int]]) -> mx.array:
    """(n_layers + 1, n_prompts, d_model): the embedding and every layer at each prompt's last token."""
    parts = []
    for start in range(0, len(prompts), BATCH):
        some = [list(tokens) for tokens in prompts[start : start + BATCH]]
        ends = np.cumsum([len(tokens) for tokens in some]) - 1
        parts.append(positions_of(model, some, embedding=True)[:, mx.array(ends)])
        mx.eval(parts[-1])
    return mx.concatenate(parts, axis=1)


def _read(model: Model, texts: Sequence[Text]) -> Iterator[mx.array]:
    for start in range(0, len(texts), BATCH):
        some = texts[start : start + BATCH]
        states = positions_of(model, [list(text.tokens) for text in some], embedding=True)
        rows, offset = [], 0
        for text in some:
            rows += [offset + position for position in text.read]
            offset += len(text.tokens)
        yield states[:, mx.array(rows)]
        mx.eval(states)


@of_run(2)
def training_states(run: Run[TextConfig]) -> mx.array:
    """States of the training texts, as `read_states`."""
    return read_states(run.model, split_texts(run)[0])


@of_run(3)
def text_lens(run: Run[TextConfig]) -> TunedLens:
    """The tuned lens of a run, the embedding's translator included."""
    return train_on_states(run.model, training_states(run), steps=run.config.lens_steps, batch=64, seed=run.config.seed)


@of_run(2)
def linear_lens(run: Run[TextConfig]) -> TunedLens:
    """The affine maps from each layer's state to the last, by least squares on the same states."""
    return affine_lens(run.model, training_states(run))


def lenses_of(run: Run[TextConfig]) -> dict[str, TunedLens]:
    """The lenses that are compared: without translators, with them, and with those of the next layer: the control."""
    tuned = text_lens(run)
    return {LOGIT: identity_lens(run.model, embedding=True), TUNED: tuned, EXCHANGED: exchanged(tuned)}
