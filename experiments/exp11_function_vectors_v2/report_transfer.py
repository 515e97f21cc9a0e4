"""Tables of the head-level study: other templates, running text, the vocabulary, arithmetic."""

from __future__ import annotations

from experiments.exp11_function_vectors_v2 import composition
from experiments.exp11_function_vectors_v2.composition import ARITHMETIC, COMPOSED, LISTS
from experiments.exp11_function_vectors_v2.vector_report import names
from experiments.exp11_function_vectors_v2.vocabulary import DECODED, HOW, REBUILT, TOKENS, solved_keys
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.shared.in_context.mediation import RANDOM, VECTOR, MediationConfig
from experiments.shared.in_context.screening import rate
from experiments.shared.in_context.transfer import CONTROLS, NATURAL, PORTED, TEMPLATES, WRITTEN
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.stats import mean_or_none


def ported_table(records: Records, config: MediationConfig) -> Table:
    """The vector in templates that it was not made from."""
    found = of(records, PORTED)
    rows: list[list[Cell]] = []
    for name in TEMPLATES:
        own = [r for r in found if r["template"] == name]
        counted = [r for r in own if r["with_examples"]]
        rates = [
            rate([{"item": r["item"], "right": r["right"][arm]} for r in counted], config.seed)
            for arm in ("nothing", *CONTROLS)
        ]
        rows.append([name, len(own), len(counted), *rates])
    return Table(
        "Other templates",
        [
            *("template", "queries", "right with examples there"),
            *(Column(name, "%") for name in ("nothing", *CONTROLS)),
        ],
        rows,
        ["Bare queries in the template; only those count that the model answers with examples in the same template."],
    )


def natural_table(records: Records, config: MediationConfig) -> Table | None:
    """Answers in running text."""
    found = of(records, NATURAL)
    if not found:
        return None
    rows: list[list[Cell]] = []
    for name in [*names(records), "all"]:
        own = [r for r in found if name in (r["task"], "all")]
        for sentence in dict.fromkeys("all" if name == "all" else r["sentence"] for r in own):
            here = [r for r in own if sentence in (r["sentence"], "all")]
            arms = [[r for r in here if r["arm"] == arm] for arm in ("nothing", *CONTROLS)]
            rows.append([name, sentence, len(arms[0]), *(rate(arm, config.seed) for arm in arms)])
    return Table(
        "Answers in running text",
        ["task", "sentence", "n", *(Column(name, "%") for name in ("nothing", *CONTROLS))],
        rows,
        [
            "Share of continuations that contain the task's answer as whole words, in its own case; the vector is "
            "added at the sentence's last token and at every new one. On embedded models the sentences ask for "
            "something of their own, so that the vector has to overrule them."
        ],
    )


def continuations_table(records: Records, config: MediationConfig) -> Table | None:
    """One continuation of each task and sentence, as it was written: examples, with their words."""
    found = of(records, NATURAL)
    rows: list[list[Cell]] = []
    for task, sentence in dict.fromkeys((r["task"], r["sentence"]) for r in found):
        own = [r for r in found if (r["task"], r["sentence"]) == (task, sentence)]
        texts = [next(r["text"] for r in own if r["arm"] == arm) for arm in ("nothing", *CONTROLS)]
        query = own[0]["item"].removeprefix(f"{task}: ")
        rows.append([task, sentence.format(query), *(" ".join(text.split()) for text in texts)])
    if not rows:
        return None
    notes = ["The first held-out query of each task, whether right or wrong."]
    return Table("Continuations of running text", ["task", "sentence", "nothing", *CONTROLS], rows, notes)


def written_table(records: Records, config: MediationConfig) -> Table | None:
    """Answers written to their end."""
    found = of(records, WRITTEN)
    if not found:
        return None
    rows: list[list[Cell]] = []
    for arm in ("examples", "nothing", *CONTROLS):
        own = [r for r in found if r["arm"] == arm]
        rows.append([arm, len(own), *(rate(own, config.seed, field) for field in ("exact", "first_word", "f1"))])
    return Table(
        "Answers written out",
        ["prompt", "n", Column("exact", "%"), Column("first word", "%"), Column("F1 of words", "%")],
        rows,
        ["Greedy, up to 16 tokens, cut where the template ends an answer; the vector at the query's last token only."],
    )


