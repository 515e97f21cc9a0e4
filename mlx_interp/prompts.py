"""Prompts: text, its tokens, and where in them a phrase is found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlx_interp.errors import PromptError


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt. Positions count tokens, the BOS token (if the model has one) included."""

    text: str
    tokens: list[int]
    spans: list[tuple[int, int]] = field(repr=False)
    """Character range of each token in `text`; empty (a, a) for special tokens that stand for no text."""
    tokenizer: Any = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def strings(self) -> list[str]:
        """Each token as the tokenizer writes it."""
        return [str(piece) for piece in self.tokenizer.convert_ids_to_tokens(self.tokens)]

    def find(self, text: str, *, occurrence: int | None = None) -> list[int]:
        """Positions of the tokens that cover `text`; the last one is `find(text)[-1]`.

        Raises PromptError if the text does not occur, or occurs more than once and `occurrence` (0 for the first, -1
        for the last) does not say which is meant.
        """
        starts = _occurrences(self.text, text)
        if not starts:
            raise PromptError(f"{text!r} does not occur in {self.text!r}")
        if occurrence is None and len(starts) > 1:
            raise PromptError(
                f"{text!r} occurs {len(starts)} times in {self.text!r}: say which with occurrence=0 or -1"
            )
        start = starts[occurrence or 0]
        end = start + len(text)
        return [i for i, (low, high) in enumerate(self.spans) if max(low, start) < min(high, end)]


AnyPrompt: TypeAlias = str | Prompt | Sequence[int]


def make_prompt(tokenizer: Any, text: str, *, chat: bool = False, system: str | None = None) -> Prompt:
    """Tokenises text; with `chat`, as a user's turn through the tokenizer's chat template. BOS comes exactly once.

    Raises PromptError for an empty text, or if `chat` is asked of a tokenizer without a chat template.
    """
    if not text:
        raise PromptError("an empty prompt has no position to read")
    if chat:
        text = _chat_text(tokenizer, text, system)
    bos = getattr(tokenizer, "bos_token", None)
    # A template (or the caller) may have written the BOS already; the tokenizer must not write a second one.
    written = bool(bos) and text.startswith(str(bos))
    encode = tokenizer._tokenizer if isinstance(tokenizer, TokenizerWrapper) else tokenizer
    encoded = encode(text, return_offsets_mapping=True, add_special_tokens=not written)
    tokens = [int(token) for token in encoded["input_ids"]]
    spans = [(int(low), int(high)) for low, high in encoded["offset_mapping"]]
    eos = getattr(tokenizer, "eos_token_id", None)
    if (
        not written
        and not chat
        and len(tokens) > 1
        and tokens[-1] == eos
        and not text.endswith(str(tokenizer.eos_token))
    ):
        tokens, spans = tokens[:-1], spans[:-1]  # some tokenizers close every text; a prompt goes on
    if not tokens:
        raise PromptError(f"{text!r} gives no token")
    return Prompt(text, tokens, spans, tokenizer)


def from_tokens(tokenizer: Any, tokens: Sequence[int], d_vocab: int) -> Prompt:
    """A prompt from token ids. Raises PromptError if there is none, or an id is outside the vocabulary."""
    ids = [int(token) for token in tokens]
    if not ids:
        raise PromptError("an empty list of tokens has no position to read")
    for token in ids:
        if not 0 <= token < d_vocab:
            raise PromptError(f"token id {token} is outside the vocabulary of {d_vocab}")
    spans, text = [], ""
    for token in ids:
        piece = tokenizer.decode([token])
        spans.append((len(text), len(text) + len(piece)))
        text += piece
    return Prompt(text, ids, spans, tokenizer)


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Generated tokens as text, through a streaming detokenizer, which keeps spaces and multi-byte signs whole."""
    return "".join(pieces_of(tokenizer, tokens))


def pieces_of(tokenizer: Any, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens, piece by piece as they come; a piece that cannot be read yet waits for the next token."""
    if not isinstance(tokenizer, TokenizerWrapper):
        yield str(tokenizer.decode(list(tokens)))
        return
    detokenizer = tokenizer.detokenizer  # a new one each time
    detokenizer.reset()
    for token in tokens:
        detokenizer.add_token(token)
        if piece := detokenizer.last_segment:
            yield str(piece)
    detokenizer.finalize()
    if piece := detokenizer.last_segment:
        yield str(piece)


def _chat_text(tokenizer: Any, text: str, system: str | None) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError(
            "chat=True needs a chat template, and this tokenizer has none (a base model?): use chat=False"
        )
    messages = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _occurrences(text: str, part: str) -> list[int]:
    starts, at = [], text.find(part) if part else -1
    while at >= 0:
        starts.append(at)
        at = text.find(part, at + 1)
    return starts
