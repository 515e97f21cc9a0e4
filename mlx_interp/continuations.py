"""Continuations: a word's token ids as they go on from a prompt, which are not those it has by itself.

A tokenizer may put the space before a word into its token, into the prompt's last one, or write none at all (behind a
quote, a newline, a turn's mark, in Chinese). Read is what stands behind the prompt when both are tokenised as one text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

from mlx_interp.errors import DataError
from mlx_interp.prompts import Prompt, make_prompt, text_of_tokens

QUOTES = "\"'`"
CLOSING = ".,;:!?%"
UNPARTED = (
    "CJK ",
    "IDEOGRAPHIC ",
    "HIRAGANA ",
    "KATAKANA",
    "FULLWIDTH ",
    "THAI ",
    "LAO ",
    "KHMER ",
    "MYANMAR ",
    "TIBETAN ",
)
"""How the Unicode names of characters begin whose scripts put no spaces between words."""
ANCHORS = ("\n", "a", '"', "(", "a b", "1")
"""Texts behind which a continuation is tokenised where it merges with the end of its prompt."""


def continuation_of(tokenizer: Any, prompt: Prompt, name: str, d_vocab: int) -> list[int]:
    """Token ids with which `name` continues a prompt, behind a space where the writing has one there.

    Raises DataError if there is none, or one for which the model has no embedding.
    """
    if not name.strip():
        raise DataError(f"an answer to {prompt.text!r} is empty: it has no token")
    space = "" if _ends_in_mark(tokenizer, prompt) else space_before(prompt.text, name.strip())
    added = space + name.strip()
    whole = _tokens(tokenizer, prompt.text + added)
    if whole[: len(prompt)] == prompt.tokens and len(whole) > len(prompt):
        found = whole[len(prompt) :]
    else:  # the tokenizer merges across the boundary, as it does behind a space
        found = _elsewhere(tokenizer, prompt, added)
    if not all(0 <= token < d_vocab for token in found):
        raise DataError(f"the answer {name!r} has a token outside the vocabulary of {d_vocab}")
    return found


def _ends_in_mark(tokenizer: Any, prompt: Prompt) -> bool:
    """Whether a prompt's last token is a mark (a turn's, the text's), which is no word: a reply follows it bare."""
    if not prompt.tokens:
        return False
    marks = set(getattr(tokenizer, "all_special_ids", None) or ())
    added: Mapping[int, Any] = getattr(tokenizer, "added_tokens_decoder", None) or {}
    one = added.get(prompt.tokens[-1])
    return prompt.tokens[-1] in marks or bool(one is not None and one.special)


def space_before(text: str, name: str) -> str:
    """The space that writing puts between a text and what continues it: " ", or "" where there is none.

    None behind white space, an opening bracket or quote, a currency sign; none before closing punctuation; and none in
    scripts that do not part words (Chinese, Japanese, Thai, ...).
    """
    last, first = text[-1:], name[:1]
    if not last or last.isspace() or unicodedata.category(last) in ("Ps", "Pi", "Sc") or last in "/@#_":
        return ""
    if last in QUOTES and (len(text) == 1 or text[-2].isspace() or unicodedata.category(text[-2]) in ("Ps", "Pi")):
        return ""  # a quote behind a letter closes
    if first in CLOSING or unicodedata.category(first) in ("Pe", "Pf"):
        return ""
    return "" if _unparted(last) or _unparted(first) else " "


def _unparted(char: str) -> bool:
    """Whether a character is of a script that puts no spaces between words, its punctuation included."""
    name = unicodedata.name(char, "")
    return name.startswith(UNPARTED)


def _tokens(tokenizer: Any, text: str) -> list[int]:
    return make_prompt(tokenizer, text).tokens


def _elsewhere(tokenizer: Any, prompt: Prompt, added: str) -> list[int]:
    """Tokens of a continuation as they stand behind some other text with which the tokenizer does not merge them.

    Raises DataError if prompt and tokens together do not read as they should behind any of those tried.
    """
    start = text_of_tokens(tokenizer, prompt.tokens)
    for anchor in ANCHORS:
        before = _tokens(tokenizer, anchor)
        whole = _tokens(tokenizer, anchor + added)
        found = whole[len(before) :]
        reads = text_of_tokens(tokenizer, prompt.tokens + found)
        if found and whole[: len(before)] == before and reads == start + added:
            return found
    raise DataError(f"{added!r} cannot continue {prompt.text!r}: the tokenizer merges it with what stands before")
