"""Tables and figures of a trait's directions: where they are, what they do beside their controls, at what strength."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.harness.experiment import Plan, Records
from experiments.harness.frame import Frame, of
from experiments.harness.state import Run
from experiments.shared.traits.layer_choice import chosen_layer
from experiments.shared.traits.stages import ARMS, TraitConfig, asked, prompt_items, tried_layers
from experiments.shared.traits.trait_records import DIRECTIONS, EFFECTS, PROMPTS, SIDE, STRENGTHS
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import Estimate, difference_interval

KINDS = {"positive": "ablated, where it shows", "negative": "added, where it does not"}
FLUENT = 2.0
"""Nats a token by which a steered text may be less likely under the plain model than the plain text."""
REPEATED = 0.2
"""Share of repeated trigrams up to which a text counts as fluent."""


def plan_of(run: Run[TraitConfig], names: Sequence[str], *, strengths: bool) -> Plan:
    """Forward passes' worth of a trait study: directions, every layer on every prompt, and the curve of strengths."""
    asks = prompt_items(run, names)
    cells = len(ARMS) * len([layer for layer in tried_layers(run) if layer]) + 1
    longest = max((run.model.prompt(asked(run, ask).text, chat=True) for ask in asks), key=len)
    n_train = 2 * 2 * run.config.n_train * len(names)
    graded = sum(asked(run, ask).openings is not None for ask in asks)
    passes = n_train + 0.6 * cells * (len(asks) * (1 + run.config.new_tokens / len(longest)) + 2 * graded)
    if strengths:
        passes += 4 * len(run.config.strengths) * len(asks)
    memory = run.model.weight_bytes + run.model.memory([longest] * cells)
    return Plan(n_train + len(asks), cells * (len(asks) + graded), passes, memory, tokens=len(longest))


def traits(records: Records) -> list[str]:
    return list(dict.fromkeys(r["trait"] for r in records if r["stage"] == DIRECTIONS))


def rate(records: Sequence[Record], seed: int, field: str = "hit") -> Estimate | None:
    """Share of hits; resampled by prompt, or by topic where several prompts share one."""
    return Frame(records).rate(field, unit="unit", seed=seed)


def effect(records: Records, trait: str, kind: str, arm: str, layer: int | None, seed: int) -> Estimate | None:
    """Change of the rate on test prompts, against the same prompts left alone, paired."""
    after = of(records, EFFECTS, trait=trait, kind=kind, split="test", arm=arm, layer=layer)
    before = of(records, EFFECTS, trait=trait, kind=kind, split="test", arm="none")
    if len({r["unit"] for r in after}) < 2:
        return None
    return difference_interval(
        [float(r["hit"]) for r in after],
        [float(r["hit"]) for r in before],
        unit=[r["unit"] for r in after],
        control_unit=[r["unit"] for r in before],
        seed=seed,
    )


def prompt_table(records: Records, config: TraitConfig) -> Table | None:
    """Which prompts were used: set, revision, split, and how many."""
    measured = of(records, PROMPTS)
    if not measured:
        return None
    groups: dict[tuple[str, ...], dict[str, int]] = {}
    for r in measured:
        origin = tuple(str(r[name]) for name in ("trait", "language", "kind", "name", "revision", "part", "licence"))
        groups.setdefault((*origin, _checksum(r)), {})[r["split"]] = r["n"]
    splits = ("train", "choose", "test")
    rows: list[list[Cell]] = [[*key, *(n.get(split) for split in splits)] for key, n in groups.items()]
    return Table(
        "Prompts",
        [
            *("trait", "language", "prompts", "set", "revision", "split there", "licence", "SHA-256"),
            *("n, for finding", "n, for choosing", "n, held out"),
        ],
        rows,
        [
            "No text is in two splits. Published sets are fetched when a run asks for them and never shipped; their "
            "checksum is a known one, or (first fetch) that of the first fetch here, which later ones must have.",
        ],
    )


def _checksum(record: Record) -> str:
    if not record["sha256"]:
        return "-"
    return f"{record['sha256'][:12]} ({'known' if record['known'] else 'first fetch'})"


def layer_table(records: Records, config: TraitConfig) -> Table:
    """The chosen layer of each trait: depth, length, stability."""
    rows: list[list[Cell]] = []
    why: list[str] = []
    for trait in traits(records):
        layer = chosen_layer(records, trait)
        if layer is None:
            rows.append([trait, None, None, None, None, None, None, None])
            why.append(why_none(records, trait))
            continue
        (real,), (null,) = (of(records, DIRECTIONS, trait=trait, layer=layer, arm=a) for a in (ARMS[0], ARMS[2]))
        depth = layer / real["n_layers"]
        stable = [float(real["stability"]), float(null["stability"])]
        rows.append([trait, layer, depth, real["norm"], real["relative_norm"], real["p_value"], *stable])
        why += below_test(records, trait, layer)
    return Table(
        "Where the direction is",
        [
            "trait",
            "layer",
            Column("depth", "%"),
            Column("length", "absolute"),
            Column("length", "of the stream"),
            Column("p", digits=3),
            "stability",
            "stability, shuffled labels",
        ],
        rows,
        [
            "The layer is the one whose direction moves the trait most on prompts set aside for choosing, at most 80 % "
            "deep. p: of the two kinds of prompts being alike, from 999 exchanges of labels, for all layers together.",
            "Stability: median cosine to the direction from resampled prompts.",
            *why,
        ],
    )