def decoded_table(records: Records, config: MediationConfig) -> Table:
    """What the vectors say by themselves."""
    rows: list[list[Cell]] = []
    for name in names(records):
        mine, control = (of(records, DECODED, task=name, arm=arm)[0] for arm in (VECTOR, RANDOM))
        rows.append([name, " ".join(mine["tokens"]), mine["answers"], control["answers"]])
    heads: list[Column | str] = ["task", "top tokens", f"answers among the top {TOKENS}", "the same, random heads"]
    return Table("The vector through the unembedding", heads, rows)


def rebuilt_table(records: Records, config: MediationConfig) -> Table | None:
    """Vectors that decode alike."""
    kept = solved_keys(records)
    found = [{**r, "item": r["query"]} for r in of(records, REBUILT) if r["query"] in kept]
    if not found:
        return None
    rows: list[list[Cell]] = []
    for arm in (VECTOR, *HOW):
        own = [r for r in found if r["arm"] == arm]
        by_task = {r["task"]: r for r in own}
        kl, cosine = (
            None
            if arm == VECTOR
            else mean_or_none([float(r[field]) for r in by_task.values()], unit=list(by_task), seed=config.seed)
            for field in ("kl", "cosine")
        )
        rows.append([arm, len(own), kl, cosine, rate(own, config.seed)])
    return Table(
        "Vectors rebuilt from what the function vector decodes to",
        ["vector", "n", Column("KL to its distribution", "nats"), "cosine with it", Column("right", "%")],
        rows,
        [
            "From noise, so that its distribution over the vocabulary is the function vector's (all tokens, or the top "
            "100 alone); the same length, layer and strength. KL and cosine: mean over tasks. A distribution over more "
            "tokens than the stream has dimensions says nearly all about a vector: in a small model a rebuilt vector "
            "can come close to the function vector itself."
        ],
    )


def arithmetic_table(records: Records, config: MediationConfig) -> Table | None:
    """Sums of vectors of other tasks."""
    found = of(records, ARITHMETIC)
    if not found:
        return None
    arms = ("nothing", *composition.ARMS)
    rows: list[list[Cell]] = []
    for name in [*dict.fromkeys(r["sum"] for r in found), "all"]:
        own = [r for r in found if name in (r["sum"], "all")]
        cells = [[r for r in own if r["arm"] == arm] for arm in arms]
        rows.append([name, len(cells[0]), *(rate(cell, config.seed) for cell in cells)])
    return Table(
        "Arithmetic of vectors",
        ["sum", "n", *(Column(arm, "%") for arm in arms)],
        rows,
        [
            "Scored on the bare queries of the task on the left. First and second summand: added alone. Wrong sum: the "
            "second plus the third minus the first."
        ],
    )


def lists_table(records: Records, config: MediationConfig) -> Table | None:
    """Lists: what the model does with examples, and the composed vector where it does."""
    found = of(records, LISTS)
    if not found:
        return None
    arms = ("nothing", *composition.ARMS)
    rows: list[list[Cell]] = []
    for base in dict.fromkeys(r["base"] for r in found):
        for place in composition.PLACES:
            for transform in (False, True):
                own = [r for r in found if (r["base"], r["place"], r["transform"]) == (base, place, transform)]
                composed = of(records, COMPOSED, base=base) if place == "last" and transform else []
                cells = [[r for r in composed if r["arm"] == arm] for arm in arms]
                name = f"{place}, {'transformed' if transform else 'copied'}"
                right = rate(own, config.seed)
                rows.append([base, name, len(own), right, len(cells[0]), *(rate(c, config.seed) for c in cells)])
    return Table(
        "Lists: first or last item, copied or transformed",
        [
            *("task", "list", "n", Column("right with examples", "%"), "kept"),
            *(Column(arm, "%") for arm in arms),
        ],
        rows,
        [
            "Lists of three inputs. The sum for the last item, transformed, is first transformed + last copied - first "
            "copied; kept: such lists that the model answers with examples. Where none is, there is nothing to compose."
        ],
    )
