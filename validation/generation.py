"""Does generation under a cache write what recomputing would, alike in a batch and alone, and the same again?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_interp import Add, Completion, Model, Prompt, Scale
from mlx_interp.deferred import mx
from mlx_interp.engine.generate import collect, decode
from mlx_interp.engine.plan import plan_edits
from mlx_interp.interventions import Intervention
from validation.alone import Case, of_equal_length
from validation.check import Check, Finding, Subject, relative, rounding, unit_vector, worst

N_TOKENS = 6
N_DRAWN = 3
"""Tokens that are sampled after each prompt: of the prompts' pass, of the first step and of one that follows a step."""
NEAR_TIE = 1e-3
"""Nats between the two best tokens below which another order of summation may decide."""


def cache_is_recomputing(subject: Subject) -> Finding:
    """Logits under the cache, prompts of unequal length in one batch, plain and steered, each against a fresh pass.

    The tokens are given, not chosen, so that no near tie decides what is compared.
    """
    model, short, long = subject.model, min(subject.prompts, key=len), subject.prompt
    site = f"resid_post.{subject.layers[len(subject.layers) // 2]}"
    steered: list[Intervention] = [Add(site, unit_vector(subject), 1.0)]
    rows = [(prompt.tokens, edits) for edits in (list[Intervention](), steered) for prompt in (short, long)]
    forced = subject.prompts[0].tokens[-N_TOKENS:]
    cached = logits_under_cache(subject, rows, forced)
    errors = []
    for written, (tokens, interventions) in zip(cached, rows, strict=True):
        whole = model.run(tokens + forced, capture="final", interventions=interventions, logits="none")["final"][0]
        errors.append(relative(written, unembedded(model, whole[len(tokens) - 1 : -1])))
    return subject.within(worst(errors))


def logits_under_cache(subject: Subject, rows: Sequence[Case], forced: Sequence[int]) -> mx.array:
    """Logits (row, step, d_vocab) while the same given tokens are written after every prompt, each under its edits."""
    network, seen = subject.model.network, list[mx.array]()

    def sample(logits: mx.array, step: int) -> mx.array:
        seen.append(logits)
        return mx.full((len(rows),), forced[min(step, len(forced) - 1)])

    prompts = [tokens for tokens, _ in rows]
    plan = plan_edits(network, [list(edits) for _, edits in rows], [len(tokens) for tokens in prompts], decodes=True)
    collect(decode(network, prompts, plan, sample), len(rows), len(forced), stop=())
    return mx.stack(seen[: len(forced)], axis=1)


def unembedded(model: Model, final: mx.array) -> mx.array:
    """Logits of what the last norm gave (pos, d_model)."""
    return model.network.unembed(final.astype(model.network.dtype))


def same_seed_same_text(subject: Subject) -> Finding:
    def texts(seed: int) -> list[list[int]]:
        written = subject.model.generate(subject.prompts, max_tokens=N_DRAWN, temperature=2.0, seed=seed)
        return [one.tokens for one in written]

    first, again = texts(1), texts(1)
    if first != again:
        return Finding("failed", "another text", "the same text", "one seed, two results")
    if all(texts(seed) == first for seed in range(2, 6)):  # as a rule the second seed tells
        return Finding("failed", "the same text", "another text", "five seeds, one result: the seed is not used")
    return Finding("passed", "same seed same, other seeds other", "the same")


def batch_is_each_alone(subject: Subject) -> Finding:
    """Prompts that begin alike are read as one sequence; with an edit, even an idle one, as padded rows.

    Each text of either batch is read in a plain pass, without a cache, that must say its tokens one after another;
    where one does not, and for the longest prompt in any case, the prompt is decoded by itself. How prompts were read
    shows as soon as tokens look back at them; padded rows, which empty slots follow, are the ones decoded to the end.
    """
    model, prompts = subject.model, subject.prompts
    as_one = model.generate(prompts, max_tokens=N_DRAWN)
    as_rows = model.generate(prompts, max_tokens=N_TOKENS, interventions=[Scale("resid_pre.0", 1.0)])
    said = _said_without_a_cache(model, [*as_one, *as_rows])
    longest = model.generate(subject.prompt, max_tokens=N_DRAWN)[0]
    for number, prompt in enumerate(prompts):
        for way, written in (("", as_one[number]), (", as padded rows", as_rows[number])):
            known = longest if prompt is subject.prompt else None
            if said[_whole(written)] and (known is None or _agree(known, written)):
                continue
            alone = model.generate(prompt, max_tokens=N_TOKENS)[0]
            if not _agree(alone, written) and not _undecided(subject, prompt, alone, written):
                return Finding("failed", "another text", "the same text", f"after {prompt.text[-40:]!r}{way}")
    return Finding("passed", f"{len(prompts)} texts the same", "the same texts")


