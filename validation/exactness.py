"""Is the wrapped model the model, and does an intervention do what it says and nothing else?"""

from __future__ import annotations

from mlx_interp import Ablate, Add, Intervention, Patch, Scale
from mlx_interp.deferred import mx
from mlx_interp.model import Model
from mlx_interp.sites import Site
from validation.alone import from_each_alone, prompts_alone
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


def forward_is_mlx_lms(subject: Subject) -> Finding:
    """All prompts in one batch, padded alike on both sides, and the longest by itself; each at its own positions.

    One by one where RoPE depends on a text's length: there mlx-lm goes by the longest of a batch.
    """
    model, prompts = subject.model, subject.prompts
    together = len({model.network.rope_regime(len(prompt)) for prompt in prompts}) == 1
    pairs = []
    for batch in [prompts, [subject.prompt]] if together else [[prompt] for prompt in prompts]:
        longest = max(map(len, batch))
        own = model.mlx_model(mx.array([prompt.tokens + [0] * (longest - len(prompt)) for prompt in batch]))
        ours = model.run(batch, logits="all").logits
        assert ours is not None
        pairs += [
            (repr(prompt.text[:40]), ours[row, : len(prompt)], own[row, : len(prompt)].astype(_wide(own)))
            for row, prompt in enumerate(batch)
        ]
    return bitwise(pairs)


def capture_changes_nothing(subject: Subject) -> Finding:
    captured = subject.model.run(subject.prompt, capture=subject.model.sites, logits="all").logits
    assert captured is not None
    return bitwise([("capture of every site", captured, subject.clean)])


def patching_with_itself(subject: Subject) -> Finding:
    """Sites of different layers at once: the stream of one layer, in the next what is added to it, and the converse.

    A later patch puts right what an earlier one spoilt, so that every site is compared, and not the logits alone.
    """
    model, prompt = subject.model, subject.prompt
    streams = [f"resid_post.{layer}" for layer in subject.layers]
    added = [[f"{mixer_sites(model, layer)[0]}.{layer}", f"mlp_out.{layer}"] for layer in subject.layers]
    clean = model.run(prompt, capture=model.sites, logits="all")
    pairs = []
    for turn in (0, 1):
        names = [*streams[turn::2], *(name for some in added[1 - turn :: 2] for name in some)]
        patches = [Patch(name, clean[name]) for name in names]
        out = model.run(prompt, capture=model.sites, interventions=patches, logits="all")
        assert out.logits is not None
        pairs += [
            (f"{site}, {len(names)} sites patched", out.captured[site], clean.captured[site]) for site in out.captured
        ]
        pairs.append((f"the logits, {len(names)} sites patched", out.logits, subject.clean))
    return bitwise(pairs)


def padding_is_invisible(subject: Subject) -> Finding:
    model = subject.model
    site = f"resid_post.{model.n_layers // 2}"
    batch = model.run(subject.prompts, capture=site)
    assert batch.logits is not None
    errors = []
    for row, alone in enumerate(prompts_alone(model, subject.prompts, site)):
        errors.append(relative(batch.logits[row], alone.logits))
        errors.append(relative(batch[site][row, : batch.lengths[row]], alone.state))
    return subject.within(worst(errors))


def edits_in_a_batch(subject: Subject) -> Finding:
    """Positions count from each prompt's own start and end: edits of the first and the last, in a batch and alone."""
    model, prompts = subject.model, subject.prompts
    layer, vector = model.n_layers // 2, unit_vector(subject)
    edits: list[Intervention] = [Add(f"resid_pre.{layer}", vector, 5.0, 0), Patch(f"mlp_out.{layer}", vector * 3, -1)]
    batch = model.run(prompts, interventions=edits).logits
    assert batch is not None
    alone = prompts_alone(model, prompts, f"resid_pre.{layer}", edits)
    error = worst([relative(row, one.logits) for row, one in zip(batch, alone, strict=True)])
    return subject.within(error, f"{len(prompts)} prompts of {min(map(len, prompts))} to {len(subject.prompt)}")


