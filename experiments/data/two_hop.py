"""Two-hop queries and what a model answers to them: `python -m experiments.data.two_hop --model NAME`.

1. Queries come from the single facts shipped (`single_facts.py`), or from a table in the columns of the data set
   published with "Hopping Too Late" (Biran et al. 2024, arXiv 2406.12775; `--facts two_hop.csv`).
2. Each is a two-hop prompt, both single hops, and the two shortcut prompts: without the first relation, and without the
   subject.
3. A model answers all five, greedily, ten tokens; right is a text that contains the answer or an alias (the paper's
   rule), and beside it the same as whole words.
4. Subsets are written for experiments (`--data FILE`): incorrect (both hops known, the composition not) and correct,
   both without shortcuts, at most so many for each type of bridge; and the funnel from all rows to these.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data.published_facts import Fact, read_facts
from experiments.data.single_facts import real_facts
from mlx_interp.behaviour.answers import contains, mentions
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.deferred import rich
from mlx_interp.errors import MlxInterpError
from mlx_interp.loading.load import load
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.reporting.files import make_folder, write_atomically

CHECKS = ("first_hop", "second_hop", "composition", "entity_shortcut", "relation_shortcut")
NEW_TOKENS = 10
BATCH = 32


@dataclass(frozen=True)
class Evaluated:
    """A fact with the five answers of a model: whether each text contains the answer, and whether as whole words."""

    fact: Fact
    correct: Mapping[str, bool]
    whole_words: Mapping[str, bool]
    text: str
    """What the model wrote after the two-hop prompt."""

    @property
    def hops_known(self) -> bool:
        return self.correct["first_hop"] and self.correct["second_hop"]

    @property
    def shortcut(self) -> bool:
        return self.correct["entity_shortcut"] or self.correct["relation_shortcut"]

    @property
    def subset(self) -> str | None:
        """ "incorrect" or "correct"; None for what neither is."""
        if not self.hops_known or self.shortcut:
            return None
        return "correct" if self.correct["composition"] else "incorrect"


def evaluate(model: Model, facts: Sequence[Fact]) -> Iterator[Evaluated]:
    """A model's five answers to every fact, a batch at a time."""
    for start in range(0, len(facts), BATCH):
        part = facts[start : start + BATCH]
        prompts = [prompt for fact in part for prompt in _prompts(fact.query)]
        texts = [written.text for written in model.generate(prompts, max_tokens=NEW_TOKENS)]
        for number, fact in enumerate(part):
            answered = texts[5 * number : 5 * number + 5]
            names = [fact.query.bridges, *[fact.query.answers] * 4]
            loose = {check: contains(t, n) for check, t, n in zip(CHECKS, answered, names, strict=True)}
            strict = {check: mentions(t, n) for check, t, n in zip(CHECKS, answered, names, strict=True)}
            yield Evaluated(fact, loose, strict, answered[2])


def subsets(found: Sequence[Evaluated], cap: int) -> dict[str, list[Evaluated]]:
    """Incorrect and correct compositions, at most `cap` of each for every type of bridge, in the table's order."""
    chosen: dict[str, list[Evaluated]] = {"incorrect": [], "correct": []}
    seen: Counter[tuple[str, str]] = Counter()
    for one in found:
        if one.subset is not None:
            seen[one.subset, one.fact.bridge_type] += 1
            if seen[one.subset, one.fact.bridge_type] <= cap:
                chosen[one.subset].append(one)
    return chosen


