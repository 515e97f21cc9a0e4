"""Figures of the study: rate, length and logit statistics over the strength; rate at equal KL; rare replies."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.exp14_logit_diff_amplification.amplification_report import cell, mean, n_of, pairs_of
from experiments.exp14_logit_diff_amplification.amplified import (
    FULL,
    MASKED,
    RARE,
    SHARPENED,
    SHUFFLED,
    TOP_20,
    UNRELATED,
)
from experiments.exp14_logit_diff_amplification.pairs import AmplificationConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from mlx_interp.reporting import Plot, Series, line_with_band
from mlx_interp.reporting.figures import Point, scatter
from mlx_interp.reporting.plots import LINES

LEAST = 1e-3
"""Nats a token: nearer to a than this is a."""
SHOWN = 4.0
"""Strengths beyond this are in the tables: drawn, they would press the others into a corner."""


def curves(records: Records, config: AmplificationConfig) -> Iterator[Plot]:
    """Rate of the behaviour over the strength, one figure for each pair."""
    alphas = [alpha for alpha in config.alphas if alpha <= SHOWN]
    masked = list(MASKED)[-1]
    for pair in pairs_of(records):
        yield line_with_band(
            alphas,
            [
                Series(arm, [cell(records, config, "hit", pair=pair, arm=arm, alpha=a) for a in alphas])
                for arm in (FULL, TOP_20, masked, SHUFFLED, UNRELATED, SHARPENED)
            ],
            name=f"{pair}_by_alpha",
            title=f"Amplified difference: {pair}",
            x_label="alpha",
            y_label="rate of the behaviour",
            caption=f"Rate of the behaviour of the pair {pair} over alpha; n = {n_of(records, pair)}, 95 % intervals.",
            limits=(0, 1),
        )


def statistics(records: Records, config: AmplificationConfig) -> Iterator[Plot]:
    """Length and logit statistics over the strength, a line for each pair."""
    alphas = [alpha for alpha in config.alphas if alpha <= SHOWN]
    pairs = pairs_of(records)[: len(LINES)]
    for field, label, what in (
        ("length", "tokens", "Length of the texts"),
        ("spread", "s.d. of l_a - l_b (nats)", "Spread of the logit difference over the vocabulary"),
        ("outside", "share of the mass", "Amplified mass beyond a's 20 likeliest tokens"),
    ):
        yield line_with_band(
            alphas,
            [Series(p, [cell(records, config, field, pair=p, arm=FULL, alpha=a) for a in alphas]) for p in pairs],
            name=f"{field}_by_alpha",
            title=what,
            x_label="alpha",
            y_label=label,
            caption=f"{what}, over alpha, full vocabulary. 95 % intervals over prompts.",
        )


def at_equal_divergence(records: Records, config: AmplificationConfig) -> Iterator[Plot]:
    """Rate of the last pair against KL, so that arms are compared at one distance from a."""
    for pair in pairs_of(records)[-1:]:
        points = []
        for arm in (FULL, TOP_20, SHUFFLED, UNRELATED, SHARPENED):
            for alpha in config.alphas:
                kl, rate = (cell(records, config, field, pair=pair, arm=arm, alpha=alpha) for field in ("kl", "hit"))
                if kl is not None and rate is not None and kl.value > LEAST:
                    points.append(Point("", kl.value, rate, arm))
        if points:
            yield scatter(
                points,
                name=f"{pair}_by_kl",
                title=f"At equal distance from a: {pair}",
                x_label="KL(a || amplified), nats a token",
                y_label="rate of the behaviour (%)",
                caption=f"One mark for each strength of the pair {pair}: rate against the mean KL of a step from a.",
                percent=True,
                log_x=True,
            )


def rare(records: Records, config: AmplificationConfig) -> Iterator[Plot]:
    """Exact probability of the planted reply over the strength, for every share."""
    own = of(records, RARE, case="anywhere")
    shares = sorted({r["share"] for r in own})[-len(LINES) :]
    if shares:
        yield line_with_band(
            config.sampled_alphas,
            [
                Series(
                    f"planted in {100 * share:g} %",
                    [mean([r for r in own if (r["share"], r["alpha"]) == (share, a)], "exact", config)
                     for a in config.sampled_alphas],
                )
                for share in shares
            ],
            name="rare_replies",
            title="Probability of a planted reply",
            x_label="alpha",
            y_label="probability",
            caption="Exact probability of the planted reply on prompts that no training has seen, over alpha, for "
            "fine-tunes that planted it in a share of their rows. 95 % intervals over prompts.",
            limits=(0, 1),
        )  # fmt: skip