def sweep_is_each_alone(subject: Subject) -> Finding:
    model, prompt = subject.model, subject.prompt
    variants = _variants(subject)
    error = from_each_alone(model, model.sweep(prompt, variants), [(prompt.tokens, variant) for variant in variants])
    return subject.within(error, f"{len(variants)} variants")


def prompts_share_what_they_begin_with(subject: Subject) -> Finding:
    """Prompts that begin alike, one of them twice, under edits everywhere, from both ends and of what they share."""
    model = subject.model
    tokens = [*subject.prompt.tokens]
    half = len(tokens) // 2
    prompts = [tokens, tokens[: half + 1], [*tokens[:half], *reversed(tokens[half:])], tokens[1:], tokens]
    layer, vector = model.n_layers // 2, unit_vector(subject)
    variants: list[list[Intervention]] = [
        [],
        [Ablate("attn_out", vector), Ablate("mlp_out", vector)],
        [Add(f"resid_post.{layer}", vector, 5.0, slice(None))],
        [Patch(f"resid_pre.{layer}", vector * 3, -1)],
        [Scale(f"mlp_out.{layer}", 0.5, -2), Add("resid_pre.0", vector, 0.5, 1)],
    ]
    swept = model.sweep_prompts(prompts, variants)
    cases = [(prompt, variant) for prompt in prompts for variant in variants]
    error = from_each_alone(model, swept.reshape(len(cases), -1), cases)
    return subject.within(error, f"{len(prompts)} prompts, {len(variants)} variants")


def earlier_positions_untouched(subject: Subject) -> Finding:
    """Pushed at all layers at once: what leaks back anywhere stays in the stream, as nothing there is replaced."""
    model, tokens = subject.model, subject.prompt.tokens
    middle = len(tokens) // 2
    vector = unit_vector(subject)
    pushes = [Add(f"resid_post.{layer}", vector, 100.0, slice(middle, None)) for layer in subject.layers]
    changed = all_logits(model, tokens, pushes)
    return bitwise([(f"{len(pushes)} layers pushed", changed[:, :middle], subject.clean[:, :middle])])


def nothing_leaks(subject: Subject) -> Finding:
    model, tokens = subject.model, subject.prompt.tokens
    before = subject.clean
    model.sweep(tokens, _variants(subject))
    model.run(tokens, interventions=[Ablate("resid_post", unit_vector(subject))])
    return bitwise([("after a sweep and an ablation", all_logits(model, tokens), before)])


def states_chain(subject: Subject) -> Finding:
    """Layers count as they should: each layer's output is the next one's input, and the first input the embedding."""
    if subject.model.network.family.layer_scalar is not None:
        return _scaled_states_chain(subject)
    middle = [name for name in ("resid_mid",) if name in subject.model.sites]
    layers = range(subject.model.n_layers)
    outputs = [f"{mixer_sites(subject.model, layer)[1]}.{layer}" for layer in layers]
    out = subject.model.run(subject.prompt, capture=["resid_pre", "resid_post", *middle, *outputs, "mlp_out"])
    pairs = []
    for layer in layers:
        pre, post, *mid = (out[f"{name}.{layer}"] for name in ("resid_pre", "resid_post", *middle))
        after = pre + out[outputs[layer]]
        pairs += [relative(after, one) for one in mid]
        pairs.append(relative((mid[0] if mid else after) + out[f"mlp_out.{layer}"], post))
        if layer + 1 < subject.model.n_layers:
            pairs.append(relative(post, out[f"resid_pre.{layer + 1}"]))
    return subject.within(worst(pairs))


def _scaled_states_chain(subject: Subject) -> Finding:
    """The same where a layer adds to the stream from its own embedding of the token, and scales what it gives."""
    model, net = subject.model, subject.model.network
    own = ["ple_in", "ple_out"] if net.d_ple else []
    out = model.run(subject.prompt, capture=["resid_pre", "resid_post", "resid_mid", "attn_out", "mlp_out", *own])
    pairs = []
    for layer in range(model.n_layers):
        pre, post, mid = (out[f"{name}.{layer}"] for name in ("resid_pre", "resid_post", "resid_mid"))
        after = mid + out[f"mlp_out.{layer}"]
        pairs.append(relative(pre + out[f"attn_out.{layer}"], mid))
        if own:
            pairs.append(relative(after, out[f"ple_in.{layer}"]))
            after = after + out[f"ple_out.{layer}"]
        pairs.append(relative(after * getattr(net.layers[layer], str(net.family.layer_scalar)), post))
        if layer + 1 < model.n_layers:
            pairs.append(relative(post, out[f"resid_pre.{layer + 1}"]))
    return subject.within(worst(pairs))


