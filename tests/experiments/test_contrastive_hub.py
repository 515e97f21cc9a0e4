"""Tulu 3 by key through the `datasets` library, from a server of this machine that speaks the Hub's protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.exp15_contrastive_steering.request_sources import TULU, TULU_REPOSITORY, Source, subset
from tests.experiments.dataset_hub import DatasetHandler
from tests.loading.hub_server import COMMIT, Hub, serving

PLAIN = "someone/json-lines"
NOWHERE = "http://127.0.0.1:9"
STUDY = (
    *("-m", "experiments.exp15_contrastive_steering", "--model", "tiny-llama", "--no-validate", "--fresh"),
    *("--data", "tulu", "--target-subset", "5", "--baseline-subset", "0", "--layer", "4", "--scale", "1.0"),
    *("--inference-dataset", "0", "--inference-n-samples", "3", "--n-samples", "16", "--max-tokens", "6"),
)


@dataclass
class Client:
    """Commands in a process each: the libraries read their environment when they are imported."""

    hub: Hub
    folder: Path

    def run(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """Exit status, and everything printed."""
        environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.folder / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "",
            "MLX_INTERP_CACHE": str(self.folder / "own"),
            **variables,
        }
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def drawn(self, *draws: tuple[str, str, str], **variables: str) -> list[str]:
        """What drawing five rows each prints, in one process: ids, or the error."""
        code = (
            "from experiments.exp15_contrastive_steering.hub import Draw, drawn\n"
            "from mlx_interp.errors import DataError\n"
            f"for name, column, value in {draws!r}:\n"
            "    try: print('|', [chat.id for chat in drawn(Draw(name, 'train', column, value, 5))])\n"
            "    except DataError as error: print('|', error)"
        )
        return [line.strip() for line in self.run("-c", code, **variables)[1].split("|")[1:]]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Subsets of the embedded world under the names of Tulu 3, in parquet of several row groups, and as JSON Lines."""
    folder = tmp_path_factory.mktemp("hub")
    rows = []
    for key in (0, 5):
        found = subset(Source("world", "train", "source", 100, 60, 0), str(key))
        for number, chat in enumerate((*found.fit, *found.held)):
            turns = [("user", chat.prompt), ("assistant", chat.reply)]
            messages = [{"role": role, "content": text} for role, text in turns]
            rows.append({"id": f"{key}-{number}", "messages": messages, "source": TULU[key]})
    for name in ("tulu", "plain"):
        (folder / name).mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "tulu" / "train-00000-of-00001.parquet", row_group_size=50)
    lines = "\n".join(json.dumps(row) for row in rows)
    (folder / "plain" / "train.jsonl").write_text(lines)
    folders = {TULU_REPOSITORY: {COMMIT: folder / "tulu"}, PLAIN: {COMMIT: folder / "plain"}}
    with serving(Hub(folders=folders), DatasetHandler) as hub:
        yield Client(hub, folder)


@pytest.mark.slow
def test_the_study_draws_from_the_hub_once_and_then_needs_no_network(client: Client, tmp_path: Path) -> None:
    status, output = client.run(*STUDY, "--out", str(tmp_path / "online"))
    assert status == 0, output
    assert any(path.endswith(".parquet") for _, path, _ in client.hub.requests)
    status, output = client.run(*STUDY, "--out", str(tmp_path / "offline"), HF_ENDPOINT=NOWHERE, HF_HUB_OFFLINE="1")
    assert status == 0, output
    name = "exp15_contrastive_steering/tiny-llama/files/5_0/layer_4_scale_1/out_0_3.json"
    first, second = (json.loads((tmp_path / run / name).read_text()) for run in ("online", "offline"))
    assert first == second
    assert first["metadata"]["target_subset_name"] == TULU[5]
    assert first["results"][0]["steered"] == "Je ne peux pas aider."


@pytest.mark.slow
def test_without_network_and_without_a_kept_copy_the_way_out_is_named(client: Client, tmp_path: Path) -> None:
    own = str(tmp_path / "empty")
    status, output = client.run(*STUDY, "--out", str(tmp_path), MLX_INTERP_CACHE=own, HF_ENDPOINT=NOWHERE)
    assert status == 2
    (offline,) = client.drawn((TULU_REPOSITORY, "source", TULU[5]), MLX_INTERP_CACHE=own, HF_HUB_OFFLINE="1")
    for text in (output, offline):
        assert "the Hub cannot be reached" in text
        assert "--data chats.jsonl" in text


@pytest.mark.slow
def test_only_rows_of_the_subset_are_drawn_and_what_does_not_exist_is_named(client: Client) -> None:
    tulu, plain, nothing, column, value = client.drawn(
        (TULU_REPOSITORY, "source", TULU[5]),
        (PLAIN, "source", TULU[5]),  # JSON Lines, whose reader takes no filters
        ("someone/nothing", "source", "x"),
        (TULU_REPOSITORY, "sorce", "x"),
        (TULU_REPOSITORY, "source", "x"),
    )
    assert tulu == plain == "['5-0', '5-1', '5-2', '5-3', '5-4']"
    assert "not found on the Hub" in nothing
    assert "no column 'sorce': did you mean 'source'? columns are id, messages, source" in column
    assert "no row whose source is 'x'" in value
