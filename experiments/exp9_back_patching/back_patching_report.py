"""Tables and figures of back-patching: every rate stands beside that of its controls."""

from __future__ import annotations

from collections.abc import Callable

from experiments.exp9_back_patching import chosen_cells
from experiments.exp9_back_patching.back_patching import STAGE
from experiments.exp9_back_patching.grids import Grids, cell_name, grids, pairs_of, settings
from experiments.exp9_back_patching.patching_config import PatchingConfig
from experiments.harness.experiment import Metric, Records
from experiments.harness.frame import of
from experiments.shared.two_hop.queries import SCREENED, answered
from experiments.shared.two_hop.summaries import ALL, families, mean_over
from mlx_interp.lenses.logit import first_layer
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.stats import Estimate, difference_interval
from mlx_interp.stats.held_out import Held, held_out_choice, oracle


def funnel(records: Records, config: PatchingConfig) -> Table:
    """How many queries of each family count, and as what."""
    rows: list[list[Cell]] = []
    screened = of(records, SCREENED)
    for family in families(screened):
        mine = [r for r in screened if family in (ALL, r["family"])]
        known = [r for r in mine if r["first_hop"] and r["second_hop"]]
        counts = [sum(r["group"] == group for r in mine) for group in ("shortcut", "failure", "correct")]
        shortcuts = [sum(r[f"{kind}_shortcut"] for r in mine) for kind in ("entity", "relation")]
        patched = {r["item"] for r in records if r["stage"] == STAGE and family in (ALL, r["family"])}
        rows.append([family, len(mine), len(known), *shortcuts, *counts, len(patched)])
    return Table(
        "Which queries count",
        [
            *("family", "queries", "both hops known", "answered without relation", "without subject", "left out"),
            *("failures", "correct", "patched"),
        ],
        rows,
        [
            f"Failure: both single hops answered, the two-hop prompt not. Correct: all three. {answered(records)} "
            "Left out: answered by a shortcut that --drop-shortcuts names, whatever else.",
        ],
    )


def fix_rates(records: Records, config: PatchingConfig) -> Table | None:
    """The rate of one cell, chosen on one half of the failures and scored on the other."""
    if not of(records, STAGE, study="back-patching"):
        return None
    return _rates("Fixed by one cell, held out", records, config, "back-patching", _held_out)


def oracle_rates(records: Records, config: PatchingConfig) -> Table | None:
    """The paper's figure, beside the same figure of the controls."""
    if not of(records, STAGE, study="back-patching"):
        return None
    return _rates("Fixed by any cell (oracle)", records, config, "back-patching", _oracle)


def written(records: Records, config: PatchingConfig) -> Table | None:
    """The paper's criterion: ten greedy tokens contain the answer."""
    if not of(records, chosen_cells.STAGE, group="failure"):
        return None
    rows: list[list[Cell]] = []
    for position in dict.fromkeys(position for position, _ in settings(records, "back-patching")):
        for family in families([r for r in records if r.get("study") == "back-patching" and r["group"] == "failure"]):
            mine = grids(records, family, study="back-patching", arm="patched", position=position, length="raw")
            if len(mine.cells) < 2:
                continue
            held = held_out_choice(mine.cells, config.seed)
            texts = {arm: _texts(records, family, position, arm) for arm in chosen_cells.DECODED}
            row: list[Cell] = [position, family, len(mine.cells), mine.interval(_held_out(mine, held), config.seed)]
            row += [mine.interval(_written_at(found, held), config.seed) for found in texts.values()]
            if config.decode == "all":
                row += [mine.interval(_written_anywhere(found), config.seed) for found in texts.values()]
                loose = _texts(records, family, position, "patched", "contained")
                row.append(mine.interval(_written_anywhere(loose), config.seed))
            rows.append(row)
    columns: list[Column | str] = ["position", "family", "n", Column("first token", "%")]
    columns += [Column("text", "%"), Column("text, other prompt", "%")]
    notes = [
        "One cell, chosen by first tokens on one half and scored on the other. Text: the answer as whole words, within "
        f"{config.new_tokens} greedy tokens."
    ]
    if config.decode == "all":
        columns += [Column(f"any cell (oracle){arm}", "%") for arm in ("", ", other prompt", ", inside words too")]
        notes.append("The last column is the paper's rule, which counts names inside words and any cell.")
    return Table("Fixed by one cell, held out, by the text (raw states)", columns, rows, notes)


