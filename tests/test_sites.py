"""Selectors: each form names the sites it should; everything else is an error that helps."""

from __future__ import annotations

import pytest

from mlx_interp import sites
from mlx_interp.errors import SiteError


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("resid_post.7", ["resid_post.7"]),
        ("resid_post.-1", ["resid_post.10"]),
        ("z.2-4", ["z.2", "z.3", "z.4"]),
        ("resid_post.0,5,10", ["resid_post.0", "resid_post.5", "resid_post.10"]),
        ("resid_post.60%", ["resid_post.6"]),
        ("mlp_act.0%", ["mlp_act.0"]),
        ("mlp_act.100%", ["mlp_act.10"]),
        ("residuals_3", ["resid_pre.3"]),
        ("residuals_8-9", ["resid_pre.8", "resid_pre.9"]),
        ("mlp_4", ["mlp_out.4"]),
        ("attention_0,2", ["attn_out.0", "attn_out.2"]),
        ("final", ["final"]),
    ],
)
def test_a_selector_names_its_sites(selector: str, expected: list[str]) -> None:
    assert [str(site) for site in sites.parse(selector, 11)] == expected


@pytest.mark.parametrize("selector", ["resid_post", "resid_post.all", "residuals_all", "all", "attention_all"])
def test_a_selector_without_layer_names_every_layer(selector: str) -> None:
    assert [site.layer for site in sites.parse(selector, 4)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("selector", "hint"),
    [
        ("resid_pots.3", "'resid_post'"),
        ("resid_post.11", "layers 0 to 10"),
        ("resid_post.-12", "layers 0 to 10"),
        ("resid_post.5-3", "backwards"),
        ("resid_post.abc", "is no layer"),
        ("resid_post.120%", "is no layer"),
        ("final.3", "has no layers"),
        ("layers.3", "sites are resid_pre"),
        (7, "is a string"),
    ],
)
def test_a_selector_that_names_nothing_is_an_error_with_a_hint(selector: str, hint: str) -> None:
    with pytest.raises(SiteError, match=hint):
        sites.parse(selector, 11)


def test_sites_sort_in_the_order_of_the_forward_pass() -> None:
    named = sites.parse_all(["final", "resid_post.1", "z.1", "resid_pre.1", "mlp_out.0"], 2)
    assert [str(site) for site in named] == ["mlp_out.0", "resid_pre.1", "z.1", "resid_post.1", "final"]


def test_one_site_is_asked_for_where_one_is_needed() -> None:
    with pytest.raises(SiteError, match=r"names 3 sites.*'resid_post.0'"):
        sites.parse_one("resid_post", 3)
