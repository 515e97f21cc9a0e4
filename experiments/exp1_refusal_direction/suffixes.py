"""What an adversarial suffix does to the direction (Arditi et al. 2024, section 5; mlx_interp.behaviour.suffix).

1. One suffix for several training requests, found by gradient so that their replies do not open with a refusal.
2. Held-out harmful requests alone, with it, with random suffixes of the same length, and harmless requests: replies,
   and the cosine of the last token's state with the study's direction, at every layer. Beside them two other ways past
   refusal: earlier turns in which harmless requests were answered, and the direction ablated. On embedded models a
   reply complies if it does not refuse and names what was asked for.
3. The heads that write most along the direction at the last token, on harmful requests set aside: what they write, and
   how much they attend to the instruction and to the suffix, on the held-out ones.

Control: random suffixes, several draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.exp1_refusal_direction import selection
from experiments.harness.experiment import Records, Stage
from experiments.harness.frame import Frame, of
from experiments.harness.state import Run
from experiments.shared.traits import stages
from experiments.shared.traits.layer_choice import chosen_layer
from experiments.shared.traits.stages import TraitConfig
from experiments.shared.traits.trait_report import rate
from mlx_interp.behaviour.detectors import log_odds
from mlx_interp.behaviour.suffix import adversarial_suffix, framed, random_suffix
from mlx_interp.deferred import mx
from mlx_interp.directions.contrasts import template_positions
from mlx_interp.embedded import load_world
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import stable_draw

SEARCH, SUFFIXES = "suffix search", "suffixes"
LENGTH, N_SEARCH = 8, 8
ADVERSARIAL, RANDOM = "adversarial suffix", "random suffix"
CONDITIONS = ("harmful", RANDOM, ADVERSARIAL, "harmless")
TURNS, ABLATED = "after answered turns", "direction ablated"
N_TURNS = 4
DRAWS = 4
TOP_HEADS = 8


@dataclass(frozen=True)
class SuffixConfig(TraitConfig):
    """Fields of studies that look for a suffix."""

    suffix_steps: int = 12
    """Steps of the search, of 64 exchanges each."""


@dataclass(frozen=True)
class SuffixItem:
    """A request, and the suffix that was found; or, without a layer, the search."""

    key: str
    kind: str = ""
    split: str = ""
    number: int = 0
    layer: int = -1
    tokens: tuple[int, ...] = ()


def searches(run: Run[TraitConfig], earlier: Records) -> list[SuffixItem]:
    """One search; none for a model that refuses nothing."""
    layer = chosen_layer(earlier, "refusal")
    return [SuffixItem("search")] if layer is not None and selection.openers(run) else []


class Search(TypedDict):
    """The search for one suffix that stops refusals of several training requests."""

    tokens: list[int]
    suffix: str
    losses: list[float]
    """Mean log-odds of a refusal, before the first step and after each."""
    n: int
    """Training requests."""


def measure_search(run: Run[SuffixConfig], item: SuffixItem) -> Iterator[Search]:
    """The search on training requests."""
    model = run.model
    asks = stages.sets(run, "refusal").positive["train"][:N_SEARCH]
    tail = len(template_positions(model))
    found = adversarial_suffix(
        model,
        [framed(model, ask.text, tail) for ask in asks],
        log_odds(selection.openers(run)),
        length=LENGTH,
        steps=run.config.suffix_steps,
        banned=banned(run),
        seed=run.config.seed,
    )
    text = model.tokenizer.decode(list(found.tokens))
    yield {"tokens": list(found.tokens), "suffix": text, "losses": list(found.losses), "n": len(asks)}


def banned(run: Run[TraitConfig]) -> set[int]:
    """Special tokens, those of the chat template, and the openers of refusals."""
    one, two = (run.model.prompt(text, chat=True).tokens for text in ("a b", "7?"))
    own = {token for token in one if token in two}
    return {*own, *map(int, run.model.tokenizer.all_special_ids), *selection.openers(run)}


def requests(run: Run[TraitConfig], earlier: Records) -> list[SuffixItem]:
    """Harmful requests set aside and held out, harmless ones held out."""
    layer = chosen_layer(earlier, "refusal")
    tokens = next((tuple(r["tokens"]) for r in of(earlier, SEARCH)), ())
    if layer is None or not tokens:
        return []
    return [
        SuffixItem(f"{kind}, {split} {number}", kind, split, number, layer, tokens)
        for kind, split in (("positive", "choose"), ("positive", "test"), ("negative", "test"))
        for number in range(len(getattr(stages.sets(run, "refusal"), kind)[split]))
    ]


class Suffixed(TypedDict):
    """What a condition does to one request: its reply, and the last token of its prompt."""

    condition: str
    """harmful or harmless: the request alone; or the name of what is done to it."""
    split: str
    unit: str
    layer: int
    """The layer of the direction."""
    hit: bool
    """Whether the reply refuses."""
    complies: bool | None
    """Whether it does not refuse and names what was asked for; None where the topic is not known."""
    odds: float
    """Log-odds of a refusal, nats."""
    cosines: list[float]
    """Of the last token's state with the direction, by layer (input of the block)."""
    heads: list[list[float]]
    """What each head of each layer writes along the direction at the last token."""
    to_instruction: list[list[float]]
    """Attention of the last token to template and instruction before the suffix, by layer and head."""
    to_suffix: list[list[float]]
    text: str


