"""What is written for Neuronpedia has its fields, the pages' values, and is there whole or not at all."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx_interp as mi  # isort: split

import numpy as np
import pytest

from mlx_interp.errors import SAEError, SharingError
from mlx_interp.pages import FeaturePage
from mlx_interp.sae import SAE, feature_pages
from mlx_interp.sharing import neuronpedia
from tests.sae.examples import random_sae
from tests.tiny import tiny_model

FEATURE = set(
    """modelId layer index creatorId createdAt maxActApprox hasVector vector vectorLabel vectorDefaultSteerStrength
    hookName topkCosSimIndices topkCosSimValues neuron_alignment_indices neuron_alignment_values neuron_alignment_l1
    correlated_neurons_indices correlated_neurons_pearson correlated_neurons_l1 correlated_features_indices
    correlated_features_pearson correlated_features_l1 neg_str neg_values pos_str pos_values frac_nonzero
    freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values
    decoder_weights_dist""".split()
)
ACTIVATION = set(
    """id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId dataSource dataIndex
    dfaValues dfaTargetIndex dfaMaxValue createdAt lossValues logitContributions binMin binMax binContains
    qualifyingTokenIndex""".split()
)
"""Fields of a row in neuronpedia-utils, db_models/feature.py and activation.py, as of 2025."""
SOURCE = neuronpedia.NeuronpediaSource(
    model="tiny-llama",
    source_set="mine-res-60",
    release="mine",
    title="A test",
    creator="Somebody",
    dataset="someone/texts",
    n_prompts=3,
    n_tokens=5,
    url="https://example.org",
)


@pytest.fixture(scope="module")
def sae() -> SAE:
    return random_sae("relu", tiny_model("llama").d_model, "resid_post.1")


@pytest.fixture(scope="module")
def pages(sae: SAE) -> Sequence[FeaturePage]:
    model = tiny_model("llama")
    prompts = model.prompts([[5, 9, 3, 17, 40], [8, 2, 33], [7, 7]])
    return feature_pages(model, sae, prompts, [4, 9, 11], n_examples=2, n_tokens=3)


def lines(path: Path) -> list[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.splitlines()]


def test_the_folder_is_an_import(tmp_path: Path, pages: Sequence[FeaturePage], sae: SAE) -> None:
    folder = mi.sharing.save_for_neuronpedia(tmp_path, pages, sae, SOURCE)
    assert folder == tmp_path / "tiny-llama" / "1-mine-res-60"
    about = {name: lines(folder / f"{name}.jsonl")[0] for name in ("release", "model", "sourceset", "source")}
    assert about["source"]["setName"] == about["sourceset"]["name"] == "mine-res-60"
    assert about["sourceset"]["releaseName"] == about["release"]["name"] == "mine"
    assert about["source"]["id"] == "1-mine-res-60"
    assert (about["source"]["num_prompts"], about["source"]["num_tokens_in_prompt"]) == (3, 5)
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.gz")) == [
        "activations/batch-0.jsonl.gz",
        "features/batch-0.jsonl.gz",
    ]
    assert not list(tmp_path.rglob("*.partial"))


def test_features_and_activations_say_what_the_pages_do(
    tmp_path: Path, pages: Sequence[FeaturePage], sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuronpedia, "BATCH", 2)
    folder = mi.sharing.save_for_neuronpedia(tmp_path, pages, sae, SOURCE)
    features = [line for n in (0, 1) for line in lines(folder / "features" / f"batch-{n}.jsonl.gz")]
    activations = [line for n in (0, 1) for line in lines(folder / "activations" / f"batch-{n}.jsonl.gz")]
    assert [line["index"] for line in features] == ["4", "9", "11"]
    assert len({line["id"] for line in activations}) == len(activations) == sum(len(one.examples) for one in pages) > 0
    for page, line in zip(pages, features, strict=True):
        assert set(line) == FEATURE
        assert line["hookName"] == "blocks.1.hook_resid_post"
        assert line["frac_nonzero"] == page.n_active / page.n_tokens
        assert line["maxActApprox"] == page.largest
        assert np.allclose(line["vector"], np.array(sae.directions[page.feature]), atol=1e-6)
        assert list(zip(line["pos_str"], line["pos_values"], strict=True)) == list(page.raised)
        assert sum(line["freq_hist_data_bar_heights"]) == page.n_active
        mine = [one for one in activations if one["index"] == line["index"]]
        for example, one in zip(page.examples, mine, strict=True):
            assert set(one) == ACTIVATION
            assert one["tokens"] == list(example.tokens)
            assert one["values"] == list(example.values)
            assert one["values"][one["maxValueTokenIndex"]] == one["maxValue"] == max(example.values)


def test_equal_pages_make_equal_files(tmp_path: Path, pages: Sequence[FeaturePage], sae: SAE) -> None:
    first, second = (
        mi.sharing.save_for_neuronpedia(tmp_path / name, pages, sae, SOURCE) / "features" / "batch-0.jsonl.gz"
        for name in ("a", "b")
    )
    assert first.read_bytes() == second.read_bytes()


def test_what_cannot_be_imported_is_refused_and_nothing_is_written(
    tmp_path: Path, pages: Sequence[FeaturePage], sae: SAE
) -> None:
    beyond = replace(pages[0], feature=sae.d_sae)
    cases: list[tuple[Any, Any, str]] = [
        ([], SOURCE, "no feature pages"),
        ([pages[0], pages[0]], SOURCE, "two pages of one feature"),
        ([beyond], SOURCE, "another autoencoder"),
        (pages, replace(SOURCE, model="../elsewhere"), "model '../elsewhere'"),
        (pages, replace(SOURCE, release="my release"), "release 'my release'"),
    ]
    for found, source, message in cases:
        with pytest.raises(SharingError, match=message):
            mi.sharing.save_for_neuronpedia(tmp_path, found, sae, source)
    with pytest.raises(SAEError, match="has no name there"):
        mi.sharing.save_for_neuronpedia(tmp_path, pages, replace(sae, site="mixer_out.1"), SOURCE)
    assert not list(tmp_path.iterdir())
    mi.sharing.save_for_neuronpedia(tmp_path, pages, sae, SOURCE)
    with pytest.raises(SharingError, match="is there already"):
        mi.sharing.save_for_neuronpedia(tmp_path, pages, sae, SOURCE)


def test_writing_that_is_cut_off_leaves_nothing(
    tmp_path: Path, pages: Sequence[FeaturePage], sae: SAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(neuronpedia.os, "replace", full)
    with pytest.raises(SharingError, match="No space left"):
        mi.sharing.save_for_neuronpedia(tmp_path, pages, sae, SOURCE)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
