"""Does the lens read what the model knows, and are prompts tokenised as the model expects?"""

from __future__ import annotations

import mlx.core as mx

from mlx_interp.methods.answers import question, verdicts
from mlx_interp.methods.lens import lens_logits, lens_ranks
from validation.check import SAME_KERNELS, Check, Finding, Status, Subject, bitwise

KNOWN = 0.25
"""Share of the everyday facts below which a model does not know enough of them to be judged by its lens."""


def lens_ends_in_the_prediction(subject: Subject) -> Finding:
    """Equal to the last bit: the lens of the last layer takes the path that the logits take."""
    pairs = []
    for prompt in subject.prompts:
        logits = subject.model.run(prompt).logits
        assert logits is not None
        lens = lens_logits(subject.model, prompt)
        states = subject.model.run(prompt, capture="resid_post.-1")["resid_post.-1"][:, -1]
        pairs += [(prompt.text, subject.model.unembed(states), logits)]
        if int(mx.argmax(lens[-1])) != int(mx.argmax(logits[0])):
            return Finding("failed", "another top token", "the model's own top token", f"at {prompt.text!r}")
    return bitwise(pairs)


def lens_finds_known_facts(subject: Subject) -> Finding:
    """On facts that the model answers: the answer's rank improves from the first to the last layer, on most of them."""
    model = subject.model
    asked = [question(model, fact.prompt, [fact.answer]) for fact in subject.facts]
    known = [item for item, verdict in zip(asked, verdicts(model, asked), strict=True) if verdict.first_token]
    share = f"{len(known)} of {len(asked)} facts known"
    if len(known) < KNOWN * len(asked):
        return Finding("not applicable", share, f">= {KNOWN:.0%}", "the model does not know the facts to be found")
    refined = early = 0
    for item in known:
        ranks = lens_ranks(lens_logits(model, item.prompt), item.first_tokens)
        refined += ranks[-1] == 0 and ranks[0] > 0
        early += ranks[0] == 0
    passed: Status = "passed" if refined > early and refined >= 0.5 * len(known) else "failed"
    return Finding(passed, f"{refined} of {len(known)} refined", ">= half of the known facts", share)


def one_bos(subject: Subject) -> Finding:
    """The BOS token, if the tokenizer writes one at all, comes exactly once, with and without the chat template."""
    model = subject.model
    bos = model.tokenizer.bos_token_id
    writes = bos is not None and bos in model.tokenizer.encode("x")
    texts = {"plain": subject.prompt.tokens}
    if model.tokenizer.chat_template:
        texts["chat"] = model.prompt("How are you?", chat=True).tokens
    counts = {name: tokens.count(bos) for name, tokens in texts.items()}
    right = {name: n == 1 if writes else n == 0 for name, n in counts.items()}
    if not writes and "chat" in counts:
        right["chat"] = counts["chat"] <= 1  # a template may write it where the tokenizer does not
    shown = ", ".join(f"{name} {n}" for name, n in counts.items())
    return Finding("passed" if all(right.values()) else "failed", shown, f"{int(writes)} each")


def chat_template_present(subject: Subject) -> Finding:
    """A model that was tuned for chat is asked through its template."""
    present = bool(subject.model.tokenizer.chat_template)
    name = f"{subject.model.model_id} {subject.model.name}".lower()
    tuned = any(word in name for word in ("instruct", "-it", "chat"))
    if not present and not tuned:
        return Finding("not applicable", "none", "present", "a base model without a chat template")
    return Finding("passed" if present else "failed", "present" if present else "none", "present")


CHECKS = [
    Check(
        "lens ends in the prediction",
        "a lens without the last norm, the soft-cap or the logit scale",
        SAME_KERNELS,
        "mlx_interp/engine/network.py: unembed",
        lens_ends_in_the_prediction,
    ),
    Check(
        "lens finds known facts",
        "a lens that reads the wrong layers or positions; a model that is broken",
        "fixed before any model was looked at: a majority, so that single facts known early do not decide",
        "mlx_interp/methods/lens.py; then what the model answers to `validation` facts",
        lens_finds_known_facts,
    ),
    Check(
        "one BOS",
        "a doubled or missing BOS token, which shifts every activation",
        "models are trained with exactly one (or none)",
        "mlx_interp/prompts.py: make_prompt",
        one_bos,
    ),
    Check(
        "chat template present",
        "an instruct model that is asked as if it were a base model",
        "instruct checkpoints ship their template",
        "tokenizer_config.json or chat_template.jinja of the checkpoint",
        chat_template_present,
    ),
]