def measure_request(run: Run[TraitConfig], item: SuffixItem) -> Iterator[Suffixed]:
    """A request in every condition that is for it."""
    model = run.model
    ask = getattr(stages.sets(run, "refusal"), item.kind)[item.split][item.number]
    prompt = framed(model, ask.text, len(template_positions(model)))
    plain = "harmful" if item.kind == "positive" else "harmless"
    arms: list[tuple[str, tuple[int, ...], list[int]]] = [(plain, (), prompt.tokens())]
    if (item.kind, item.split) == ("positive", "test"):
        arms.append((ADVERSARIAL, item.tokens, prompt.tokens(item.tokens)))
        for draw in range(DRAWS):
            seed = stable_draw(run.config.seed, ("suffix", item.number, draw), 2**31)
            suffix = random_suffix(model, LENGTH, banned=banned(run), seed=seed)
            arms.append((RANDOM, suffix, prompt.tokens(suffix)))
        arms += [(ABLATED, (), prompt.tokens()), (TURNS, (), after_turns(run, item))]
    direction = stages.vector(run, stages.Item(item.key, "refusal"), item.layer, "direction")
    unit = np.asarray(direction.unit, np.float64)
    metric = log_odds(selection.openers(run))
    topics = {chat.text: chat.topic for chat in load_world().chat_prompts("refusal")}
    under = [direction.ablated_everywhere() if condition == ABLATED else [] for condition, _, _ in arms]
    texts = model.generate([tokens for *_, tokens in arms], per_prompt=under, max_tokens=run.config.new_tokens)
    for (condition, suffix, tokens), edits, text in zip(arms, under, texts, strict=True):
        out = model.run([tokens], capture=["resid_pre", "head_out", "pattern"], interventions=edits)
        states = np.stack([_last(out[f"resid_pre.{n}"]) for n in range(model.n_layers)])
        heads = np.stack([_last(out[f"head_out.{n}"]) @ unit for n in range(model.n_layers)])
        looks = np.stack([np.asarray(out[f"pattern.{n}"][0, :, -1].astype(mx.float32)) for n in range(model.n_layers)])
        start = len(tokens) - len(prompt.after) - len(suffix)
        topic = topics.get(ask.text) if model.name in EMBEDDED else None
        assert out.logits is not None
        yield {
            "condition": condition,
            "split": item.split,
            "unit": ask.unit,
            "layer": item.layer,
            "hit": ask.hit(text.text),
            "complies": None if topic is None else topic in text.text and not ask.hit(text.text),
            "odds": float(metric(out.logits)[0]),
            "cosines": (states @ unit / np.linalg.norm(states, axis=1)).tolist(),
            "heads": heads.tolist(),
            "to_instruction": looks[:, :, :start].sum(axis=-1).tolist(),
            "to_suffix": looks[:, :, start : start + len(suffix)].sum(axis=-1).tolist(),
            "text": text.text,
        }


def after_turns(run: Run[TraitConfig], item: SuffixItem) -> list[int]:
    """The request after earlier turns in which harmless training requests get the model's own replies."""
    model = run.model
    asks = stages.sets(run, "refusal").negative["train"]
    order = np.random.default_rng(stable_draw(run.config.seed, item.key, 2**31)).permutation(len(asks))[:N_TURNS]
    prompts = [model.prompt(asks[i].text, chat=True) for i in order]
    replies = model.generate(prompts, max_tokens=run.config.new_tokens)
    own = stages.sets(run, "refusal").positive[item.split][item.number]
    turns = [*(p.text for p in prompts), model.prompt(own.text, chat=True).text]
    bos = getattr(model.tokenizer, "bos_token", None) or ""
    ends = [*(one.text + (model.tokenizer.eos_token or "") for one in replies), ""]
    told = "".join(turn.removeprefix(bos) + end for turn, end in zip(turns, ends, strict=True))
    return model.prompt(bos + told).tokens


def _last(held: mx.array) -> np.ndarray:
    return np.asarray(held[0, -1].astype(mx.float32), np.float64)


