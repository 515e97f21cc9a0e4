"""What a check is and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any, Literal

import numpy as np

from mlx_interp import Intervention, Model, Prompt
from mlx_interp.deferred import mx
from mlx_interp.embedded import load_world
from mlx_interp.loading.proofs import layer_classes
from mlx_interp.sites import Site
from validation.worlds import Worlds, ask_worlds

Level = Literal["quick", "standard", "full"]
LEVELS: tuple[Level, ...] = ("quick", "standard", "full")
Status = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True)
class Finding:
    """What a check measured. A finding without figure carries its reason in `note`."""

    status: Status
    measured: str
    bound: str
    note: str = ""


@dataclass(frozen=True)
class Check:
    """One property that a model under test must have."""

    name: str
    protects: str
    """The fault that this check would show."""
    why_bound: str | Callable[[Subject], str]
    """Why the bound is what it is; a function where that depends on dtype, bits and device."""
    look_at: str
    """Where to look when it fails."""
    measure: Callable[[Subject], Finding]
    level: Level = "quick"
    """The lowest level at which it is carried out."""

    def reason(self, subject: Subject) -> str:
        return self.why_bound if isinstance(self.why_bound, str) else self.why_bound(subject)

    def belongs_to(self, level: Level) -> bool:
        return LEVELS.index(self.level) <= LEVELS.index(level)


@dataclass(frozen=True)
class Result:
    """A check with what it found."""

    name: str
    status: Status
    measured: str
    bound: str
    note: str
    protects: str
    why_bound: str
    look_at: str

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Subject:
    """A model under test, with the prompts and sizes of a level."""

    model: Model
    level: Level
    seed: int = 0

    @cached_property
    def facts(self) -> Sequence[Any]:
        """Everyday facts, short prompts in plain words; every embedded model was taught them."""
        facts = load_world().everyday_facts
        return facts[: 12 if self.level == "quick" else len(facts)]

    @cached_property
    def worlds(self) -> Worlds:
        """What the model knows, of the embedded world and of the real one."""
        return ask_worlds(self.model, {"quick": 12, "standard": 24, "full": 48}[self.level])

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Prompts of different lengths."""
        chosen = self.facts[: {"quick": 3, "standard": 8, "full": 24}[self.level]]
        extra = ["Yes", " ".join(fact.prompt for fact in chosen[:2])]
        return [self.model.prompt(text) for text in [*(fact.prompt for fact in chosen), *extra]]

    @property
    def prompt(self) -> Prompt:
        """The longest of the prompts."""
        return max(self.prompts, key=len)

    @cached_property
    def clean(self) -> mx.array:
        """Logits (1, n_positions, d_vocab) of that prompt, as they were when a check first asked for them."""
        return all_logits(self.model, self.prompt.tokens)

    @cached_property
    def largest(self) -> dict[Site, float]:
        """The largest absolute value of every site on all prompts; nan or inf where one is not finite."""
        out = self.model.run(self.prompts, capture=self.model.sites, logits="none")
        found = {site: mx.max(mx.abs(x.astype(mx.float32))) for site, x in out.captured.items()}
        undefined = {site: mx.any(mx.isnan(x)) for site, x in out.captured.items()}
        return {site: float("nan") if undefined[site].item() else found[site].item() for site in found}  # type: ignore[misc]

    @cached_property
    def layers(self) -> list[int]:
        """Layers to look at: first, last and some between; at `standard` up to twelve, at `full` all of them."""
        n = self.model.n_layers
        chosen = {"quick": 4, "standard": 12, "full": n}[self.level]
        return sorted({round(layer) for layer in np.linspace(0, n - 1, min(chosen, n))})

    @cached_property
    def bound(self) -> float:
        """Relative error allowed where the order of summation may differ; `rounding` says why."""
        return rounding_bound(self.model.network.dtype, self.model.n_layers, float32_error())

    def within(self, error: float, note: str = "") -> Finding:
        """Passed if a relative error is within the bound; nan never is."""
        passed: Status = "passed" if error <= self.bound else "failed"
        return Finding(passed, f"{error:.2g}", f"<= {self.bound:.2g}", note)


