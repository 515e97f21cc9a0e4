"""SHIFT on activations whose two concepts are known latents."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.errors import SAEError
from mlx_interp.sae import SAE
from mlx_interp.sae.shift import classifier, contributions, reading, without

WIDTH = 9
MEANT, CUE, OTHER = 2, 5, 7


@pytest.fixture(scope="module")
def sae() -> SAE:
    """Latent i is direction i, where positive."""
    rows = mx.array(np.eye(WIDTH, dtype=np.float32))
    zeros = mx.zeros((WIDTH,))
    return SAE("relu", "resid_post.0", {"W_enc": rows, "W_dec": rows, "b_enc": zeros, "b_dec": zeros})


def drawn(n: int, seed: int, *, coincide: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    meant = rng.random(n) < 0.5
    cue = meant if coincide else rng.random(n) < 0.5
    x = rng.normal(0, 0.1, (n, WIDTH))
    x[:, MEANT] += meant * 1.0
    x[:, CUE] += cue * 3.0  # the cue is easier to see
    x[:, OTHER] += 1.0
    return x, meant, cue


def test_the_cue_is_what_is_used_and_what_is_read_and_removed(sae: SAE) -> None:
    x, meant, _ = drawn(300, 0, coincide=True)
    test, truth, cue = drawn(300, 1, coincide=False)
    told = classifier(x, meant)
    apart = truth != cue
    assert (told(test) == truth)[apart].mean() < 0.2
    used = np.argsort(-contributions(sae, x, told))[:3].tolist()
    assert set(used) >= {MEANT, CUE}
    looked_at, m, c = drawn(200, 2, coincide=False)
    judged = {r.latent: r for r in reading(np.asarray(sae.encode(looked_at)), m, c, used)}
    assert judged[CUE].is_spurious
    assert judged[CUE].spurious == 1.0
    assert not judged[MEANT].is_spurious
    again = classifier(without(sae, x, [CUE]), meant)
    assert (again(without(sae, test, [CUE])) == truth).mean() > 0.95


def test_removing_latents_leaves_everything_else_as_it_was(sae: SAE) -> None:
    x, *_ = drawn(50, 3, coincide=False)
    less = without(sae, x, [CUE])
    others = [i for i in range(WIDTH) if i != CUE]
    assert np.abs(less[:, others] - x[:, others]).max() < 1e-6
    assert less[:, CUE] == pytest.approx(np.minimum(x[:, CUE], 0), abs=1e-6)  # the error, which no latent holds
    assert without(sae, x, []) is x


def test_a_latent_without_examples_is_not_judged_spurious(sae: SAE) -> None:
    values = np.zeros((10, WIDTH))
    (read,) = reading(values, np.arange(10) < 5, np.arange(10) % 2 == 0, [4])
    assert (read.examples, read.is_spurious) == (0, False)


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(SAEError, match="both classes"):
        classifier(np.ones((4, 2)), np.ones(4, bool))
