"""A sweep that goes on writing gives what each variant alone writes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp import Ablate, Add, Apply, Intervention, Knockout, Patch, Scale
from mlx_interp.errors import NeverFired
from mlx_interp.model import Model
from tests.engine.examples import TOKENS, inside_mlp, random_array, shape_of
from tests.engine.test_generate import greedy


def grid(model: Model) -> list[list[Intervention]]:
    """Variants that enter and start everywhere, act on generated tokens or not, and some that do nothing."""
    rng = np.random.default_rng(0)
    state = random_array(rng, model.d_model) * 4
    head = random_array(rng, *shape_of(model, "z"))[0]
    return [
        [],
        [Patch("resid_post.1", state, 3)],
        [Patch("resid_post.0", state, -1)],
        [Patch("z.1", head, -1, heads=2)],
        [Patch("z.0", head, slice(2, 5), heads=[0, 3])],
        [Add("resid_post.1", state, 0.5)],
        [Add("resid_post.0", state, 1.0, "generated")],
        [Knockout("0-1", query=len(TOKENS) - 1, keys=[1, 2])],
        [Knockout("1-2", query="generated", keys=0, heads=[1, 3])],
        [Scale("k.2", 1.7, 2), Scale("v.2", -1.0, -1)],
        [Ablate("resid_post", state)],
        [Add("final", state, 3.0, "generated")],
        [Scale(f"{inside_mlp(model)}.2", 0.1, 4), Apply("attn_out.2", lambda x: x * 0.3)],
        [Scale("pattern.1", 0.5, heads=1)],
        [Patch("resid_pre.0", state, 0)],
        [],
        [Patch("final", state, -1)],
    ]


def test_each_variant_writes_what_it_writes_alone(model: Model) -> None:
    variants = grid(model)
    together = model.sweep_generate(TOKENS, variants, max_tokens=7)
    for variant, completion in zip(variants, together, strict=True):
        assert len(completion.tokens) == 7
        assert greedy(model, TOKENS, variant, completion.tokens), variant
    assert len({tuple(completion.tokens) for completion in together}) > 2


def test_variants_that_all_change_the_first_layers_input_go_on_writing(model: Model) -> None:
    """Nothing of the clean run is left in any of them."""
    variants: list[list[Intervention]] = [
        [Scale("resid_pre.0", 0.5)],
        [Scale("resid_pre.0", 2.0), Scale("attn_out", 0.5)],
    ]
    together = model.sweep_generate(TOKENS, variants, max_tokens=4)
    assert {len(c.tokens) for c in together} == {4}
    assert all(greedy(model, TOKENS, one, c.tokens) for one, c in zip(variants, together, strict=True))


def test_it_is_generate_with_a_list_for_each_prompt_samples_included(model: Model) -> None:
    variants = grid(model)
    settings = {"max_tokens": 5, "temperature": 1.0, "top_p": 0.9, "seed": 3}
    swept = model.sweep_generate(TOKENS, variants, **settings)
    alone = model.generate([TOKENS] * len(variants), per_prompt=variants, **settings)
    assert [c.tokens for c in swept] == [c.tokens for c in alone]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_splitting_the_batch_changes_nothing(llama: Model, temperature: float) -> None:
    variants = grid(llama)
    seen: list[int] = []
    whole = llama.sweep_generate(TOKENS, variants, max_tokens=5, temperature=temperature)
    split = llama.sweep_generate(
        TOKENS, variants, max_tokens=5, temperature=temperature, memory=1, progress=lambda done, _: seen.append(done)
    )
    assert [c.tokens for c in split] == [c.tokens for c in whole]
    assert seen == list(range(1, len(variants) + 1))


def test_an_intervention_on_generated_tokens_needs_some(llama: Model) -> None:
    with pytest.raises(NeverFired, match="touches nothing"):
        llama.sweep_generate(TOKENS, [[Scale("resid_post.1", 2.0, "generated")]], max_tokens=1)
    with pytest.raises(ValueError, match="at least one variant"):
        llama.sweep_generate(TOKENS, [])
    with pytest.raises(ValueError, match="max_tokens"):
        llama.sweep_generate(TOKENS, [[]], max_tokens=0)


def test_variants_stop_by_themselves_and_a_stream_is_the_completion() -> None:
    model = mi.load("tiny-llama")
    prompt = model.prompt("The capital of France is")
    steered = [Scale("resid_post.3", 0.2, "generated")]
    clean, changed = model.sweep_generate(prompt, [[], steered], max_tokens=20)
    assert clean.text == model.generate(prompt, max_tokens=20)[0].text
    assert clean.finish_reason == "stop"
    for completion, interventions in ((clean, []), (changed, steered)):
        pieces = list(model.stream(prompt, interventions=interventions, max_tokens=20))
        assert "".join(pieces) == completion.text
    assert len(pieces) > 1


def test_a_stream_never_breaks_a_character() -> None:
    model = mi.load("tiny-gemma2")
    prompt = model.prompt("我如何", chat=True)
    pieces = list(model.stream(prompt, max_tokens=24))
    assert "".join(pieces) == model.generate(prompt, max_tokens=24)[0].text
    assert all("\ufffd" not in piece for piece in pieces)


def test_mx_stays_out_of_what_is_returned(llama: Model) -> None:
    (completion,) = llama.sweep_generate(TOKENS, [[]], max_tokens=3)
    assert all(isinstance(token, int) and not isinstance(token, mx.array) for token in completion.tokens)
