"""Tables and figure of exp21: everything in one table, and the parts by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.exp21_precision.dictionaries import DICTIONARIES, OF_STORED, OTHER_SEED, OWN
from experiments.exp21_precision.moved_directions import DIRECTIONS, SCORES
from experiments.exp21_precision.moved_texts import TEXTS
from experiments.exp21_precision.repairs import REPAIRED, SCREENED, pairs_of
from experiments.exp21_precision.versions import STORED, PrecisionConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from mlx_interp.directions.candidates import rank
from mlx_interp.patching.back_patching import EMBEDDING
from mlx_interp.reporting import Cell, Column, Plot, Table
from mlx_interp.reporting.curves import Curve, curves
from mlx_interp.stats import Estimate, mean_or_none
from mlx_interp.stats.held_out import held_out_choice

DRAWS = 400
"""Of the prompts that the layer is chosen on."""


def names(records: Records) -> list[str]:
    """Versions, the stored one first."""
    return list(dict.fromkeys(r["version"] for r in of(records, TEXTS)))


def chosen(records: Records, version: str, seed: int) -> tuple[int | None, Estimate | None]:
    """The layer that the scores choose (Arditi et al. 2024), and its depth; the interval: prompts drawn again."""
    own = of(records, SCORES, version=version)
    harmful, harmless = own.where(kind="harmful"), own.where(kind="harmless")
    if not harmful or not harmless:
        return None, None
    layers, n_layers = list(harmful[0]["layers"]), int(harmful[0]["n_layers"])
    bypass = _table(harmful.values("bypass"))
    induce, kl = (_table(harmless.values(name)) for name in ("induce", "kl"))

    def best(one: np.ndarray, other: np.ndarray) -> int | None:
        means = zip(bypass[one].mean(0), induce[other].mean(0), kl[other].mean(0), strict=True)
        cells = rank({(layer, -1): tuple(found) for layer, found in zip(layers, means, strict=True)}, n_layers)
        return cells[0][0] if cells else None

    layer = best(np.arange(len(bypass)), np.arange(len(induce)))
    if layer is None:
        return None, None
    rng = np.random.default_rng(seed)
    drawn = [
        found
        for _ in range(DRAWS)
        if (found := best(rng.integers(len(bypass), size=len(bypass)), rng.integers(len(induce), size=len(induce))))
        is not None
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return layer, Estimate(layer / n_layers, low / n_layers, high / n_layers, len(bypass) + len(induce))


def _table(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """(prompt, layer); what was not finite is kept as None in records."""
    return np.array([[np.nan if value is None else value for value in row] for row in rows], dtype=float)


def cosine_at(records: Records, version: str, layer: int | None) -> Estimate | None:
    """Cosine to the stored model's direction at a layer."""
    found = of(records, DIRECTIONS, version=version, layer=layer)
    if not found:
        return None
    return Estimate(found[0]["cosine"], found[0]["low"], found[0]["high"], 0)


def repaired(records: Records, version: str, seed: int) -> dict[str, Estimate | None]:
    """Share of the stored model's failures that one pair of layers repairs, by arm; chosen on the other half of them,
    in this version, with the query's own states."""
    rows = of(records, REPAIRED, version=version)
    grids: dict[str, dict[str, list[float]]] = {}
    for r in rows:
        grids.setdefault(r["arm"], {})[r["item"]] = [float(cell) for cell in r["fixed"]]
    bridge = {r["item"]: r["bridge"] for r in rows}
    own = grids.get("own", {})
    if len(own) < 2:
        return {}
    held = held_out_choice(own, seed)
    found: dict[str, Estimate | None] = {}
    for arm, grid in grids.items():
        keys = [key for key in held.choice if key in grid]
        scores = [grid[key][held.choice[key]] for key in keys]
        found[arm] = mean_or_none(scores, unit=[bridge[key] for key in keys], seed=seed)
    return found


