"""Feature dashboards on one static page: texts that activate it most, how often, what it writes, what is like it.

Plain HTML and CSS without scripts: it opens anywhere, and texts are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_interp.deferred import html, mx
from mlx_interp.errors import SAEError
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt
from mlx_interp.reporting.files import make_folder, write_atomically
from mlx_interp.sae.metrics import check_fits
from mlx_interp.sae.sae import SAE
from mlx_interp.sae.streams import first_position

BINS = 20
Named = tuple[str, float]


@dataclass(frozen=True)
class Example:
    """One text: its tokens, and the feature at each (0 at BOS, which is left out)."""

    tokens: tuple[str, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class FeaturePage:
    """Dashboard of one feature."""

    feature: int
    title: str
    n_tokens: int
    n_active: int
    largest: float
    histogram: tuple[int, ...]
    """Active tokens in 20 equal bins from 0 to the largest activation."""
    examples: tuple[Example, ...]
    raised: tuple[Named, ...]
    """Tokens whose logits the feature raises most when added to the mean last state, in logits."""
    lowered: tuple[Named, ...]
    nearest: tuple[tuple[int, float], ...]
    """Features whose directions are most alike, by cosine."""


def feature_pages(
    model: Model,
    sae: SAE,
    prompts: Sequence[Prompt],
    features: Sequence[int],
    *,
    titles: Mapping[int, str] | None = None,
    n_examples: int = 8,
    n_tokens: int = 8,
) -> list[FeaturePage]:
    """Pages of some features over some texts. titles: what a feature is called.

    Raises SAEError for a feature that does not exist, and for an autoencoder that does not fit the model.
    """
    check_fits(sae, model)
    if wrong := [i for i in features if not 0 <= i < sae.d_sae]:
        raise SAEError(f"{sae} has features 0 to {sae.d_sae - 1}, not {wrong}")
    values = [_values(model, sae, prompt, list(features)) for prompt in prompts]
    last = _last_state(model, prompts)
    unit = np.asarray(sae.directions, dtype=np.float64)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=-1, keepdims=True), 1e-12)
    pages = []
    for column, feature in enumerate(features):
        mine = [value[:, column] for value in values]
        every = np.concatenate([v[first_position(model, p) :] for v, p in zip(mine, prompts, strict=True)])
        active = every[every > 0]
        largest = float(active.max()) if active.size else 0.0
        order = sorted(range(len(prompts)), key=lambda i: -float(mine[i].max()))[:n_examples]
        shown = [i for i in order if mine[i].max() > 0]
        raised, lowered = _logit_effects(
            model, sae, feature, last, float(active.mean()) if active.size else 1.0, n_tokens
        )
        cosines = unit @ unit[feature]
        like = [int(i) for i in np.argsort(-cosines) if i != feature][:5]
        pages.append(
            FeaturePage(
                feature=int(feature),
                title=(titles or {}).get(feature, ""),
                n_tokens=len(every),
                n_active=len(active),
                largest=largest,
                histogram=tuple(np.histogram(active, bins=BINS, range=(0, largest or 1.0))[0].tolist()),
                examples=tuple(
                    Example(tuple(prompts[i].strings), tuple(round(float(v), 4) for v in mine[i])) for i in shown
                ),
                raised=raised,
                lowered=lowered,
                nearest=tuple((i, round(float(cosines[i]), 4)) for i in like),
            )
        )
    return pages


def page_of(data: Mapping[str, Any]) -> FeaturePage:
    """A page from its fields, as JSON gives them back."""
    examples = tuple(Example(tuple(one["tokens"]), tuple(one["values"])) for one in data["examples"])
    pairs = {name: tuple((left, right) for left, right in data[name]) for name in ("raised", "lowered", "nearest")}
    return FeaturePage(**{**data, **pairs, "examples": examples, "histogram": tuple(data["histogram"])})


def _values(model: Model, sae: SAE, prompt: Prompt, features: list[int]) -> npt.NDArray[np.float32]:
    out = model.run(prompt, capture=[sae.site], logits="none")
    found: npt.NDArray[np.float32] = np.array(sae.features(out)[0][:, mx.array(features)])
    found[: first_position(model, prompt)] = 0
    return found


def _last_state(model: Model, prompts: Sequence[Prompt]) -> mx.array:
    """Mean residual stream after the last layer, at the last positions."""
    site = f"resid_post.{model.n_layers - 1}"
    rows = [model.run(prompt, capture=[site], logits="none")[site][0, -1] for prompt in prompts[:64]]
    return mx.mean(mx.stack(rows), axis=0)


def _logit_effects(
    model: Model, sae: SAE, feature: int, last: mx.array, amount: float, n: int
) -> tuple[tuple[Named, ...], tuple[Named, ...]]:
    """What the direction itself does to the logits; nothing where the site is not as wide as the residual stream."""
    if sae.d_model != model.d_model or sae.site.startswith(("z.", "mlp_act.")):
        return (), ()
    both = mx.stack([last, last + amount * sae.directions[feature]])
    logits = np.asarray(model.unembed(both), dtype=np.float64)
    effect = logits[1] - logits[0]
    order = np.argsort(-effect)

    def named(tokens: npt.NDArray[np.int64]) -> tuple[Named, ...]:
        return tuple((model.tokenizer.decode([int(t)]), round(float(effect[t]), 4)) for t in tokens)

    return named(order[:n]), named(order[::-1][:n])


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
section { border-top: 1px solid #ccc; padding: 1rem 0; }
h2 { margin: 0 0 .3rem; font-size: 1.15rem; }
.columns { display: flex; gap: 2.5rem; flex-wrap: wrap; }
.text { font-family: ui-monospace, monospace; font-size: 13px; margin: .3rem 0; white-space: pre-wrap; }
.text span { border-radius: 2px; }
.value { color: #666; display: inline-block; width: 4.5em; }
table { border-collapse: collapse; font-size: 13px; }
td { padding: 0 .8em 0 0; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
h3 { font-size: .8rem; text-transform: uppercase; letter-spacing: .05em; color: #555; margin: .8rem 0 .2rem; }
nav a { margin-right: .8em; }
"""


