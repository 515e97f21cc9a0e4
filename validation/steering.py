"""Does a vector that is added act at the layer that was named, as far as was asked, and not at all at scale 0?"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mlx_interp import Add
from mlx_interp.deferred import mx
from validation.check import (
    SAME_KERNELS,
    Check,
    Finding,
    Subject,
    all_logits,
    bitwise,
    relative,
    rounding,
    unit_vector,
    worst,
)


def steering_at_zero(subject: Subject) -> Finding:
    """At all layers at once: what any of them adds stays in the stream, as nothing there is replaced."""
    vector = unit_vector(subject)
    idle = [Add(f"resid_post.{layer}", vector, 0.0) for layer in subject.layers]
    unmoved = all_logits(subject.model, subject.prompt.tokens, idle)
    return bitwise([(f"{len(idle)} layers at scale 0", unmoved, subject.clean)])


def steering_changes(subject: Subject) -> Finding:
    """Pushed as far as the stream is long, and three times as far, each layer moves the logits, no two layers alike.

    Each layer is compared with the clean run and, under the very same push, with the next layer that is looked at:
    pushes of two lengths would differ at one and the same layer. Logits, not probabilities: a real model that is pushed
    hard gives everything to one token, whichever layer was pushed. The push is measured at the positions behind the
    first, whose norm may be a hundred times that of the others.
    """
    model, prompt, vector = subject.model, subject.prompt, unit_vector(subject)
    states = model.run(prompt, capture="resid_post", logits="none").stack("resid_post")[:, 0, 1:]
    norms = np.median(np.asarray(mx.linalg.norm(states.astype(mx.float32), axis=-1)), axis=1)
    last = subject.layers[-1]
    pushes = [(pair, times * float(norms[pair[0]])) for pair in pairwise(subject.layers) for times in (1.0, 3.0)]
    pushes = pushes or [((last, last), float(norms[last]))]
    variants = [[Add(f"resid_post.{layer}", vector, by)] for pair, by in pushes for layer in pair]
    logits = model.sweep(prompt, [[], *variants]).astype(mx.float32)
    logits = logits - logits.mean(axis=-1, keepdims=True)
    from_clean = [relative(moved, logits[0]) for moved in logits[1:]]
    apart = [relative(a, b) for a, b in logits[1:].reshape(len(pushes), 2, -1)] if len(subject.layers) > 1 else []
    least = -worst([-share for share in [*from_clean, *apart]])
    note = f"smallest difference of logits: {min(from_clean):.2g} from the clean run's"
    note += f", {min(apart):.2g} between neighbouring layers" if apart else ""
    return Finding("passed" if least > 1e-3 else "failed", f"{least:.2g}", "> 0.001", note)


def steering_lands(subject: Subject) -> Finding:
    """What is captured under a push: nothing changes below its layer, and there exactly the vector is added."""
    model, tokens, vector = subject.model, subject.prompt.tokens, unit_vector(subject)
    clean = model.run(tokens, capture="resid_post", logits="none")
    errors = [0.0]
    for layer in subject.layers:
        name = f"resid_post.{layer}"
        size = float(mx.median(mx.linalg.norm(clean[name][0].astype(mx.float32), axis=-1)))
        capture = [name] if layer == 0 else [f"resid_post.{layer - 1}", name]
        pushed = model.run(tokens, capture=capture, interventions=[Add(name, vector, 3 * size)], logits="none")
        if layer and not bool(mx.array_equal(pushed[capture[0]], clean[capture[0]])):
            return Finding("failed", "a layer below is changed", "unchanged", f"{capture[0]} under a push at {name}")
        errors.append(relative(pushed[name], clean[name].astype(mx.float32) + 3 * size * vector))
    return subject.within(worst(errors), f"{len(subject.layers)} layers; nothing changes below them")


CHECKS = [
    Check(
        "steering at 0",
        "a vector that widens the dtype of the stream, or is added where it should not be",
        SAME_KERNELS,
        "mlx_interp/engine/apply_edits.py: Add",
        steering_at_zero,
    ),
    Check(
        "steering changes the output",
        "interventions that do nothing, or land on the same layer whatever was asked for",
        "a vector as long as the stream cannot leave a working model's logits as they were; a hundred times rounding",
        "mlx_interp/engine/plan.py: which layers a selector reaches",
        steering_changes,
    ),
    Check(
        "steering lands where it says",
        "interventions one layer too early or too late, or with another length than was asked for",
        rounding,
        "mlx_interp/engine/plan.py: which layers a selector reaches; engine/apply_edits.py: Add",
        steering_lands,
    ),
]
