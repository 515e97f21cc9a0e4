"""Prompts: text, its tokens, and where in them a phrase is found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from mlx_interp.deferred import mlx_lm
from mlx_interp.errors import PromptError

BROKEN = "\ufffd"
"""What a tokenizer writes for the bytes of a character that is not whole."""


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

    @cached_property
    def pieces(self) -> list[str]:
        """Each token as the text that it stands for, its space included; special tokens, and the further tokens of one
        character, as the tokenizer writes them."""
        found, done = [], 0
        for (low, high), name in zip(self.spans, self.strings, strict=True):
            found.append(self.text[min(done, low) : high] if high > max(done, low) else name)
            done = max(done, high)
        return found

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

    A prompt is to go on: closing tokens that a tokenizer puts behind every text are left out. A rendered chat is taken
    as the template wrote it, with nothing added at either end, as transformers does.
    Raises PromptError for an empty text or what is none, if `chat` is asked of a tokenizer without a chat template, and
    for a template that fails or leaves out what it was given.
    """
    if not isinstance(text, str):
        raise PromptError(f"a prompt is a string or a list of token ids, not {text!r}")
    if not text:
        raise PromptError("an empty prompt has no position to read")
    if system is not None and not chat:
        raise PromptError("a system prompt needs chat=True: a plain prompt has no turns")
    if chat:
        text = _chat_text(tokenizer, text, system)
    bos = getattr(tokenizer, "bos_token", None)
    # A template (or the caller) may have written the BOS already; the tokenizer must not write a second one.
    written = chat or (bool(bos) and text.startswith(str(bos)))
    tokens, spans = _encoded(tokenizer, text, special=False)
    if not written:
        tokens, spans = _opened(_encoded(tokenizer, text, special=True), tokens, spans)
    if not tokens:
        raise PromptError(f"{text!r} gives no token")
    return Prompt(text, tokens, spans, tokenizer)


def _encoded(tokenizer: Any, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of a text and their character ranges; special: with what the tokenizer puts around every text."""
    encode = tokenizer._tokenizer if isinstance(tokenizer, mlx_lm.tokenizer_utils.TokenizerWrapper) else tokenizer
    encoded = encode(text, return_offsets_mapping=True, add_special_tokens=special)
    tokens = [int(token) for token in encoded["input_ids"]]
    return tokens, [(int(low), int(high)) for low, high in encoded["offset_mapping"]]


def _opened(
    whole: tuple[list[int], list[tuple[int, int]]], tokens: list[int], spans: list[tuple[int, int]]
) -> tuple[list[int], list[tuple[int, int]]]:
    """A text's own tokens with what the tokenizer puts before them, and without what it puts behind them."""
    before = next((i for i in range(len(whole[0])) if whole[0][i : i + len(tokens)] == tokens), None)
    if not tokens or before is None:
        return whole
    return whole[0][:before] + tokens, whole[1][:before] + spans


def from_tokens(tokenizer: Any, tokens: Sequence[int], d_vocab: int) -> Prompt:
    """A prompt from token ids. Raises PromptError for none, for what is no id, or an id outside the vocabulary."""
    ids = [_token_id(token) for token in tokens]
    if not ids:
        raise PromptError("an empty list of tokens has no position to read")
    for token in ids:
        if not 0 <= token < d_vocab:
            raise PromptError(f"token id {token} is outside the vocabulary of {d_vocab}")
    text, spans = _text_and_spans(tokenizer, ids)
    return Prompt(text, ids, spans, tokenizer)


def check_rows(prompt: Prompt, d_vocab: int) -> Prompt:
    """The prompt. Raises PromptError for a token that has no row in the embedding: mlx would read past its end."""
    for token, name in zip(prompt.tokens, prompt.strings if max(prompt.tokens) >= d_vocab else (), strict=False):
        if not 0 <= token < d_vocab:
            raise PromptError(
                f"{prompt.text!r}: its token {name!r} (id {token}) is outside the vocabulary of {d_vocab}: the "
                "tokenizer knows a token for which the model has no embedding; write the prompt without it"
            )
    return prompt


def _token_id(token: Any) -> int:
    if isinstance(token, (bool, np.bool_)) or not hasattr(token, "__index__"):
        raise PromptError(f"a token id is a whole number, not {token!r}; prompts are strings or lists of ids")
    return int(token)


def _text_and_spans(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of tokens, and each one's part of it.

    A token is read behind the one before it: alone it would lose its space, and a part of a character its meaning.
    Tokens that make up one character together have its range in common.
    """
    text, spans = "", []
    start = done = 0  # tokens from `start` on are read; those up to `done` are in the text already
    known = ""
    for end in range(1, len(ids) + 1):
        read = text_of_tokens(tokenizer, ids[start:end])
        if read.endswith(BROKEN) and end < len(ids):
            continue  # the first bytes of a character
        piece = read[len(known) :]
        spans += [(len(text), len(text) + len(piece))] * (end - done)
        text += piece
        start, done = done, end
        known = text_of_tokens(tokenizer, ids[start:end])
    return text, spans


def text_of_tokens(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of a prompt's tokens, special ones and the space before every punctuation mark included."""
    # Cleaning up would take the space from " ." and " n't", and the text would be another than its tokens say.
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Generated tokens as text, through a streaming detokenizer, which keeps spaces and multi-byte signs whole."""
    return "".join(pieces_of(tokenizer, tokens))


def pieces_of(tokenizer: Any, tokens: Iterable[int]) -> Iterator[str]:
    """The text of tokens, piece by piece as they come; a piece that cannot be read yet waits for the next token."""
    if not isinstance(tokenizer, mlx_lm.tokenizer_utils.TokenizerWrapper):
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
    said = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": text}]
    try:
        rendered = _rendered(tokenizer, said)
    except Exception as error:  # a template is a program: it may raise anything
        way = "leave `system` out" if system else "use chat=False"
        raise PromptError(f"the chat template fails ({type(error).__name__}: {error}): {way}, or mend it") from error
    _refuse_left_out(rendered, said)
    if system and rendered == _as_assistant(tokenizer, said):
        raise PromptError(
            "the chat template knows no system turn and writes it as the assistant's: leave `system` out, or put it "
            "before the user's text"
        )
    return rendered


def _rendered(tokenizer: Any, said: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))


def _as_assistant(tokenizer: Any, said: list[dict[str, str]]) -> str | None:
    """The same turns with the system's as the assistant's; None where the template refuses that."""
    try:
        return _rendered(tokenizer, [{**said[0], "role": "assistant"}, *said[1:]])
    except Exception:
        return None


def _refuse_left_out(rendered: str, said: list[dict[str, str]]) -> None:
    """Raises PromptError for a turn whose text is not in the rendered chat; white space may differ."""
    found = "".join(rendered.split())
    texts = ["".join(turn["content"].split()) for turn in said]
    for turn, text in zip(said, texts, strict=True):
        if found.count(text) < sum(other.count(text) for other in texts if text):
            what = "system prompt: leave `system` out" if turn["role"] == "system" else "user's text: use chat=False"
            raise PromptError(f"the chat template leaves out the {what}, or mend the template; it wrote {rendered!r}")


def _occurrences(text: str, part: str) -> list[int]:
    starts, at = [], text.find(part) if part else -1
    while at >= 0:
        starts.append(at)
        at = text.find(part, at + 1)
    return starts
