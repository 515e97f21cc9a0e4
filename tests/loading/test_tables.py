"""Rows of data sets: what a file holds arrives whole; what cannot be read is named with the way out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlx_interp.errors import DataError
from mlx_interp.loading.tables import one_table, read_table
from tests.loading.hub_server import COMMIT, Hub, serving
from tests.loading.test_hub import Client

ROWS = [{"prompt": 'say "hi",\nplease', "category": "kind"}, {"prompt": "żółw 01", "category": "002"}]


def write_csv(path: Path) -> None:
    quoted = ['"{}","{}"'.format(*(value.replace('"', '""') for value in row.values())) for row in ROWS]
    path.write_text("\n".join(["prompt,category", *quoted]) + "\n", encoding="utf-8")


def write_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    match suffix:
        case "csv":
            write_csv(path)
        case "jsonl":
            write_jsonl(path)
        case "json":
            path.write_text(json.dumps(ROWS), encoding="utf-8")
        case _:
            pq.write_table(pa.Table.from_pylist(ROWS), path)
    assert read_table(path) == ROWS


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("prompt,category\n")
    (tmp_path / "torn.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    (tmp_path / "notes.txt").write_text("a")
    for name, words in (
        ("empty.csv", "holds no row"),
        ("torn.jsonl", "torn.jsonl: cannot be read"),
        ("notes.txt", r"files of data end in \.csv"),
        ("gone.csv", "no such file"),
        ("no-such-thing", "no such file, and no data set of the Hub"),
    ):
        with pytest.raises(DataError, match=words):
            read_table(tmp_path / name if name != "no-such-thing" else name)


def test_the_table_that_is_meant_is_found_by_subset_and_split() -> None:
    names = ["or-bench-80k.csv", "or-bench-hard-1k.csv", "or-bench-toxic.csv"]
    assert one_table(names, "x/y", "or-bench-toxic", "") == ["or-bench-toxic.csv"]
    assert one_table(names, "x/y", "toxic", "") == ["or-bench-toxic.csv"]
    parts = [f"main/train-0000{n}-of-00002.parquet" for n in range(2)]
    assert one_table([*parts, "main/test-00000-of-00001.parquet"], "x/y", "", "train") == parts
    assert one_table([*parts, "other/train-00000-of-00001.parquet"], "x/y", "main", "train") == parts
    with pytest.raises(DataError, match="nothing leaves several tables: say which by subset and split: or-bench-80k"):
        one_table(names, "x/y", "", "")
    with pytest.raises(DataError, match=r"no file for 'or-bench-tox': did you mean 'or-bench-toxic.csv'"):
        one_table(names, "x/y", "or-bench-tox", "")


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_downloaded_once_and_then_read_without_a_network(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_csv(folder / "bench-toxic.csv")
    write_csv(folder / "bench-hard.csv")
    (folder / "bench.py").write_text("raise SystemExit('ran')")
    code = (
        "import json, sys; from mlx_interp.errors import MlxInterpError; "
        "from mlx_interp.loading.tables import read_table\n"
        "try: print(json.dumps(read_table(sys.argv[1], subset='toxic')))\n"
        "except MlxInterpError as error: print('error:', error)"
    )
    with serving(Hub(folders={"someone/bench": {COMMIT: folder}})) as hub:
        client = Client(hub, tmp_path / "cache")
        assert json.dumps(ROWS) in client.run("-c", code, "someone/bench")[1]
        asked = [path for _, path, _ in hub.requests]
        assert any("bench-toxic.csv" in path for path in asked)
        assert not any("bench-hard.csv" in path or "bench.py" in path for path in asked)
        assert "the Hub has no data set 'someone/bnech'" in client.run("-c", code, "someone/bnech")[1]
        assert "no revision 'v9'" in client.run("-c", code, "someone/bench@v9")[1]
        assert json.dumps(ROWS) in client.run("-c", code, "someone/bench", HF_HUB_OFFLINE="1")[1]
        other = Client(hub, tmp_path / "empty")
        assert "the Hub cannot be reached" in other.run("-c", code, "someone/bench", HF_HUB_OFFLINE="1")[1]
