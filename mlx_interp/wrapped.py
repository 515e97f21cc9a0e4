"""Wrapped models: one of mlx-lm with its name, its sizes, and prompts that are checked against it."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from mlx_interp.architectures import family_of, ignored_keys
from mlx_interp.continuations import continuation_of
from mlx_interp.deferred import trees
from mlx_interp.engine.memory import refuse_too_large
from mlx_interp.engine.network import Network
from mlx_interp.engine.parts import check_parts
from mlx_interp.errors import DataError, PromptError
from mlx_interp.prompts import AnyPrompt, Prompt, check_rows, from_tokens, make_prompt, text_of_tokens
from mlx_interp.sites import Site, parse


class Wrapped:
    """Sizes, names and prompts of a wrapped model; `Model` adds what it does."""

    def __init__(
        self,
        mlx_model: Any,
        tokenizer: Any,
        *,
        config: dict[str, Any],
        path: Path,
        model_id: str = "",
        name: str = "",
        quantization: str | None = None,
        weights_hash: str = "",
    ) -> None:
        """Wraps a model of mlx-lm; `mlx_interp.load` is the usual way to get one. Raises UnsupportedModel."""
        self.network = Network(mlx_model, family_of(config), config)
        check_parts(self.network)
        self.mlx_model, self.tokenizer, self.config, self.path = mlx_model, tokenizer, config, path
        self.model_id, self.name = model_id or str(path), name or model_id or path.name
        self.quantization, self.weights_hash = quantization, weights_hash

    @property
    def family(self) -> str:
        return self.network.family.model_type

    @property
    def n_layers(self) -> int:
        return self.network.n_layers

    @property
    def n_heads(self) -> int:
        return self.network.n_heads

    @property
    def n_kv_heads(self) -> int:
        return self.network.n_kv_heads

    @property
    def d_model(self) -> int:
        return self.network.d_model

    @property
    def d_head(self) -> int:
        return self.network.d_head

    @property
    def d_v(self) -> int:
        """Size of what each head mixes: `d_head`, but for latent attention."""
        return self.network.d_v

    @property
    def d_mlp(self) -> int:
        return self.network.d_mlp

    @property
    def d_vocab(self) -> int:
        return self.network.d_vocab

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites that the model has (`mlx_interp.sites` says what they mean)."""
        return self.network.sites

    def sites_of(self, selectors: str | Iterable[str]) -> list[Site]:
        """The sites that selectors name, in the order of the forward pass. Raises SiteError for one that is none."""
        chosen = [selectors] if isinstance(selectors, str) else selectors
        named = [site for one in chosen for site in self.network.there(parse(one, self.n_layers), one)]
        return sorted(set(named), key=lambda site: site.depth)

    @property
    def n_parameters(self) -> int:
        """Weights of the whole model; a packed word counts as the numbers it holds."""
        return self.network.n_parameters

    @property
    def ignored_config(self) -> tuple[str, ...]:
        """Keys of config.json that mean nothing to transformers' class of the model type, and change nothing here."""
        return ignored_keys(self.config)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights as they are held."""
        return sum(array.nbytes for _, array in trees.tree_flatten(self.mlx_model.parameters()))

    def __repr__(self) -> str:
        shape = f"{self.n_layers} layers, d_model {self.d_model}, {self.n_heads} heads"
        return f"Model({self.name!r}, {self.family}, {shape}, {self.quantization or 'unquantised'})"

    def prompt(self, text: str, *, chat: bool = False, system: str | None = None) -> Prompt:
        """A tokenised prompt, BOS exactly once; with `chat`, as a user's turn through the model's chat template."""
        return make_prompt(self.tokenizer, text, chat=chat, system=system)

    def prompts(self, prompts: AnyPrompt | Sequence[AnyPrompt]) -> list[Prompt]:
        """Prompts from a string, a Prompt, a list of token ids, or a list of any of these."""
        if isinstance(prompts, (str, Prompt)):
            return [self._prompt(prompts)]
        items = _items(prompts)
        if all(isinstance(item, (int, np.integer)) for item in items):
            return [self._prompt(items)]
        return [self._prompt(item) for item in items]

    def continuation(self, prompt: str | Prompt, word: str) -> list[int]:
        """Token ids with which a word continues a prompt, behind a space where the writing has one there.

        Raises DataError for a word that has none there, or one that the model does not embed.
        """
        return continuation_of(self.tokenizer, self._prompt(prompt), word, self.d_vocab)

    def token_id(self, word: str, *, after: str | Prompt) -> int:
        """The id of a word that is one token where it continues a prompt: what a logit difference is read from.

        Raises DataError for a word of several tokens there, with the tokens; `continuation` gives all of them.
        """
        found = self.continuation(after, word)
        if len(found) > 1:
            pieces = ", ".join(repr(piece) for piece in map(self.text_of_token, found))
            raise DataError(
                f"{word!r} is {len(found)} tokens where it continues the prompt ({pieces}): take another word, or the "
                f"first of them, model.continuation(prompt, {word!r})[0]"
            )
        return found[0]

    def text_of_token(self, token: int) -> str:
        """A token as text, with the space that belongs to it where its tokenizer writes one."""
        return text_of_tokens(self.tokenizer, [int(token)])

    @property
    def stop_tokens(self) -> frozenset[int]:
        """The tokenizer's end-of-text and end-of-turn tokens."""
        return frozenset(getattr(self.tokenizer, "eos_token_ids", None) or ())

    def _refuse_too_large(self, needed: int, rows: Sequence[object], wanted: Collection[Site]) -> None:
        what = f"{self.name}: {len(wanted)} captured sites over {len(rows)} rows"
        refuse_too_large(needed, what, "capture fewer sites, give fewer rows at a time, or read them by `batches`")

    def _check_lengths(self, lengths: Sequence[int], new: int = 0) -> None:
        """Raises PromptError for positions that the model does not have; warns of a window that mlx-lm leaves out.

        new: tokens that are read after the prompts, one at a time.
        """
        limit = self.network.max_positions
        if limit is not None and max(lengths) + new > limit:
            generated = f" and {new} new ones" if new else ""
            raise PromptError(
                f"{self.name}: a prompt of {max(lengths)} tokens{generated} does not fit its {limit} learned positions"
            )
        self.network.refuse_rereading(lengths, new)
        self._warn_of_unread_window(lengths)

    def _warn_of_unread_window(self, lengths: Sequence[int]) -> None:
        """mlx-lm leaves out the sliding window of some families: that matters for prompts beyond it."""
        window = self.config.get("sliding_window")
        does = self.network.family.unread.get("sliding_window")
        if does and window and max(lengths) > window:
            warnings.warn(
                f"{self.name}: a prompt of {max(lengths)} tokens is longer than the model's sliding window of "
                f"{window}: mlx-lm {does}, so that results differ from the checkpoint's own implementation",
                RuntimeWarning,
                stacklevel=4,
            )

    def _prompt(self, item: AnyPrompt) -> Prompt:
        if isinstance(item, Prompt):
            return check_rows(item, self.d_vocab)
        if isinstance(item, str):
            return check_rows(self.prompt(item), self.d_vocab)
        return from_tokens(self.tokenizer, _items(item), self.d_vocab)


def _items(given: Any) -> list[Any]:
    """Prompts or token ids as a list. Raises PromptError for what is neither: bytes are a list of ints to Python."""
    found = given.tolist() if hasattr(given, "tolist") else given  # arrays of numpy, mlx and torch
    if isinstance(found, (bytes, bytearray, Mapping, Set)) or not isinstance(found, Iterable):
        raise PromptError(f"a prompt is a string, a Prompt or a list of token ids (or a list of these), not {given!r}")
    return list(found)
