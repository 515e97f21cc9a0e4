"""What is pushed comes back as it was, in one commit, private, with a card of its own facts; against a local Hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx_interp as mi  # isort: split

import huggingface_hub
import mlx.core as mx
import numpy as np
import pytest
from huggingface_hub import constants

from mlx_interp.directions import Direction, Probe
from mlx_interp.errors import DirectionError, MlxInterpError, RunError, SharingError
from mlx_interp.lenses.tuned import identity_lens
from mlx_interp.model import Model
from mlx_interp.reporting.folders import locked
from mlx_interp.sae.sae import SAE
from mlx_interp.sharing import hub as sharing
from tests.loading.hub_server import COMMIT, Hub, serving
from tests.tiny import tiny_model

API = huggingface_hub.HfApi


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("llama")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub of this machine, and a client that knows its address, a token and an empty cache."""
    with serving(Hub(root=tmp_path / "hub")) as served:

        def local(**settings: object) -> huggingface_hub.HfApi:
            return API(endpoint=served.url, token="hf_of_a_test", **settings)  # type: ignore[arg-type]

        def download(repository: str, **settings: object) -> str:
            return local().snapshot_download(repository, cache_dir=tmp_path / "cache", **settings)  # type: ignore[arg-type]

        files = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(sharing.huggingface_hub, "HfApi", local)
        monkeypatch.setattr(sharing.huggingface_hub, "snapshot_download", download)
        yield served


def direction(model: Model, site: str) -> Direction:
    vector = np.random.default_rng(len(site)).normal(size=model.d_model).astype(np.float32)
    made = "difference of means of 8 and 8 prompts"
    facts = (model.model_id, model.weights_hash, "", model.n_layers, 0.01, 0.004)
    return Direction(mx.array(vector), site, -1, made, "chat", *facts)


def test_directions_come_back_whole_with_a_card_and_are_private(model: Model, hub: Hub) -> None:
    one, two = direction(model, "resid_post.1"), direction(model, "resid_pre.2")
    address = mi.sharing.push_to_hub([one, two], "someone/refusal")
    assert address.endswith(f"/someone/refusal/commit/{COMMIT}")
    assert hub.made["someone/refusal"]["visibility"] == "private"
    assert [path for method, path, _ in hub.requests if method == "POST" and "/commit/" in path] == [
        "/api/models/someone/refusal/commit/main"
    ]
    back = mi.sharing.directions_from_hub("someone/refusal", model)
    assert [got.site for got in back] == ["resid_post.1", "resid_pre.2"]
    assert mx.array_equal(back[0].vector, one.vector)
    assert back[0].p_value == one.p_value
    card = huggingface_hub.ModelCard.load(hub.root / "someone/refusal/README.md")
    assert card.data.library_name == "mlx_interp"
    assert card.data.tags == ["mechanistic-interpretability", "steering-vector"]
    for said in ("2 steering directions", "| `resid_post.1` |", one.method, model.weights_hash, "directions_from_hub"):
        assert said in card.text
    with pytest.raises(DirectionError, match="which is not"):
        mi.sharing.directions_from_hub("someone/refusal", tiny_model("llama", num_hidden_layers=2))


def test_a_public_model_is_named_as_the_base_of_what_was_made_on_it(model: Model) -> None:
    of_hub = replace(direction(model, "resid_post.1"), model_id="mlx-community/gemma-2-2b-it-4bit")
    card = huggingface_hub.ModelCard(mi.sharing.card_of(of_hub, "someone/refusal"))
    assert card.data.base_model == "mlx-community/gemma-2-2b-it-4bit"
    plain = huggingface_hub.ModelCard(mi.sharing.card_of(direction(model, "resid_post.1"), "someone/refusal"))
    assert plain.data.base_model is None  # a folder of this machine is nobody's base


def sae(site: str) -> SAE:
    rng = np.random.default_rng(0)
    arrays = {"W_enc": (30, 60), "W_dec": (60, 30), "b_enc": (60,), "b_dec": (30,)}
    weights = {name: mx.array(rng.normal(size=shape).astype(np.float32)) for name, shape in arrays.items()}
    return SAE("relu", site, weights, meta={"model": "tiny-llama", "tokens": 1000, "variance explained": 0.81})