def _agree(a: Completion, b: Completion) -> bool:
    """Whether two texts are the same as far as both were asked to go on."""
    n = min(len(a.tokens), len(b.tokens))
    ended = any(one.finish_reason == "stop" and len(one.tokens) < len(other.tokens) for one, other in ((a, b), (b, a)))
    return a.tokens[:n] == b.tokens[:n] and not ended


def _said_without_a_cache(model: Model, texts: Sequence[Completion]) -> dict[tuple[int, ...], bool]:
    """By prompt and text: whether each token of the text, and its end where it ended, is what a plain pass says."""
    wholes = {_whole(written): written for written in texts}
    said = {}
    for numbers in of_equal_length(list(wholes)):
        some = [list(wholes)[number] for number in numbers]
        final = model.run([list(whole) for whole in some], capture="final", logits="none")["final"]
        for whole, states in zip(some, final, strict=True):
            written = wholes[whole]
            begins = len(whole) - len(written.tokens)
            tops = np.asarray(mx.argmax(unembedded(model, states[begins - 1 : len(whole)]), axis=-1)).tolist()
            ended = written.finish_reason == "length" or tops[-1] in model.stop_tokens
            said[whole] = tops[:-1] == written.tokens and ended
    return said


def _whole(written: Completion) -> tuple[int, ...]:
    return (*written.prompt.tokens, *written.tokens)


def prompt_only_edits_stay_there(subject: Subject) -> Finding:
    """An edit of a prompt's position acts once, in the cache; "generated" ones act only later."""
    model, prompt = subject.model, subject.prompt
    site = f"resid_post.{subject.layers[len(subject.layers) // 2]}"
    vector = unit_vector(subject)
    plain = model.generate(prompt, max_tokens=1)[0]
    later = model.generate(prompt, max_tokens=2, interventions=[Add(site, vector, 1e3, "generated")])[0]
    if plain.tokens[:1] != later.tokens[:1]:
        return Finding("failed", "the first token changed", "unchanged", 'under an edit of "generated" positions')
    return Finding("passed", "the first token is unchanged", "unchanged")


def _undecided(subject: Subject, prompt: Prompt, a: Completion, b: Completion) -> bool:
    """Whether two texts part at a near tie."""
    shared = 0
    while shared < min(len(a.tokens), len(b.tokens)) and a.tokens[shared] == b.tokens[shared]:
        shared += 1
    logits = subject.model.run(prompt.tokens + a.tokens[:shared]).logits
    assert logits is not None
    best = mx.sort(logits[0].astype(mx.float32))[-2:]
    return float(best[1] - best[0]) < NEAR_TIE


SAME = "greedy decoding is a function of the prompt; only near ties (.001 nats) may fall either way"
CHECKS = [
    Check(
        "cache is recomputing",
        "a wrong RoPE offset, mask or steering under the key-value cache",
        rounding,
        "mlx_interp/engine/generate.py",
        cache_is_recomputing,
    ),
    Check(
        "same seed, same text",
        "sampling that ignores its seed, or depends on something else",
        "a seed is there to make a text repeatable",
        "mlx_interp/engine/sampling.py",
        same_seed_same_text,
        "standard",
    ),
    Check(
        "a batch of texts is each alone",
        "empty slots behind a short prompt that are attended to",
        SAME,
        "mlx_interp/engine/generate.py: Cache",
        batch_is_each_alone,
        "standard",
    ),
    Check(
        "edits act where they say",
        "edits of generated tokens that reach the prompt",
        "the first token is decided before any generated position exists",
        "mlx_interp/engine/plan.py: for_prompt, for_generated",
        prompt_only_edits_stay_there,
        "standard",
    ),
]
