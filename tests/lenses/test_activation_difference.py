"""Activation difference lens: means are those of single runs; what is planted everywhere is read off them."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_interp import Model, lenses
from mlx_interp.errors import DataError, DirectionError, PositionError, ShapeError, SiteError
from tests.tiny import tiny_model

TEXTS = [[3, 5, 8, 13, 21, 34, 2], [7, 11, 6, 40, 9], [1, 2, 3, 4]]
PLANTED = 77


@pytest.fixture(scope="module")
def tuned() -> Model:
    """A fine-tune by hand: every token's embedding has moved along what unembeds to one token."""
    model = tiny_model("llama")
    along = model.mlx_model.lm_head.weight[PLANTED]
    embedding = model.network.decoder.embed_tokens
    embedding.weight = embedding.weight + 3.0 * along
    return model


def test_means_are_those_of_whole_texts_read_alone(llama: Model, tuned: Model) -> None:
    found = lenses.activation_difference(llama, tuned, TEXTS, "resid_post.1", positions=3)
    states = [
        np.stack([np.asarray(model.run(text, capture="resid_post.1")["resid_post.1"])[0, :3] for text in TEXTS])
        for model in (tuned, llama)
    ]
    differences = states[0].astype(np.float64) - states[1]
    assert found.means == pytest.approx(differences.mean(0), abs=1e-4)
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], size=(20_000, len(TEXTS)))
    flipped = np.einsum("sn,npd->spd", signs, differences) / len(TEXTS)
    assert found.chance == pytest.approx(np.sqrt((flipped**2).sum(-1).mean(0)), rel=0.02)
    assert found.n_texts == 3


def test_what_was_added_everywhere_is_the_mean_and_reads_as_its_token(llama: Model, tuned: Model) -> None:
    found = lenses.activation_difference(llama, tuned, TEXTS, "resid_pre.0", positions=4)
    planted = 3.0 * np.asarray(llama.mlx_model.lm_head.weight[PLANTED])
    assert found.means == pytest.approx(np.tile(planted, (4, 1)), abs=1e-5)
    assert np.asarray(found.logits().argmax(-1)).tolist() == [PLANTED] * 4
    assert (found.lengths > found.chance).all()
    direction = found.direction(0)
    assert direction.site == "resid_pre.0"
    assert np.asarray(direction.vector) == pytest.approx(planted, abs=1e-5)


def test_a_model_and_itself_have_no_direction(llama: Model) -> None:
    found = lenses.activation_difference(llama, llama, TEXTS, "resid_post.1", positions=2)
    assert not found.means.any()
    with pytest.raises(DirectionError, match="rounding alone"):
        found.direction()


def test_mistakes_are_named(llama: Model, tuned: Model) -> None:
    with pytest.raises(DataError, match="5 positions of 3 texts, the shortest of 4 tokens"):
        lenses.activation_difference(llama, tuned, TEXTS, "resid_post.1")
    with pytest.raises(DataError, match="0 texts"):
        lenses.activation_difference(llama, tuned, [], "resid_post.1")
    with pytest.raises(SiteError, match="is not of the stream's width"):
        lenses.activation_difference(llama, tuned, TEXTS, "z.1", positions=2)
    with pytest.raises(ShapeError, match="needs a model and a fine-tune of it"):
        lenses.activation_difference(tiny_model("llama", num_hidden_layers=2), tuned, TEXTS, "resid_post.1")
    found = lenses.activation_difference(llama, tuned, TEXTS, "resid_post.1", positions=2)
    with pytest.raises(PositionError, match="position 2: 2 were read"):
        found.direction(2)


def test_models_that_cut_a_text_otherwise_are_refused(llama: Model, tuned: Model) -> None:
    class Other:
        def __getattr__(self, name: str) -> object:
            return getattr(tuned, name)

        def prompts(self, texts: list[list[int]]) -> list[object]:
            return tuned.prompts([text[1:] for text in texts])

    with pytest.raises(ShapeError, match="read the texts as different tokens"):
        lenses.activation_difference(llama, Other(), TEXTS, "resid_post.1", positions=2)  # type: ignore[arg-type]