Texts = dict[str, dict[int, bool]]
"""By query and cell, whether the text names the answer."""


def _texts(records: Records, family: str, position: str, arm: str, rule: str = "mentioned") -> Texts:
    found = of(records, chosen_cells.STAGE, group="failure", position=position, arm=arm, length="raw")
    return {r["item"]: dict(zip(r["cells"], r[rule], strict=True)) for r in found if family in (ALL, r["family"])}


def _written_at(texts: Texts, held: Held) -> dict[str, float]:
    return {key: float(texts[key][cell]) for key, cell in held.choice.items() if key in texts}


def _written_anywhere(texts: Texts) -> dict[str, float]:
    return {key: float(any(cells.values())) for key, cells in texts.items()}


def cross_prompt(records: Records, config: PatchingConfig) -> Table | None:
    """The bridge's state from the second-hop prompt."""
    if not of(records, STAGE, study="cross-prompt"):
        return None
    return _rates("Cross-prompt patching, one cell, held out", records, config, "cross-prompt", _held_out)


def harm(records: Records, config: PatchingConfig) -> Table | None:
    """What the cells that fix failures do to correct queries."""
    close = of(records, chosen_cells.STAGE, group="correct")
    if not close:
        return None
    rows: list[list[Cell]] = []
    for position, length in dict.fromkeys((r["position"], r["length"]) for r in close):
        mine = [r for r in close if (r["position"], r["length"]) == (position, length)]
        patched = [r for r in mine if r["arm"] == "patched"]
        broken = []
        for arm in ("patched", "other prompt", "random"):
            of_arm = [r for r in mine if r["arm"] == arm]
            broken.append(mean_over([r["rank"][0] != 0 for r in of_arm], of_arm, config.seed))
        cell = cell_name(pairs_of(records, "back-patching")[patched[0]["cells"][0]])
        rows.append([position, length, len(patched), cell, *broken])
    return Table(
        "Correct queries broken by the best cell of the failures",
        ["position", "length", "n", "cell", Column("patched", "%"), Column("other prompt", "%"), Column("random", "%")],
        rows,
        ["Broken: the answer's first token is no longer the top one."],
    )


def depths(records: Records, config: PatchingConfig) -> Table | None:
    """Where the logit lens first shows bridge and answer."""
    if not of(records, STAGE, arm="lens"):
        return None
    rows: list[list[Cell]] = []
    for group in ("failure", "correct"):
        lenses = [r for r in records if r.get("arm") == "lens" and r["group"] == group]
        for name in ("bridge", "answer"):
            layers = {r["item"]: first_layer(r[f"{name}_ranks"], config.lens_k) for r in lenses}
            others = [r for r in lenses if f"other_{name}_ranks" in r]
            control = [first_layer(r[f"other_{name}_ranks"], config.lens_k) is not None for r in others]
            seen = [r for r in lenses if layers[r["item"]] is not None]
            rows.append(
                [
                    group,
                    f"{name}, at {'its position' if name == 'bridge' else 'the last position'}",
                    len(lenses),
                    mean_over([layers[r["item"]] is not None for r in lenses], lenses, config.seed),
                    mean_over(control, others, config.seed),
                    mean_over([float(layers[r["item"]] or 0) for r in seen], seen, config.seed),
                ]
            )
    return Table(
        f"Logit lens: first layer with the name in the top {config.lens_k}",
        [
            "group",
            "name",
            "n",
            Column("ever seen", "%"),
            Column("another query's", "%"),
            Column("mean first layer", digits=1),
        ],
        rows,
        ["Layers count from 0; the mean is over the queries where the name is seen."],
    )


def identity(records: Records, config: PatchingConfig) -> Table | None:
    """Every layer written into itself."""
    if not of(records, STAGE, study="identity"):
        return None
    clean = {r["item"]: r for r in records if r.get("arm") == "clean"}
    rows: list[list[Cell]] = []
    for position in dict.fromkeys(r["position"] for r in records if r.get("study") == "identity"):
        mine = [r for r in records if r.get("study") == "identity" and r["position"] == position]
        changed = sum(rank != clean[r["item"]]["rank"] for r in mine for rank in r["rank"])
        worst = max(abs(x - clean[r["item"]]["log_prob"]) for r in mine for x in r["log_prob"])
        rows.append([position, len(mine), sum(len(r["rank"]) for r in mine), changed, f"{worst:.0e}"])
    return Table(
        "Identity: a layer written into itself",
        ["position", "n", "cells", "ranks changed", "largest change of log-probability"],
        rows,
        ["Log-probabilities are recorded to four digits."],
    )


