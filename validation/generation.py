"""Does generation under a cache write what recomputing would, alike in a batch and alone, and the same again?"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_interp import Add, Completion, Prompt, Scale
from mlx_interp.deferred import mx
from mlx_interp.engine.generate import collect, decode
from mlx_interp.engine.plan import plan_edits
from mlx_interp.interventions import Intervention
from validation.check import Check, Finding, Subject, relative, rounding, unit_vector, worst

N_TOKENS = 6
NEAR_TIE = 1e-3
"""Nats between the two best tokens below which another order of summation may decide."""


def cache_is_recomputing(subject: Subject) -> Finding:
    """Logits under the cache, plain and steered, prompts of unequal length in one batch, each against a fresh pass.

    The tokens are given, not chosen, so that no near tie decides what is compared.
    """
    prompts = [min(subject.prompts, key=len), subject.prompt]
    site = f"resid_post.{subject.layers[len(subject.layers) // 2]}"
    steered: list[Intervention] = [Add(site, unit_vector(subject), 1.0)]
    errors = []
    for interventions in (list[Intervention](), steered):
        forced = subject.prompts[0].tokens[-N_TOKENS:]
        cached = logits_under_cache(subject, [prompt.tokens for prompt in prompts], interventions, forced)
        for row, prompt in enumerate(prompts):
            whole = subject.model.run(prompt.tokens + forced, interventions=interventions, logits="all").logits
            assert whole is not None
            errors.append(relative(cached[row], whole[0, len(prompt) - 1 : -1]))
    return subject.within(worst(errors))


def logits_under_cache(
    subject: Subject, prompts: Sequence[list[int]], interventions: Sequence[Intervention], forced: Sequence[int]
) -> mx.array:
    """Logits (prompt, step, d_vocab) while the same given tokens are written after every prompt."""
    network, seen = subject.model.network, list[mx.array]()

    def sample(logits: mx.array, step: int) -> mx.array:
        seen.append(logits)
        return mx.full((len(prompts),), forced[min(step, len(forced) - 1)])

    lengths = [len(prompt) for prompt in prompts]
    plan = plan_edits(network, [list(interventions)] * len(prompts), lengths, shared=True, decodes=True)
    steps = decode(network, prompts, plan, sample)
    collect(steps, len(prompts), len(forced), stop=())
    return mx.stack(seen[: len(forced)], axis=1)


def same_seed_same_text(subject: Subject) -> Finding:
    def texts(seed: int) -> list[list[int]]:
        options = {"max_tokens": N_TOKENS, "temperature": 2.0, "seed": seed}
        return [written.tokens for written in subject.model.generate(subject.prompts, **options)]  # type: ignore[arg-type]

    first, again, others = texts(1), texts(1), [texts(seed) for seed in range(2, 6)]
    if first != again:
        return Finding("failed", "another text", "the same text", "one seed, two results")
    if all(other == first for other in others):
        return Finding("failed", "the same text", "another text", "five seeds, one result: the seed is not used")
    return Finding("passed", "same seed same, other seeds other", "the same")


def batch_is_each_alone(subject: Subject) -> Finding:
    """Prompts that begin alike are read as one sequence; with an edit, even an idle one, as padded rows."""
    model, prompts = subject.model, subject.prompts
    unchanged = [Scale("resid_pre.0", 1.0)]
    together = [model.generate(prompts, max_tokens=N_TOKENS, interventions=edits) for edits in ([], unchanged)]
    for number, prompt in enumerate(prompts):
        alone = model.generate(prompt, max_tokens=N_TOKENS)[0]
        for way, texts in zip(("", ", as padded rows"), together, strict=True):
            written = texts[number]
            if alone.tokens != written.tokens and not _undecided(subject, prompt, alone, written):
                return Finding("failed", "another text", "the same text", f"after {prompt.text[-40:]!r}{way}")
    return Finding("passed", f"{len(prompts)} texts the same", "the same texts")


def prompt_only_edits_stay_there(subject: Subject) -> Finding:
    """An edit of a prompt's position acts once, in the cache; "generated" ones act only later."""
    model, prompt = subject.model, subject.prompt
    site = f"resid_post.{subject.layers[len(subject.layers) // 2]}"
    vector = unit_vector(subject)
    plain = model.generate(prompt, max_tokens=2)[0]
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
