"""What the page of `mlx-interp explore` asks for: each action's result, and the lines of Python that give it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mlx_interp.directions import Direction, added_at_strength
from mlx_interp.directions.steering import side_by_side
from mlx_interp.errors import ConfigError, PromptError
from mlx_interp.interventions import Ablate, Add, Intervention, Patch
from mlx_interp.lenses import attention_patterns, decoded_lens
from mlx_interp.model import Model
from mlx_interp.pages import Page
from mlx_interp.pages.page import page, shares
from mlx_interp.prompts import Prompt

Request: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = dict[str, Any]
SITE = "resid_post"
MOST_TOKENS = 96
"""Of a prompt: a page with all heads of a model of thirty layers stays under 5 MB."""
MOST_NEW = 128
K = 6
BEAT = 3000
"""Milliseconds after which an open page asks whether this program is still there."""


@dataclass(frozen=True)
class Explorer:
    """A model with some saved directions, ready to be asked."""

    model: Model
    name: str
    """What `mi.load` takes."""
    directions: Mapping[str, Direction] = field(default_factory=dict)
    """By the path of their file."""

    @property
    def actions(self) -> Mapping[str, Callable[[Request], Answer]]:
        """By name. Each raises an MlxInterpError that says what is wrong with the request."""
        return {"read": self.read, "patch": self.patch, "steer": self.steer}

    def page(self) -> Page:
        return page(
            "explore",
            title=f"explore {self.model.name}",
            about=f"{self.model.family}, {self.model.n_layers} layers, {self.model.n_heads} heads, "
            f"{self.model.quantization or 'not quantised'}",
            n_layers=self.model.n_layers,
            site=SITE,
            directions=list(self.directions),
            can_chat=bool(getattr(self.model.tokenizer, "chat_template", None)),
            most_new=MOST_NEW,
            beat=BEAT,
            opening=["import mlx_interp as mi", "", f"model = mi.load({self.name!r})"],
        )

    def read(self, asked: Request) -> Answer:
        """Lens and attention of a prompt, as pages, and the likeliest next tokens."""
        prompt, code = self._prompt(asked)
        lens = decoded_lens(self.model, prompt, k=K)
        heads = attention_patterns(self.model, prompt)
        return {
            "lens": lens.page().html,
            "attention": heads.page().html,
            "tokens": prompt.pieces,
            "top": shares(lens.at(self.model.n_layers - 1)),
            "code": [
                *code,
                f"lens = mi.lenses.decoded_lens(model, prompt, k={K})",
                "heads = mi.lenses.attention_patterns(model, prompt)",
            ],
        }

    def patch(self, asked: Request) -> Answer:
        """One cell replaced by another prompt's state, or by nothing: the likeliest tokens before and after."""
        prompt, code = self._prompt(asked)
        site = f"{SITE}.{_whole(asked, 'layer', 0, self.model.n_layers - 1)}"
        position = _whole(asked, "position", 0, len(prompt) - 1)
        edit: Intervention
        if asked.get("source"):
            source = self._short(self.model.prompt(_text(asked, "source")), "source")
            taken = min(position, len(source) - 1)
            edit = Patch(site, self.model.run(source, capture=site, logits="none")[site][0, taken], position)
            what = f"the state of {source.pieces[taken]!r} (position {taken}) of the source"
            code += [
                f"source = model.run({source.text!r}, capture={site!r}, logits='none')",
                f"edit = mi.Patch({site!r}, source[{site!r}][0, {taken}], {position})",
            ]
        else:
            edit, what = Ablate(site, positions=position), "zeros"
            code.append(f"edit = mi.Ablate({site!r}, positions={position})")
        out = [self.model.run(prompt), self.model.run(prompt, interventions=edit)]
        before, after = (self.model.top_tokens(one, K)[0] for one in out)
        return {
            "what": f"{what} in {site} of {prompt.pieces[position]!r} (position {position})",
            "before": shares(before),
            "after": shares(after),
            "code": [*code, f"print(model.top_tokens(model.run(prompt, interventions=edit), {K})[0])"],
        }

    def steer(self, asked: Request) -> Answer:
        """Greedy texts without and with a direction at a strength."""
        prompt, code = self._prompt(asked)
        strength = _number(asked, "strength")
        n = _whole(asked, "max_tokens", 1, MOST_NEW)
        if asked.get("direction"):
            edit, lines = self._saved(_text(asked, "direction"), strength, prompt)
        else:
            edit, lines = self._difference(asked, strength)
        pair = side_by_side(self.model, prompt, [edit], max_tokens=n)
        return {
            "plain": pair.plain.text,
            "steered": pair.steered.text,
            "code": [
                *code,
                *lines,
                f"plain, steered = model.sweep_generate(prompt, [[], edit], max_tokens={n})",
                "print(plain.text, steered.text, sep='\\n')",
            ],
        }

    def _saved(self, path: str, strength: float, prompt: Prompt) -> tuple[Add, list[str]]:
        if path not in self.directions:
            raise ConfigError(f"no direction {path!r}: there are {', '.join(self.directions) or 'none'} (--direction)")
        edit = added_at_strength(self.model, self.directions[path], strength, [prompt])
        return edit, [
            f"direction = mi.load_direction({path!r}, model)",
            f"edit = mi.directions.added_at_strength(model, direction, {strength!r}, [prompt])",
        ]

    def _difference(self, asked: Request, strength: float) -> tuple[Add, list[str]]:
        site = f"{SITE}.{_whole(asked, 'layer', 0, self.model.n_layers - 1)}"
        texts = [self._short(self.model.prompt(_text(asked, name)), name) for name in ("plus", "minus")]
        plus, minus = (self.model.run(text, capture=site, logits="none")[site][0, -1] for text in texts)
        return Add(site, plus - minus, strength), [
            f"plus, minus = (model.run(text, capture={site!r}, logits='none')[{site!r}][0, -1]",
            f"               for text in ({texts[0].text!r}, {texts[1].text!r}))",
            f"edit = mi.Add({site!r}, plus - minus, {strength!r})",
        ]

    def _prompt(self, asked: Request) -> tuple[Prompt, list[str]]:
        text, chat = _text(asked, "prompt"), bool(asked.get("chat", False))
        made = self._short(self.model.prompt(text, chat=chat), "prompt")
        return made, [f"prompt = model.prompt({text!r}{', chat=True' if chat else ''})"]

    def _short(self, prompt: Prompt, what: str) -> Prompt:
        if len(prompt) > MOST_TOKENS:
            raise PromptError(
                f"{what}: {len(prompt)} tokens, and the page shows up to {MOST_TOKENS}: give a shorter one, or take "
                "the lines of Python below, which have no such bound"
            )
        return prompt


def _text(asked: Request, name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name}: type a text; given was {value!r}")
    return value.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair is no text to a tokenizer


def _whole(asked: Request, name: str, low: int, high: int) -> int:
    value = asked.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name}: give a whole number from {low} to {high}, not {value!r}")
    return value


def _number(asked: Request, name: str) -> float:
    value = asked.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigError(f"{name}: give a finite number, not {value!r}")
    return float(value)
