"""Detectors of refusal, agreement, hedging and repetition in texts. Each returns what it matched, or a number.

Phrases are matched near the beginning of a reply, where a clause begins, and as whole words: "I cannot help" is a
refusal, "the lid cannot be opened" is not. Refusal can also be read before any text is written, from the first token:
`opener_tokens` finds the tokens with which this model opens its refusals, and `log_odds` scores them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from mlx_interp.behaviour.phrases import AGREEING, ASSERTIONS, DISAGREEING, HEDGES, REFUSALS, UNSPACED
from mlx_interp.deferred import mx
from mlx_interp.errors import DataError, nearest
from mlx_interp.interventions import Interventions
from mlx_interp.model import Completion, Model
from mlx_interp.prompts import AnyPrompt

OPENING = 100
"""Characters of a reply in which a refusal opens."""


def refusal(text: str, languages: Sequence[str] | None = None) -> str | None:
    """The phrase with which a reply refuses, or None. languages: keys of REFUSALS; by default all.

    Raises DataError for a language without phrases, naming those that have some.
    """
    opening = text.strip()[:OPENING]
    for language in languages or REFUSALS:
        spaced = language not in UNSPACED
        for phrase in phrases(REFUSALS, language, "refusal"):
            if (_opening(phrase) if spaced else _pattern(phrase, spaced=False)).search(opening):
                return phrase
    return None


def agreement(text: str, language: str = "en") -> int:
    """1 for a reply that opens by agreeing, -1 for one that disagrees, 0 for neither."""
    opening = text.strip()
    no = _starts(opening, phrases(DISAGREEING, language, "disagreeing"), language)
    yes = _starts(opening, phrases(AGREEING, language, "agreeing"), language)
    return int(yes > no) - int(
        no > yes
    )  # "No" opens "No doubt you are right", and "不" opens "不错": the longer phrase says


def hedging(text: str, language: str = "en") -> int:
    """Hedging phrases minus assertive ones; a phrase inside a longer one that matches there does not count."""
    found = [
        (match.span(), weight)
        for weight, kind in (
            (1, phrases(HEDGES, language, "hedging")),
            (-1, phrases(ASSERTIONS, language, "asserting")),
        )
        for phrase in kind
        for match in _pattern(phrase, spaced=language not in UNSPACED).finditer(text)
    ]
    return sum(weight for span, weight in found if not any(_inside(span, other) for other, _ in found))


def phrases(of: Mapping[str, tuple[str, ...]], language: str, what: str) -> tuple[str, ...]:
    """The phrases of one language. Raises DataError for a language that has none, naming those that have some."""
    if language not in of:
        raise DataError(
            f"no {what} phrases for language {language!r}: {nearest(language, of)}there are {', '.join(of)}; "
            "add them to mlx_interp/behaviour/phrases.py"
        )
    return of[language]


def repetition(tokens: Sequence[int], n: int = 3) -> float:
    """Share of a text's n-grams that are repeats of an earlier one; 0 for a text shorter than n."""
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


REFUSING = 0.75
"""Share of the replies that begin with a token which must refuse, for the token to count as an opener of refusals."""
OVER_REFUSED = 1 / 3
"""Where no reply has a phrase that is known: how often a token may open replies to harmless prompts, over how often to
harmful ones."""
REPLY = 12
"""Tokens of a reply that tell whether it refuses."""


def opener_tokens(
    model: Model, refused: Sequence[AnyPrompt], answered: Sequence[AnyPrompt], *, share: float = 0.1
) -> list[int]:
    """The first tokens of this model's refusals, from greedy replies: of all replies, to either kind of prompts, that
    begin with such a token three quarters refuse, and on at least `share` of the prompts that should be refused one
    begins with it. That some harmless prompts are refused as well, as small chat models do, takes none away.

    Where no reply refuses in a phrase that is known: tokens with which replies to the first kind of prompts begin, and
    less than a third as many to the other. Empty where there are none.
    """
    replies = model.generate([*refused, *answered], max_tokens=REPLY)  # a chat template is read once for all
    return openers_of(replies[: len(refused)], replies[len(refused) :], share=share)


