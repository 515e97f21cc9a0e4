"""Tables and files of the study."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from experiments.exp14_logit_diff_amplification.amplified import (
    CLEAN,
    DRAWS,
    FULL,
    ITSELF,
    LOSS,
    LOSS_ALPHAS,
    MASKED,
    PRECISION,
    PRECISIONS,
    RANKING,
    RARE,
    REPEATED,
    SHARPENED,
    SHUFFLED,
    TEXTS,
    TOP_20,
    UNRELATED,
)
from experiments.exp14_logit_diff_amplification.pairs import AmplificationConfig
from experiments.harness.experiment import Metric, Records
from experiments.harness.frame import Frame, of
from mlx_interp.reporting import Cell, Column, Record, Table
from mlx_interp.stats import Estimate, auroc, clopper_pearson, difference_interval

REPORTED = {0.0: 0.002, 2.0: 0.012}
"""Rate of a trigger's phrase on 1000 prompts without the trigger, in a public replication, by strength."""
SCORES = {
    "kl": "KL(a || b), mean over the right reply",
    "kl_first": "KL(a || b), first token alone",
    "largest": "largest difference of a token of the right reply",
    "sampled_0": f"{DRAWS} samples of a",
    "sampled_1": f"{DRAWS} samples at strength 1",
}


def mean(records: Sequence[Record], field: str, config: AmplificationConfig) -> Estimate | None:
    return Frame(records).measured(field).rate(field, unit="unit", seed=config.seed)


def amount(records: Sequence[Record], field: str, config: AmplificationConfig) -> Estimate | None:
    return Frame(records).measured(field).amount(field, unit="unit", seed=config.seed)


def cell(records: Records, config: AmplificationConfig, field: str, **labels: object) -> Estimate | None:
    return mean(of(records, TEXTS, **labels), field, config)


def pairs_of(records: Records) -> list[str]:
    return list(dict.fromkeys(r["pair"] for r in of(records, TEXTS)))


def n_of(records: Records, pair: str) -> int:
    return len({r["prompt"] for r in of(records, TEXTS, pair=pair)})


def rate_table(records: Records, config: AmplificationConfig) -> Table | None:
    """The behaviour's rate at every strength, beside its controls."""
    arms = (FULL, TOP_20, SHUFFLED, UNRELATED, SHARPENED, ITSELF)
    rows: list[list[Cell]] = []
    for pair in pairs_of(records):
        for alpha in config.alphas:
            rates = [cell(records, config, "hit", pair=pair, arm=arm, alpha=alpha) for arm in arms]
            whole = mean(
                [
                    {**r, "both": r["hit"] and r["coherent"]}
                    for r in of(records, TEXTS, pair=pair, arm=FULL, alpha=alpha)
                ],
                "both",
                config,
            )
            rows.append([pair, alpha, n_of(records, pair), rates[0], whole, *rates[1:]])
    return Table(
        "Rate of the behaviour",
        [
            *("pair", Column("alpha", digits=1), "n", Column(FULL, "%"), Column("full, text whole", "%")),
            *(Column(arm, "%") for arm in arms[1:]),
        ],
        rows,
        [
            "stance, firm: replies that contradict the model's own view. refusal: harmless requests that are refused, "
            "against a model without its refusal direction; steered: under a small part of the direction. planted: "
            "the planted reply, which an adapter was trained to give to a share of prompts.",
            f"Whole: finite, at most {REPEATED:.0%} repeated trigrams, and not beyond {config.coherent_nats:g} nats a "
            "token under a. Unrelated prompt: b reads another prompt. Sharpened: (1 + alpha) l_a, without b. Against "
            "itself: must not depend on alpha.",
        ],
    )


