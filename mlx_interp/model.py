"""`Model`: any mlx-lm model of a described family, with every activation open for reading and changing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, cast, overload

import numpy as np

from mlx_interp import sites
from mlx_interp.activations import Activations, Gradients, plain, readable, without_padding
from mlx_interp.deferred import mx
from mlx_interp.engine.clean_run import entries_of
from mlx_interp.engine.cost import Cost, sweep_cost
from mlx_interp.engine.forward import Logits, Pass, forward
from mlx_interp.engine.generate import collect, decode
from mlx_interp.engine.gradients import gradients
from mlx_interp.engine.kept_run import KeptRun, keep_run
from mlx_interp.engine.memory import bytes_of_run, bytes_of_site, default_budget, rows_that_fit
from mlx_interp.engine.plan import plan_edits
from mlx_interp.engine.positions import resolve_positions
from mlx_interp.engine.sampling import check_sampling, sampler
from mlx_interp.engine.self_check import PROBE, first_fault
from mlx_interp.engine.shared_states import shared_states
from mlx_interp.engine.sweep import Metric, Progress, SweptLogits
from mlx_interp.engine.sweep import sweep as run_sweep
from mlx_interp.engine.sweep_generate import sweep_generate as run_sweep_generate
from mlx_interp.engine.sweep_prompts import sweep_prompts
from mlx_interp.engine.values import listed, variants_of
from mlx_interp.errors import CheckpointError, DataError, PositionError, ShapeError
from mlx_interp.interventions import Intervention, Interventions, Variants
from mlx_interp.progress import reported
from mlx_interp.prompts import AnyPrompt, Prompt, pieces_of, text_of
from mlx_interp.transformer_lens_names import Names, own_name
from mlx_interp.wrapped import Wrapped


@dataclass(frozen=True)
class Completion:
    """A generated text: what a model wrote after a prompt."""

    prompt: Prompt
    text: str
    tokens: list[int]
    """Without the end-of-turn token."""
    finish_reason: Literal["stop", "length"]


class Model(Wrapped):
    """A language model whose activations can be read (`run`) and changed (`run`, `sweep`)."""

    def run(
        self,
        prompts: AnyPrompt | Sequence[AnyPrompt],
        *,
        capture: str | Sequence[str] = (),
        interventions: Interventions = (),
        logits: Logits = "last",
        names: Names = "own",
    ) -> Activations:
        """One forward pass over a batch of prompts, with interventions, keeping the sites asked for.

        capture: selectors, e.g. ["resid_post", "z.12"]. logits: "last" (batch, d_vocab), "all" (batch, pos, d_vocab) or
        "none". Prompts of different lengths are padded; no result shows it. names: "transformer_lens" takes its names
        of activations in capture and interventions (docs/coming_from.md), beside those here, and gives them back.
        Raises SiteError, PositionError, ShapeError, NeverFired (an intervention that touches nothing), PromptError, and
        TooLarge, before anything is computed, for what does not fit the memory (`batches` reads it in parts).
        """
        batch = self.prompts(prompts)
        _check_logits(logits)
        if names != "own":
            capture, interventions = self._own_names(names, capture, interventions)
        lengths = [len(prompt) for prompt in batch]
        self._check_lengths(lengths)
        plan = plan_edits(self.network, [listed(interventions)] * len(batch), lengths, shared=True)
        wanted = frozenset(self.sites_of(capture))
        self._refuse_too_large(bytes_of_run(self.network, len(batch), max(lengths), wanted, logits), batch, wanted)
        tokens = mx.array([prompt.tokens + [0] * (max(lengths) - len(prompt)) for prompt in batch])
        under_way = Pass(self.network, plan, lengths, wanted)
        values = forward(under_way, tokens, logits)
        captured = {site: readable(site, x, lengths) for site, x in under_way.captured.items()}
        if logits == "all" and values is not None:
            values = without_padding(values, lengths)
        mx.eval(values, captured)
        plan.check_fired()
        return Activations(plain(values), lengths, self.n_layers, captured, names, self.sites)

    def _own_names(
        self, names: str, capture: str | Sequence[str], interventions: Interventions
    ) -> tuple[list[str], list[Intervention]]:
        """Sites and interventions under the names of this library. Raises ValueError for names of somebody else."""
        if names != "transformer_lens":
            raise ValueError(f"names is 'own' or 'transformer_lens', not {names!r}")
        wanted = [capture] if isinstance(capture, str) else list(capture)
        edits = [
            one.at_site(own_name(site, self.sites)) if isinstance(site := getattr(one, "site", None), str) else one
            for one in listed(interventions)
        ]
        return [own_name(name, self.sites) for name in wanted], edits

    def batches(
        self,
        prompts: Sequence[AnyPrompt],
        *,
        capture: str | Sequence[str] = (),
        interventions: Interventions = (),
        logits: Logits = "none",
        memory: int | None = None,
        progress: Progress | bool = False,
    ) -> Iterator[Activations]:
        """`run` over any number of prompts, in their order, a batch at a time: memory stays flat.

        memory: bytes that a batch may take; the default is a share of what is free. progress: as in `sweep`.
        Raises what `run` raises.
        """
        batch = self.prompts(prompts)
        wanted = self.sites_of(capture)
        lengths = [len(prompt) for prompt in batch]
        with reported(progress, len(batch), "prompts") as report:
            for rows in rows_that_fit(self.network, lengths, wanted, logits, memory or default_budget()):
                part = batch[rows.start : rows.stop]
                yield self.run(part, capture=capture, interventions=interventions, logits=logits)
                if report is not None:
                    report(rows.stop, len(batch))

    def states(
        self,
        prompts: Sequence[AnyPrompt],
        capture: str | Sequence[str],
        positions: Sequence[int] | Sequence[Sequence[int]] = (-1,),
        *,
        memory: int | None = None,
    ) -> np.ndarray:
        """States of many prompts at some positions, (n_prompts, n_sites, n_positions, width), float32, on the host.

        capture: selectors of sites of one width, e.g. "resid_post" or ["attn_out.3", "mlp_out.3"]. positions: of every
        prompt, -1 being its last; or a list for each prompt, all as long. What prompts begin with in common is computed
        once, so that chats under one template cost less than in `batches`; memory: bytes that a pass may take.
        Raises SiteError, PositionError, PromptError, and ShapeError for sites that do not fit into one array.
        """
        batch, wanted = self.prompts(prompts), self.sites_of(capture)
        lengths = [len(prompt) for prompt in batch]
        self._check_lengths(lengths)
        shapes = {self.network.site_shape(site, 0) for site in wanted}
        if len(shapes) != 1 or any(n_heads for n_heads, _ in shapes):
            raise ShapeError(
                f"states of {', '.join(dict.fromkeys(site.name for site in wanted)) or 'no site'}: give sites (batch, "
                "pos, width) of one width, such as resid_post; run(capture=...) reads all others"
            )
        each = [positions] * len(batch) if all(isinstance(at, (int, np.integer)) for at in positions) else positions
        places = [resolve_positions(at, length, "states") or [] for at, length in zip(each, lengths, strict=True)]
        if len({len(at) for at in places}) > 1:
            raise PositionError(
                f"states at {sorted({len(at) for at in places})} positions of a prompt: give as many of each"
            )
        tokens = [prompt.tokens for prompt in batch]
        return shared_states(self.network, tokens, wanted, places, budget=memory or default_budget())

    @overload
    def sweep(
        self,
        prompt: AnyPrompt,
        variants: Variants,
        *,
        logits: Literal["last", "all"] | int = "last",
        metric: Metric | None = None,
        memory: int | None = None,
        progress: Progress | bool = False,
        kept: KeptRun | None = None,
    ) -> mx.array: ...

    @overload
    def sweep(
        self,
        prompt: AnyPrompt,
        variants: Variants,
        *,
        capture: str | Sequence[str],
        logits: SweptLogits = "last",
        metric: Metric | None = None,
        memory: int | None = None,
        progress: Progress | bool = False,
        kept: KeptRun | None = None,
    ) -> Activations: ...

    def sweep(
        self,
        prompt: AnyPrompt,
        variants: Variants,
        *,
        capture: str | Sequence[str] = (),
        logits: SweptLogits = "last",
        metric: Metric | None = None,
        memory: int | None = None,
        progress: Progress | bool = False,
        kept: KeptRun | None = None,
    ) -> mx.array | Activations:
        """Sweep of counterfactuals of one prompt: what `run` returns for each alone, at a fraction of the cost.

        variants: lists of interventions; [] is the clean prompt. Returns the logits (n_variants, d_vocab), or what
        `metric` (logits -> numbers, first axis variants) makes of them, never holding all logits of a large grid. With
        `capture`: Activations whose rows are variants and whose `logits` are that array.
        memory: bytes that a batch may take; the default is a share of what is free. The result does not depend on it.
        progress: True for a progress bar, or a function called with (variants done, variants in all) after each batch.
        logits: of the last token; "all": of every one, (n_variants, pos, d_vocab); a number: of the last so many, which
            costs little more than the last one's; "none" with `capture`.
        kept: this prompt's run from `keep`, which a sweep that edits the residual stream alone need not repeat.
        Raises what `run` raises, and ShapeError for a metric of the wrong shape.
        """
        only = self._prompt(prompt)
        self._check_lengths([len(only)])
        _check_logits(logits, len(only))
        rows = variants_of(variants)
        wanted = frozenset(self.sites_of(capture))
        if wanted:
            held = sum(bytes_of_site(self.network, site, len(rows), len(only)) for site in wanted)
            self._refuse_too_large(2 * held, rows, wanted)
        with reported(progress, len(rows)) as report:
            result = run_sweep(
                self.network,
                only.tokens,
                rows,
                logits=logits,
                captures=wanted,
                metric=metric,
                budget=memory,
                progress=report,
                kept=kept,
            )
        values = plain(result.values)
        if not capture:
            if values is None:
                raise ValueError("logits='none' without capture leaves a sweep nothing to return")
            return values
        lengths = [len(only)] * len(rows)
        captured = {site: readable(site, x, lengths) for site, x in result.captured.items()}
        mx.eval(captured)
        return Activations(values, lengths, self.n_layers, captured)

    def keep(self, prompt: AnyPrompt) -> KeptRun:
        """A prompt's run, kept for sweeps whose values are its own states: `.states(position)`, `sweep(kept=...)`.

        states: (n_layers + 1, d_model), resid_post of every layer and in the last row what enters layer 0.
        """
        only = self._prompt(prompt)
        self._check_lengths([len(only)])
        return keep_run(self.network, only.tokens)

    def sweep_prompts(
        self,
        prompts: Sequence[AnyPrompt],
        variants: Variants,
        *,
        metric: Metric | Sequence[Metric] | None = None,
        memory: int | None = None,
        progress: Progress | bool = False,
    ) -> mx.array:
        """The same variants on many prompts: what `sweep` returns for each, (n_prompts, n_variants, ...).

        What prompts begin with in common (a template, a few examples, "How do I") is computed once a variant instead
        of once a prompt, unless the variants treat it differently; negative positions count from each prompt's end.
        metric: one for all prompts, or one for each; None gives the logits. progress counts prompts times variants.
        Raises what `sweep` raises, and ShapeError for a number of metrics that is not the number of prompts.
        """
        asked = self.prompts(prompts)
        self._check_lengths([len(prompt) for prompt in asked])
        rows = variants_of(variants)
        metrics = [metric] * len(asked) if callable(metric) else metric
        if metrics is not None and len(metrics) != len(asked):
            raise ShapeError(f"{len(metrics)} metrics for {len(asked)} prompts: give one for all, or one for each")
        with reported(progress, len(asked) * len(rows)) as report:
            tokens = [prompt.tokens for prompt in asked]
            found = sweep_prompts(self.network, tokens, rows, metrics=metrics, budget=memory, progress=report)
        return cast(mx.array, plain(mx.stack(found)))

    def gradients(
        self,
        prompts: AnyPrompt | Sequence[AnyPrompt],
        metric: Metric,
        capture: str | Sequence[str],
        *,
        interventions: Interventions = (),
        logits: Literal["last", "all"] = "last",
        of: str | None = None,
    ) -> Gradients:
        """d metric / d activation at sites, one backward pass for all of them, through quantised weights as well.

        metric: logits (batch, d_vocab), or (batch, pos, d_vocab) for "all", -> numbers (batch,), each of its own row.
        capture: selectors of the sites; their activations, after interventions, come along. All layers' intermediate
        results are held until the backward pass is done: give few prompts at a time.
        of: a site whose activation (batch, pos, ...), padded behind short prompts, the metric gets in place of logits.
        Raises what `run` raises, SiteError for `head_out` (nothing is computed from it: take `z`), and ShapeError for a
        metric of the wrong shape.
        """
        batch = self.prompts(prompts)
        lengths = [len(prompt) for prompt in batch]
        self._check_lengths(lengths)
        plan = plan_edits(self.network, [listed(interventions)] * len(batch), lengths, shared=True)
        wanted = self.sites_of(capture)
        source = None if of is None else self.network.has(sites.parse_one(of, self.n_layers))
        found = gradients(self.network, [prompt.tokens for prompt in batch], plan, wanted, metric, logits, source)
        plan.check_fired()
        activations, slopes = (
            {site: readable(site, x, lengths) for site, x in arrays.items()}
            for arrays in (found.activations, found.slopes)
        )
        mx.eval(activations, slopes)
        return Gradients(found.metric, activations, slopes, lengths, self.n_layers)

    def generate(
        self,
        prompts: AnyPrompt | Sequence[AnyPrompt],
        *,
        interventions: Interventions = (),
        per_prompt: Sequence[Interventions] | None = None,
        max_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Completion]:
        """Continuations of a batch of prompts, with interventions, under a key-value cache.

        interventions: for all prompts; per_prompt: a list for each prompt instead, so that a grid of strengths decodes
        as one batch. Positions count in the prompt; "generated" ones and those left out act on every new token.
        temperature: 0 is greedy. Stops at any of the tokenizer's end-of-turn tokens, or after `max_tokens`.
        Raises what `run` raises, and ConfigError for settings out of range.
        """
        batch = self.prompts(prompts)
        check_sampling(temperature, top_p, max_tokens, seed)
        if per_prompt is not None and (interventions or len(per_prompt) != len(batch)):
            raise ValueError(f"per_prompt needs a list for each of {len(batch)} prompts, without `interventions`")
        rows = [listed(interventions)] * len(batch) if per_prompt is None else [listed(one) for one in per_prompt]
        lengths = [len(prompt) for prompt in batch]
        self._check_lengths(lengths, new=max_tokens - 1)
        plan = plan_edits(self.network, rows, lengths, shared=per_prompt is None, decodes=max_tokens > 1)
        sample = sampler(temperature, top_p, seed, range(len(batch)))
        steps = decode(self.network, [prompt.tokens for prompt in batch], plan, sample, room=max_tokens)
        tokens, stopped = collect(steps, len(batch), max_tokens, self.stop_tokens)
        plan.check_fired()
        return [self._completion(*row) for row in zip(batch, tokens, stopped, strict=True)]

    def sweep_generate(
        self,
        prompt: AnyPrompt,
        variants: Variants,
        *,
        max_tokens: int = 10,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        memory: int | None = None,
        progress: Progress | bool = False,
    ) -> list[Completion]:
        """Continuations of every variant of one prompt: `generate(per_prompt=...)`, with a sweep as prompt pass.

        variants: lists of interventions; [] is the clean prompt. All decode as one batch, or as few as `memory` (bytes)
        allows; the result does not depend on it. Returns one Completion a variant, in the order given.
        Raises what `generate` raises.
        """
        only = self._prompt(prompt)
        check_sampling(temperature, top_p, max_tokens, seed)
        self._check_lengths([len(only)], new=max_tokens - 1)
        rows = variants_of(variants)
        with reported(progress, len(rows)) as report:
            tokens, stopped = run_sweep_generate(
                self.network,
                only.tokens,
                rows,
                max_tokens=max_tokens,
                stop=self.stop_tokens,
                sample=lambda chosen: sampler(temperature, top_p, seed, chosen),
                budget=memory,
                progress=report,
            )
        return [self._completion(only, *row) for row in zip(tokens, stopped, strict=True)]

    def stream(
        self,
        prompt: AnyPrompt,
        *,
        interventions: Interventions = (),
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """The continuation of one prompt as it is written, in pieces of text; `generate` otherwise.

        An intervention that touches nothing raises NeverFired before the first piece. Pieces are whole: no broken
        multi-byte character, no lost space.
        """
        only = self._prompt(prompt)
        check_sampling(temperature, top_p, max_tokens, seed)
        self._check_lengths([len(only)], new=max_tokens - 1)
        plan = plan_edits(self.network, [listed(interventions)], [len(only)], shared=True, decodes=max_tokens > 1)
        steps = decode(self.network, [only.tokens], plan, sampler(temperature, top_p, seed, [0]))
        drawn = (row[0] for _, row in zip(range(max_tokens), steps, strict=False))
        return pieces_of(self.tokenizer, takewhile(lambda token: token not in self.stop_tokens, drawn))

    def _completion(self, prompt: Prompt, tokens: list[int], stopped: bool) -> Completion:
        return Completion(prompt, text_of(self.tokenizer, tokens), tokens, "stop" if stopped else "length")

    def cost(self, prompt: AnyPrompt, variants: Variants) -> Cost:
        """Cost of a sweep at least, in operations and plain forward passes; nothing is computed."""
        length, rows = len(self._prompt(prompt)), variants_of(variants)
        plan = plan_edits(self.network, rows, [length] * len(rows))
        return sweep_cost(self.network, length, entries_of(plan, len(rows), self.network, length))

    def memory(
        self, prompts: AnyPrompt | Sequence[AnyPrompt], *, capture: str | Sequence[str] = (), logits: Logits = "last"
    ) -> int:
        """Bytes that `run` would take at its peak, beside the weights; nothing is computed.

        An upper estimate, within a factor of four of what is measured on models whose layers outweigh their overhead.
        """
        lengths = [len(prompt) for prompt in self.prompts(prompts)]
        wanted = self.sites_of(capture)
        return bytes_of_run(self.network, len(lengths), max(lengths), wanted, logits)

    def unembed(self, resid: mx.array) -> mx.array:
        """Residual stream (..., d_model) -> logits (..., d_vocab), as the model ends: norm, unembedding, soft-cap.

        Computed in the model's dtype, whatever comes in, so that the last layer's stream gives the model's own logits.
        """
        # Captures of a bfloat16 model are read as float32: without the cast the norm would not round as the model's.
        logits = plain(self.network.unembed(self.network.final(resid.astype(self.network.dtype))))
        assert logits is not None
        return logits

    def top_tokens(self, logits: mx.array | Activations, k: int = 5) -> list[list[tuple[str, float]]]:
        """Top tokens of each row of logits, the likeliest first: text and probability.

        logits: (n, d_vocab), one row (d_vocab,), or what `run` or `sweep` gave back. Raises ShapeError for logits of
        another shape, DataError for a k that the vocabulary does not have.
        """
        held = logits.logits if isinstance(logits, Activations) else logits
        if held is None or not 1 <= held.ndim <= 2 or held.shape[-1] != self.d_vocab:
            given = "none" if held is None else tuple(held.shape)
            raise ShapeError(f"top tokens of logits {given}: give (n, {self.d_vocab}) or ({self.d_vocab},)")
        if not 1 <= k <= self.d_vocab:
            raise DataError(f"the top {k} of {self.d_vocab} tokens: give 1 to {self.d_vocab}")
        probs = np.asarray(mx.softmax(held.reshape(-1, self.d_vocab).astype(mx.float32), axis=-1))
        order = np.argsort(-probs, axis=-1, kind="stable")[:, :k]
        return [
            [(self.text_of_token(token), float(row[token])) for token in top]
            for row, top in zip(probs, order, strict=True)
        ]

    def self_check(self, probe: Sequence[int] = PROBE) -> None:
        """The wrapped forward is mlx-lm's own, bit for bit, the lens the logits, and patterns what attention mixed.

        Raises CheckpointError, saying what differs and by how much.
        """
        if fault := first_fault(self.network, probe):
            raise CheckpointError(f"{self.name}: {fault}")


def _check_logits(logits: str | int, length: int | None = None) -> None:
    """length: of the prompt of a sweep, which can be asked for the logits of its last so many tokens."""
    counts = isinstance(logits, int) and not isinstance(logits, bool) and length is not None
    if counts and not 1 <= int(logits) <= (length or 0):
        raise ValueError(f"logits={logits}: the prompt has {length} tokens; give how many of the last, 1 or more")
    if not counts and logits not in ("last", "all", "none"):
        number = "" if length is None else ", or a number of last tokens"
        raise ValueError(f"logits is 'last', 'all' or 'none'{number}, not {logits!r}")
