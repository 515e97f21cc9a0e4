"""Two-hop queries from a table of facts: `python -m experiments.data.two_hop --facts facts.csv --model NAME`.

1. A row names subject, bridge and answer with a template for each relation. CSV or JSON with the columns of the data
   set published with "Hopping Too Late" (Biran et al. 2024, arXiv 2406.12775), so that its two_hop.csv loads as it is.
2. Each row becomes a two-hop prompt, both single hops, and the two shortcut prompts: without the first relation, and
   without the subject. Rows in which two of the three entities are the same are left out, as in the paper.
3. A model answers all five, greedily, ten tokens; right is a text that contains the answer or an alias (the paper's
   rule), and beside it the same as whole words.
4. Subsets are written for experiments (`--data FILE`): incorrect (both hops known, the composition not) and correct,
   both without shortcuts, at most so many for each type of bridge; and the funnel from all rows to these.
"""

from __future__ import annotations

import argparse
import ast
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

from rich.progress import track

from mlx_interp.behaviour.answers import contains, mentions
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.errors import DataError, MlxInterpError, nearest
from mlx_interp.loading.load import load
from mlx_interp.model import Model
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.reporting.files import make_folder, write_atomically

FACTS = Path(__file__).with_name("facts.csv")
"""Facts of the world in 25 pairs of relations, in the published columns."""
NEEDED = ("e1_label", "e2_label", "e3_label", "r1_template", "r2_template")
OPTIONAL = (
    *("id", "e1", "r1", "e2", "r2", "e3", "e1_aliases", "e2_aliases", "e3_aliases", "e1_type", "r1_type", "e2_type"),
    *("r2_type", "e3_type", "e1_popularity", "e2_popularity", "e3_popularity", "source_prompt", "prompt", "source"),
)
CHECKS = ("first_hop", "second_hop", "composition", "entity_shortcut", "relation_shortcut")
NEW_TOKENS = 10
BATCH = 32


@dataclass(frozen=True)
class Fact:
    """A row of the table: a query, and what it is grouped by."""

    id: str
    query: TwoHopQuery
    bridge_type: str


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


def read_facts(path: Path | str) -> list[Fact]:
    """All facts of a CSV or JSON table, in its order; rows whose entities are not three different ones are left out.

    Raises DataError, naming file, row and column, for a missing or unknown column, an empty cell, a template without
    its {}, or aliases that are no list.
    """
    path = Path(path)
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path}: holds no facts; the columns are {', '.join(NEEDED)} and optionally more")
    facts = [_fact(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    kept = [fact for fact in facts if fact is not None]
    return list({fact.query.key: fact for fact in kept}.values())


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


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(io.StringIO(text)))
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:] or 'CSV'}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected a list of objects, one a fact")
    yield from rows


def _fact(row: Mapping[str, Any], where: str) -> Fact | None:
    known = [*NEEDED, *OPTIONAL]
    for name in NEEDED:
        if not str(row.get(name) or "").strip():
            near = nearest(name, [column for column in row if column not in known])
            raise DataError(f"{where}: column {name!r} is missing or empty; {near}needed are {', '.join(NEEDED)}")
    for name in ("r1_template", "r2_template"):
        if row[name].count("{}") != 1:
            raise DataError(f"{where}: {name} {row[name]!r} must hold {{}} once, where the entity goes")
    subject, bridge, answer = (str(row[name]).strip() for name in NEEDED[:3])
    if len({subject.lower(), bridge.lower(), answer.lower()}) < 3:
        return None
    mention = row["r1_template"].format(subject)
    query = TwoHopQuery(
        family=_slug(row),
        subject=subject,
        bridge=bridge,
        answer=answer,
        two_hop=f"{row['r2_template'].format(mention)} is",
        first_hop=f"{mention} is",
        second_hop=f"{row['r2_template'].format(bridge)} is",
        mention=mention,
        bridge_aliases=_aliases(row, "e2_aliases", bridge, where),
        answer_aliases=_aliases(row, "e3_aliases", answer, where),
        source=str(row.get("source") or ""),
    )
    return Fact(str(row.get("id") or ""), query, str(row.get("e2_type") or ""))


def _slug(row: Mapping[str, Any]) -> str:
    """The family's name: what leads to the bridge and from it, e.g. "landmark_country_capital"."""
    parts = [str(row.get(name) or "") for name in ("e1_type", "e2_type", "r2_type")]
    if not all(parts):
        parts = [str(row[name]).replace("{}", " ") for name in ("r1_template", "r2_template")]
    return "_".join("_".join(part.lower().split()) for part in parts)


def _aliases(row: Mapping[str, Any], column: str, label: str, where: str) -> tuple[str, ...]:
    """A Python or JSON list as text, as in the published file; or a list."""
    value = row.get(column) or []
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise DataError(f"{where}: {column} {value!r} is no list") from error
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise DataError(f"{where}: {column} must be a list of strings, found {value!r}")
    return tuple(name for name in dict.fromkeys(value) if name.strip() and name != label)


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
    parser.add_argument(
        "--facts", type=Path, default=FACTS, metavar="FILE", help="CSV or JSON (default: the facts shipped)"
    )
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help="evaluate on it; repeatable")
    parser.add_argument("--out", type=Path, default=Path("two_hop_data"), metavar="DIR", help="where files are written")
    parser.add_argument("--cap", type=int, default=100, metavar="N", help="of each subset and type of bridge (100)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N facts of each family, for a look")
    options = parser.parse_args(arguments)
    try:
        facts = _first(read_facts(options.facts), options.limit)
        make_folder(options.out)
        write_queries(options.out / "queries.jsonl", [fact.query for fact in facts])
        families = Counter(fact.query.family for fact in facts)
        print(f"{len(facts)} queries of {len(families)} families in {options.out / 'queries.jsonl'}")
        for name in options.model:
            model = load(name)
            batches = evaluate(model, facts)
            found = list(track(batches, f"{name}: five prompts a fact", total=len(facts), transient=True))
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