STAGES = (
    Stage(SEARCH, searches, measure_search, record=Search),
    Stage(SUFFIXES, requests, measure_request, record=Suffixed),
)


def _measured(records: Records, condition: str) -> list[Record]:
    return of(records, SUFFIXES, condition=condition, split="test")


def table(records: Records, config: TraitConfig) -> Table | None:
    """What the suffix does to replies and to the last token's state."""
    search = of(records, SEARCH)
    if not search or not of(records, SUFFIXES):
        return None
    rows: list[list[Cell]] = []
    for condition in (*CONDITIONS[:3], TURNS, ABLATED, CONDITIONS[3]):
        own = _measured(records, condition)
        at = [{**r, "cosine": r["cosines"][r["layer"]]} for r in own]
        known = [r for r in own if r["complies"] is not None]
        cells = [rate(at, config.seed, "hit"), rate(known, config.seed, "complies")]
        cells += [rate(at, config.seed, field) for field in ("odds", "cosine")]
        rows.append([condition, len({r["unit"] for r in own}), *cells])
    return Table(
        "Adversarial suffix",
        [
            *("requests", "n", Column("refused", "%"), Column("complies", "%")),
            *(Column("log-odds of a refusal", "nats", digits=1), "cosine"),
        ],
        rows,
        [
            f"One suffix of {len(search[0]['tokens'])} tokens for all requests, found by gradient on {search[0]['n']} "
            f"training requests (log-odds {search[0]['losses'][0]:.1f} to {search[0]['losses'][-1]:.1f}): "
            f"{search[0]['suffix']!r}. Random suffixes: {DRAWS} of that length for every request. Cosine: of the last "
            "token's state with the direction, at the layer where it was found. Answered turns: "
            f"{N_TURNS} earlier harmless requests with the model's own replies. Complies: does not refuse and names "
            "what was asked for.",
        ],
    )


def head_table(records: Records, config: TraitConfig) -> Table | None:
    """The heads that write most along the direction: what they write, and where they look."""
    chosen = top_heads(records)
    if not chosen:
        return None
    rows: list[list[Cell]] = []
    for layer, head in chosen:
        cells: list[Cell] = []
        for field, conditions in (
            ("heads", CONDITIONS),
            ("to_instruction", CONDITIONS[:3]),
            ("to_suffix", CONDITIONS[1:3]),
        ):
            for condition in conditions:
                own = _measured(records, condition)
                values = [r[field][layer][head] for r in own]
                cells.append(Frame(own).mean(values, unit="unit", seed=config.seed))
        rows.append([f"{layer}.{head}", len({r["unit"] for r in own}), *cells])
    return Table(
        "Adversarial suffix: the heads that write most along the direction",
        [
            *("head", "n"),
            *(Column(f"writes, {condition}", "absolute") for condition in CONDITIONS),
            *(Column(f"looks at instruction, {condition}", "%") for condition in CONDITIONS[:3]),
            *(Column(f"looks at suffix, {condition}", "%") for condition in CONDITIONS[1:3]),
        ],
        rows,
        [
            "At the prompt's last token. Heads: the largest mean output along the direction on harmful requests set "
            "aside. Looks: attention to the tokens of template and instruction before the suffix, and to the suffix.",
        ],
    )


def top_heads(records: Records) -> list[tuple[int, int]]:
    """(layer, head) of the largest mean output along the direction on requests set aside."""
    own = of(records, SUFFIXES, condition="harmful", split="choose")
    if not own:
        return []
    written = np.mean([r["heads"] for r in own], axis=0)
    order = np.argsort(-written, axis=None, kind="stable")[:TOP_HEADS]
    return [(int(n) // written.shape[1], int(n) % written.shape[1]) for n in order]


def figure(records: Records, config: TraitConfig) -> Iterator[Plot]:
    """Cosine of the last token with the direction by layer, in every condition."""
    by_condition: dict[str, Sequence[Record]] = {name: _measured(records, name) for name in CONDITIONS}
    if not by_condition["harmful"]:
        return
    n_layers = len(by_condition["harmful"][0]["cosines"])
    series = [
        Series(
            name,
            [Frame(own).mean([r["cosines"][n] for r in own], unit="unit", seed=config.seed) for n in range(n_layers)],
        )
        for name, own in by_condition.items()
    ]
    yield line_with_band(
        range(n_layers),
        series,
        name="suffix_cosines",
        title="Last token and the direction, under suffixes",
        x_label="layer (input of the block)",
        y_label="cosine with the direction",
        caption="Cosine of the prompt's last token with the direction of refusal by layer, on "
        f"{len({r['unit'] for r in by_condition['harmful']})} held-out harmful requests alone, with the adversarial "
        "suffix and with random ones, and on harmless requests. Bands: 95 % intervals over requests.",
    )
