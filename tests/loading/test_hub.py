"""Downloads arrive whole or say what to do, against a server of this machine that speaks the Hub's protocol."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.loading.checkpoints import write_checkpoint
from tests.loading.hub_server import COMMIT, OTHER_COMMIT, Hub, serving

MODEL = "someone/small-llama"


@dataclass
class Client:
    """Commands in a fresh process each, since huggingface_hub reads its environment when it is imported."""

    hub: Hub
    cache: Path

    def run(self, *arguments: str, **variables: str) -> tuple[int, str, float]:
        """Exit status, everything printed, and seconds."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "",
            "MLX_INTERP_CACHE": str(self.cache / "own"),
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            **variables,
        }
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        output = " ".join((done.stdout + done.stderr).split())
        return done.returncode, output, time.perf_counter() - start

    def download(self, name: str, **variables: str) -> tuple[int, str, float]:
        return self.run("-m", "mlx_interp", "download", name, **variables)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    new = write_checkpoint(tmp_path / "new", seed=1)
    old = write_checkpoint(tmp_path / "old", seed=2, num_hidden_layers=1)
    (new / "trap.py").write_text("raise SystemExit('ran')")
    with serving(Hub(folders={MODEL: {COMMIT: new, OTHER_COMMIT: old}})) as hub:
        yield Client(hub, tmp_path / "cache")


@pytest.mark.slow
def test_a_download_is_whole_and_brings_nothing_executable(client: Client) -> None:
    status, output, _ = client.download(MODEL)
    assert (status, "files whole" in output) == (0, True), output
    assert not list(client.cache.rglob("*.py"))
    assert not [path for _, path, _ in client.hub.requests if path.endswith(".py")]


@pytest.mark.slow
def test_a_cached_model_loads_without_the_network(client: Client) -> None:
    assert client.download(MODEL)[0] == 0
    code = f"import mlx_interp as mi; m = mi.load({MODEL!r}); print(m.model_id, m.n_layers)"
    status, output, _ = client.run("-c", code, HF_ENDPOINT="http://127.0.0.1:9")
    assert (status, f"{MODEL} 2" in output) == (0, True), output
    status, output, _ = client.run("-c", code, HF_HUB_OFFLINE="1")
    assert (status, f"{MODEL} 2" in output) == (0, True), output


@pytest.mark.parametrize("variables", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_no_network_without_a_copy_says_so_at_once(client: Client, variables: dict[str, str]) -> None:
    status, output, seconds = client.download(MODEL, **variables)
    assert status == 2
    assert "the Hub cannot be reached" in output
    assert "Traceback" not in output
    assert seconds < 90  # no long wait for retries; a busy machine needs a while for the import


@pytest.mark.slow
def test_a_revision_is_pinned(client: Client) -> None:
    code = "import sys, mlx_interp as mi; print(mi.load(sys.argv[1]).n_layers, 'layers')"
    assert "1 layers" in client.run("-c", code, f"{MODEL}@old")[1]
    assert "1 layers" in client.run("-c", code, f"{MODEL}@{OTHER_COMMIT}")[1]
    assert "2 layers" in client.run("-c", code, MODEL)[1]
    status, output, _ = client.download(f"{MODEL}@never")
    assert (status, "has no revision 'never'" in output) == (2, True), output


def test_a_gated_model_says_what_to_do(client: Client) -> None:
    client.hub.gated.add(MODEL)
    status, output, _ = client.download(MODEL)
    assert status == 2
    assert "is gated: accept its licence" in output
    assert "hf auth login" in output


def test_a_missing_repository_is_answered_with_the_nearest(client: Client) -> None:
    status, output, _ = client.download("mlx-community/gemma-2-9b-it-4bits")
    assert status == 2
    assert "did you mean 'mlx-community/gemma-2-9b-it-4bit'" in output


@pytest.mark.slow
def test_a_cut_connection_is_overcome(client: Client) -> None:
    client.hub.cut_after = 50_000
    status, output, _ = client.download(MODEL)
    assert (status, "files whole" in output) == (0, True), output
    assert client.hub.cut_after is None, "the connection was never cut"


@pytest.mark.slow
def test_a_wrong_hash_is_seen_and_mended(client: Client) -> None:
    client.hub.damage = True
    status, output, _ = client.download(MODEL)
    assert status == 2
    assert "its hash is not the published one" in output
    code = f"import mlx_interp as mi; mi.load({MODEL!r})"
    assert "its hash is not the published one" in client.run("-c", code)[1]
    client.hub.damage = False
    (shard,) = client.cache.rglob("snapshots/*/model.safetensors")
    shard.resolve().unlink()
    assert client.download(MODEL)[0] == 0


@pytest.mark.slow
def test_a_slow_connection_ends_well(client: Client) -> None:
    client.hub.seconds_per_chunk = 0.05
    assert client.download(MODEL)[0] == 0


def test_a_shard_that_the_index_lists_and_the_hub_lacks_is_named(client: Client) -> None:
    folder = client.hub.folders[MODEL][COMMIT]
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    status, output, _ = client.download(MODEL)
    assert (status, "missing, first 'model-00001-of-00002.safetensors'" in output) == (2, True), output


@pytest.mark.slow
def test_a_truncated_shard_in_the_cache_is_named(client: Client) -> None:
    assert client.download(MODEL)[0] == 0
    (shard,) = client.cache.rglob("snapshots/*/model.safetensors")
    shard.resolve().write_bytes(shard.read_bytes()[:-100])
    status, output, _ = client.run("-m", "mlx_interp", "download", MODEL, HF_HUB_OFFLINE="1")
    assert status == 2
    assert "truncated" in output or "not whole" in output


@pytest.mark.slow
def test_the_list_of_models_says_what_is_downloaded(client: Client) -> None:
    client.hub.folders["mlx-community/gemma-3-270m-it-4bit"] = client.hub.folders[MODEL]
    assert client.download("gemma-3-270m-it")[0] == 0
    _, output, _ = client.run("-m", "mlx_interp", "doctor", "--model", "gemma-3-270m-it")
    assert "yes yes" in output