def why_none(records: Records, trait: str) -> str:
    """Why a trait has no layer, with the counts."""
    found = of(records, DIRECTIONS, trait=trait, arm=ARMS[0])
    prompts = {r["kind"]: r["n"] for r in of(records, PROMPTS, trait=trait, split="train")}
    sizes = f", n = {' + '.join(str(n) for n in prompts.values())}" if prompts else ""
    tried = len({r["layer"] for r in of(records, EFFECTS, trait=trait) if r["layer"] is not None})
    return (
        f"{trait}: no layer to choose: at {sum(r['differs'] for r in found)} of {len(found)} layers the kinds of "
        f"prompts differ by more than rounding{sizes}; {tried} layers tried"
    )


def below_test(records: Records, trait: str, layer: int) -> list[str]:
    """A warning where the chosen layer's direction is not told from chance; what it does was measured all the same."""
    found = of(records, DIRECTIONS, trait=trait, arm=ARMS[0])
    (own,) = (r for r in found if r["layer"] == layer)
    if own["carries"]:
        return []
    passed = sum(r["carries"] for r in found)
    return [
        f"{trait}: the direction of layer {layer} is NOT told from chance (p = {own['p_value']:.3f}); those of "
        f"{passed} of {len(found)} layers are. Judge what it does by its controls."
    ]


def effect_table(records: Records, config: TraitConfig) -> Table:
    """The trait's rate on held-out prompts, plain and under the direction, beside its controls."""
    rows: list[list[Cell]] = []
    for trait in traits(records):
        layer = chosen_layer(records, trait)
        for kind, what in KINDS.items():
            test = of(records, EFFECTS, trait=trait, kind=kind, split="test")
            arms = [rate([r for r in test if r["arm"] == arm and r["layer"] == layer], config.seed) for arm in ARMS]
            plain = [r for r in test if r["arm"] == "none"]
            rows.append([trait, what, layer, len(plain), rate(plain, config.seed), *arms])
    return Table(
        "What the direction does, on held-out prompts",
        ["trait", "direction", "layer", "n", Column("plain", "%"), *(Column(arm, "%") for arm in ARMS)],
        rows,
        [
            "Ablated: at all layers and positions, from everything that is written to the stream. Added: the whole "
            "difference of means, once, at the last prompt token (confidence: at every position, since its replies "
            "part only behind their first words). Controls have the same length and place.",
        ],
    )


def side_table(records: Records, config: TraitConfig) -> Table | None:
    """What it does to facts that have nothing to do with it."""
    measured = of(records, SIDE)
    if not measured:
        return None
    rows: list[list[Cell]] = []
    for trait in traits(records):
        for arm in dict.fromkeys(r["arm"] for r in measured if r["trait"] == trait):
            known = [r for r in measured if r["trait"] == trait and r["arm"] == arm and r["known"]]
            moved = None if arm == "none" else rate(known, config.seed, "kl")
            rows.append([trait, arm, len(known), rate(known, config.seed, "right"), moved])
    return Table(
        "Side effects on everyday facts that the model knows",
        ["trait", "arm", "n", Column("still right", "%"), Column("KL", "nats", digits=3)],
        rows,
        ["KL of the next token's distribution from the plain one, at the end of the prompt."],
    )


def strength_table(records: Records, config: TraitConfig) -> Table | None:
    """For each rule the strength with the largest effect among those at which the texts stay fluent."""
    measured = of(records, STRENGTHS)
    if not measured:
        return None
    rows: list[list[Cell]] = []
    for trait in traits(records):
        for rule in dict.fromkeys(r["rule"] for r in measured if r["trait"] == trait):
            own = [r for r in measured if r["trait"] == trait and r["rule"] == rule and r["kind"] == "negative"]
            until, best, *rest = _best_strength(own, config.seed)
            (at,) = of(records, DIRECTIONS, trait=trait, layer=own[0]["layer"], arm=ARMS[0])
            lengths = [best * at[name] if isinstance(best, float) else None for name in ("norm", "relative_norm")]
            rows.append([trait, rule, until, best, *lengths, *rest])
    broken = sorted({f"{r['strength']:g}" for r in measured if not r["finite"]})
    return Table(
        "Strength: the largest effect with fluent text",
        [
            *("trait", "added at", "fluent up to", "best strength"),
            Column("best strength", "absolute"),
            Column("best strength", "of the stream"),
            Column("rate there", "%"),
            Column("random", "%"),
            Column("repetition", "%"),
            Column("log-probability", "nats a token"),
        ],
        rows,
        [
            "Prompts that do not show the trait; strengths in multiples of the difference of means. Fluent: at most "
            f"{REPEATED:.0%} repeated trigrams, and at most {FLUENT:g} nats a token less likely under the plain model "
            "than its own text. Where no strength has an effect, the rate there says so.",
            *([f"At {', '.join(broken)} activations are not finite: no text, no fluency."] if broken else []),
        ],
    )


