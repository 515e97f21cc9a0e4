"""Texts side by side: JSON for programs, markdown to read, one page with filters."""

from __future__ import annotations

import json
from collections.abc import Iterator

from experiments.exp15_contrastive_steering.means_apart import PAIRS, SETS
from experiments.exp15_contrastive_steering.settings import ContrastiveConfig
from experiments.exp15_contrastive_steering.steered_texts import CONTRAST, PLAIN, SWEEP, TEXTS
from experiments.exp15_contrastive_steering.steering_report import chosen, names, pair_of
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from mlx_interp.pages import Page, texts
from mlx_interp.reporting import Record


def files(records: Records, config: ContrastiveConfig) -> Iterator[tuple[str, str]]:
    """JSON as {target}_{baseline}/layer_{l}_scale_{s}/..., of every scale at the layer that was asked for and every
    layer at the scale that was; both pages."""
    every = dict.fromkeys((r["layer"], r["scale"]) for r in of(records, TEXTS, part=SWEEP, arm=CONTRAST))
    at = chosen(records, config)[0]["layer"] if chosen(records, config) else None
    cells = [(layer, scale) for layer, scale in every if layer == at or scale == config.scale]
    target, baseline = (_safe(key) for key in pair_of(records))
    for layer, scale in cells:
        content = results(records, config, layer, scale)
        inference = config.inference_dataset
        name = f"out_{_safe(inference)}_{config.inference_n_samples}" if inference is not None else "results"
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        yield f"{target}_{baseline}/layer_{layer}_scale_{scale:g}/{name}.json", text + "\n"
    yield "side_by_side.md", markdown_page(records, config)
    yield "side_by_side.html", text_page(records, config).html


def results(records: Records, config: ContrastiveConfig, layer: int, scale: float) -> Record:
    """Metadata and texts of one setting."""
    target, baseline = pair_of(records)
    known, about = names(records), of(records, SETS)[0]
    pair = of(records, PAIRS, target=target, baseline=baseline, layer=layer)[0]
    rows = of(records, TEXTS, part=SWEEP, arm=CONTRAST, layer=layer, scale=scale)
    plain = {(r["unit"], r["draw"]): r for r in of(records, TEXTS, arm=PLAIN)}
    numbers = list(dict.fromkeys(r["unit"] for r in rows))
    return {
        "metadata": {
            "target_subset": target,
            "target_subset_name": known[target],
            "baseline_subset": baseline,
            "baseline_subset_name": known[baseline],
            "n_samples": config.n_samples,
            "n_target": _n(records, target),
            "n_baseline": _n(records, baseline),
            "layer": layer,
            "scale": scale,
            "contrastive_vector_norm": pair["norm"],
            "effective_magnitude": abs(scale) * pair["norm"],
            "target_norm": pair["norm_target"],
            "baseline_norm": pair["norm_baseline"],
            "cosine_of_means": pair["cosine_of_means"],
            "relative_norm": pair["relative_norm"],
            "inference_dataset": config.inference_dataset,
            "inference_n_samples": len(numbers),
            "model": about["model"],
            "data": about["data"],
            "site": f"resid_post.{layer}",
            "read_at": config.rule,
            "added_at": "all positions, prompt and generated",
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
            "draws": config.draws,
            "seed": config.seed,
        },
        "results": [
            {
                "prompt_idx": numbers.index(r["unit"]),
                "draw": r["draw"],
                "prompt": r["prompt"],
                "baseline": plain[r["unit"], r["draw"]]["text"],
                "steered": r["text"],
                **{name: r[name] for name in ("p_target", "p_baseline", "log_prob", "repetition", "kl", "degenerate")},
            }
            for r in rows
        ],
    }


def _n(records: Records, key: str) -> int:
    return int(of(records, SETS, subset=key)[0]["n"])


def markdown_page(records: Records, config: ContrastiveConfig) -> str:
    """The texts of the setting that was asked for, side by side."""
    known, (target, baseline) = names(records), pair_of(records)
    own = chosen(records, config)
    plain = {(r["unit"], r["draw"]): r["text"] for r in of(records, TEXTS, arm=PLAIN)}
    at = f"layer {own[0]['layer']}, scale {config.scale:g}" if own else "nothing was steered"
    lines = [
        f"# {known[target]} - {known[baseline]}, {at}\n",
        "| prompt | unsteered | steered | |",
        "|---|---|---|---|",
    ]
    for r in own:
        cells = (r["prompt"], plain[r["unit"], r["draw"]], r["text"], r["degenerate"] or "")
        lines.append("| " + " | ".join(_cell(text) for text in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text inside a markdown table, where it can be no markup."""
    for sign in "\\`*_<[|":
        text = text.replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return "<br>".join(text.split("\n")).strip()


def text_page(records: Records, config: ContrastiveConfig) -> Page:
    """All texts of the pair and its controls beside the unsteered ones, chosen by vector, layer, scale and words."""
    known, (target, baseline) = names(records), pair_of(records)
    plain = {(r["unit"], r["draw"]): r["text"] for r in of(records, TEXTS, arm=PLAIN)}
    shown = [
        r
        for r in of(records, TEXTS, part=SWEEP)
        if r["arm"] == CONTRAST or (r["arm"] != PLAIN and r["scale"] == config.scale)
    ]
    first = chosen(records, config)
    start = {"vector": CONTRAST, "layer": str(first[0]["layer"]), "scale": f"{config.scale:g}"} if first else {}
    return texts(
        [_row(r, plain[r["unit"], r["draw"]]) for r in shown],
        filters=("vector", "layer", "scale", "changed", "degenerate"),
        start=start if shown else {},
        title=f"{known[target]} - {known[baseline]}",
        about=f"{of(records, SETS)[0]['model']}; unsteered and steered texts, {len(plain)} of each setting",
    )


def _row(r: Record, plain: str) -> dict[str, str]:
    return {
        "vector": r["arm"],
        "layer": str(r["layer"]),
        "scale": f"{r['scale']:g}",
        "changed": "yes" if r["text"] != plain else "no",
        "degenerate": r["degenerate"] or "",
        "P(target) / P(baseline)": f"{r['p_target']:.2f} / {r['p_baseline']:.2f}" if r["p_target"] is not None else "",
        "prompt": r["prompt"],
        "unsteered": plain,
        "steered": r["text"],
    }


def _safe(text: str) -> str:
    """A key as part of a file name."""
    return "".join(sign if sign.isalnum() or sign in ".-" else "-" for sign in text).strip(".-") or "set"
