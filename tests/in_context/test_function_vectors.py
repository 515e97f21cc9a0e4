"""Function vectors are what heads write, found by effects that brute force gives as well."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.behaviour.answers import question
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError
from mlx_interp.in_context.demonstrations import (
    ARROW,
    FunctionTask,
    Template,
    corrupted,
    first_tokens_shared,
    in_context,
    positions,
    separators,
    token_roles,
)
from mlx_interp.in_context.function_vectors import (
    average_effects,
    function_vector,
    head_means,
    indirect_effects,
    indirect_effects_of,
    mean_z,
    random_heads,
    top_heads,
)
from mlx_interp.model import Model
from tests.tiny import FAMILY_CONFIGS, RECENT, each_family, tiny_model

RNG = np.random.default_rng


@cache
def model(name: str) -> Model:
    return mi.load(name)


def task(name: str = "antonym") -> FunctionTask:
    return FunctionTask(name, load_world().task(name).pairs)


def foreign() -> list[str]:
    return [y for other in load_world().tasks if other.name != "antonym" for _, y in other.pairs]


@pytest.mark.parametrize("family", each_family(FAMILY_CONFIGS.keys() - RECENT))
def test_shares_of_all_heads_add_up_to_what_attention_writes(family: str) -> None:
    """Post-norms, biases and residual multipliers included: heads have no share of the bias."""
    random = tiny_model(family)
    tokens = [[3, 5, 8, 13], [2, 7, 1, 8, 2, 8], [4]]
    means = head_means(random, tokens)
    assert means.n == 3
    family_of, scale = random.network.family, random.network.family.residual_scale
    factor = getattr(random.network.args, scale) if scale else 1.0
    written, biases = (np.zeros((random.n_layers, random.d_model)) for _ in range(2))
    for row in tokens:
        out = random.run(row, capture=["attn_out", "z"])
        for layer in range(random.n_layers):
            projection = getattr(random.network._attention(layer), family_of.out)
            bias = np.asarray(projection.bias) if "bias" in projection else np.zeros(random.d_model)
            attn = np.asarray(out[f"attn_out.{layer}"])[0, -1]
            projected = np.asarray(projection(out[f"z.{layer}"][0, -1].reshape(-1)))
            written[layer] += attn / len(tokens)
            biases[layer] += (bias * attn / projected if family_of.norms.after_attn else factor * bias) / len(tokens)
    np.testing.assert_allclose(np.asarray(means.written.sum(axis=1)) + biases, written, rtol=1e-3, atol=1e-4)


def test_means_do_not_depend_on_the_batch() -> None:
    rows = [model("tiny-gemma2").prompt(task().pairs[n][0]) for n in range(6)]
    whole = head_means(model("tiny-gemma2"), rows)
    parts = [head_means(model("tiny-gemma2"), [row]) for row in rows]
    alone = mx.stack([part.written for part in parts]).mean(axis=0)
    np.testing.assert_allclose(np.asarray(whole.written), np.asarray(alone), atol=1e-4)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gemma2", "tiny-gpt2"])
def test_indirect_effects_are_those_of_one_run_a_head(name: str) -> None:
    of = model(name)
    shots = task().pairs
    means = head_means(of, [of.prompt(in_context(task(), p, shots, 4, ARROW, RNG(0)).text) for p in shots[:5]])
    wrong = corrupted(task(), shots[7], shots, 4, ARROW, RNG(1), "foreign", foreign())
    asked = question(of, wrong.text, [wrong.answer])
    found = indirect_effects(of, asked, means)

    def probability(interventions: list[mi.Intervention]) -> float:
        logits = of.run(asked.prompt, interventions=interventions).logits
        assert logits is not None
        return float(mx.softmax(logits[0])[asked.first_tokens[0]])

    for layer, head in ((0, 0), (3, 2), (7, 3)):
        alone = probability([mi.Patch(f"z.{layer}", means.z[layer, head], -1, heads=head)]) - probability([])
        assert found[layer, head] == pytest.approx(alone, abs=1e-5)


def test_indirect_effects_of_several_prompts_are_those_of_each() -> None:
    of = model("tiny-llama")
    shots = task().pairs
    means = head_means(of, [of.prompt(in_context(task(), p, shots, 4, ARROW, RNG(0)).text) for p in shots[:5]])
    asked = []
    for number in (5, 6, 7):
        wrong = corrupted(task(), shots[number], shots, number - 3, ARROW, RNG(number), "foreign", foreign())
        asked.append(question(of, wrong.text, [wrong.answer]))
    alone = np.stack([indirect_effects(of, one, means) for one in asked])
    assert len({len(one.prompt) for one in asked}) > 1
    np.testing.assert_allclose(indirect_effects_of(of, asked, means), alone, atol=1e-5)


def test_the_vector_is_the_sum_of_the_chosen_heads_and_does_the_task() -> None:
    of = model("tiny-llama")
    train, test = task().split(0)
    found = function_vector(
        of, train, n_heads=6, n_shots=4, template=ARROW, corruption="foreign", foreign=foreign(), layer=0
    )
    assert len(set(found.heads)) == 6
    assert [found.effects[head] for head in found.heads] == sorted(found.effects.reshape(-1))[::-1][:6]

    def right(vector: mx.array | None) -> float:
        hits = []
        for x, y in test.pairs:
            asked = question(of, ARROW.prompt([], x), [y])
            edits = [] if vector is None else [mi.Add("resid_post.0", vector, 1.0, -1)]
            logits = of.run(asked.prompt, interventions=edits).logits
            assert logits is not None
            hits.append(int(mx.argmax(logits[0])) in asked.first_tokens)
        return float(np.mean(hits))

    assert right(found.vector) >= right(None) + 0.3
    assert right(found.nulls["random heads"]) <= right(found.vector) - 0.2
    assert right(found.nulls["random vector"]) <= right(found.vector) - 0.2


def test_examples_never_give_the_answer_away_and_corruption_keeps_the_inputs() -> None:
    pairs = task().pairs
    for n in range(20):
        clean = in_context(task(), pairs[n], pairs, 4, ARROW, RNG(n))
        wrong = corrupted(task(), pairs[n], pairs, 4, ARROW, RNG(n), "shuffled")
        assert clean.text.endswith(f", {pairs[n][0]} ->")
        assert f"{pairs[n][0]} -> {pairs[n][1]}" not in clean.text
        inputs = [part.split(" -> ")[0] for part in clean.text.split(", ")]
        assert inputs == [part.split(" -> ")[0] for part in wrong.text.split(", ")]


def test_random_heads_are_others_and_top_heads_the_largest() -> None:
    effects = np.array([[0.1, 0.5], [0.5, -1.0]])
    assert top_heads(effects, 3) == [(0, 1), (1, 0), (0, 0)]
    assert random_heads(effects.shape, 2, [(0, 1), (1, 0)], RNG(0)) == [(0, 0), (1, 1)]


def test_mistakes_are_named() -> None:
    with pytest.raises(DataError, match="two answers"):
        FunctionTask("t", (("a", "b"), ("a", "c"), ("d", "e"), ("f", "g")))
    with pytest.raises(DataError, match="3 different pairs"):
        FunctionTask("t", (("a", "b"), ("c", "d"), ("e", "f"), ("a", "b")))
    with pytest.raises(DataError, match="pair 2 has an empty word"):
        FunctionTask("t", (("a", "b"), ("c", " "), ("e", "f"), ("g", "h")))
    with pytest.raises(DataError, match="no other task"):
        corrupted(task(), task().pairs[0], task().pairs, 4, ARROW, RNG(0), "foreign")
    with pytest.raises(DataError, match="30 examples are asked for, 19 other pairs"):
        in_context(task(), task().pairs[0], task().pairs, 30, Template(), RNG(0))


def test_answers_that_begin_alike_are_counted() -> None:
    assert first_tokens_shared(model("tiny-llama"), task(), ARROW) == 0
    same = FunctionTask("t", (("hot", "cold"), ("big", "cold"), ("tall", "small"), ("fast", "slow")))
    assert first_tokens_shared(model("tiny-llama"), same, ARROW) == 0  # one answer twice is one answer


def test_every_token_has_the_role_of_its_place_and_the_whole_text_is_covered() -> None:
    of = model("tiny-llama")
    made = in_context(task(), task().pairs[0], task().pairs, 3, ARROW, RNG(0))
    prompt = of.prompt(made.text)
    roles = token_roles(prompt, made.pieces)
    assert len(roles) == len(prompt)
    shots = [part.split(" -> ") for part in made.text.split(", ")[:-1]]

    def said(role: str, example: int | None = None) -> str:
        return made.text[prompt.spans[(at := positions(roles, role, example))[0]][0] : prompt.spans[at[-1]][1]].strip()  # type: ignore[arg-type]

    assert [said("input", n) for n in range(3)] == [x for x, _ in shots]
    assert [said("label", n) for n in range(3)] == [y for _, y in shots]
    assert said("label", -1) == shots[-1][1]
    assert said("query") == made.query
    assert positions(roles, "query cue")[-1] == len(prompt) - 1
    assert not any(token.merged for token in roles)
    with pytest.raises(DataError, match="do not make up the prompt"):
        token_roles(prompt, made.pieces[2:])


def test_a_separator_that_the_tokenizer_merges_or_splits_is_told() -> None:
    of = model("tiny-llama")
    assert separators(of, task(), ARROW).warning == ""
    nouns = FunctionTask("t", tuple((x, x) for x, _ in load_world().task("plural").pairs))
    glued = separators(of, nouns, Template("{input} -> {output}s, ", "{input} ->"))
    assert glued.merged > 0.5
    assert "merges the separator" in glued.warning
    split = separators(of, task(), Template("{input} -> {output} , . , ", "{input} ->"))
    assert len(split.tokens) == 3
    assert "into 3 tokens" in split.warning
    with pytest.warns(UserWarning, match="into 3 tokens"):
        function_vector(
            of,
            task(),
            n_heads=2,
            n_shots=4,
            n_prompts=3,
            template=Template("{input} -> {output} , . , ", "{input} ->"),
            corruption="foreign",
            foreign=foreign(),
        )


def test_means_at_the_last_token_are_those_of_the_heads() -> None:
    of = model("tiny-gemma2")
    rows = [of.prompt(ARROW.prompt(list(task().pairs[n : n + 2 + n % 2]), "hot")) for n in range(5)]
    last = mean_z(of, rows, [[len(row) - 1] for row in rows])
    np.testing.assert_allclose(np.asarray(last), np.asarray(head_means(of, rows).z), atol=1e-5)
    both = mean_z(of, rows[:1], [[0, 1]])
    alone = [mean_z(of, rows[:1], [[n]]) for n in (0, 1)]
    np.testing.assert_allclose(np.asarray(both), np.asarray(alone[0] + alone[1]) / 2, atol=1e-5)


def test_effects_go_on_where_they_stopped_and_belong_to_their_means(tmp_path: Path, monkeypatch: Any) -> None:
    of = model("tiny-llama")
    asked = [question(of, ARROW.prompt(list(task().pairs[:2]), x), [y]) for x, y in task().pairs[3:6]]
    means = head_means(of, [item.prompt for item in asked])
    whole = average_effects(of, asked, means)
    path = tmp_path / "effects.jsonl"
    average_effects(of, asked[:2], means, save=path)
    measured: list[Any] = []
    sweep = of.sweep

    def counted(*args: Any, **options: Any) -> Any:
        measured.append(args)
        return sweep(*args, **options)

    monkeypatch.setattr(of, "sweep", counted)
    np.testing.assert_allclose(average_effects(of, asked, means, save=path), whole, atol=1e-7)
    assert len(measured) == 1
    average_effects(of, asked, head_means(of, [asked[0].prompt]), save=path)
    assert len(measured) == 4


def test_contradicting_and_repeated_pairs_are_counted() -> None:
    pairs = [("I", "J"), ("I", "II"), ("a", "b"), ("a", "b"), ("c", "d"), ("e", "f")]
    found = FunctionTask.consistent("next", pairs)
    assert dict(found.pairs)["I"] == "J"
    assert (found.conflicts, found.repeats) == (1, 1)


def test_too_few_examples_for_corrupted_prompts_are_refused_too() -> None:
    with pytest.raises(DataError, match="30 examples are asked for, 19 other pairs"):
        corrupted(task(), task().pairs[0], task().pairs, 30, ARROW, RNG(0))