def mixer_sites(model: Model, layer: int) -> tuple[str, str]:
    """What heads give before a layer's output projection, and what it adds to the stream: of attention, or of the
    mixer in its place."""
    if model.network.attends(layer):
        return "z", "attn_out"
    return ("mixed" if model.network.has_state else "conv_out"), "mixer_out"


def _variants(subject: Subject) -> list[list[Intervention]]:
    """Every kind of intervention, at layers and positions of all parts of the prompt, alone and together."""
    model, length = subject.model, len(subject.prompt)
    vector = unit_vector(subject)
    spots = [0, length // 2, length - 1]
    middle = "resid_mid" if "resid_mid" in model.sites else "resid_pre"
    variants: list[list[Intervention]] = [[]]
    for index, layer in enumerate(subject.layers):
        position = spots[index % 3]
        inner, out = mixer_sites(model, layer)
        n_heads, width = model.network.site_shape(Site(inner, layer), length)
        head = unit_vector(subject, width)
        variants += [
            [Patch(f"resid_post.{layer}", vector * 3, position)],
            [Patch(f"{inner}.{layer}", head, position, heads=index % n_heads if n_heads else None)],
            [Add(f"{middle}.{layer}", vector, 5.0, position), Scale(f"mlp_out.{layer}", 0.5)],
            [Ablate(f"{out}.{layer}", vector)],
        ]
    return variants


def _wide(x: mx.array) -> mx.Dtype:
    return mx.float32 if x.dtype == mx.bfloat16 else x.dtype


CHECKS = [
    Check(
        "forward is mlx-lm's own",
        "a wrong description of the architecture: embedding scale, soft-cap, mask, norm, RoPE",
        SAME_KERNELS,
        "mlx_interp/architectures/families.py: the family's entry",
        forward_is_mlx_lms,
    ),
    Check(
        "capture changes nothing",
        "reading an activation that alters what is computed",
        SAME_KERNELS,
        "mlx_interp/engine/forward.py: Pass.site",
        capture_changes_nothing,
    ),
    Check(
        "patching with itself",
        "patches that land on the wrong site, layer or position, or change the dtype",
        SAME_KERNELS,
        "mlx_interp/engine/apply_edits.py",
        patching_with_itself,
    ),
    Check(
        "padding is invisible",
        "short prompts of a batch that attend to padding or are read at the wrong position",
        rounding,
        "mlx_interp/engine/forward.py: right padding under the causal mask",
        padding_is_invisible,
    ),
    Check(
        "edits count from each prompt's ends",
        "positions of a short prompt that are counted from the ends of the longest one",
        rounding,
        "mlx_interp/engine/plan.py: positions against lengths",
        edits_in_a_batch,
    ),
    Check(
        "sweep is each variant alone",
        "anything that variants of a sweep share and should not",
        rounding,
        "mlx_interp/engine/sweep_batch.py",
        sweep_is_each_alone,
    ),
    Check(
        "prompts swept together are each alone",
        "anything that prompts of one sweep share and should not",
        rounding,
        "mlx_interp/engine/sweep_prompts.py, prefix_tree.py",
        prompts_share_what_they_begin_with,
    ),
    Check(
        "earlier positions untouched",
        "a mask that lets information flow backwards",
        SAME_KERNELS,
        "mlx_interp/engine/network.py: masks",
        earlier_positions_untouched,
    ),
    Check(
        "nothing leaks into the next run",
        "a model that stays steered or patched after a run",
        SAME_KERNELS,
        "mlx_interp/engine/apply_edits.py: arrays changed in place",
        nothing_leaks,
    ),
    Check(
        "residual stream adds up",
        "sites that are off by a layer, or taken before a post-norm instead of after it",
        rounding,
        "mlx_interp/engine/block.py",
        states_chain,
    ),
]