Scores = Callable[[Grids, Held], dict[str, float]]


def _held_out(arm: Grids, held: Held) -> dict[str, float]:
    chosen = {key: cell for key, cell in held.choice.items() if key in arm.cells}
    return Held(chosen).scores(arm.cells)


def _oracle(arm: Grids, held: Held) -> dict[str, float]:
    return oracle(arm.cells)


def _rates(title: str, records: Records, config: PatchingConfig, study: str, scores: Scores) -> Table:
    arms = ["other prompt", "random"] if study == "back-patching" else ["other prompt"]
    rows: list[list[Cell]] = []
    for position, length in settings(records, study):
        for family in families([r for r in records if r.get("study") == study and r["group"] == "failure"]):
            mine = grids(records, family, study=study, arm="patched", position=position, length=length)
            if len(mine.cells) < 2:
                continue
            held = held_out_choice(mine.cells, config.seed)
            rate = scores(mine, held)
            controls = [grids(records, family, study=study, arm=arm, position=position, length=length) for arm in arms]
            compared = [scores(control, held) for control in controls]
            cells = " / ".join(cell_name(pairs_of(records, study)[cell]) for cell in held.chosen)
            estimates = [
                control.interval(found, config.seed) for control, found in zip(controls, compared, strict=True)
            ]
            row = [position, length, family, len(mine.cells), mine.interval(rate, config.seed), *estimates]
            rows.append(
                [*row, _difference(mine, rate, compared[0], config.seed), *([cells] if scores is _held_out else [])]
            )
    columns: list[Column | str] = ["position", "length", "family", "n", Column("patched", "%")]
    columns += [Column(arm, "%") for arm in arms] + [Column("patched - other", "%")]
    notes = [
        "95 % intervals over bridges. Controls use the same cells. Another prompt's state and the difference: over the "
        "failures for which there is another bridge of the family to take it from."
    ]
    if scores is _held_out:
        columns.append("cells")
        notes.append("Cells: source>target, as chosen on either half; E is the embedding.")
    else:
        cells_tried = len(pairs_of(records, study)) if records else 0
        notes.append(f"Any of {cells_tried} cells counts, chosen for each query after the fact: not a rate to be had.")
    return Table(title, columns, rows, notes)


def _difference(mine: Grids, rate: dict[str, float], control: dict[str, float], seed: int) -> Estimate | None:
    both = [key for key in rate if key in control]
    units = [mine.bridge[key] for key in both]
    if len(set(units)) < 2:
        return None
    return difference_interval([rate[key] for key in both], [control[key] for key in both], unit=units, seed=seed)


def headline(records: Records, config: PatchingConfig) -> str:
    """The held-out rate at the bridge's position, raw, over all families, and its control."""
    position = config.positions[0]
    mine = grids(records, study="back-patching", arm="patched", position=position, length="raw")
    if len(mine.cells) < 2:
        return f"{len(mine.cells)} failures: too few to choose a cell on one half and report the other"
    held = held_out_choice(mine.cells, config.seed)
    control = grids(records, study="back-patching", arm="other prompt", position=position, length="raw")
    rate = mine.interval(_held_out(mine, held), config.seed)
    other = control.interval(_held_out(control, held), config.seed)
    texts = [estimate.text(percent=True) if estimate else "-" for estimate in (rate, other)]
    return (
        f"back-patching one held-out cell at the {position} position fixes {texts[0]} % of {len(mine.cells)} failures, "
        f"another prompt's states {texts[1]} %"
    )


def metrics(records: Records, config: PatchingConfig) -> list[Metric]:
    """What is drawn against depth and size: the held-out rate at the bridge's position, raw, and its control."""
    label = {"study": "back-patching", "position": config.positions[0], "length": "raw"}
    mine = grids(records, arm="patched", **label)
    if len(mine.cells) < 2:
        return []
    held = held_out_choice(mine.cells, config.seed)
    other = grids(records, arm="other prompt", **label)
    return [
        Metric("failures fixed by one cell", "%", mine.interval(_held_out(mine, held), config.seed)),
        Metric("fixed by another prompt", "%", other.interval(_held_out(other, held), config.seed)),
    ]


TABLES = [funnel, fix_rates, oracle_rates, written, cross_prompt, harm, depths, identity]
