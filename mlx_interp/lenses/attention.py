"""Attention patterns of a prompt: where each head of each layer looks, to be read as numbers or on a page."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_interp import pages, sites
from mlx_interp.deferred import mx
from mlx_interp.errors import PositionError, SiteError
from mlx_interp.interventions import Interventions
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt, Prompt
from mlx_interp.shapes import ShapesShown


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPatterns(ShapesShown, pages.AsPage):
    """Attention patterns of a prompt; `to_html` writes a page with all heads."""

    prompt: Prompt
    layers: tuple[int, ...]
    patterns: mx.array
    """Probabilities (layer, head, query, key), in the order of `layers`."""
    model: str
    """Its name."""

    def of_head(self, layer: int, head: int) -> mx.array:
        """One head's pattern (query, key). Raises PositionError for a layer or head that was not read."""
        if layer not in self.layers or not 0 <= head < self.patterns.shape[1]:
            raise PositionError(
                f"layer {layer}, head {head} was not read: layers are {', '.join(map(str, self.layers))}, heads 0 to "
                f"{self.patterns.shape[1] - 1}"
            )
        return self.patterns[self.layers.index(layer), head]

    def page(self) -> pages.Page:
        """All heads in small, the chosen one in large. Raises PageError where they do not fit into 5 MB."""
        return pages.attention(
            self.patterns,
            tokens=self.prompt.pieces,
            layers=self.layers,
            title=f"Attention patterns of {self.model}",
            about=self.prompt.text,
        )


def attention_patterns(
    model: Model, prompt: AnyPrompt, site: str = "pattern", *, interventions: Interventions = ()
) -> AttentionPatterns:
    """Attention patterns of one prompt, all heads. site: "pattern", or "pattern.0-5" for some layers.

    Raises SiteError for a site that is no pattern, and what `Model.run` raises.
    """
    if sites.parse(site, model.n_layers)[0].name != "pattern":
        raise SiteError(f'attention patterns are read at "pattern" or some of its layers ("pattern.0-5"), not {site!r}')
    (only,) = model.prompts(prompt)
    out = model.run(only, capture=site, interventions=interventions, logits="none")
    layers = tuple(one.layer for one in model.sites_of(site))
    return AttentionPatterns(only, layers, out.stack(site)[:, 0], model.name)