def dashboard(pages: Sequence[FeaturePage], *, title: str, note: str = "") -> str:
    """The page as HTML."""
    links = " ".join(f'<a href="#f{p.feature}">{_heading(p)}</a>' for p in pages)
    body = "\n".join(_section(page, {p.feature for p in pages}) for page in pages)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n<p>{html.escape(note)}</p>\n<nav>{links}</nav>\n"
        f"{body}\n</body></html>\n"
    )


def write_dashboard(path: Path | str, pages: Sequence[FeaturePage], *, title: str, note: str = "") -> Path:
    """Write the page; returns its path. Raises RunError where that is not possible."""
    make_folder(Path(path).parent)
    write_atomically(Path(path), dashboard(pages, title=title, note=note))
    return Path(path)


def _heading(page: FeaturePage) -> str:
    return html.escape(f"{page.feature} {page.title}".strip())


def _section(page: FeaturePage, here: set[int]) -> str:
    share = page.n_active / max(page.n_tokens, 1)
    texts = "\n".join(_example(example, page.largest) for example in page.examples) or "<p>never active</p>"
    near = "".join(
        f'<tr><td>{f"<a href=#f{i}>{i}</a>" if i in here else i}</td><td class="number">{cosine:.2f}</td></tr>'
        for i, cosine in page.nearest
    )
    return (
        f'<section id="f{page.feature}"><h2>Feature {_heading(page)}</h2>\n'
        f"<p>active on {page.n_active} of {page.n_tokens} tokens ({share:.2%}), at most {page.largest:.2f}</p>\n"
        f'<div class="columns"><div><h3>Activations</h3>{_histogram(page)}</div>\n'
        f"<div><h3>Raises</h3>{_table(page.raised)}</div>\n<div><h3>Lowers</h3>{_table(page.lowered)}</div>\n"
        f"<div><h3>Nearest</h3><table>{near}</table></div></div>\n<h3>Top texts</h3>\n{texts}</section>"
    )


def _example(example: Example, largest: float) -> str:
    spans = "".join(
        f'<span style="background: rgba(230, 126, 34, {min(value / largest, 1) if largest else 0:.2f})" '
        f'title="{value:.3f}">{html.escape(_visible(token))}</span>'
        for token, value in zip(example.tokens, example.values, strict=True)
    )
    return f'<div class="text"><span class="value">{max(example.values):.2f}</span>{spans}</div>'


def _visible(token: str) -> str:
    return token.replace("▁", " ").replace("\n", "↵")


def _histogram(page: FeaturePage) -> str:
    tallest = max([*page.histogram, 1])
    bars = "".join(
        f'<rect x="{10 * i}" y="{60 - 60 * count / tallest:.1f}" width="9" height="{60 * count / tallest:.1f}" '
        f'fill="#0072B2"><title>{count}</title></rect>'
        for i, count in enumerate(page.histogram)
    )
    return f'<svg width="200" height="62" role="img" aria-label="histogram of activations">{bars}</svg>'


def _table(named: Sequence[Named]) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(_visible(token)) or "&nbsp;"}</td><td class="number">{effect:+.2f}</td></tr>'
        for token, effect in named
    )
    return f"<table>{rows}</table>" if rows else "<p>not as wide as the residual stream</p>"
