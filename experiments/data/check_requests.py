"""Requests, questions and opinions checked: `python -m experiments.data.check_requests` reports and names problems.

1. Languages: line n is there in each, in the same split and under the same topic; the words are of the language.
2. Repetition: no text twice; no two lines of one split that share most of their words, none across splits that share
   more than half.
3. Match of the two sides of a list: mean length, length pair by pair, and first words, which must not tell them apart.

What the words themselves tell is reported and has no bound: a classifier of bags of words knows a request to steal by
"steal". Results that rest on the difference of harmful and harmless should be read beside that number.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.data.written import LANGUAGES, SPLITS, read

WHOLE = ("requests", "questions", "opinions")
"""Lists that must be as long in every language as in English."""
MOST_SHARED = {"within a split": 0.75, "across splits": 0.5}
"""Share of two lines' words that both may have (Jaccard, words of the frame of a question or order left out)."""
LENGTHS = 0.1
"""How far the mean lengths of the two sides may differ, as a share of the longer."""
PAIR = 2.0
"""How many times as long as its partner a line may be."""
FIRST_WORDS = 0.1
"""Total variation distance of the two sides' first words: 0 when equally frequent, 1 when none is shared. Questions in
Chinese are left out: they open with what they ask about, and the word that asks stands late."""
FUNCTION_WORDS = {
    "en": "a an the of to in is are how what which who do does i my me that for with and on can it from by at one s "
    "own many has have most".split(),
    "de": "der die das den dem des ein eine einen einem einer zu in ist sind wie was wer ich mein meine meinen meinem "
    "mir mich dass für mit und auf kann es von bei man nicht sich aus im am welche welcher welches welchem wo gib "
    "viele hat haben wir wird".split(),
    "es": "el la los las un una de del a en es son cómo qué quién cuál yo mi me mis que para con y por se puedo al "
    "cuántos cuántas cuánto dónde dime más tiene hay lo les su sus del cada".split(),
    "fr": "le la les l un une des de du d à en est sont comment que qui quel quelle je mon ma mes me qu pour avec et "
    "sur se s au aux dans ce où combien il dis plus a ont y t".split(),
}
"""Frequent words of the languages that are written with spaces: most of a text's must be of its own language."""


@dataclass(frozen=True)
class Line:
    """A text of one side of a list, with the split and number of its item."""

    n: int
    split: str
    text: str


def problems() -> list[str]:
    """Everything wrong with what is written, one sentence each; empty if nothing is."""
    found = [fault for language in LANGUAGES for fault in alignment(language)]
    for language in LANGUAGES:
        for name, lines in sides(language).items():
            found += [f"{language} {name} {fault}" for fault in [*texts(lines, language), *repeats(lines, language)]]
        for kind, (one, other) in matched(language).items():
            found += [f"{language} {kind}: {fault}" for fault in uneven(one, other, language)]
            if (kind, language) != ("questions", "zh"):
                found += [f"{language} {kind}: {fault}" for fault in told_by_first_word(one, other, language)]
    return found


def sides(language: str) -> dict[str, list[Line]]:
    """Every list of texts in a language, the two sides of a pair apart."""
    data = read(language)
    return {
        "harmful": [Line(x.n, x.split, x.harmful) for x in data.requests],
        "harmless": [Line(x.n, x.split, x.harmless) for x in data.requests],
        "certain": [Line(x.n, x.split, x.certain) for x in data.questions],
        "unsure": [Line(x.n, x.split, x.unsure) for x in data.questions],
        "opinions": [Line(x.n, x.split, x.phrase) for x in data.opinions],
    }


def matched(language: str) -> dict[str, tuple[list[Line], list[Line]]]:
    """The two sides whose difference studies measure."""
    found = sides(language)
    return {"requests": (found["harmful"], found["harmless"]), "questions": (found["certain"], found["unsure"])}


def alignment(language: str) -> Iterator[str]:
    """Items that are numbered, cut or labelled otherwise than in English, or are missing."""
    data, english = read(language), read("en")
    for name in WHOLE:
        items, same = getattr(data, name), getattr(english, name)
        if len(items) != len(same):
            yield f"{language} {name}: {len(items)} lines, English has {len(same)}"
        for place, (item, like) in enumerate(zip(items, same, strict=False), 1):
            for field in ("n", "split", "topic"):
                if getattr(item, field, None) != (place if field == "n" else getattr(like, field, None)):
                    yield f"{language} {name} line {place}: {field} {getattr(item, field)!r} is not that of English"
    for kind, (one, other) in matched(language).items():
        if both := {line.text for line in one} & {line.text for line in other}:
            yield f"{language} {kind}: on both sides is {min(both)!r}"


def texts(lines: Sequence[Line], language: str) -> Iterator[str]:
    """Texts that are empty, not trimmed, or not of the language."""
    for line in lines:
        if not line.text.strip():
            yield f"{line.n}: empty"
        elif line.text != " ".join(line.text.split()):
            yield f"{line.n}: spaces at the ends or twice in {line.text!r}"
        elif not is_in(line.text, language):
            yield f"{line.n}: {line.text!r} does not look like {language}"


