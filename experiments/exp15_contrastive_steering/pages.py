"""Texts side by side: JSON for programs, markdown to read, one HTML page with filters that needs no server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from string import Template

from experiments.exp15_contrastive_steering.means_apart import PAIRS, SETS
from experiments.exp15_contrastive_steering.settings import ContrastiveConfig
from experiments.exp15_contrastive_steering.steered_texts import CONTRAST, PLAIN, SWEEP, TEXTS
from experiments.exp15_contrastive_steering.steering_report import chosen, names, pair_of
from experiments.harness.experiment import Records
from experiments.harness.frame import of
from mlx_interp.deferred import html
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
    yield "side_by_side.html", html_page(records, config)


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


def html_page(records: Records, config: ContrastiveConfig) -> str:
    """All texts of the pair and its controls beside the unsteered ones, with filters by vector, layer, scale and words.

    Every row stands in the page: without scripts all of them are shown.
    """
    known, (target, baseline) = names(records), pair_of(records)
    plain = {(r["unit"], r["draw"]): r["text"] for r in of(records, TEXTS, arm=PLAIN)}
    shown = [
        r
        for r in of(records, TEXTS, part=SWEEP)
        if r["arm"] == CONTRAST or (r["arm"] != PLAIN and r["scale"] == config.scale)
    ]
    first = chosen(records, config)
    start = {"vector": CONTRAST, "layer": str(first[0]["layer"]) if first else "", "scale": f"{config.scale:g}"}
    filters = (
        _select("vector", [r["arm"] for r in shown], start["vector"]),
        _select("layer", [str(r["layer"]) for r in shown], start["layer"]),
        _select("scale", [f"{r['scale']:g}" for r in shown], start["scale"]),
    )
    return PAGE.substitute(
        title=html.escape(f"{known[target]} - {known[baseline]}"),
        about=html.escape(
            f"{of(records, SETS)[0]['model']}; unsteered and steered texts, {len(plain)} of each setting"
        ),
        filters="\n".join(filters),
        rows="\n".join(_row(r, plain[r["unit"], r["draw"]]) for r in shown),
    )


def _select(name: str, values: Sequence[str], start: str) -> str:
    options = "".join(
        f"<option{' selected' if value == start else ''}>{html.escape(value)}</option>"
        for value in dict.fromkeys(values)
    )
    return f'<label>{name} <select id="{name}"><option value="">all</option>{options}</select></label>'


def _row(r: Record, plain: str) -> str:
    facts = {"vector": r["arm"], "layer": str(r["layer"]), "scale": f"{r['scale']:g}"}
    facts |= {"flag": r["degenerate"] or "", "changed": "yes" if r["text"] != plain else "no"}
    data = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in facts.items())
    reads = f"{r['p_target']:.2f} / {r['p_baseline']:.2f}" if r["p_target"] is not None else ""
    setting = f"{facts['vector']}, layer {facts['layer']}, scale {facts['scale']}"
    cells = (setting, r["prompt"], plain, r["text"], reads, facts["flag"])
    return f"<tr {data}>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<style>
body { font: 14px/1.45 system-ui, sans-serif; margin: 1.5em; }
form { position: sticky; top: 0; background: #fff; padding: .6em 0; display: flex; flex-wrap: wrap; gap: 1em; }
table { border-collapse: collapse; width: 100%; table-layout: fixed; }
th, td { border: 1px solid #bbb; padding: .35em .5em; text-align: left; vertical-align: top; white-space: pre-wrap;
  overflow-wrap: anywhere; }
th:nth-child(1) { width: 12em; } th:nth-child(5) { width: 7em; } th:nth-child(6) { width: 6em; }
tr[data-flag]:not([data-flag=""]) { background: #fdf0d5; }
tr[hidden] { display: none; }
</style>
</head>
<body>
<h1>$title</h1>
<p>$about</p>
<form onsubmit="return false">
$filters
<label>words <input id="words" type="search"></label>
<label><input id="changed" type="checkbox"> changed only</label>
<label><input id="whole" type="checkbox"> without degenerate texts</label>
<output id="count"></output>
</form>
<table>
<thead><tr><th>setting</th><th>prompt</th><th>unsteered</th><th>steered</th><th>P(target) / P(baseline)</th>
<th>degenerate</th></tr></thead>
<tbody>
$rows
</tbody>
</table>
<script>
const rows = [...document.querySelectorAll("tbody tr")];
const field = id => document.getElementById(id);
function show() {
  const words = field("words").value.toLowerCase();
  let count = 0;
  for (const row of rows) {
    const wanted = ["vector", "layer", "scale"].every(id => !field(id).value || row.dataset[id] === field(id).value)
      && (!field("changed").checked || row.dataset.changed === "yes")
      && (!field("whole").checked || !row.dataset.flag)
      && (!words || row.textContent.toLowerCase().includes(words));
    row.hidden = !wanted;
    count += wanted;
  }
  field("count").textContent = count + " of " + rows.length + " texts";
}
const controls = [...document.querySelectorAll("select, input")];
// A view can be linked to: side_by_side.html#vector=random&scale=1&changed=on
for (const [id, value] of new URLSearchParams(location.hash.slice(1))) {
  if (field(id) && field(id).type === "checkbox") field(id).checked = value === "on";
  else if (field(id)) field(id).value = value;
}
for (const control of controls) control.addEventListener("input", () => {
  const chosen = controls.map(c => [c.id, c.type === "checkbox" ? (c.checked ? "on" : "off") : c.value]);
  location.replace("#" + new URLSearchParams(chosen));
  show();
});
show();
</script>
</body>
</html>
""")


def _safe(text: str) -> str:
    """A key as part of a file name."""
    return "".join(sign if sign.isalnum() or sign in ".-" else "-" for sign in text).strip(".-") or "set"
