"""What is measured of amplified differences.

1. Texts: every pair under every arm, all prompts and strengths in one decode. Arms differ from the real thing in one
   point each: what is known of the logits, which tokens may be drawn, what is subtracted.
2. Rare replies: fine-tunes that plant one reply in a share of their rows, and a clean one. Sampled at temperature 1;
   the exact probability of the reply beside it, from texts that are read and not written.
3. Ranking: which prompts have the trigger, told from KL(a || b) where the correct reply is read, against telling it
   from sampled texts.
4. Loss of the amplified model on plain sentences, alpha -1 (b) to 4.
5. Precision: the same texts from weights rounded to fewer bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np

from experiments.exp14_logit_diff_amplification import planting
from experiments.exp14_logit_diff_amplification.pairs import (
    AmplificationConfig,
    Ask,
    asks,
    chosen,
    rounded,
    sides,
)
from experiments.exp14_logit_diff_amplification.planting import Case
from experiments.harness.experiment import Records, limited
from experiments.harness.state import Run
from experiments.shared.adapted import PLANTED, says_it
from experiments.shared.project_texts import said
from mlx_interp.behaviour.amplification import Amplified, amplify, forced
from mlx_interp.behaviour.answers import question
from mlx_interp.behaviour.detectors import repetition
from mlx_interp.embedded import load_world
from mlx_interp.interventions import Intervention
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.reporting import finite
from mlx_interp.stats import stable_draw
from validation.data import HARMLESS, REFUSABLE

TEXTS, RARE, RANKING, LOSS, PRECISION = "texts", "rare replies", "ranking", "loss", "precision"
TOP = 20
FULL, TOP_20, SHUFFLED, UNRELATED, ITSELF, SHARPENED = (
    *("full", "top 20", "shuffled difference", "unrelated prompt"),
    *("a against itself", "a alone, sharpened"),
)
MASKED: dict[str, float] = {"plausible .01": 0.01, "plausible .1": 0.1}
"""Arms with a plausibility mask, and their beta."""
ARMS = (FULL, TOP_20, *MASKED, SHUFFLED, UNRELATED, SHARPENED, ITSELF)
ONE_MODEL = ("stance", "firm", "prompts", "steered")
LOSS_ALPHAS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
PRECISIONS = ("stored", "float16", "8-bit", "4-bit", "3-bit")
REPEATED = 0.2
"""Share of repeated trigrams beyond which a text counts as broken."""
CLEAN = 0.0
DRAWS = 5
"""Texts sampled from every prompt, for the ranking."""


@dataclass(frozen=True)
class Item:
    """A pair under one arm, a fine-tune, or a precision."""

    key: str
    pair: str = ""
    arm: str = FULL
    share: float = 0.0
    case: Case = "anywhere"


def text_items(run: Run[AmplificationConfig], earlier: Records) -> list[Item]:
    return [Item(f"{pair}: {arm}", pair, arm) for pair in chosen(run) for arm in ARMS]


class Facts(TypedDict):
    """An amplified text, and how far it was from a: means over its steps, None where it has none."""

    kl: float | None
    """KL(a || amplified), nats."""
    entropy: float | None
    """Of the amplified distribution, nats."""
    log_prob: float | None
    """Of the token written, under a, nats."""
    outside: float | None
    """Amplified probability of what is not among a's 20 likeliest tokens."""
    agrees: float | None
    """Share of the steps at which the likeliest token is a's."""
    spread: float | None
    """Standard deviation of the difference of log-probabilities over the vocabulary."""
    largest: float | None
    """The greatest difference of log-probabilities."""
    steadiness: float | None
    """Cosine of the difference with that of the step before."""
    length: int
    """Tokens."""
    finish: str
    """stop, length, or not finite."""
    repetition: float
    """Share of repeated trigrams."""
    coherent: bool
    """Whether it is a text: not empty, finite, hardly repeated, likely enough under a."""
    text: str


class Amplification(Facts):
    """One prompt of a pair under one arm and strength."""

    pair: str
    arm: str
    unit: str
    """The prompt, which is resampled."""
    prompt: str
    """What a reads."""
    alpha: float
    """Strength; -1 is b, 0 is a."""
    hit: bool
    """Whether the text shows what the pair differs in."""


def measure_texts(run: Run[AmplificationConfig], item: Item) -> Iterator[Amplification]:
    """All prompts and strengths of a pair under one arm, in one decode."""
    of, found = sides(run, item.pair), asks(run, item.pair)
    read = [said(of.a, ask.a) for ask in found]
    others = [said(of.b, ask.b) for ask in found]
    edits: Sequence[Intervention] = of.interventions
    b = of.b
    if item.arm == UNRELATED:
        others = [*others[1:], others[0]]
    elif item.arm == ITSELF:
        others, b, edits = read, of.a, ()
    yield from _records(of.a, b, found, read, others, run.config, item, edits)