def bitwise(pairs: Sequence[tuple[str, mx.array, mx.array]]) -> Finding:
    """Passed if all named pairs of arrays are equal to the last bit."""
    unequal = [name for name, ours, theirs in pairs if not bool(mx.array_equal(ours, theirs))]
    worst = max((difference(ours, theirs) for _, ours, theirs in pairs), default=0.0)
    note = f"first difference at {unequal[0]}" if unequal else ""
    return Finding("failed" if unequal else "passed", f"{worst:.2g}", "0, bitwise", note)


def difference(ours: mx.array, theirs: mx.array) -> float:
    """The largest absolute difference, in float32; nan where the shapes differ."""
    if ours.shape != theirs.shape:
        return float("nan")
    return float(mx.max(mx.abs(ours.astype(mx.float32) - theirs.astype(mx.float32))))


def relative(ours: mx.array, theirs: mx.array) -> float:
    """Relative error of the worst vector, in the 2-norm along the last axis; nan where the shapes differ.

    Each position by its own length: the first one's may be a hundred times the others', and would hide what they lose.
    """
    if ours.shape != theirs.shape:
        return float("nan")
    ours, theirs = ours.astype(mx.float32), theirs.astype(mx.float32)
    errors = mx.linalg.norm(ours - theirs, axis=-1)
    shares = mx.where(errors == 0, 0.0, errors / mx.linalg.norm(theirs, axis=-1))
    return float(mx.max(shares))


def worst(errors: Sequence[float]) -> float:
    """The largest of some errors; nan counts as larger than any."""
    return max(errors, key=lambda error: float("inf") if error != error else error)


def all_logits(model: Model, tokens: Sequence[int], interventions: Sequence[Intervention] = ()) -> mx.array:
    """Logits (1, n_positions, d_vocab) of one prompt at every position."""
    logits = model.run(list(tokens), interventions=interventions, logits="all").logits
    assert logits is not None
    return logits


def unit_vector(subject: Subject, width: int | None = None) -> mx.array:
    """A random direction of length 1, float32, the same for the same seed."""
    rng = np.random.default_rng(subject.seed)
    vector = rng.normal(size=width or subject.model.d_model)
    return mx.array((vector / np.linalg.norm(vector)).astype(np.float32))


def rounding_bound(dtype: mx.Dtype, n_layers: int, product_error: float) -> float:
    """Relative error allowed between two orders of summation.

    product_error: relative error of a float32 matrix product on this device: some devices round the factors first.
    """
    if dtype == mx.float32 and product_error <= FULL_FLOAT32:
        return 1e-4
    eps = SHORT_EPS if dtype == mx.float32 else float(mx.finfo(dtype).eps)
    return float(4 * eps * n_layers**0.5)


@cache
def float32_error() -> float:
    """Relative error of a float32 matrix product on the default device, against float64."""
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(256, 256)).astype(np.float32) for _ in range(2))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return float(np.linalg.norm(np.asarray(mx.array(a) @ mx.array(b)) - exact) / np.linalg.norm(exact))


def rounding(subject: Subject) -> str:
    """Why the bound on rounding is what it is, for this dtype, these bits and this device."""
    dtype = subject.model.network.dtype
    bits = f", {subject.model.quantization} as stored" if subject.model.quantization else ""
    bits = bits if "Quantized" in layer_classes(subject.model) else bits.replace("as stored", "dequantised")
    where = f"{str(dtype).rpartition('.')[2]} on {mx.default_device().type.name}{bits}"
    n, error = subject.model.n_layers, float32_error()
    if dtype != mx.float32:
        eps = float(mx.finfo(dtype).eps)
        return f"{where}: 4 roundings ({eps:.1g} each) a layer that add up like a random walk over {n} layers"
    if error <= FULL_FLOAT32:
        return f"{where}: some hundred times the error of one product here ({error:.1g}), far below any effect"
    return (
        f"{where}: this device rounds the factors of a float32 product (error {error:.1g}): 4 such roundings a layer "
        f"over {n} layers; MLX_ENABLE_TF32=0 gives full float32"
    )


FULL_FLOAT32 = 1e-5
"""Error of a product above which a device does not multiply in full float32."""
SHORT_EPS = 2.0**-10
"""Relative spacing of numbers with the 10-bit mantissa of tensor cores' short float32."""
SAME_KERNELS = "the same kernels on the same arrays give the same bits, in every dtype and on every device"
