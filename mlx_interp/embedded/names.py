"""Invented proper names, some of one token and some of two or three pieces that other names share.

A name of one token is a word of the vocabulary. The others are built from a small stock of pieces, as tokenizers
split rare names: "Tor|wick", "Tor|len|holm".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

HEADS = "Bar Kel Tor Dun Vel Mor Hal Ost Fen Gar Lin Sol Wes Nor Cal Rav Tam Bel Hol Pen".split()
MIDDLES = "len ing ar os eth un".split()
TAILS = "wick holm dale mere stead gate field more ford by".split()

ONSETS = "b br c d dr f g gr h j k kr l m n p pl r s st t tr v z".split()
VOWELS = "a e i o u".split()
CODAS = "n r l s m nd rk x".split()

# Endings tell the classes apart, as they often do in real names.
ENDINGS = {
    "city": ["ton", "burg", "ville", "port", "haven"],
    "state": ["ia", "ana", "ota", "ora"],
    "town": ["sk", "grad", "ovo", "ina", "isk"],
    "country": ["land", "stan", "ovia", "aria"],
    "capital": ["polis", "ium", "ara", "eum"],
    "governor": ["son", "well", "ley", "man"],
    "flower": ["blossom", "wort", "lily", "bell"],
    "currency": ["mark", "dollar", "crown", "penny"],
    "language": ["ish", "ese", "ic", "ian"],
    "president": ["ov", "sen", "escu", "idze"],
    "nobody": ["ula", "eth", "umbra", "oth"],
}
LOWER_CASE = {"flower", "currency"}


class Names:
    """A source of names that never gives the same one twice."""

    def __init__(self, rng: np.random.Generator, taken: set[str]) -> None:
        self.rng = rng
        self.taken = {name.lower() for name in taken}
        self.words: list[str] = []

    def make(self, kind: str, n: int, *, two: float = 0.0, three: float = 0.0) -> list[str]:
        """n names of a class; `two` and `three` are the shares made of that many pieces. Shuffled."""
        n_two, n_three = round(two * n), round(three * n)
        names = [self._new(lambda: self._word(kind)) for _ in range(n - n_two - n_three)]
        self.words += names
        names += [self._new(lambda: self._pieces(1)) for _ in range(n_two)]
        names += [self._new(lambda: self._pieces(2)) for _ in range(n_three)]
        return [str(name) for name in self.rng.permutation(names)]

    def _new(self, draw: Callable[[], str]) -> str:
        while (name := draw()).lower() in self.taken:
            pass
        self.taken.add(name.lower())
        return name

    def _word(self, kind: str) -> str:
        pick = self.rng.choice
        stem = pick(ONSETS) + pick(VOWELS) + pick(CODAS)
        name = stem + pick(ENDINGS[kind])
        return str(name if kind in LOWER_CASE else name.capitalize())

    def _pieces(self, joins: int) -> str:
        middle = str(self.rng.choice(MIDDLES)) if joins == 2 else ""
        return str(self.rng.choice(HEADS)) + middle + str(self.rng.choice(TAILS))
