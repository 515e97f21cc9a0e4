"""Tables and figures of the words that open replies: how far directions move their log-odds, beside their controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from experiments.shared.traits.layer_choice import chosen_layer
from experiments.shared.traits.stages import ARMS, TraitConfig
from experiments.shared.traits.trait_records import OPENINGS
from experiments.shared.traits.trait_report import KINDS, told, traits
from mlx_interp.reporting import Cell, Column, Plot, Record, Series, Table, line_with_band
from mlx_interp.stats import Estimate, difference_interval


def moved(records: Records, trait: str, kind: str, arm: str, layer: int | None, seed: int) -> Estimate | None:
    """Change of the log-odds on held-out prompts under an arm, against the same prompts left alone, paired; nats."""
    own = of(records, OPENINGS, trait=trait, kind=kind, split="test")
    after, before = own.where(arm=arm, layer=layer), own.where(arm="none")
    if len(set(after.values("unit"))) < 2:
        return None
    return difference_interval(
        after.values("log_odds"),
        before.values("log_odds"),
        unit=after.values("unit"),
        control_unit=before.values("unit"),
        hits=False,
        seed=seed,
    )


def opening_table(records: Records, config: TraitConfig) -> Table | None:
    """Log-odds of opening with the trait's words on held-out prompts, and how far each arm moves them."""
    rows: list[list[Cell]] = []
    for trait in traits(records):
        layer = chosen_layer(records, trait)
        for kind, what in KINDS.items():
            plain = of(records, OPENINGS, trait=trait, kind=kind, split="test", arm="none")
            if plain:
                changes = [moved(records, trait, kind, arm, layer, config.seed) for arm in ARMS]
                alone = plain.amount("log_odds", unit="unit", seed=config.seed)
                rows.append([trait, what, _words(plain), layer, len(plain), alone, *changes])
    if not rows:
        return None
    return Table(
        "How replies open, on held-out prompts",
        [
            *("trait", "direction", "with the trait / without", "layer", "n"),
            Column("plain", "nats"),
            *(Column(f"moved by {arm}", "nats") for arm in ARMS),
        ],
        rows,
        [
            "Log-odds of opening the reply with the words of the trait against those of its opposite, whole phrases; "
            "above 0 the first are the likelier. Moved: change on the same prompts. Same interventions as above; a "
            "graded measure, which moves where no reply turns.",
        ],
    )


def _words(records: Sequence[Record]) -> str:
    """The two openings; or that they depend on the prompt (a view that the model has of its own)."""
    found = list(dict.fromkeys(r["words"] for r in records))
    return str(found[0]) if len(found) == 1 else f"{found[0]}, or the other way round"


def by_layer(records: Records, config: TraitConfig) -> Iterator[Plot]:
    """How far the log-odds move over layers, on held-out prompts."""
    for trait in traits(records):
        own = of(records, OPENINGS, trait=trait, split="test")
        layers = sorted({r["layer"] for r in own if r["layer"] is not None})
        if not layers:
            continue
        n = {kind: len(Frame(own).where(kind=kind, arm="none")) for kind in KINDS}
        yield line_with_band(
            layers,
            [
                Series(
                    f"{arm}, {KINDS[kind].partition(',')[0]}",
                    [moved(records, trait, kind, arm, at, config.seed) for at in layers],
                )
                for kind in KINDS
                for arm in ARMS[:2]
            ],
            name=f"{trait}_openings_by_layer",
            title=f"{trait}: words that open the reply",
            x_label="layer of the direction (input of the block)",
            y_label="change of the log-odds (nats)",
            caption=f"Change of the log-odds of {_words(own)} as the reply's first words, under the direction of each "
            f"layer or a random one of its length: ablated on {n['positive']} held-out prompts that show {trait}, "
            f"added on {n['negative']} that do not; 95 % intervals over prompts.",
        )


def headline(records: Records, config: TraitConfig) -> str:
    """Per trait: layer, both effects on replies, and both on the words that open them."""
    return "; ".join(said + _told(records, trait, config.seed) for trait, said in told(records, config).items())


def _told(records: Records, trait: str, seed: int) -> str:
    layer = chosen_layer(records, trait)
    found = {kind: moved(records, trait, kind, ARMS[0], layer, seed) for kind in KINDS}
    texts = [f"{KINDS[kind].partition(',')[0]} {change.text()}" for kind, change in found.items() if change]
    return f", log-odds of the words that open them by {', '.join(texts)} nats" if texts else ""