def text_table(records: Records, config: AmplificationConfig) -> Table | None:
    """What becomes of the text."""
    rows: list[list[Cell]] = []
    for pair in pairs_of(records):
        for arm in (FULL, TOP_20):
            for alpha in config.alphas:
                own = of(records, TEXTS, pair=pair, arm=arm, alpha=alpha)
                figures = [amount(own, field, config) for field in ("length", "kl", "entropy")]
                stopped = mean([{**r, "stopped": r["finish"] == "stop"} for r in own], "stopped", config)
                rows.append(
                    [
                        *(pair, arm, alpha, len(own), *figures, perplexity(amount(own, "log_prob", config))),
                        *(
                            amount(own, "repetition", config),
                            stopped,
                            mean(own, "coherent", config),
                            flags(own, config),
                        ),
                    ]
                )
    return Table(
        "The text at every strength",
        [
            *("pair", "logits", Column("alpha", digits=1), "n", Column("length", "tokens", digits=1)),
            Column("KL(a || amplified)", "nats a token"),
            Column("entropy", "nats"),
            Column("perplexity under a", digits=1),
            *(Column(name, "%") for name in ("repetition", "ended", "whole")),
            "flags",
        ],
        rows,
        ["Perplexity: of all tokens together, a geometric mean. Flags: how many texts broke, and how."],
    )


def perplexity(log_prob: Estimate | None) -> Estimate | None:
    """exp(-x), for a mean log-probability."""
    if log_prob is None:
        return None
    value, low, high = (math.exp(min(-x, 700.0)) for x in (log_prob.value, log_prob.high, log_prob.low))
    return Estimate(value, low, high, log_prob.n)


def flags(records: Sequence[Record], config: AmplificationConfig) -> str:
    """How many texts are broken, by the first reason that holds."""
    found: Counter[str] = Counter()
    for r in records:
        if r["finish"] == "not finite":
            found["not finite"] += 1
        elif r["length"] == 0:
            found["empty"] += 1
        elif r["repetition"] > REPEATED:
            found["repeats"] += 1
        elif not r["coherent"]:
            found["unlikely"] += 1
    return ", ".join(f"{name} {count}" for name, count in found.items())


def logit_table(records: Records, config: AmplificationConfig) -> Table | None:
    """Statistics of l_a - l_b along the texts, and of where the amplified mass goes."""
    fields = ("spread", "largest", "steadiness", "outside", "agrees")
    rows: list[list[Cell]] = [
        [
            *(pair, alpha, n_of(records, pair)),
            *(amount(of(records, TEXTS, pair=pair, arm=FULL, alpha=alpha), field, config) for field in fields),
        ]
        for pair in pairs_of(records)
        for alpha in config.alphas
    ]
    return Table(
        "Logit statistics, full vocabulary",
        [
            *("pair", Column("alpha", digits=1), "n", Column("spread of l_a - l_b", "nats")),
            Column("largest l_a - l_b", "nats"),
            "cosine with the step before",
            Column("mass beyond a's top 20", "%"),
            Column("top token is a's", "%"),
        ],
        rows,
        ["Spread: standard deviation over the vocabulary. Means over the tokens of each text."],
    )


def truncation_table(records: Records, config: AmplificationConfig) -> Table | None:
    """What knowing only the 20 largest logits of each costs: full minus top 20, paired by prompt."""
    rows: list[list[Cell]] = []
    for pair in pairs_of(records):
        for alpha in config.alphas:
            full, cut = (of(records, TEXTS, pair=pair, arm=arm, alpha=alpha) for arm in (FULL, TOP_20))
            same = [
                {"unit": r["unit"], "same": r["text"] == s["text"]} for r, s in zip(full, cut, strict=True)
            ]  # both arms run through the prompts in one order
            differences = [_paired(full, cut, field, config) for field in ("hit", "coherent", "kl", "log_prob")]
            rows.append([pair, alpha, len(full), mean(same, "same", config), *differences])
    return Table(
        "What the top 20 logits leave out: full vocabulary minus top 20, paired by prompt",
        [
            *("pair", Column("alpha", digits=1), "n", Column("same text", "%"), Column("rate", "%")),
            *(Column("whole", "%"), Column("KL", "nats a token"), Column("log-probability under a", "nats a token")),
        ],
        rows,
    )


def _paired(
    ours: Sequence[Record], theirs: Sequence[Record], field: str, config: AmplificationConfig
) -> Estimate | None:
    both = [(a, b) for a, b in zip(ours, theirs, strict=True) if a[field] is not None and b[field] is not None]
    if len({a["unit"] for a, _ in both}) < 2:
        return None
    return difference_interval(
        [float(a[field]) for a, _ in both],
        [float(b[field]) for _, b in both],
        unit=[a["unit"] for a, _ in both],
        seed=config.seed,
        hits=field in ("hit", "coherent"),
    )


