"""What a run gives back is a mapping that shows what it holds, not its numbers."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp
from mlx_interp import Model
from mlx_interp.errors import SiteError
from mlx_interp.shapes import ShapesShown, shown

TOKENS = [3, 5, 7, 11]


def test_activations_are_a_mapping_in_the_order_of_the_pass(llama: Model) -> None:
    out = llama.run(TOKENS, capture=["resid_post", "z.1", "final"])
    names = ["resid_post.0", "z.1", "resid_post.1", "resid_post.2", "final"]
    assert list(out) == list(out.keys()) == names
    assert isinstance(out, Mapping)
    assert len(out) == 5
    assert repr(out.keys()) == f"dict_keys({names})"
    assert [name for name, _ in out.items()] == names
    assert all(mx.array_equal(value, out[name]) for name, value in dict(out).items())
    assert [value.shape for value in out.values()] == [out[name].shape for name in names]
    assert "resid_post.-1" in out
    assert "z.0" not in out
    assert "resid_post" not in out
    assert 7 not in out
    assert out.get("z.0") is None
    assert out.get("residuals_1", 3) == 3
    assert out.get("z.1") is out["z.1"]
    with pytest.raises(SiteError, match=r"z\.0 was not captured"):
        out["z.0"]


def test_a_run_without_captures_is_not_false(llama: Model) -> None:
    out = llama.run(TOKENS)
    assert out
    assert len(out) == 0
    assert repr(out) == f"Activations(logits=array(1, {llama.d_vocab}), lengths=[4]), nothing captured"


def test_activations_show_shapes_a_line_for_each_site(llama: Model) -> None:
    out = llama.run([TOKENS, TOKENS[:2]], capture=["resid_post", "z.0,2", "final"])
    assert repr(out).splitlines() == [
        f"Activations(logits=array(2, {llama.d_vocab}), lengths=[4, 2]):",
        "  z.0,2  (2, 4, 6, 8)",
        "  resid_post.0-2  (2, 4, 30)",
        "  final  (2, 4, 30)",
    ]


def test_gradients_are_a_mapping_too(llama: Model) -> None:
    found = llama.gradients(TOKENS, lambda logits: logits.max(-1), ["z.1", "resid_post.0"])
    assert list(found) == ["resid_post.0", "z.1"]
    assert repr(found).splitlines() == [
        "Gradients(metric=array(1,), lengths=[4]):",
        "  resid_post.0  (1, 4, 30)",
        "  z.1  (1, 4, 6, 8)",
    ]


def test_arrays_inside_lists_and_mappings_show_by_shape() -> None:
    assert shown([mx.zeros((2, 3)), (np.zeros(4),)]) == "[array(2, 3), (array(4,),)]"
    assert shown({"a": mx.zeros(1)}) == "{'a': array(1,)}"
    assert shown(list(range(100))) == "[0, 1, 2, 3, 4, 5, 6, 7, ... 100 in all]"
    assert shown(("a",)) == "('a',)"


def test_no_result_of_the_library_prints_its_numbers() -> None:
    """Every public dataclass with an array of MLX or numpy shows shapes; what the engine holds inside is not shown."""
    inside = {"engine", "loading", "embedded", "providers"}  # providers: needs extras, and gives out no arrays
    found = {}
    for module in pkgutil.walk_packages(mlx_interp.__path__, "mlx_interp."):
        room = module.name.split(".")[1]
        if room in inside or room.startswith("_") or module.name.endswith("__main__"):
            continue
        for name, kind in inspect.getmembers(import_module(module.name), inspect.isclass):
            if kind.__module__ == module.name and is_dataclass(kind) and not name.startswith("_"):
                held = [str(field.type).replace('"', "").replace("'", "") for field in fields(kind)]
                if any(text.startswith(("mx.array", "np.ndarray", "Mapping[Site, mx.array")) for text in held):
                    own = issubclass(kind, ShapesShown) or "__repr__" in vars(kind)
                    by_dataclass = kind.__dataclass_params__.repr and "__repr__" in vars(kind)  # type: ignore[attr-defined]
                    found[f"{module.name}.{name}"] = own and not by_dataclass
    assert len(found) > 12
    assert [name for name, shows in found.items() if not shows] == []