def test_an_autoencoder_comes_back_and_lies_where_saelens_looks(hub: Hub) -> None:
    made = sae("resid_post.1")
    mi.sharing.push_to_hub(made, "someone/sae", private=False)
    assert hub.made["someone/sae"]["visibility"] == "public"
    assert (hub.root / "someone/sae/blocks.1.hook_resid_post/cfg.json").is_file()
    back = mi.sharing.sae_from_hub("someone/sae")
    x = mx.array(np.random.default_rng(1).normal(size=(5, 30)).astype(np.float32))
    assert mx.array_equal(back.encode(x), made.encode(x))
    assert "| variance explained | .81" in (hub.root / "someone/sae/README.md").read_text()
    with pytest.raises(SharingError, match=r"holds resid_post.1; none of 'mlp_out.1'"):
        mi.sharing.sae_from_hub("someone/sae", site="mlp_out.1")


def test_a_lens_comes_back(model: Model, hub: Hub) -> None:
    lens = identity_lens(model)
    mi.sharing.push_to_hub(lens, "someone/lens")
    back = mi.sharing.lens_from_hub("someone/lens")
    assert back.model == lens.model
    assert mx.array_equal(back.weight, lens.weight)
    with pytest.raises(SharingError, match="holds no direction of this library"):
        mi.sharing.directions_from_hub("someone/lens", model)
    with pytest.raises(SharingError, match="holds no autoencoder"):
        mi.sharing.sae_from_hub("someone/lens")


def test_probes_come_back_with_their_thresholds(model: Model, hub: Hub) -> None:
    one, two = Probe(direction(model, "resid_post.1"), -1.25), Probe(direction(model, "resid_post.2"), 1 / 3)
    mi.sharing.push_to_hub([one, two], "someone/probes")
    first, second = mi.sharing.probes_from_hub("someone/probes", model)
    assert (first.threshold, second.threshold) == (-1.25, 1 / 3)
    states = np.random.default_rng(2).normal(size=(4, model.d_model))
    assert np.array_equal(second.scores(states), two.scores(states))
    assert mi.sharing.directions_from_hub("someone/probes", model)[0].site == "resid_post.1"
    card = (hub.root / "someone/probes/README.md").read_text(encoding="utf-8")
    assert all(said in card for said in ("2 probes", "| -1.2", "probes_from_hub"))
    mi.sharing.push_to_hub(one.direction, "someone/refusal")
    with pytest.raises(DirectionError, match="a direction without a threshold"):
        mi.sharing.probes_from_hub("someone/refusal", model)
    with pytest.raises(SharingError, match="nothing to share"):
        mi.sharing.push_to_hub([one, two.direction], "someone/both")  # type: ignore[list-item]


def collected(model: Model, folder: Path) -> mi.ActivationStore:
    prompts = [[3, 5, 7, 11], [2, 9], [4, 8, 6]]
    return mi.collect(
        model, prompts, ["resid_post.1", "z.0"], path=folder, labels=["a", "b", "a"], shard_bytes=2 * 4 * model.d_model
    )


def test_a_store_comes_back_as_a_data_set_with_every_shard_checked(model: Model, hub: Hub, tmp_path: Path) -> None:
    made = collected(model, tmp_path / "store")
    assert len(made.shards) > 1
    (tmp_path / "store" / "notes.txt").write_text("not of the store")
    mi.sharing.push_to_hub(made, "someone/states")
    assert hub.made["someone/states"]["type"] == "dataset"
    assert not (hub.root / "someone/states/notes.txt").exists()
    back = mi.sharing.store_from_hub("someone/states")
    back.check_model(model)
    for site in made.sites:
        assert np.array_equal(back.array(site)[:], made.array(site)[:])
    assert [sample.tokens for sample in back.samples] == [[3, 5, 7, 11], [2, 9], [4, 8, 6]]
    card = huggingface_hub.DatasetCard.load(hub.root / "someone/states/README.md")
    assert card.data.tags == ["mechanistic-interpretability", "activations", "mlx_interp"]
    for said in ("of category a: 2", made.description["weights_hash"], "`resid_post.1`", "store_from_hub"):
        assert said in card.text


