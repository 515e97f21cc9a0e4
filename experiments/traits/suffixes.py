"""What an adversarial suffix does to the direction (Arditi et al. 2024, section 5; mlx_interp.methods.suffix).

1. One suffix for several training requests, found by gradient so that their replies do not open with a refusal.
2. Held-out harmful requests alone, with it, with random suffixes of the same length, and harmless requests: replies,
   and the cosine of the last token's state with the study's direction, at every layer.
3. The heads that write most along the direction at the last token, on harmful requests set aside: what they write, and
   how much they attend to the instruction and to the suffix, on the held-out ones.

Control: random suffixes, several draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from experiments.experiment import Records, Stage
from experiments.traits import selection, stages
from experiments.traits.report import of, rate
from experiments.traits.stages import TraitConfig
from mlx_interp.methods.contrast import template_positions
from mlx_interp.methods.detectors import log_odds
from mlx_interp.methods.suffix import adversarial_suffix, framed, random_suffix
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import mean_or_none, stable_draw

SEARCH, SUFFIXES = "suffix search", "suffixes"
LENGTH, STEPS, N_SEARCH = 8, 12, 8
ADVERSARIAL, RANDOM = "adversarial suffix", "random suffix"
CONDITIONS = ("harmful", RANDOM, ADVERSARIAL, "harmless")
DRAWS = 4
TOP_HEADS = 8


@dataclass(frozen=True)
class SuffixItem:
    """A request, and the suffix that was found; or, without a layer, the search."""

    key: str
    kind: str = ""
    split: str = ""
    number: int = 0
    layer: int = -1
    tokens: tuple[int, ...] = ()


def searches(model: Model, config: TraitConfig, earlier: Records) -> list[SuffixItem]:
    """One search; none for a model that refuses nothing."""
    layer = stages.chosen_layer(earlier, "refusal")
    return [SuffixItem("search")] if layer is not None and selection.openers(model, config) else []


def measure_search(model: Model, item: SuffixItem, config: TraitConfig) -> Iterator[Record]:
    """The search on training requests."""
    asks = stages.sets(model, config, "refusal").positive["train"][:N_SEARCH]
    tail = len(template_positions(model))
    found = adversarial_suffix(
        model,
        [framed(model, ask.text, tail) for ask in asks],
        log_odds(selection.openers(model, config)),
        length=LENGTH,
        steps=STEPS,
        banned=banned(model, config),
        seed=config.seed,
    )
    text = model.tokenizer.decode(list(found.tokens))
    yield {"tokens": list(found.tokens), "suffix": text, "losses": list(found.losses), "n": len(asks)}


def banned(model: Model, config: TraitConfig) -> set[int]:
    """Special tokens, those of the chat template, and the openers of refusals."""
    one, two = (model.prompt(text, chat=True).tokens for text in ("a b", "7?"))
    own = {token for token in one if token in two}
    return {*own, *map(int, model.tokenizer.all_special_ids), *selection.openers(model, config)}


def requests(model: Model, config: TraitConfig, earlier: Records) -> list[SuffixItem]:
    """Harmful requests set aside and held out, harmless ones held out."""
    layer = stages.chosen_layer(earlier, "refusal")
    tokens = next((tuple(r["tokens"]) for r in of(earlier, SEARCH)), ())
    if layer is None or not tokens:
        return []
    return [
        SuffixItem(f"{kind}, {split} {number}", kind, split, number, layer, tokens)
        for kind, split in (("positive", "choose"), ("positive", "test"), ("negative", "test"))
        for number in range(len(getattr(stages.sets(model, config, "refusal"), kind)[split]))
    ]


def measure_request(model: Model, item: SuffixItem, config: TraitConfig) -> Iterator[Record]:
    """A request in every condition that is for it."""
    ask = getattr(stages.sets(model, config, "refusal"), item.kind)[item.split][item.number]
    prompt = framed(model, ask.text, len(template_positions(model)))
    arms: list[tuple[str, tuple[int, ...]]] = [("harmful" if item.kind == "positive" else "harmless", ())]
    if (item.kind, item.split) == ("positive", "test"):
        arms.append((ADVERSARIAL, item.tokens))
        for draw in range(DRAWS):
            seed = stable_draw(config.seed, ("suffix", item.number, draw), 2**31)
            arms.append((RANDOM, random_suffix(model, LENGTH, banned=banned(model, config), seed=seed)))
    direction = stages.vector(model, config, stages.Item(item.key, "refusal"), item.layer, "direction")
    unit = np.asarray(direction.unit, np.float64)
    metric = log_odds(selection.openers(model, config))
    for condition, suffix in arms:
        tokens = prompt.tokens(suffix)
        out = model.run([tokens], capture=["resid_pre", "head_out", "pattern"])
        states = np.stack([_last(out[f"resid_pre.{n}"]) for n in range(model.n_layers)])
        heads = np.stack([_last(out[f"head_out.{n}"]) @ unit for n in range(model.n_layers)])
        looks = np.stack([np.asarray(out[f"pattern.{n}"][0, :, -1].astype(mx.float32)) for n in range(model.n_layers)])
        start = len(prompt.before)
        (text,) = model.generate([tokens], max_tokens=config.new_tokens)
        assert out.logits is not None
        yield {
            "condition": condition,
            "split": item.split,
            "unit": ask.unit,
            "layer": item.layer,
            "hit": ask.hit(text.text),
            "odds": float(metric(out.logits)[0]),
            "cosines": (states @ unit / np.linalg.norm(states, axis=1)).tolist(),
            "heads": heads.tolist(),
            "to_instruction": looks[:, :, :start].sum(axis=-1).tolist(),
            "to_suffix": looks[:, :, start : start + len(suffix)].sum(axis=-1).tolist(),
            "text": text.text,
        }


def _last(held: mx.array) -> np.ndarray:
    return np.asarray(held[0, -1].astype(mx.float32), np.float64)


STAGES = (Stage(SEARCH, searches, measure_search), Stage(SUFFIXES, requests, measure_request))


def _measured(records: Records, condition: str) -> list[Record]:
    return of(records, SUFFIXES, condition=condition, split="test")


def table(records: Records, config: TraitConfig) -> Table | None:
    """What the suffix does to replies and to the last token's state."""
    search = of(records, SEARCH)
    if not search or not of(records, SUFFIXES):
        return None
    rows: list[list[Cell]] = []
    for condition in CONDITIONS:
        own = _measured(records, condition)
        at = [{**r, "cosine": r["cosines"][r["layer"]]} for r in own]
        rows.append([condition, len({r["unit"] for r in own}), *(rate(at, config.seed, f) for f in FIELDS)])
    return Table(
        "Adversarial suffix",
        ["requests", "n", Column("refused", "%"), Column("log-odds of a refusal", "nats", digits=1), "cosine"],
        rows,
        [
            f"One suffix of {len(search[0]['tokens'])} tokens for all requests, found by gradient on {search[0]['n']} "
            f"training requests (log-odds {search[0]['losses'][0]:.1f} to {search[0]['losses'][-1]:.1f}): "
            f"{search[0]['suffix']!r}. Random suffixes: {DRAWS} of that length for every request. Cosine: of the last "
            "token's state with the direction, at the layer where it was found.",
        ],
    )


FIELDS = ("hit", "odds", "cosine")


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
                cells.append(mean_or_none(values, unit=[r["unit"] for r in own], seed=config.seed))
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
            [
                mean_or_none([r["cosines"][n] for r in own], unit=[r["unit"] for r in own], seed=config.seed)
                for n in range(n_layers)
            ],
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
