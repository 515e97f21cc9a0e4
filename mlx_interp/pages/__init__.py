"""Pages: one HTML file each, to be looked at in any browser and shown by a notebook; no server, no network.

What the library measures makes its own (`decoded_lens(...).to_html("lens.html")`); the functions here take plain
numbers and texts, whoever measured them, and return a `Page` with `save`. Knows nothing of models.
"""

from mlx_interp.pages.attention_page import attention
from mlx_interp.pages.feature_page import Example, FeaturePage, features
from mlx_interp.pages.graph_page import CircuitGraph, GraphEdge, GraphNode, graph
from mlx_interp.pages.grid_page import Details, grid, heat_page
from mlx_interp.pages.lens_page import lens
from mlx_interp.pages.page import AsPage, Page
from mlx_interp.pages.steering_page import Steered, steering
from mlx_interp.pages.text_page import texts

__all__ = [
    "AsPage",
    "CircuitGraph",
    "Details",
    "Example",
    "FeaturePage",
    "GraphEdge",
    "GraphNode",
    "Page",
    "Steered",
    "attention",
    "features",
    "graph",
    "grid",
    "heat_page",
    "lens",
    "steering",
    "texts",
]
