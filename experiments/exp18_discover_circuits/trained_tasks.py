"""Tasks of trained models as pairs of prompts: a clean one, and one of equal length that differs in what matters.

two_hop       another subject of the same family, whose bridge and answer differ, by the tables of facts.
recall        so for single-hop questions ("The capital of Texas is").
in_context    the same words shown with the images of another task; m: this task's image against the other's.
agreement     the subject in the other number, another noun between it and the verb; m: is, was, has against are, were,
              have.
greater_than  "from the year 1742 to the year 17": first tokens of later years against those of none but earlier ones;
              the counterfactual prompt starts in a century's second year, after which most years are later.
refusal       a harmful request and a harmless one of its topic and length in tokens, of those written for this project.

agreement follows Linzen et al. (2016), greater_than Hanna et al. (2023); the sentences are this project's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from experiments.data.function_answers import TASKS as FUNCTION_TASKS
from experiments.data.function_answers import read_pairs
from experiments.exp18_discover_circuits.contrasted_words import contrasted
from experiments.shared.two_hop.question_pairs import question_pairs, second_hops, two_hops
from mlx_interp.behaviour.answers import continuation
from mlx_interp.circuits.pairs import Pair
from mlx_interp.in_context.demonstrations import QUESTIONS
from mlx_interp.model import Model

CONTRASTS = (
    ("country-capital", "country-language"),
    ("present-past", "present-gerund"),
    ("english-spanish", "english-french"),
    ("next_item", "prev_item"),
    ("comparative", "superlative"),
    ("antonym", "comparative"),
)
"""In-context tasks over the same words: clean, counterfactual."""
SHOTS = 4
TURNS = 8
"""Choices of examples that are tried until both prompts are of one length."""
SUBJECTS = (
    *("author", "teacher", "doctor", "lawyer", "farmer", "dancer", "pilot", "banker", "singer", "driver", "worker"),
    *("writer", "actor", "painter", "officer", "manager", "student", "player", "guard", "sailor"),
)
BETWEEN = ("with the {}", "next to the {}", "behind the {}", "in front of the {}", "from the {}", "across from the {}")
NOUNS = ("garden", "table", "house", "window", "church", "bridge", "school", "river", "tree", "hotel")
"""Between subject and verb; in the plural where the subject is in the singular, and the other way round."""
FRAMES = "The cat under the chair is small. The dogs behind the door are loud. "
"""Before each sentence: without it few models go on with a verb."""
VERBS = {True: ("are", "were", "have"), False: ("is", "was", "has")}
"""By whether the subject is in the plural."""
SPANS = (
    *("war", "siege", "journey", "drought", "truce", "project"),
    *("trial", "reign", "strike", "voyage", "dispute", "famine"),
)
CENTURIES = tuple(range(11, 19))
YEARS = tuple(range(12, 90, 7))
"""In which a span begins, within its century."""


def candidates(model: Model, task: str) -> Iterator[Pair]:
    """All pairs of a task, whether or not the model does it; refusal's are matched from two sets of prompts instead."""
    if task == "two_hop":
        yield from question_pairs(model, two_hops(model))
    elif task == "recall":
        yield from question_pairs(model, second_hops(model))
    elif task == "in_context":
        for names in CONTRASTS:
            clean, other = (dict(read_pairs(FUNCTION_TASKS / f"{name}.json")) for name in names)
            yield from contrasted(model, names, (clean, other), QUESTIONS.prompt, shots=SHOTS, turns=TURNS)
    elif task == "agreement":
        yield from _agreement(model)
    elif task == "greater_than":
        yield from _greater_than(model)


def _agreement(model: Model) -> Iterator[Pair]:
    for place, (subject, between, noun) in enumerate(product(SUBJECTS, BETWEEN, NOUNS)):
        plural = bool(place % 2)
        rest = between.format(noun if plural else f"{noun}s")
        clean, donor = (
            model.prompt(f"{FRAMES}The {subject}{'s' if many else ''} {rest}") for many in (plural, not plural)
        )
        if len(clean) == len(donor):
            answers, wrong = (
                tuple(dict.fromkeys(continuation(model, clean, verb)[0] for verb in VERBS[many]))
                for many in (plural, not plural)
            )
            if not set(answers) & set(wrong):
                yield Pair(clean.text, clean, donor, answers, wrong, f"{between.format('...')} {len(clean)}")


def _greater_than(model: Model) -> Iterator[Pair]:
    nexts = {century: _year_tokens(model, century) for century in CENTURIES}
    for span, century, year in product(SPANS, CENTURIES, YEARS):
        clean, donor = (
            model.prompt(f"The {span} lasted from the year {century}{start:02d} to the year {century}")
            for start in (year, 1)
        )
        later, earlier = set(nexts[century][year + 1 :]), set(nexts[century][: year + 1])
        if len(clean) == len(donor) and later - earlier and earlier - later:
            answers, wrong = tuple(sorted(later - earlier)), tuple(sorted(earlier - later))
            yield Pair(clean.text, clean, donor, answers, wrong, f"{span} {len(clean)}")


def _year_tokens(model: Model, century: int) -> list[int]:
    """The token after "the year 17", for the years 00 to 99; empty where a year is not cut behind its century."""
    start = f"It lasted to the year {century}"
    tokens = model.prompt(start).tokens
    whole = [model.prompt(f"{start}{year:02d}").tokens for year in range(100)]
    return [one[len(tokens)] for one in whole] if all(one[: len(tokens)] == tokens for one in whole) else []