def test_a_store_that_grew_since_it_was_opened_is_sent_as_it_is_now(model: Model, hub: Hub, tmp_path: Path) -> None:
    opened = collected(model, tmp_path / "store")
    more = [[3, 5, 7, 11], [2, 9], [4, 8, 6], [5, 5, 9]]
    sites = ["resid_post.1", "z.0"]
    mi.collect(model, more, sites, path=opened.path, labels=["a", "b", "a", "b"], shard_bytes=2 * 4 * model.d_model)
    mi.sharing.push_to_hub(opened, "someone/states")
    back = mi.sharing.store_from_hub("someone/states")
    assert [sample.tokens for sample in back.samples] == more
    assert "of category b: 2" in (hub.root / "someone/states/README.md").read_text(encoding="utf-8")
    assert not back.damaged


def test_a_store_that_grows_or_is_damaged_is_not_sent(model: Model, hub: Hub, tmp_path: Path) -> None:
    made = collected(model, tmp_path / "store")
    with locked(made.path), pytest.raises(RunError):
        mi.sharing.push_to_hub(made, "someone/states")
    shard = made.path / made.shards[0].shard
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(SharingError, match=f"{shard.name} cannot be read: collect into this folder again"):
        mi.sharing.push_to_hub(made, "someone/states")
    assert not hub.requests


def test_a_shard_damaged_on_its_way_is_left_out_and_named(model: Model, hub: Hub, tmp_path: Path) -> None:
    made = collected(model, tmp_path / "store")
    mi.sharing.push_to_hub(made, "someone/states")
    there = hub.root / "someone/states" / made.shards[0].shard
    content = bytearray(there.read_bytes())
    content[-1] ^= 1
    there.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=made.shards[0].shard):
        back = mi.sharing.store_from_hub("someone/states")
    assert len(back) == len(made) - made.shards[0].n_rows
    with pytest.raises(SharingError, match="holds no store of activations"):
        mi.sharing.push_to_hub(direction(model, "resid_post.1"), "someone/refusal")
        mi.sharing.store_from_hub("someone/refusal")


def test_an_upload_cut_off_leaves_the_repository_as_it_was(model: Model, hub: Hub) -> None:
    one = direction(model, "resid_post.1")
    mi.sharing.push_to_hub(one, "someone/refusal")
    before = {path: path.read_bytes() for path in (hub.root / "someone/refusal").iterdir()}
    hub.refuse_commits = True
    with pytest.raises(SharingError, match="uploading someone/refusal stopped, nothing there was changed"):
        mi.sharing.push_to_hub(direction(model, "resid_post.2"), "someone/refusal")
    assert before == {path: path.read_bytes() for path in (hub.root / "someone/refusal").iterdir()}


def test_what_cannot_be_shared_is_said_before_anything_is_sent(model: Model, hub: Hub) -> None:
    one = direction(model, "resid_post.1")
    cases: list[tuple[object, str, str]] = [
        ([], "someone/x", "nothing to share"),
        ("resid_post.1", "someone/x", "nothing to share"),
        ([one, one], "someone/x", "two directions of one site"),
        (
            [one, replace(direction(model, "mlp_out.1"), weights_hash="0")],
            "someone/x",
            "directions of different weights",
        ),
        (one, "some one/x!", "is no repository's name"),
    ]
    for thing, repository, message in cases:
        with pytest.raises(SharingError, match=message):
            mi.sharing.push_to_hub(thing, repository)  # type: ignore[arg-type]
    assert not hub.requests
    with pytest.raises(SharingError, match="the Hub has it not"):
        mi.sharing.directions_from_hub("someone/none", model)
    assert issubclass(SharingError, MlxInterpError)


def test_without_a_token_the_way_out_is_named(model: Model, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing.huggingface_hub, "HfApi", lambda: API(hub.url, token=False))
    with pytest.raises(SharingError, match="hf auth login"):
        mi.sharing.push_to_hub(direction(model, "resid_post.1"), "someone/refusal")