def pair_chosen(records: Records, config: PrecisionConfig, version: str) -> str:
    """The pair of layers that repairs most of all failures, e.g. "12>3"."""
    rows = of(records, REPAIRED, version=version, arm="own")
    if not rows:
        return ""
    source, target = pairs_of(rows[0]["n_layers"], config.layer_step)[
        int(np.argmax(np.mean([r["fixed"] for r in rows], axis=0)))
    ]
    return f"{source}>{'E' if target == EMBEDDING else target}"


def spliced(records: Records, version: str, dictionary: str, seed: int) -> Estimate | None:
    """What an autoencoder costs in one version, nats a token."""
    found = of(records, DICTIONARIES, version=version, dictionary=dictionary)
    if not found:
        return None
    delta = found[0]["delta"]
    return mean_or_none(delta, unit=list(range(len(delta))), seed=seed, hits=False)


def moved_table(records: Records, config: PrecisionConfig) -> Table | None:
    """One row a version: how far everything moves."""
    layer, _ = chosen(records, STORED, config.seed)
    if layer is None:  # a model that refuses nothing, by its opening words: the middle stands in
        layer = max((r["n_layers"] for r in of(records, DIRECTIONS)), default=0) // 2
    rows: list[list[Cell]] = []
    for name in names(records):
        on_text, fixed = of(records, TEXTS, version=name), repaired(records, name, config.seed)
        same = name == STORED
        rows.append(
            [
                name,
                None if same else on_text.amount("kl", seed=config.seed),
                None if same else on_text.amount("same", seed=config.seed),
                None if same else cosine_at(records, name, layer),
                chosen(records, name, config.seed)[1],
                of(records, SCREENED, version=name, hops_known=True).rate("answered", unit="bridge", seed=config.seed),
                fixed.get("own"),
                fixed.get("other query"),
                spliced(records, name, OWN, config.seed),
                spliced(records, name, OTHER_SEED if same else OF_STORED, config.seed),
            ]
        )
    if not rows:
        return None
    stability = of(records, DIRECTIONS, version=STORED, layer=layer)
    return Table(
        "What fewer bits move",
        [
            "version",
            Column("KL", "nats", digits=3),
            Column("same next token", "%"),
            Column(f"direction's cosine, layer {layer}", digits=3),
            Column("chosen depth", "%"),
            Column("two hops answered", "%"),
            Column("failures repaired", "%"),
            Column("by another query", "%"),
            Column("SAE, delta CE", "nats", digits=3),
            Column("the stored model's", "nats", digits=3),
        ],
        rows,
        [
            "KL of the stored model's next token from the version's, held-out texts. Cosine of the refusal direction "
            "(difference of means, last token) to the stored model's, from the same prompts; drawn again they turn it "
            f"by a median cosine of {stability[0]['stability']:.3f} there. "
            if stability
            else "KL of the stored model's next token from the version's, held-out texts. ",
            "Chosen depth: the layer that scores by Arditi et al. (2024) choose; empty where no candidate passes, or "
            "the model's refusals have no opening words of their own. Two hops: of queries whose hops the version "
            "knows. Repaired: of the same failures of the stored model, by one pair of layers chosen on the other half "
            "of them. SAE: splicing one trained on the version's own states, and the stored model's; of the stored "
            "model itself the second is one from another seed.",
        ],
    )


def direction_table(records: Records, config: PrecisionConfig) -> Table | None:
    """Every layer's cosine."""
    versions = [name for name in names(records) if name != STORED]
    stored = of(records, DIRECTIONS, version=STORED)
    if not stored or not versions:
        return None
    rows: list[list[Cell]] = [
        [r["layer"], *(cosine_at(records, name, r["layer"]) for name in versions), r["stability"]] for r in stored
    ]
    heads = [Column(f"cosine, {name}", digits=3) for name in versions]
    return Table("The refusal direction, by layer", ["layer", *heads, Column("stability", digits=3)], rows)