def _best_strength(own: Sequence[Record], seed: int) -> list[Cell]:
    def at(value: float, arm: str = "direction") -> list[Record]:
        return [r for r in own if r["strength"] == value and r["arm"] == arm]

    values = sorted({r["strength"] for r in own if r["strength"] >= 0})
    plain = _mean_log_prob(at(0.0))
    fluent = [v for v in values if _fluent(at(v), plain)]
    if not fluent:
        return [None] * 6
    until = next((v for v, after in zip(fluent, [*fluent[1:], None], strict=True) if after is None), fluent[-1])
    best = max(fluent, key=lambda v: (sum(r["hit"] for r in at(v)), -v))
    texts = at(best)
    repeated = sum(r["repetition"] for r in texts) / len(texts)
    return [until, best, rate(texts, seed), rate(at(best, "random"), seed), repeated, _mean_log_prob(texts)]


def _fluent(records: Sequence[Record], plain: float | None) -> bool:
    found = _mean_log_prob(records)
    repeated = sum(r["repetition"] for r in records) / len(records)
    return found is not None and plain is not None and repeated <= REPEATED and found >= plain - FLUENT


def _mean_log_prob(records: Sequence[Record]) -> float | None:
    values = [float(r["log_prob"]) for r in records if r["log_prob"] is not None]
    return sum(values) / len(values) if values else None


def by_layer(records: Records, config: TraitConfig) -> Iterator[Plot]:
    """Rates over layers, on the held-out prompts."""
    for trait in traits(records):
        for kind, what in KINDS.items():
            test = of(records, EFFECTS, trait=trait, kind=kind, split="test")
            layers = sorted({r["layer"] for r in test if r["layer"] is not None})
            if not layers:
                continue
            n = len([r for r in test if r["arm"] == "none"])
            series = [
                Series(
                    arm, [rate([r for r in test if r["arm"] == arm and r["layer"] == n], config.seed) for n in layers]
                )
                for arm in ARMS
            ]
            plain = rate([r for r in test if r["arm"] == "none"], config.seed)
            yield line_with_band(
                layers,
                [*series, Series("plain", [plain] * len(layers))],
                name=f"{trait}_{kind}_by_layer",
                title=f"{trait}: {what}",
                x_label="layer of the direction (input of the block)",
                y_label="rate of the trait",
                caption=f"Rate of the trait ({trait}) on {n} held-out prompts, the direction {what}, by the layer that "
                "it was found at, with 95 % intervals over prompts; controls have the same length.",
                limits=(0, 1),
            )


def by_strength(records: Records, config: TraitConfig) -> Iterator[Plot]:
    """Rates, repetition and likelihood over strengths, the calibration curve."""
    for trait in traits(records):
        for rule in ("last prompt token", "every position"):
            own = of(records, STRENGTHS, trait=trait, rule=rule)
            if not own:
                continue
            values = sorted({r["strength"] for r in own})

            def curve(arm: str, kind: str, field: str, own: list[Record] = own, values: list[float] = values) -> Series:
                cells = [[r for r in own if (r["arm"], r["kind"], r["strength"]) == (arm, kind, v)] for v in values]
                label = {"hit": f"{arm}, {kind} prompts", "repetition": f"repetition, {arm}"}[field]
                return Series(label, [rate(cell, config.seed, field) for cell in cells])

            yield line_with_band(
                values,
                [
                    curve("direction", "negative", "hit"),
                    curve("direction", "positive", "hit"),
                    curve("random", "negative", "hit"),
                    curve("direction", "negative", "repetition"),
                ],
                name=f"{trait}_strength_{rule.replace(' ', '_')}",
                title=f"{trait}: strength, added at {rule}",
                x_label="strength (multiples of the difference of means)",
                y_label="rate; share of repeated trigrams",
                caption=f"Rate of the trait ({trait}) over the strength with which its direction is added at "
                f"{rule}, layer {own[0]['layer']}; repetition rises where the text breaks. 95 % intervals.",
                limits=(0, 1),
            )


def headline(records: Records, config: TraitConfig) -> str:
    """Per trait: layer and both effects."""
    return "; ".join(told(records, config).values())


def told(records: Records, config: TraitConfig) -> dict[str, str]:
    """Of each trait: its layer and both effects, or why it has none."""
    found = {}
    for trait in traits(records):
        layer = chosen_layer(records, trait)
        if layer is None:
            found[trait] = why_none(records, trait)
            continue
        texts = []
        for kind, word in (("positive", "ablated"), ("negative", "added")):
            change = effect(records, trait, kind, "direction", layer, config.seed)
            texts.append(f"{word} {change.text(percent=True) if change else '-'}")
        flag = " (not told from chance)" if below_test(records, trait, layer) else ""
        found[trait] = f"{trait}, layer {layer}{flag}: rate changes by {', '.join(texts)} points"
    return found