def is_in(text: str, language: str) -> bool:
    """Whether a text looks like its language: its script, and no other language has more of its frequent words."""
    letters = [character for character in text if character.isalpha()]
    chinese = sum("CJK" in unicodedata.name(character, "") for character in letters)
    if language == "zh":
        return chinese > 0.8 * len(letters)
    words = re.findall(r"[^\W\d_]+", text.casefold())
    counts = {name: sum(word in frequent for word in words) for name, frequent in FUNCTION_WORDS.items()}
    return not chinese and counts[language] == max(counts.values())


def repeats(lines: Sequence[Line], language: str) -> Iterator[str]:
    """Pairs of lines that are the same or nearly so."""
    bags = [content(line.text, language) for line in lines]
    for i, one in enumerate(lines):
        for j in range(i):
            where = "within a split" if one.split == lines[j].split else "across splits"
            if overlap(bags[i], bags[j]) > MOST_SHARED[where]:
                yield f"{lines[j].n} and {one.n}, {where}: {lines[j].text!r} is nearly {one.text!r}"


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared words as a share of all words of both, 0 to 1 (Jaccard)."""
    return len(one & other) / len(one | other) if one | other else 0.0


def content(text: str, language: str) -> frozenset[str]:
    """The words of a text without the frequent ones of its language; pairs of characters in Chinese."""
    return frozenset(words(text, language)) - frozenset(FUNCTION_WORDS.get(language, ()))


def words(text: str, language: str) -> list[str]:
    """Words in order; in Chinese, which has no spaces, pairs of neighbouring characters."""
    found = re.findall(r"\w+", text.casefold())
    return [a + b for run in found for a, b in itertools.pairwise(run)] if language == "zh" else found


def length(text: str, language: str) -> int:
    """Words; characters in Chinese."""
    return len(re.findall(r"\w" if language == "zh" else r"\w+", text))


def uneven(one: Sequence[Line], other: Sequence[Line], language: str) -> Iterator[str]:
    """Lengths that tell the two sides apart, on average or in one pair."""
    means = [sum(length(line.text, language) for line in side) / len(side) for side in (one, other)]
    if abs(means[0] - means[1]) > LENGTHS * max(means):
        yield f"mean lengths {means[0]:.1f} and {means[1]:.1f} differ by more than {LENGTHS:.0%}"
    for a, b in zip(one, other, strict=True):
        long, short = sorted((length(a.text, language), length(b.text, language)), reverse=True)
        if long > PAIR * short:
            yield f"{a.n}: {a.text!r} and {b.text!r} differ in length by more than {PAIR:g} times"


def told_by_first_word(one: Sequence[Line], other: Sequence[Line], language: str) -> Iterator[str]:
    """A fault if the first words tell the two sides apart."""
    if (distance := first_word_distance(one, other, language)) > FIRST_WORDS:
        yield f"first words differ by {distance:.2f}, more than {FIRST_WORDS}"


def first_word_distance(one: Sequence[Line], other: Sequence[Line], language: str) -> float:
    """Total variation distance of the first words of two lists, 0 to 1."""
    counts = [Counter(words(line.text, language)[0] for line in side) for side in (one, other)]
    return sum(abs(counts[0][word] / len(one) - counts[1][word] / len(other)) for word in counts[0] | counts[1]) / 2


def bag_of_words_accuracy(one: Sequence[Line], other: Sequence[Line], language: str) -> float:
    """Share of the test split's lines whose side naive Bayes over words, learnt on the train split, gets right.

    A tie counts half.
    """
    sides = (one, other)
    counts = [
        Counter(w for line in side if line.split == "train" for w in words(line.text, language)) for side in sides
    ]
    known = counts[0] | counts[1]

    def score(text: str, side: int) -> float:
        total = sum(counts[side].values()) + len(known)
        return sum(math.log((counts[side][word] + 1) / total) for word in words(text, language) if word in known)

    ahead = [
        score(line.text, side) - score(line.text, 1 - side)
        for side in (0, 1)
        for line in sides[side]
        if line.split == "test"
    ]
    return sum(1.0 if margin > 0 else 0.5 if margin == 0 else 0.0 for margin in ahead) / len(ahead)


def report() -> str:
    """Lines a language and a list: how many, how long, and how far words tell the two sides apart."""
    rows = ["language list       n    train/choose/test  words (both sides)  characters      first words  bag of words"]
    for language in LANGUAGES:
        for kind, (one, other) in matched(language).items():
            splits = "/".join(str(sum(line.split == split for line in one)) for split in SPLITS)
            means = [sum(length(line.text, language) for line in side) / len(side) for side in (one, other)]
            characters = [sum(len(line.text) for line in side) / len(side) for side in (one, other)]
            first, bag = (of(one, other, language) for of in (first_word_distance, bag_of_words_accuracy))
            rows.append(
                f"{language:8} {kind:10} {len(one):<4} {splits:18} {means[0]:5.1f} {means[1]:5.1f}         "
                f"{characters[0]:5.1f} {characters[1]:5.1f}     {first:.2f}         {bag:.2f}"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    print(report())
    faults = problems()
    print(*faults, f"{len(faults)} problems", sep="\n")
    sys.exit(bool(faults))