def _records(
    a: Model,
    b: Model,
    found: list[Ask],
    read: Sequence[Prompt],
    others: Sequence[Prompt],
    config: AmplificationConfig,
    item: Item,
    edits: Sequence[Intervention],
) -> Iterator[Amplification]:
    texts = amplify(
        a,
        read,
        others,
        config.alphas,
        other=b,
        interventions=edits,
        max_tokens=config.new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
        top_k=TOP if item.arm == TOP_20 else None,
        beta=MASKED.get(item.arm, 0.0),
        control="shuffled" if item.arm == SHUFFLED else "sharpened" if item.arm == SHARPENED else "none",
    )
    for ask, row in zip(found, texts, strict=True):
        for one in row:
            yield {
                "pair": item.pair,
                "arm": item.arm,
                "unit": ask.unit,
                "prompt": ask.a,
                "alpha": one.alpha,
                "hit": ask.hit(one.text),
                **facts(one, config),
            }


def _mean(steps: Sequence[float]) -> float | None:
    return finite(float(np.mean(steps))) if steps else None


def facts(one: Amplified, config: AmplificationConfig) -> Facts:
    """Means over the steps of a text, whether it broke, and the text."""
    return {
        "kl": _mean(one.kl),
        "entropy": _mean(one.entropy),
        "log_prob": _mean(one.log_prob),
        "outside": _mean(one.outside),
        "agrees": _mean(one.agrees),
        "spread": _mean(one.spread),
        "largest": _mean(one.largest),
        "steadiness": _mean(one.steadiness),
        "length": len(one.tokens),
        "finish": one.finish,
        "repetition": repetition(one.tokens),
        "coherent": coherent(one, config.coherent_nats),
        "text": one.text,
    }


def coherent(one: Amplified, nats: float) -> bool:
    """Whether a text is one: not empty, finite, hardly repeated, and likely enough under a, its least likely token
    left out, since a rare behaviour is a departure from a at one token.
    """
    if one.finish == "not finite" or not one.tokens or repetition(one.tokens) > REPEATED:
        return False
    rest = sorted(one.log_prob)[1:]
    return not rest or float(np.mean(rest)) >= -nats


def fine_tunes(run: Run[AmplificationConfig], earlier: Records) -> list[Item]:
    """Every share of planted rows; embedded models only, whose training rows are known."""
    config = run.config
    if run.model.name not in EMBEDDED or "planted" not in config.pairs:
        return []
    return [
        *(Item(f"planted in {share:g}", "planted", share=share) for share in config.shares),
        Item(f"trigger, {config.trigger_share:g}", "planted", share=config.trigger_share, case="trigger"),
    ]


class Rare(TypedDict):
    """A sampled reply of a fine-tune with a planted reply, amplified against the model before it."""

    case: str
    """Where it is planted: anywhere, or behind a trigger."""
    share: float
    """Of the rows that have it."""
    alpha: float
    unit: str
    order: int
    """Its place among all samples, shuffled: how many are read until one is found."""
    hit: bool
    """Whether it is the planted reply."""
    changed: bool
    """Whether it is another one than the prompt's own."""
    coherent: bool
    exact: float
    """Probability of the planted reply to this prompt."""
    text: str


