"""Generation under a cache is what recomputing everything for each token gives."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest

import mlx_interp as mi
from mlx_interp import Ablate, Add, Apply, Intervention, Knockout, Patch, Scale
from mlx_interp.embedded import load_world
from mlx_interp.engine.shared_prefill import read_shared
from mlx_interp.errors import NeverFired
from mlx_interp.model import Model
from tests.engine.examples import TOKENS

PROMPTS = [TOKENS, [2, 4], [9], [31, 8, 6, 4, 90, 12, 13, 14]]


def placed(intervention: Intervention, n_prompt: int, n_now: int) -> list[Intervention]:
    """The same intervention for one run over prompt and generated tokens; none while it has nothing to act on."""
    if isinstance(intervention, Knockout):
        if isinstance(intervention.query, str):
            generated = list(range(n_prompt, n_now))
            return [replace(intervention, query=generated)] if generated else []
        return [intervention]
    positions = intervention.positions
    if isinstance(positions, str):
        generated = list(range(n_prompt, n_now))
        return [replace(intervention, positions=generated)] if generated else []
    if positions is None:
        return [intervention]
    within = (
        list(range(n_prompt))[positions]
        if isinstance(positions, slice)
        else [p % n_prompt for p in ([positions] if isinstance(positions, int) else positions)]
    )
    return [replace(intervention, positions=within)]


def greedy(model: Model, prompt: list[int], interventions: list[Intervention], tokens: list[int]) -> bool:
    """Whether each token is the one that a run of everything before it, computed anew, has on top.

    One run says it of all tokens: what is computed at a position depends on none behind it.
    """
    read = [*prompt, *tokens[:-1]]
    placed_now = [part for item in interventions for part in placed(item, len(prompt), len(read))]
    logits = model.run(read, interventions=placed_now, logits="all").logits
    assert logits is not None
    tops: list[int] = mx.argmax(logits[0, len(prompt) - 1 :], axis=-1).tolist()
    return tops == tokens


def cases(model: Model) -> list[list[Intervention]]:
    ones = mx.ones((model.d_model,))
    return [
        [],
        [Add("resid_post.1", ones, 0.7)],
        [Add("resid_post.1", ones, 2.0, "generated")],
        [Add("resid_post.0", ones, 2.0, -1), Scale("mlp_out.2", 0.5)],
        [Patch("z.1", mx.ones((model.d_head,)), slice(0, None), heads=2), Scale("k.0", 1.5, "generated")],
        [Ablate("resid_post", ones)],
        [Knockout("0-1", query="generated", keys=0, heads=[1, 3])],
        [Scale("pattern.1", 0.5, heads=1)],
        [Apply("attn_out.2", lambda x: x * 0.3 + 0.1)],
        [Add("final", ones, 3.0, "generated"), Patch("resid_pre.0", ones, 0)],
    ]


def test_greedy_tokens_equal_recomputing_from_scratch(model: Model) -> None:
    for interventions in cases(model):
        together = model.generate(PROMPTS, interventions=interventions, max_tokens=6)
        for prompt, completion in zip(PROMPTS, together, strict=True):
            assert len(completion.tokens) == 6
            assert greedy(model, prompt, interventions, completion.tokens), interventions


def test_each_prompt_can_have_interventions_of_its_own(model: Model) -> None:
    chosen = [cases(model)[i] for i in (1, 2, 0, 6)]
    together = model.generate(PROMPTS, per_prompt=chosen, max_tokens=5)
    for prompt, interventions, completion in zip(PROMPTS, chosen, together, strict=True):
        assert len(completion.tokens) == 5
        assert greedy(model, prompt, interventions, completion.tokens)


def test_sampling_follows_the_seed_and_not_the_batch(llama: Model) -> None:
    def drawn(seed: int, prompts: list[list[int]]) -> list[list[int]]:
        return [c.tokens for c in llama.generate(prompts, max_tokens=8, temperature=1.0, top_p=0.9, seed=seed)]

    assert drawn(1, PROMPTS) == drawn(1, PROMPTS)
    assert drawn(1, PROMPTS) != drawn(2, PROMPTS)
    assert drawn(1, PROMPTS)[:2] == drawn(1, PROMPTS[:2])
    cold = llama.generate(PROMPTS, max_tokens=8, temperature=1e-4, seed=3)
    assert [c.tokens for c in cold] == [c.tokens for c in llama.generate(PROMPTS, max_tokens=8)]


def test_top_p_never_draws_outside_the_nucleus(llama: Model) -> None:
    probs = mx.softmax(llama.run(TOKENS).logits[0])
    order = mx.argsort(-probs)
    nucleus = int(mx.sum(mx.cumsum(probs[order]) < 0.5)) + 1
    allowed = set(order[:nucleus].tolist())
    drawn = {llama.generate(TOKENS, max_tokens=1, temperature=1.0, top_p=0.5, seed=s)[0].tokens[0] for s in range(40)}
    assert drawn <= allowed
    assert len(drawn) > 1


def test_an_intervention_on_generated_tokens_needs_some(llama: Model) -> None:
    with pytest.raises(NeverFired, match="touches nothing"):
        llama.generate(TOKENS, interventions=[Scale("resid_post.1", 2.0, "generated")], max_tokens=1)


@pytest.mark.parametrize(
    "settings",
    [{"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"per_prompt": [[]]}],
)
def test_settings_out_of_range_are_an_error(llama: Model, settings: dict) -> None:
    with pytest.raises(ValueError, match=r"max_tokens|temperature|top_p|per_prompt"):
        llama.generate(PROMPTS, **settings)


def test_embedded_models_stop_at_the_end_of_their_turn() -> None:
    model = mi.load("tiny-llama")
    prompts = [model.prompt(chat.text, chat=True) for chat in load_world().chat_prompts("refusal")[:6]]
    for completion in model.generate(prompts, max_tokens=60):
        assert completion.finish_reason == "stop"
        assert completion.text.strip()
        assert not set(completion.tokens) & set(model.tokenizer.eos_token_ids)


def test_text_is_what_the_tokenizer_decodes_as_a_whole() -> None:
    model = mi.load("tiny-llama")
    (completion,) = model.generate("The capital of France is", max_tokens=3)
    assert completion.text.strip().startswith("Paris")
    assert completion.text.split() == model.tokenizer.decode(completion.tokens).split()


ALIKE = [[*TOKENS, *ending] for ending in ([3, 8], [3, 8, 7], [41], [3, 8], [9, 9, 9, 9])]


def test_prompts_that_begin_alike_are_read_as_one_sequence(model: Model) -> None:
    shared = read_shared(model.network, ALIKE)
    assert shared is not None, "these prompts have most of their tokens in common"
    expected = model.run(ALIKE).logits
    assert expected is not None
    assert float(mx.abs(shared[1] - expected).max() / mx.abs(expected).max()) < 1e-5
    for interventions in ([], [Add("resid_post.1", mx.ones((model.d_model,)), 2.0, "generated")]):
        together = model.generate(ALIKE, interventions=interventions, max_tokens=6)
        for prompt, completion in zip(ALIKE, together, strict=True):
            assert len(completion.tokens) == 6
            assert greedy(model, prompt, interventions, completion.tokens)


def test_prompts_with_little_in_common_are_read_as_a_batch(model: Model) -> None:
    assert read_shared(model.network, PROMPTS) is None
    assert read_shared(model.network, [TOKENS]) is None