def funnel(found: Sequence[Evaluated], chosen: Mapping[str, Sequence[Evaluated]]) -> Table:
    """From all rows to the subsets, by family; with the share that whole words would have counted otherwise."""
    rows: list[list[Cell]] = []
    families = list(dict.fromkeys(one.fact.query.family for one in found))
    for family in [*families, "all"]:
        of = [one for one in found if family in (one.fact.query.family, "all")]
        known = [one for one in of if one.hops_known]
        kept = [one for one in known if not one.shortcut]
        other = [one for one in of if one.correct["composition"] != one.whole_words["composition"]]
        counts = [sum(1 for one in chosen[name] if family in (one.fact.query.family, "all")) for name in chosen]
        rows.append([family, len(of), len(known), len(kept), *counts, len(other) / len(of)])
    heads: list[Column | str] = [
        "family",
        "facts",
        "both hops known",
        "no shortcut",
        *chosen,
        Column("only inside a word", "%"),
    ]
    note = (
        "Right: ten greedy tokens contain the answer or an alias (the paper's rule). Only inside a word: share of "
        "two-hop texts in which whole words would decide otherwise."
    )
    return Table("From facts to the queries that count", heads, rows, [note])


def write(folder: Path, model: str, found: Sequence[Evaluated], cap: int) -> Table:
    """<folder>/<model>/: evaluated.csv, incorrect.jsonl, correct.jsonl, funnel.md."""
    chosen = subsets(found, cap)
    made = folder / model.replace("/", "--")
    make_folder(made)
    write_atomically(made / "evaluated.csv", _csv(found))
    for name, members in chosen.items():
        write_queries(made / f"{name}.jsonl", [one.fact.query for one in members])
    table = funnel(found, chosen)
    write_atomically(made / "funnel.md", f"# {model}\n\n{table.markdown()}")
    return table


def write_queries(path: Path, queries: Iterable[TwoHopQuery]) -> None:
    """Queries as experiments read them (`--data FILE`)."""
    lines = [json.dumps(_filled(query), ensure_ascii=False) + "\n" for query in queries]
    write_atomically(path, "".join(lines))


def _prompts(query: TwoHopQuery) -> list[str]:
    """In the order of CHECKS. The relation shortcut ends where the subject began; the paper's code cuts 4 letters."""
    return [
        query.first_hop,
        query.second_hop,
        query.two_hop,
        query.entity_shortcut,
        query.relation_shortcut,
    ]


def _csv(found: Sequence[Evaluated]) -> str:
    text = io.StringIO()
    columns = [*(f"{check}_correct" for check in CHECKS), *(f"{check}_whole_words" for check in CHECKS)]
    writer = csv.writer(text)
    writer.writerow(["id", "family", "source_prompt", "answer", "text", *columns])
    for one in found:
        query = one.fact.query
        marks = [int(kind[check]) for kind in (one.correct, one.whole_words) for check in CHECKS]
        writer.writerow([one.fact.id, query.family, query.two_hop, query.answer, one.text, *marks])
    return text.getvalue()


def _filled(query: TwoHopQuery) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(query).items() if value not in ("", ())}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 for data or a model that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.data.two_hop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--facts", type=Path, metavar="FILE", help="CSV or JSON (default: the single facts shipped)")
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="evaluate on it; repeatable")
    parser.add_argument("--out", type=Path, default=Path("two_hop_data"), metavar="DIR", help="where files are written")
    parser.add_argument("--cap", type=int, default=100, metavar="N", help="of each subset and type of bridge (100)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N facts of each family, for a look")
    options = parser.parse_args(arguments)
    try:
        facts = _first(read_facts(options.facts) if options.facts else real_facts(), options.limit)
        make_folder(options.out)
        write_queries(options.out / "queries.jsonl", [fact.query for fact in facts])
        families = Counter(fact.query.family for fact in facts)
        print(f"{len(facts)} queries of {len(families)} families in {options.out / 'queries.jsonl'}")
        for name in options.model:
            model = load(name)
            batches = evaluate(model, facts)
            found = list(rich.progress.track(batches, f"{name}: five prompts a fact", total=len(facts), transient=True))
            print(write(options.out, model.name, found, options.cap).markdown())
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _first(facts: Sequence[Fact], limit: int | None) -> list[Fact]:
    seen: Counter[str] = Counter()
    chosen = []
    for fact in facts:
        seen[fact.query.family] += 1
        if limit is None or seen[fact.query.family] <= limit:
            chosen.append(fact)
    return chosen


if __name__ == "__main__":
    sys.exit(main())