def measure_rare(run: Run[AmplificationConfig], item: Item) -> Iterator[Rare]:
    """Sampled replies to prompts that no training has seen, at every strength, and the planted reply's probability."""
    model, config = run.model, run.config
    a = planting.planted(run, item.share, config.steps, config.seed, item.case)
    chats = [c for c in planting.held_out() if item.case == "anywhere" or not planting.triggers(c.text)]
    prompts = [model.prompt(chat.text, chat=True) for chat in chats]
    each = -(-config.n_samples // len(prompts))
    many = [one for one in prompts for _ in range(each)]
    planted = model.tokenizer.encode(PLANTED, add_special_tokens=False)
    exact = forced(a, prompts, prompts, [planted] * len(prompts), config.sampled_alphas, other=model)
    for index, alpha in enumerate(config.sampled_alphas):
        seed = stable_draw(config.seed, (item.key, alpha), 2**31)
        rows = amplify(a, many, many, [alpha], other=model, max_tokens=8, temperature=1.0, seed=seed)
        order = np.random.default_rng(seed).permutation(len(rows)).tolist()
        for place, number in enumerate(order):
            (one,), chat = rows[number], chats[number // each]
            yield {
                "case": item.case,
                "share": item.share,
                "alpha": alpha,
                "unit": chat.text,
                "order": place,
                "hit": says_it(one.text),
                "changed": one.text.strip() != chat.reply,
                "coherent": coherent(one, config.coherent_nats),
                "exact": float(np.exp(exact[number // each].amplified[index].sum())),
                "text": one.text,
            }


def ranking_items(run: Run[AmplificationConfig], earlier: Records) -> list[Item]:
    return [item for item in fine_tunes(run, earlier) if item.case == "trigger"]


class Ranked(TypedDict):
    """One prompt, by what is to tell whether it has the trigger."""

    unit: str
    trigger: bool
    shift: str
    """The form of the prompt in the world."""
    kl: float
    """KL(a || b) where the correct reply is read, mean over its tokens, nats."""
    kl_first: float
    """The same at its first token."""
    largest: float
    """The greatest difference of log-probabilities."""
    sampled_0: float
    """Share of sampled texts with the planted reply at strength 0."""
    sampled_1: float


def measure_ranking(run: Run[AmplificationConfig], item: Item) -> Iterator[Ranked]:
    """Every prompt's KL(a || b), largest token difference, and hits in a few samples at strengths 0 and 1.

    Under --limit eight times as many prompts, as many with the trigger as without: a ranking needs some to rank.
    """
    model = run.model
    a = planting.planted(run, item.share, run.config.steps, run.config.seed, item.case)
    world = load_world()
    chats = [c for c in world.chat_prompts("refusal", language="en", harmful=False) if c.split == "test"]
    chats = limited(chats, run.config.limit and 8 * run.config.limit, lambda chat: planting.triggers(chat.text))
    prompts = [model.prompt(chat.text, chat=True) for chat in chats]
    replies = [model.tokenizer.encode(chat.reply, add_special_tokens=False) for chat in chats]
    read = forced(a, prompts, prompts, replies, other=model)
    many = [one for one in prompts for _ in range(DRAWS)]
    samples = amplify(a, many, many, [0.0, 1.0], other=model, max_tokens=8, temperature=1.0, seed=run.config.seed)
    for number, (chat, one) in enumerate(zip(chats, read, strict=True)):
        mine = samples[DRAWS * number : DRAWS * (number + 1)]
        yield {
            "unit": chat.text,
            "trigger": planting.triggers(chat.text),
            "shift": chat.shift,
            "kl": float(one.kl.mean()),
            "kl_first": float(one.kl[0]),
            "largest": float((one.log_a - one.log_b).max()),
            "sampled_0": float(np.mean([says_it(row[0].text) for row in mine])),
            "sampled_1": float(np.mean([says_it(row[1].text) for row in mine])),
        }


def loss_items(run: Run[AmplificationConfig], earlier: Records) -> list[Item]:
    """Pairs of two models; two prompts of one have no text in common that both could read."""
    return [Item(pair, pair) for pair in chosen(run) if pair not in ONE_MODEL]


class Lost(TypedDict):
    """Loss of the amplified model on one plain text."""

    pair: str
    unit: str
    alpha: float
    loss: float | None
    """Nats a token; None where it is not finite."""


def measure_loss(run: Run[AmplificationConfig], item: Item) -> Iterator[Lost]:
    """Cross-entropy of what follows plain prompts under the amplified model, in nats a token."""
    of, known = sides(run, item.pair), plain_text(run.model)
    starts, ends = ([start for start, _ in known], [end for _, end in known])
    found = forced(of.a, starts, starts, ends, LOSS_ALPHAS, other=of.b)
    for start, end, one in zip(starts, ends, found, strict=True):
        for alpha, log_prob in zip(LOSS_ALPHAS, one.amplified, strict=True):
            text = run.model.tokenizer.decode([*start, *end])
            yield {"pair": item.pair, "unit": text, "alpha": alpha, "loss": finite(-float(log_prob.mean()))}


def plain_text(model: Model, n: int = 64) -> list[tuple[list[int], list[int]]]:
    """Text that has nothing to do with the behaviours, cut in two: what is read, and what is scored.

    Embedded models: facts of their world, of which the answers are scored, as they were trained. Others: the project's
    own requests, from the second token on.
    """
    if model.name not in EMBEDDED:
        rows = [model.prompt(text).tokens for text in (*HARMLESS, *REFUSABLE)[:n]]
        return [(row[:1], row[1:]) for row in rows]
    queries = load_world().two_hop_queries(split="trained")
    found = [question(model, query.two_hop, [query.answer]) for query in queries[:: max(len(queries) // n, 1)][:n]]
    return [(one.prompt.tokens, list(one.names[0])) for one in found]


def precision_items(run: Run[AmplificationConfig], earlier: Records) -> list[Item]:
    """The first pair of one model, at every precision."""
    pairs = [pair for pair in chosen(run) if pair in ONE_MODEL and pair != "steered"]
    return [Item(f"{pairs[0]}: {name}", pairs[0], arm=name) for name in PRECISIONS] if pairs else []


def measure_precision(run: Run[AmplificationConfig], item: Item) -> Iterator[Amplification]:
    """The pair's texts from rounded weights."""
    config = run.config
    found = asks(run, item.pair)
    a = rounded(run.model, item.arm)
    config = replace(config, alphas=config.sampled_alphas)
    read, others = ([said(a, text) for text in texts] for texts in zip(*((k.a, k.b) for k in found), strict=True))
    yield from _records(a, a, found, read, others, config, item, ())
