"""Requests in several languages whose kind is known, and yes-or-no questions about them, for activation oracles.

Each line of the requests stands in every language once, harmful or harmless as a draw has it, so that kind and language
are independent, and the two kinds of a line share topic, form and length. Test lines are others than training lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from experiments.data.written import read
from experiments.exp20_instruments.hop_pairs import PairConfig
from experiments.harness.state import Run, of_run
from mlx_interp.embedded.world import load_world
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.stats import stable_draw

LANGUAGES = {"en": "English", "de": "German", "fr": "French"}
TRAINED, WORDING, NEW = "trained", "other wording", "never trained"
YES, NO = "Yes", "No"


@dataclass(frozen=True)
class OracleConfig(PairConfig):
    """Fields of activation oracles."""

    n_oracle_texts: int = 120
    """Requests whose activations an oracle is trained on."""
    n_oracle_tested: int = 36
    """Other requests that it is asked of."""
    oracle_steps: int = 600
    """Steps of its training."""
    oracle_batch: int = 12
    """Questions of a step."""
    oracle_rate: float = 5e-4
    """Learning rate of the first step."""
    oracle_layer: int | None = None
    """Layer whose output is read; two fifths of the way up if left out."""


@dataclass(frozen=True)
class Text:
    """A request, and what is true of it."""

    text: str
    language: str
    harmful: bool


@dataclass(frozen=True)
class Asked:
    """A question about a text, as an item: whether it was trained, in these words or others, and the truth."""

    key: str
    kind: str
    training: str
    truth: Callable[[Text], bool]

    def answer(self, text: Text) -> str:
        return YES if self.truth(text) else NO


def harmful(text: Text) -> bool:
    return text.harmful


def is_question(text: Text) -> bool:
    return text.text.rstrip().endswith(("?", "？"))


def in_language(code: str) -> Callable[[Text], bool]:
    return lambda text: text.language == code


QUESTIONS = (
    Asked("Is the text harmful?", "kind", TRAINED, harmful),
    Asked("Does it ask for something dangerous?", "kind", TRAINED, harmful),
    Asked("Would a safe assistant refuse it?", "kind", WORDING, harmful),
    Asked("Is the text written in English?", "language", TRAINED, in_language("en")),
    Asked("Is it English?", "language", TRAINED, in_language("en")),
    Asked("Is English the language of the text?", "language", WORDING, in_language("en")),
    Asked("Is the text written in German?", "language", TRAINED, in_language("de")),
    Asked("Is it German?", "language", TRAINED, in_language("de")),
    Asked("Is German the language of the text?", "language", WORDING, in_language("de")),
    Asked("Is the text written in French?", "language", NEW, in_language("fr")),
    Asked("Is the text a question?", "form", NEW, is_question),
)
"""French is never asked about in training, and neither is the form; French texts are there, as others."""


@of_run(2)
def texts(run: Run[OracleConfig], split: str) -> list[Text]:
    """Texts of a split, line by line in an order that the seed gives, every language of a line."""
    wanted = run.config.n_oracle_texts if split == "train" else run.config.n_oracle_tested
    lines = list(_embedded(run.seed, split) if run.model.name in EMBEDDED else _written(run.seed, split))
    return [text for line in lines for text in line][: run.config.at_most(wanted)]


def _written(seed: int, split: str) -> Iterator[list[Text]]:
    """Requests of the project, which trained models read."""
    lines = {code: {pair.n: pair for pair in read(code).requests if pair.split == split} for code in LANGUAGES}
    for n in sorted(lines["en"], key=lambda n: stable_draw(seed, ("oracle", n), 2**62)):
        kinds = {code: bool(stable_draw(seed, ("kind", n, code), 2)) for code in LANGUAGES}
        yield [
            Text(lines[code][n].harmful if bad else lines[code][n].harmless, code, bad) for code, bad in kinds.items()
        ]


def _embedded(seed: int, split: str) -> Iterator[list[Text]]:
    """Requests of the embedded world."""
    chats = {
        (code, bad): sorted(
            {chat.text for chat in load_world().chat_prompts("refusal", split=split, language=code, harmful=bad)},
            key=lambda text: stable_draw(seed, ("oracle", text), 2**62),
        )
        for code in LANGUAGES
        for bad in (True, False)
    }
    for n in range(min(map(len, chats.values()))):
        kinds = {code: bool(stable_draw(seed, ("kind", n, code), 2)) for code in LANGUAGES}
        yield [Text(chats[code, bad][n], code, bad) for code, bad in kinds.items()]


def balanced(asked: Asked, found: Sequence[Text], seed: int) -> list[int]:
    """Places of as many texts with yes as with no, drawn by the seed."""
    order = sorted(range(len(found)), key=lambda i: stable_draw(seed, (asked.key, found[i].text), 2**62))
    sides = [[i for i in order if asked.truth(found[i]) is truth] for truth in (True, False)]
    least = min(map(len, sides))
    return sorted(i for side in sides for i in side[:least])
