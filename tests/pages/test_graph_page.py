"""Graph page in a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlx_interp import pages
from mlx_interp.circuits import Wiring
from mlx_interp.circuits.discovery import existing
from mlx_interp.circuits.graph import circuit_graph
from mlx_interp.pages import CircuitGraph, GraphEdge, GraphNode, Page
from tests.pages.browser import focus, press, slide, text_of
from tests.pages.test_page import EVIL

Opened = Callable[[Page], Any]
EDGES = "return document.querySelectorAll('path.edge').length"


@pytest.fixture(scope="module")
def graph() -> CircuitGraph:
    wires = Wiring(2, 3)
    rng = np.random.default_rng(0)
    return circuit_graph(existing(wires), rng.normal(size=(wires.n_inputs, wires.n_nodes)), wires, title="all")


def test_every_node_and_edge_is_drawn_and_the_strongest_are_listed(opened: Opened, graph: CircuitGraph) -> None:
    browser = opened(graph.page())
    assert browser.execute_script(EDGES) == len(graph.merged)
    names = browser.execute_script("return [...document.querySelectorAll('.node text')].map(t => t.textContent)")
    assert sorted(names) == sorted(node.name for node in graph.nodes)
    strongest = max(graph.edges, key=lambda edge: abs(edge.score))
    first = browser.execute_script(
        "return [...document.querySelector('.edges tbody tr').cells].map(c => c.textContent)"
    )
    assert first[:2] == [strongest.source, strongest.reads]


def test_arrow_keys_lead_from_node_to_node_and_leave_its_own_edges(opened: Opened, graph: CircuitGraph) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened(graph.page())
    focus(browser, '.node[tabindex="0"]')
    assert text_of(browser, "#detail h2") == "logits"
    press(browser, Keys.ARROW_DOWN)
    name = browser.execute_script("return document.activeElement.textContent")
    assert name != "logits"
    assert text_of(browser, "#detail h2") == name
    own = sum(name in pair for pair in graph.merged)
    assert browser.execute_script("return document.querySelectorAll('path.edge:not(.dim)').length") == own
    press(browser, Keys.ESCAPE)
    assert browser.execute_script("return document.querySelectorAll('path.edge.dim').length") == 0


def test_the_slider_leaves_the_strongest_edges(opened: Opened, graph: CircuitGraph) -> None:
    browser = opened(graph.page())
    slide(browser, "least", 50)
    largest = max(map(abs, graph.merged.values()))
    kept = sum(abs(score) >= largest / 2 for score in graph.merged.values())
    drawn = "return [...document.querySelectorAll('path.edge')].filter(e => e.style.display !== 'none').length"
    assert browser.execute_script(drawn) == kept
    assert text_of(browser, "#kept").endswith(f"{kept} of {len(graph.merged)}")


def test_graphs_are_chosen_and_names_of_html_stay_text(opened: Opened, graph: CircuitGraph) -> None:
    nodes = (GraphNode(EVIL, 0, 0, 0, 1.0), GraphNode("b", 1, 0, 1, 0.0))
    bad = CircuitGraph(EVIL, nodes, (GraphEdge(EVIL, "b", EVIL, -1.0, stream=0.25),))
    browser = opened(pages.graph([graph, bad, CircuitGraph("none", (), ())], title=EVIL))
    assert browser.title == EVIL
    browser.find_element("css selector", "#graph option:nth-child(2)").click()
    assert text_of(browser, "#detail").count(EVIL) == 3
    assert "by the stream alone" in text_of(browser, "#detail")
    assert browser.execute_script("return document.querySelectorAll('img').length") == 0
    browser.find_element("css selector", "#graph option:nth-child(3)").click()
    assert text_of(browser, "#drawing") == "No edges."
