"""lm-eval's side: log-likelihoods and texts of a model under interventions.

1. A request's tokens are those of context and continuation together; what the context has alone is the context. Spaces
   at the context's end belong to the continuation. An empty context is the BOS token, or EOS where there is none.
2. What does not fit the model's length loses its beginning, as lm-eval's own models do it.
3. Interventions act at the positions they name, in context and continuation alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance  # type: ignore[import-not-found]
from lm_eval.api.model import LM  # type: ignore[import-not-found]
from lm_eval.api.registry import register_model  # type: ignore[import-not-found]
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # type: ignore[import-not-found]

from mlx_interp.providers.edited import Edited, cut, edited

MAX_TOKENS = 256
"""New tokens where a task does not say."""
MAX_LENGTH = 2048
"""Tokens of a request where the model's configuration does not say."""
Scored = tuple[list[int], list[int]]
"""Tokens that are given, and tokens that are scored."""


@register_model("mlx-interp")
class EditedLM(LM):  # type: ignore[misc]
    """A model under interventions, as lm-eval asks it; `name=..., direction=FILE, strength=...` on a command line."""

    def __init__(self, of: Edited | None = None, *, max_length: int | None = None, **options: Any) -> None:
        super().__init__()
        for given in ("device", "batch_size", "max_batch_size"):  # lm-eval hands them to every model
            options.pop(given, None)
        self.edited = of or edited(options.pop("name", ""), **options)
        self.model, self.tokenizer = self.edited.model, self.edited.model.tokenizer
        self.max_length = int(max_length or self.model.config.get("max_position_embeddings") or MAX_LENGTH)

    @property
    def tokenizer_name(self) -> str:
        return self.model.name

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding would write it."""
        return self._scored([self._split(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihood of whole texts, every token once, in windows of the model's length."""
        found = []
        for request in requests:
            tokens = self._tokens(request.args[0])
            windows = get_rolling_token_windows(tokens, self._prefix(), self.max_length, 1)
            found.append(sum(value for value, _ in self._scored([make_disjoint_window(one) for one in windows])))
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Texts up to the first stop sequence."""
        texts = []
        for request in requests:
            context, settings = request.args
            stops = settings.get("until") or []
            new = int(settings.get("max_gen_toks", MAX_TOKENS))
            given = self._prefixed(self._tokens(context)) or [self._prefix()]
            (written,) = self.model.generate(
                [given[-max(self.max_length - new, 1) :]],
                interventions=self.edited.interventions,
                max_tokens=new,
                temperature=float(settings.get("temperature", 0.0)) if settings.get("do_sample") else 0.0,
            )
            texts.append(cut(written.text, [stops] if isinstance(stops, str) else stops))
        return texts

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A chat as the model's template writes it."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's text, by which lm-eval tells results apart."""
        return str(self.tokenizer.chat_template or "") if chat_template else ""

    def _split(self, context: str, continuation: str) -> Scored:
        spaces = len(context) - len(context.rstrip())
        if context.strip() and spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        if not context:
            return [self._prefix()], self._tokens(continuation)
        given = self._prefixed(self._tokens(context))
        return given, self._prefixed(self._tokens(context + continuation))[len(given) :]

    def _scored(self, requests: Sequence[Scored]) -> list[tuple[float, bool]]:
        whole = [(given + scored)[-self.max_length - 1 :][:-1] for given, scored in requests]
        found: list[tuple[float, bool]] = []
        batches = self.model.batches(whole, interventions=self.edited.interventions, logits="all")
        for out in batches:
            assert out.logits is not None
            for row, length in enumerate(out.lengths):
                scored = requests[len(found)][1]
                logits = np.asarray(out.logits[row, length - len(scored) : length], dtype=np.float64)
                top = logits.max(axis=-1)
                total = top + np.log(np.exp(logits - top[:, None]).sum(axis=-1))
                of_tokens = logits[np.arange(len(scored)), scored] - total
                found.append((float(of_tokens.sum()), bool((logits.argmax(axis=-1) == scored).all())))
        return found

    def _tokens(self, text: str) -> list[int]:
        """A text's own tokens, none put around it."""
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]

    def _prefixed(self, tokens: list[int]) -> list[int]:
        """Behind the BOS token, where the model's prompts begin with one; never a second one."""
        opening = self.model.prompt("a").tokens[0]
        begins = opening == self.tokenizer.bos_token_id and tokens[:1] != [opening]
        return [opening, *tokens] if begins else tokens

    def _prefix(self) -> int:
        bos = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if bos is None else bos)