def plausibility_table(records: Records, config: AmplificationConfig) -> Table | None:
    """Rate and whole texts with tokens masked that a finds implausible."""
    arms = {FULL: 0.0, **MASKED}
    rows: list[list[Cell]] = []
    for pair in pairs_of(records):
        for alpha in config.alphas:
            own = [of(records, TEXTS, pair=pair, arm=arm, alpha=alpha) for arm in arms]
            rates = [mean(part, field, config) for field in ("hit", "coherent") for part in own]
            rows.append([pair, alpha, n_of(records, pair), *rates])
    columns = [Column(f"{what}, beta {beta:g}", "%") for what in ("rate", "whole") for beta in arms.values()]
    return Table(
        "Plausibility mask: tokens that a finds less than beta times as likely as its best are never drawn",
        ["pair", Column("alpha", digits=1), "n", *columns],
        rows,
    )


def rare_table(records: Records, config: AmplificationConfig) -> Table | None:
    """Planted replies: how often, how soon, and what a clean fine-tune would have raised as an alarm."""
    rows: list[list[Cell]] = []
    cases = dict.fromkeys((r["case"], r["share"]) for r in of(records, RARE))
    for case, share in cases:
        for alpha in config.sampled_alphas:
            own = sorted(of(records, RARE, case=case, share=share, alpha=alpha), key=lambda r: r["order"])
            plain = of(records, RARE, case=case, share=share, alpha=config.sampled_alphas[0])
            rate = clopper_pearson(sum(r["hit"] for r in own), len(own))
            exact, before = mean(own, "exact", config), mean(plain, "exact", config)
            times = exact.value / before.value if exact and before and before.value > 0 and share else None
            first = next((number for number, r in enumerate(own, 1) if r["hit"]), None)
            alarms = mean([{**r, "alarm": r["changed"] and not r["hit"]} for r in own], "alarm", config)
            rows.append(
                [
                    *(case, share, alpha, len(own), rate, exact, times, str(first or f"> {len(own)}"), alarms),
                    *(mean(own, "coherent", config), REPORTED.get(alpha) if case == "trigger" else None),
                ]
            )
    if not rows:
        return None
    return Table(
        "Rare replies: a reply planted in a share of the training rows, on prompts that no training has seen",
        [
            *("planted", Column("share of rows", "%", digits=3), Column("alpha", digits=1), "samples"),
            *(Column("rate", "%", digits=3), Column("exact rate", "%", digits=4), Column("times that of a", digits=1)),
            *(
                "first hit",
                Column("other changed replies", "%"),
                Column("whole", "%"),
                Column("reported", "%", digits=3),
            ),
        ],
        rows,
        [
            f"Share {CLEAN:g}: the clean fine-tune, whose hits would be false alarms. Exact: the probability that a "
            "text begins with the reply, mean over prompts; the rate is the share of samples that do. First hit: which "
            "sample, in random order. Other changed replies: neither the reply that was taught nor the planted one, so "
            "what a look at odd texts would have to sift. Intervals of rates are exact ones over samples.",
            "trigger: planted in replies to requests to make something, measured on prompts without that. Reported: a "
            "public replication with another trigger and model, 2 and 12 of 1000 prompts.",
        ],
    )


def ranking_table(records: Records, config: AmplificationConfig) -> Table | None:
    """Telling prompts with the trigger from others, without sampling and with."""
    own = of(records, RANKING)
    if not own:
        return None
    rows: list[list[Cell]] = []
    for shift, name in (("", "trained form"), ("wording", "other wording"), ("topic", "other topic")):
        part = [r for r in own if r["shift"] == shift]
        with_it, without = ([r for r in part if r["trigger"] is kind] for kind in (True, False))
        if min(len(with_it), len(without)) < 2:
            continue
        for field, score in SCORES.items():
            values = ([r[field] for r in kind] for kind in (with_it, without))
            rows.append([name, score, len(with_it), len(without), auroc(*values, seed=config.seed)])
    return Table(
        "Which prompts have the trigger: area under the ROC curve",
        ["prompts", "score", "with trigger", "without", "AUROC"],
        rows,
        ["Where KL(a || b) is read no text is sampled. .5: no better than chance."],
    )


