"""Decoded lens: what every layer would say at every position, as text (nostalgebraist 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_interp import pages
from mlx_interp.deferred import mx
from mlx_interp.engine.positions import resolve_positions
from mlx_interp.errors import PositionError
from mlx_interp.interventions import Interventions, Positions
from mlx_interp.lenses.logit import stream_selector
from mlx_interp.lenses.tuned import TunedLens
from mlx_interp.model import Model
from mlx_interp.prompts import AnyPrompt, Prompt

Reading = list[tuple[str, float]]
"""The likeliest tokens, best first: text and probability."""


@dataclass(frozen=True, eq=False)
class DecodedLens(pages.AsPage):
    """The tokens that a lens reads from layers and positions of a prompt; prints as a table, last layer on top."""

    prompt: Prompt
    site: str
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    readings: Sequence[Sequence[Reading]]
    """By layer and position, in the order of `layers` and `positions`."""
    name: str = "Logit lens"
    """What reads."""

    def at(self, layer: int, position: int = -1) -> Reading:
        """What one layer says at one position of the prompt; negative ones count from the last that was read.

        Raises PositionError for a layer or a position that was not read.
        """
        found = []
        for what, asked, held in (("layer", layer, self.layers), ("position", position, self.positions)):
            number = held[-1] + 1 + asked if asked < 0 else asked
            if number not in held:
                raise PositionError(f"{what} {asked} was not read: {what}s are {', '.join(map(str, held))}")
            found.append(held.index(number))
        return self.readings[found[0]][found[1]]

    def table(self) -> list[list[str]]:
        """Head and rows: a column for each position, headed by its token; the likeliest token and its percentage."""
        head = ["layer", *(self.prompt.strings[position] for position in self.positions)]
        rows = [
            [str(layer), *(f"{row[0][0]!r} {100 * row[0][1]:.0f}" for row in of_layer)]
            for layer, of_layer in zip(self.layers, self.readings, strict=True)
        ]
        return [head, *reversed(rows)]

    def page(self) -> pages.Page:
        """The table as a page: colours by probability, the alternatives of a cell where the pointer rests."""
        return pages.lens(
            self.readings,
            tokens=[self.prompt.pieces[position] for position in self.positions],
            layers=self.layers,
            positions=self.positions,
            title=f"{self.name} at {self.site}",
            about=self.prompt.text,
        )

    def __repr__(self) -> str:
        cells = self.table()
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def decoded_lens(
    model: Model,
    prompt: AnyPrompt,
    *,
    positions: Positions = None,
    site: str = "resid_post",
    lens: TunedLens | None = None,
    k: int = 5,
    interventions: Interventions = (),
) -> DecodedLens:
    """Decoded lens: the k likeliest tokens of every layer at some positions of a prompt, or at all of them.

    site: as in `logit_lens`, "resid_post.8-20" for some layers. lens: a tuned lens, for resid_post. Raises what
    `logit_lens` and `model.top_tokens` raise.
    """
    (only,) = model.prompts(prompt)
    where = resolve_positions(positions, len(only), "decoded lens")
    chosen = list(range(len(only))) if where is None else where
    out = model.run(only, capture=stream_selector(model, site), interventions=interventions, logits="none")
    states = out.stack(site)[:, 0]
    by_position = [  # one at a time: logits of all would take positions times layers times vocabulary
        model.top_tokens(_logits(model, states[:, position], lens), k) for position in chosen
    ]
    layers = tuple(one.layer for one in model.sites_of(site))
    readings = [[by_position[place][row] for place in range(len(chosen))] for row in range(len(layers))]
    return DecodedLens(only, site, layers, tuple(chosen), readings, "Logit lens" if lens is None else "Tuned lens")


def _logits(model: Model, states: mx.array, lens: TunedLens | None) -> mx.array:
    """Logits (n_layers, d_vocab) of the layers' states (n_layers, d_model) at one position."""
    return model.unembed(states) if lens is None else lens.logits(model, states)