def query_table(records: Records, config: PrecisionConfig) -> Table | None:
    """How many queries each version knows the hops of, answers, and is repaired on."""
    rows: list[list[Cell]] = []
    stored = {r["item"]: r for r in of(records, SCREENED, version=STORED)}
    for name in names(records):
        own = of(records, SCREENED, version=name)
        if not own:
            return None
        agree = [float(r["answered"] == stored[r["item"]]["answered"]) for r in own]
        fixed = of(records, REPAIRED, version=name, arm="own")
        rows.append(
            [
                name,
                len(own),
                sum(r["hops_known"] for r in own),
                sum(r["hops_known"] and r["answered"] for r in own),
                own.mean(agree, unit="bridge", seed=config.seed),
                len(fixed),
                sum(r["plain"] for r in fixed),
                pair_chosen(records, config, name),
            ]
        )
    return Table(
        "Two-hop queries",
        [
            *("version", "queries", "both hops known", "of these answered"),
            Column("answered or not as stored", "%"),
            *("failures of the stored model", "answered here unpatched", "best pair"),
        ],
        rows,
        ["Best pair: source>target layer that repairs most of all failures; E: the embedding."],
    )


def dictionary_table(records: Records, config: PrecisionConfig) -> Table | None:
    """Every autoencoder."""
    rows: list[list[Cell]] = [
        [
            r["version"],
            r["dictionary"],
            r["site"],
            r["tokens"],
            r["l0"],
            r["fve"],
            r["dead"],
            spliced(records, r["version"], r["dictionary"], config.seed),
            float(np.mean(r["zero"])),
        ]
        for r in of(records, DICTIONARIES)
    ]
    if not rows:
        return None
    return Table(
        "Autoencoders",
        [
            *("measured in", "dictionary", "site", "n tokens"),
            *(Column("L0", digits=1), Column("FVE", digits=3), Column("dead", "%")),
            *(Column("delta CE", "nats", digits=3), Column("zeros in its place", "nats", digits=2)),
        ],
        rows,
        ["Held-out texts. Trained on few tokens: the differences between rows are what is to be read."],
    )


def cosine_figure(records: Records, config: PrecisionConfig) -> list[Plot]:
    """Cosine by layer."""
    stored = of(records, DIRECTIONS, version=STORED)
    versions = [name for name in names(records) if name != STORED]
    if not stored or not versions:
        return []
    layers = stored.values("layer")
    lines = [Curve(name, layers, [cosine_at(records, name, layer) for layer in layers]) for name in versions]
    lines.append(
        Curve("stored model, prompts drawn again", layers, [_exact(value) for value in stored.values("stability")])
    )
    return [
        curves(
            lines,
            [],
            name="direction_by_layer",
            title="Refusal direction: cosine to the stored model's",
            x_label="layer",
            y_label="cosine",
            caption="Cosine of each version's refusal direction to the stored model's, both of the same prompts "
            f"({config.n_train} of each kind at most); bars: 95 % of draws of prompts, the same for both. Prompts "
            "drawn again: within the stored model, the median cosine to a direction of other draws.",
        )
    ]


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value, 0)


def headline(records: Records, config: PrecisionConfig) -> str:
    """What the version of fewest bits moves."""
    versions = [name for name in names(records) if name != STORED]
    if not versions:
        return "nothing was compared"
    fewest = min(versions, key=lambda name: int(name.split()[0]))
    on_text = of(records, TEXTS, version=fewest)
    said = [f"{fewest}: the same next token in {_percent(on_text.amount('same', seed=config.seed))} of positions"]
    by: Mapping[str, Estimate | None] = repaired(records, fewest, config.seed)
    stored = repaired(records, STORED, config.seed).get("own")
    layer = chosen(records, STORED, config.seed)[0]
    cosine = cosine_at(records, fewest, layer)
    if cosine is not None:
        said.append(f"the refusal direction's cosine at layer {layer} is {cosine}")
    if by.get("own") is not None and stored is not None:
        said.append(f"one pair repairs {_percent(by['own'])} of failures, as stored {_percent(stored)}")
    return "; ".join(said)


def _percent(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{estimate.text(percent=True)} %"


TABLES = [moved_table, direction_table, query_table, dictionary_table]
