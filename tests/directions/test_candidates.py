"""Candidates are scored as one run each would score them, ranked by the paper's rules, and a broken one never wins."""

from __future__ import annotations

from functools import cache

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.behaviour.detectors import log_odds, opener_tokens
from mlx_interp.directions.candidates import Candidates, rank, score_harmful, score_harmless, select
from mlx_interp.directions.contrasts import Contrast, contrast, template_positions
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt


@cache
def llama() -> Model:
    return mi.load("tiny-llama")


def chats(harmful: bool, split: str) -> list[Prompt]:
    chosen = load_world().chat_prompts("refusal", language="en", split=split, harmful=harmful, shift="")
    return [llama().prompt(chat.text, chat=True) for chat in chosen]


@cache
def found() -> Contrast:
    prompts = [chats(harmful, "train")[:24] for harmful in (True, False)]
    return contrast(llama(), prompts[0], prompts[1], positions=template_positions(llama()))


@cache
def openers() -> tuple[int, ...]:
    return tuple(opener_tokens(llama(), chats(True, "train")[:24], chats(False, "train")[:24]))


def test_every_score_is_that_of_a_run_of_its_own_with_the_direction_ablated_from_every_block() -> None:
    candidates, metric = Candidates(found(), openers()), log_odds(openers())
    harmful, harmless = chats(True, "test")[0], chats(False, "test")[0]
    bypass = score_harmful(llama(), candidates, [chats(True, "test")[1], harmful])[1]
    rest = score_harmless(llama(), candidates, [chats(False, "test")[1], harmless])[1]
    assert bypass.bypass is not None
    assert rest.induce is not None
    assert rest.kl is not None
    clean = llama().run(harmless).logits
    for number in (0, len(candidates.cells) // 2, len(candidates.cells) - 1):
        layer, position = candidates.cells[number]
        direction = found().direction(layer, position)
        out = llama().run(harmful, interventions=direction.ablated_everywhere()).logits
        assert bypass.bypass[number] == pytest.approx(metric(out).item(), abs=2e-3)
        added = direction.added(1.0, positions=slice(0, len(harmless)))
        assert rest.induce[number] == pytest.approx(
            metric(llama().run(harmless, interventions=[added]).logits).item(), abs=2e-3
        )
        changed = llama().run(harmless, interventions=direction.ablated_everywhere()).logits
        p, q = (x[0] - mx.logsumexp(x[0]) for x in (clean, changed))
        assert rest.kl[number] == pytest.approx(mx.sum(mx.exp(p) * (p - q)).item(), abs=1e-4)
    assert bypass.plain == pytest.approx(metric(llama().run(harmful).logits).item(), abs=1e-3)


def test_the_selected_direction_passes_and_no_passing_candidate_bypasses_more() -> None:
    chosen = select(llama(), found(), chats(True, "test")[:6], chats(False, "test")[:6], openers())
    assert chosen.best is not None
    cells = chosen.candidates.cells
    assert len(chosen.bypass) == len(cells) == int(found().differs.sum())
    best = cells.index(chosen.ranked[0])
    assert chosen.induce[best] > 0
    assert chosen.kl[best] < 0.1
    assert all(chosen.bypass[best] <= chosen.bypass[cells.index(cell)] for cell in chosen.ranked)
    assert chosen.best.site == f"resid_pre.{chosen.ranked[0][0]}"


@pytest.mark.parametrize(
    ("worse", "why"),
    [
        ((-9.0, -0.1, 0.0), "does not induce"),
        ((-9.0, 1.0, 0.2), "changes harmless prompts"),
        ((float("nan"), 1.0, 0.0), "is not finite"),
        ((-9.0, float("inf"), 0.0), "is not finite"),
    ],
)
def test_a_candidate_that_fails_one_rule_never_wins(worse: tuple[float, float, float], why: str) -> None:
    assert rank({(1, -1): (-1.0, 1.0, 0.0), (2, -1): worse}, 10) == [(1, -1)], why


def test_a_candidate_too_deep_never_wins_and_none_is_no_fallback() -> None:
    good = (-9.0, 1.0, 0.0)
    assert rank({(8, -1): good, (9, -1): good}, 10) == [(8, -1)]
    assert rank({(9, -1): good}, 10) == []


def test_a_contrast_that_carries_nothing_selects_nothing() -> None:
    prompts = chats(False, "train")
    nothing = contrast(llama(), prompts[:12], prompts[:12])
    chosen = select(llama(), nothing, chats(True, "test")[:1], chats(False, "test")[:1], openers())
    assert chosen.best is None
    assert chosen.ranked == []


def test_no_prompts_and_no_openers_are_errors() -> None:
    with pytest.raises(DataError, match="both kinds of prompts, found 0 and 1"):
        select(llama(), found(), [], chats(False, "test")[:1], openers())
    with pytest.raises(DataError, match="no opener tokens"):
        select(llama(), found(), chats(True, "test")[:1], chats(False, "test")[:1], [])


def test_directions_in_one_array_are_told_from_those_made_on_the_way() -> None:
    prompt = chats(True, "test")[0]
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=llama().d_model).astype(np.float32) for _ in range(3)]
    one = mx.array(rows[0])
    variants = [[mi.Ablate("mlp_out.2", one), mi.Ablate("attn_out", one)], *([mi.Ablate("mlp_out.2", x)] for x in rows)]
    together = np.asarray(llama().sweep(prompt, variants))
    for variant, logits in zip(variants, together, strict=True):
        alone = np.asarray(llama().run(prompt, interventions=variant).logits)[0]
        np.testing.assert_allclose(logits, alone, atol=2e-3)
    assert np.abs(together[2] - together[3]).max() > 1e-3
