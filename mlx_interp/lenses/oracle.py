"""Activation oracle: a model that is shown activations and answers questions about them, in words.

Karvonen et al. 2025, "Activation Oracles" (arXiv 2512.15674), after LatentQA (Pan et al. 2024, arXiv 2412.08686).
1. The reader is the model itself with a LoRA adapter. Its prompt, a user's turn, holds a line with the number of the
   layer, a placeholder for each activation (" ?"), and the question.
2. At the output of the reader's second layer each activation v is added to its placeholder's state h at that state's
   length: h + ||h|| v / ||v|| (behaviour.injection). All layers above read it.
3. The reader writes its answer, or the log-probabilities of given answers are read.

Only the placeholders' states at one site differ between activations, so that all activations of a question are one
sweep. An oracle may answer from its question alone: ask it of other texts' activations, and without any, beside.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlx_interp import sites
from mlx_interp.activations import Activations
from mlx_interp.behaviour.answers import Question, name_scores
from mlx_interp.behaviour.injection import Injection, units_of
from mlx_interp.deferred import mx
from mlx_interp.errors import ConfigError, DataError, PositionError, ShapeError, SiteError
from mlx_interp.interventions import Patch
from mlx_interp.loading.load import load
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt, Prompt

TEMPLATE = "Layer: {layer}\n{placeholders} \n{question}"
SETTINGS = "activation_oracle"
"""Our own entry of adapter_config.json: how an oracle that was trained here is asked."""


@dataclass(frozen=True)
class OracleSettings:
    """How an oracle is asked; the defaults are those of the published oracles of Qwen, Gemma and Llama."""

    site: str = "resid_post.1"
    """Where activations are put in."""
    placeholder: str = " ?"
    """One token, once for each activation."""
    injection: Injection = field(default_factory=Injection)
    template: str = TEMPLATE
    chat: bool | None = None
    """Whether the prompt is a user's turn; None: where the model has a chat template."""
    layers: tuple[int, ...] = ()
    """Layers whose activations it was trained on; none: not known."""
    reads: str = ""
    """Hash of the weights whose activations it was trained on; empty: not known."""

    def __post_init__(self) -> None:
        if self.template.count("{placeholders}") != 1:
            raise ConfigError(f"the template {self.template!r} has no place, or two, for {{placeholders}}")

    def as_config(self) -> dict[str, Any]:
        """JSON values, for adapter_config.json."""
        own = {key: value for key, value in vars(self).items() if key != "injection"}
        return {**own, "layers": list(self.layers), "injection": vars(self.injection)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OracleSettings:
        """Settings that `as_config` wrote. Raises ConfigError for others."""
        try:
            given = {**config, "layers": tuple(config["layers"]), "injection": Injection(**config["injection"])}
            return cls(**given)
        except (TypeError, KeyError) as error:
            raise ConfigError(f"settings of an oracle that are not understood: {error}") from error


@dataclass(frozen=True)
class ActivationOracle:
    """A reader of activations: `ask` for texts, `log_odds` for one answer against another."""

    model: Model
    """The reader, its adapter included."""
    settings: OracleSettings = field(default_factory=OracleSettings)

    def __post_init__(self) -> None:
        where = sites.parse_one(self.settings.site, self.model.n_layers)
        if where.kind.axes != ("d_model",) or not where.kind.writable:
            raise SiteError(f"{where} is not of the stream's width: an oracle reads at resid_post.1, or at resid_pre.0")

    def read(self, base: Model, prompts: Sequence[AnyPrompt], layer: int, position: int = -1) -> np.ndarray:
        """Activations (n_prompts, d_model) of a model that this oracle is for, after one layer, at one position.

        Raises DataError for another model than the oracle's, with both.
        """
        ours, theirs = ((one.family, one.n_layers, one.d_model) for one in (base, self.model))
        if ours != theirs:
            raise DataError(f"{base.name} is {ours}, the oracle's {self.model.name} {theirs}: it reads its own model")
        reads = self.settings.reads
        if reads and reads != base.weights_hash:
            raise DataError(
                f"the oracle reads activations of weights {reads[:12]}, {base.name} has {base.weights_hash[:12]}: give "
                "the model without the adapter"
            )
        return rows_of(base, prompts, self.layer(layer), position)

    def layer(self, layer: int) -> int:
        """A layer whose activations can be asked of, from 0. Raises SiteError for one that the oracle never saw."""
        n = self.model.n_layers
        if not -n <= layer < n:
            raise SiteError(f"no layer {layer}: {self.model.name} has 0 to {n - 1}")
        if self.settings.layers and layer % n not in self.settings.layers:
            seen = ", ".join(map(str, self.settings.layers))
            raise SiteError(f"the oracle was trained on layers {seen}, not on layer {layer % n}: read one of these")
        return layer % n

    def ask(
        self,
        activations: np.ndarray | mx.array | Activations,
        question: str,
        *,
        layer: int,
        positions: int | Sequence[int] = -1,
        max_tokens: int = 20,
    ) -> list[str]:
        """Answers, greedily, to a question of each activation.

        activations: (n, d_model), or (n, k, d_model) for k of each; or what `run` captured, read at `positions` of
        resid_post of the layer. layer: the one that they are of, which the prompt names.
        Raises ShapeError for another width, DataError for an activation that is 0 or not finite, SiteError for a layer
        that is not there or that the oracle was not trained on, ConfigError for a placeholder that is not one token.
        """
        prompt, variants = self.variants(activations, question, layer=layer, positions=positions)
        return [one.text for one in self.model.sweep_generate(prompt, variants, max_tokens=max_tokens)]

    def log_probs(
        self,
        activations: np.ndarray | mx.array | Activations,
        question: str,
        answers: Sequence[str] = ("Yes", "No"),
        *,
        layer: int,
        positions: int | Sequence[int] = -1,
    ) -> np.ndarray:
        """Log-probabilities (n, n_answers), nats, of whole answers to a question of each activation; errors as `ask`.

        Answers of one token each cost one sweep, all of them together; else each answer costs one.
        """
        prompt, variants = self.variants(activations, question, layer=layer, positions=positions)
        return self._scores(prompt, variants, answers)

    def log_odds(
        self,
        activations: np.ndarray | mx.array | Activations,
        question: str,
        answers: tuple[str, str] = ("Yes", "No"),
        *,
        layer: int,
        positions: int | Sequence[int] = -1,
    ) -> np.ndarray:
        """Log-odds (n,), nats, of the first answer against the second; errors as `ask`."""
        found = self.log_probs(activations, question, answers, layer=layer, positions=positions)
        return np.asarray(found[:, 0] - found[:, 1])

    def unasked(self, question: str, answers: Sequence[str] = ("Yes", "No"), *, layer: int, k: int = 1) -> np.ndarray:
        """Log-probabilities (n_answers,) without an activation: what the question alone brings."""
        prompt, _ = self.prompt(question, layer=layer, k=k)
        return np.asarray(self._scores(prompt, [[]], answers)[0])

    def variants(
        self,
        activations: np.ndarray | mx.array | Activations,
        question: str,
        *,
        layer: int,
        positions: int | Sequence[int] = -1,
    ) -> tuple[Prompt, list[list[Patch]]]:
        """The prompt, and for each activation the patch that puts it in, as variants of a sweep; errors as `ask`."""
        rows = self._rows(activations, self.layer(layer), positions)
        prompt, places = self.prompt(question, layer=self.layer(layer), k=rows.shape[1])
        where = str(sites.parse_one(self.settings.site, self.model.n_layers))
        states = self.model.run(prompt, capture=where, logits="none")[where][0, mx.array(places)]
        put = self.settings.injection.put(states[None], mx.array(rows))
        return prompt, [[Patch(where, value, places)] for value in put]

    def prompt(self, question: str, *, layer: int, k: int = 1) -> tuple[Prompt, list[int]]:
        """A prompt with k placeholders, and their positions. Raises ConfigError where they are not one token each."""
        chosen = self.settings
        marks = chosen.placeholder * k
        text = chosen.template.format(layer=layer, placeholders=marks, question=question)
        turns = bool(getattr(self.model.tokenizer, "chat_template", None)) if chosen.chat is None else chosen.chat
        prompt = self.model.prompt(text, chat=turns)
        said, before = text.strip(), chosen.template.partition("{placeholders}")[0].format(layer=layer).lstrip()
        start = prompt.text.find(said) + len(before)
        if said not in prompt.text or not prompt.text.startswith(marks, start):
            raise ConfigError(f"no placeholder {chosen.placeholder!r} in the prompt {prompt.text!r}: mend the template")
        end = start + len(marks)
        places = [i for i, (low, high) in enumerate(prompt.spans) if max(low, start) < min(high, end)]
        tokens = {prompt.tokens[i] for i in places}
        if len(places) != k or len(tokens) != 1 or prompt.spans[places[-1]][1] > end:
            pieces = [prompt.pieces[i] for i in places]
            raise ConfigError(
                f"{k} placeholders {chosen.placeholder!r} are {len(places)} tokens of {self.model.name}, {pieces}: "
                "take a placeholder that is one token by itself and behind itself"
            )
        return prompt, places

    def _rows(self, activations: Any, layer: int, positions: int | Sequence[int]) -> np.ndarray:
        """(n, k, d_model), each of length 1."""
        if isinstance(activations, Activations):
            activations = _captured(activations, layer, positions)
        rows = np.asarray(activations.astype(mx.float32) if isinstance(activations, mx.array) else activations)
        if rows.ndim == 2:
            rows = rows[:, None]
        if rows.ndim != 3 or rows.shape[-1] != self.model.d_model or not rows.size:
            raise ShapeError(
                f"activations are {rows.shape}, the oracle's {self.model.name} reads (n, {self.model.d_model}) or "
                f"(n, k, {self.model.d_model}): give those of its own model"
            )
        return units_of(rows)

    def _scores(self, prompt: Prompt, variants: Sequence[Sequence[Patch]], answers: Sequence[str]) -> np.ndarray:
        ids = [tuple(self.model.continuation(prompt, answer)) for answer in answers]
        if any(len(one) > 1 for one in ids):
            told = [name_scores(self.model, Question(prompt, (one,)), variants)[:, 1] for one in ids]
            return np.stack([np.asarray(one, dtype=np.float64) for one in told], axis=1)
        first = mx.array([one[0] for one in ids])

        def log_probs(logits: mx.array) -> mx.array:
            wide = logits.astype(mx.float32)
            return wide[:, first] - mx.logsumexp(wide, axis=-1, keepdims=True)

        return np.asarray(self.model.sweep(prompt, variants, metric=log_probs), dtype=np.float64)


def rows_of(model: Model, prompts: Sequence[AnyPrompt], layer: int, position: int = -1) -> np.ndarray:
    """(n_prompts, d_model), float32: resid_post of one layer at one position."""
    where = f"resid_post.{layer}"
    found = [_captured(out, layer, position)[:, 0] for out in model.batches(prompts, capture=where)]
    return np.concatenate(found).astype(np.float32)


def _captured(out: Activations, layer: int, positions: int | Sequence[int]) -> np.ndarray:
    """(n_prompts, k, d_model): captured activations at positions, each prompt's own."""
    held = np.asarray(out[f"resid_post.{layer}"].astype(mx.float32))
    chosen = [positions] if isinstance(positions, int) else list(positions)
    for length in out.lengths:
        if wrong := [one for one in chosen if not -length <= one < length]:
            raise PositionError(f"position {wrong[0]} of a prompt of {length} tokens")
    places = np.array([[one % length for one in chosen] for length in out.lengths])
    return np.asarray(held[np.arange(len(held))[:, None], places])


def load_oracle(
    name: str | Path, adapter: str | Path, settings: OracleSettings | None = None, **options: Any
) -> ActivationOracle:
    """A model with an oracle's adapter, in PEFT's layout (the published ones) or mlx-lm's (those trained here).

    settings: how it is asked; None takes those that `train_oracle` wrote, else those of the published oracles.
    options: those of `mi.load`. Raises what that raises, and ConfigError for settings that are not understood.
    """
    model = load(name, adapter=adapter, **options)
    written = json.loads((Path(adapter).expanduser() / "adapter_config.json").read_text(encoding="utf-8"))
    own = OracleSettings.from_config(written[SETTINGS]) if SETTINGS in written else OracleSettings()
    return ActivationOracle(model, settings or own)