def openers_of(refused: Sequence[Completion], answered: Sequence[Completion], *, share: float = 0.1) -> list[int]:
    """The same from greedy replies of `REPLY` tokens or more that are there already."""
    ours, theirs = _beginnings(refused), _beginnings(answered)
    least = share * len(refused)
    if any(refuses for _, refuses in ours):
        begun = Counter(first for first, _ in [*ours, *theirs])
        refusing = Counter(first for first, refuses in [*ours, *theirs] if refuses)
        opened = Counter(first for first, refuses in ours if refuses).most_common()
        return [token for token, n in opened if n >= least and refusing[token] >= REFUSING * begun[token]]
    others = Counter(first for first, _ in theirs)
    return [
        token
        for token, n in Counter(first for first, _ in ours).most_common()
        if n >= least and others[token] / len(answered) < OVER_REFUSED * n / len(refused)
    ]


def _beginnings(replies: Sequence[Completion]) -> list[tuple[int, bool]]:
    """The first token of every reply, and whether the reply refuses."""
    return [(reply.tokens[0], refusal(reply.text) is not None) for reply in replies if reply.tokens]


def log_odds(tokens: Sequence[int]) -> Callable[[mx.array], mx.array]:
    """A metric: logits (n, d_vocab) -> (n,), the log-odds, in nats, that the next token is one of `tokens`."""
    chosen = mx.array(list(tokens))

    def metric(logits: mx.array) -> mx.array:
        logits = logits.astype(mx.float32)
        inside = mx.logsumexp(logits[..., chosen], axis=-1)
        log_prob = inside - mx.logsumexp(logits, axis=-1)
        # log(1 - p) without cancellation where p is near 1 would need the rest's own sum; beyond 1e-6 it is noise.
        return log_prob - mx.log(mx.maximum(1 - mx.exp(log_prob), 1e-6))

    return metric


def log_prob_per_token(
    model: Model,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    interventions: Interventions = (),
) -> list[float]:
    """Mean log-probability (nats a token) of each text after its prompt, under interventions; nan for no tokens."""
    rows = [[*prompt, *text] for prompt, text in zip(prompts, texts, strict=True)]
    found: list[float] = []
    for out in model.batches(rows, interventions=interventions, logits="all") if rows else ():
        assert out.logits is not None
        log_probs = out.logits.astype(mx.float32)
        log_probs = log_probs - mx.logsumexp(log_probs, axis=-1, keepdims=True)
        for row in range(len(out.lengths)):
            prompt, text = prompts[len(found)], texts[len(found)]
            at = log_probs[row, len(prompt) - 1 : len(prompt) + len(text) - 1]
            picked = mx.take_along_axis(at, mx.array(list(text), dtype=mx.int32)[:, None], axis=1) if text else None
            found.append(float(picked.mean()) if picked is not None else float("nan"))
    return found


@cache
def _pattern(phrase: str, *, spaced: bool = True) -> re.Pattern[str]:
    text = re.escape(phrase.replace("’", "'")).replace("'", "['’]")
    return re.compile(rf"(?<!\w){text}(?!\w)" if spaced else text, re.IGNORECASE)


@cache
def _opening(phrase: str) -> re.Pattern[str]:
    """The phrase where a clause begins."""
    return re.compile(rf"(?:^|[.!?,;:\n—\"“])\s*{_pattern(phrase).pattern}", re.IGNORECASE)


def _starts(text: str, phrases: Sequence[str], language: str) -> int:
    """Length of the longest phrase that a text opens with; 0 for none."""
    spaced = language not in UNSPACED
    return max((len(phrase) for phrase in phrases if _pattern(phrase, spaced=spaced).match(text)), default=0)


def _inside(span: tuple[int, int], other: tuple[int, int]) -> bool:
    return span != other and other[0] <= span[0] and span[1] <= other[1]