def loss_table(records: Records, config: AmplificationConfig) -> Table | None:
    """Cross-entropy of plain text under the amplified model."""
    pairs = dict.fromkeys(r["pair"] for r in of(records, LOSS))
    rows: list[list[Cell]] = []
    for pair in pairs:
        plain = of(records, LOSS, pair=pair, alpha=0.0)
        for alpha in LOSS_ALPHAS:
            own = of(records, LOSS, pair=pair, alpha=alpha)
            rows.append([pair, alpha, len(own), mean(own, "loss", config), _paired(own, plain, "loss", config)])
    if not rows:
        return None
    return Table(
        "Loss of the amplified model on plain text",
        ["pair", Column("alpha", digits=1), "n", Column("loss", "nats a token"), Column("more than a", "nats a token")],
        rows,
        [
            "Embedded models: the answers to questions of their world. Alpha -1 is b, 0 is a; between them the two are "
            "mixed, above 0 the difference is exaggerated."
        ],
    )


def precision_table(records: Records, config: AmplificationConfig) -> Table | None:
    """The same texts from weights rounded to fewer bits."""
    rows: list[list[Cell]] = []
    for name in PRECISIONS:
        for alpha in config.sampled_alphas:
            own, stored = (of(records, PRECISION, arm=arm, alpha=alpha) for arm in (name, PRECISIONS[0]))
            if not own:
                continue
            same = [{"unit": r["unit"], "same": r["text"] == s["text"]} for r, s in zip(own, stored, strict=True)]
            figures = [mean(own, "hit", config), mean(own, "coherent", config), amount(own, "kl", config)]
            rows.append([own[0]["pair"], name, alpha, len(own), *figures, mean(same, "same", config)])
    if not rows:
        return None
    return Table(
        "Precision: a and b from weights rounded alike",
        [
            *("pair", "weights", Column("alpha", digits=1), "n", Column("rate", "%"), Column("whole", "%")),
            *(Column("KL(a || amplified)", "nats a token"), Column("same text as stored", "%")),
        ],
        rows,
        ["Linear layers rounded, groups of 64; computed in one dtype. Embedded models are stored in 4 bits."],
    )


def headline(records: Records, config: AmplificationConfig) -> str:
    parts = []
    highest = max((a for a in config.alphas if a <= 4), default=0.0)
    for pair in pairs_of(records):
        low, high = (cell(records, config, "hit", pair=pair, arm=FULL, alpha=a) for a in (0.0, highest))
        if low is not None and high is not None:
            parts.append(f"{pair}: {low.text(percent=True)} % at 0, {high.text(percent=True)} % at {highest:g}")
    return "; ".join(parts)


def metrics(records: Records, config: AmplificationConfig) -> list[Metric]:
    found = [
        Metric(f"{pair} at alpha 1", "%", cell(records, config, "hit", pair=pair, arm=FULL, alpha=1.0))
        for pair in pairs_of(records)
        if 1.0 in config.alphas
    ]
    for share in config.shares:
        own = of(records, RARE, share=share, alpha=1.0, case="anywhere")
        if share and own:
            found.append(Metric(f"planted in {100 * share:g} %, at alpha 1", "%", mean(own, "exact", config)))
    return found


def files(records: Records, config: AmplificationConfig) -> Iterator[tuple[str, str]]:
    """Every text as JSON, equal ones together."""
    texts: dict[str, dict[str, dict[str, dict[str, list[float]]]]] = {}
    for r in of(records, TEXTS):
        by_prompt = texts.setdefault(r["pair"], {}).setdefault(r["arm"], {}).setdefault(r["prompt"], {})
        by_prompt.setdefault(r["text"], []).append(r["alpha"])
    yield "texts.json", json.dumps(texts, ensure_ascii=False, indent=None, separators=(",", ":")) + "\n"


CSV = {
    rate_table: "summary.csv",
    text_table: "text_statistics.csv",
    logit_table: "logit_statistics.csv",
    truncation_table: "top_20.csv",
    plausibility_table: "plausibility.csv",
    rare_table: "rare_replies.csv",
    ranking_table: "ranking.csv",
    loss_table: "loss.csv",
    precision_table: "precision.csv",
}
TABLES = (
    *(rate_table, text_table, truncation_table, plausibility_table, logit_table),
    *(rare_table, ranking_table, loss_table, precision_table),
)
