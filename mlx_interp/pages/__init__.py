"""Pages: one HTML file each, to be looked at in any browser and shown by a notebook; no server, no network.

What the library measures makes its own (`decoded_lens(...).to_html("lens.html")`); the functions here take plain
numbers and texts, whoever measured them, and return a `Page` with `save`. Knows nothing of models.
"""

from mlx_interp.pages.lens_page import lens
from mlx_interp.pages.page import Page

__all__ = ["Page", "lens"]
