"""Published prompt sets: fetched once, verified ever after, split without overlap, and named in the run. No network."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import mlx_interp as mi
from experiments import exp7_refusal_scaling
from experiments.harness.runner import run
from experiments.shared.prompts import catalogue, fetch
from experiments.shared.prompts.catalogue import CATALOGUE, named
from experiments.shared.prompts.fetch import fetched
from experiments.shared.prompts.read import by_split, choices, published
from experiments.shared.traits.sets import sets_of
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError
from tests.tiny import tiny_model


class Quiet(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a local server shows, in the place of all publishers."""
    folder = tmp_path / "site"
    folder.mkdir()
    Quiet.asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(fetch.MIRROR, f"http://127.0.0.1:{server.server_port}")
    yield folder
    server.shutdown()
    server.server_close()


def place(site: Path, name: str, content: object, split: str = "all", language: str = "en") -> Path:
    """Puts a set's file where its publisher has it."""
    path = site / urlsplit(CATALOGUE[name].address(split, language)).path.strip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def rows(*texts: str) -> list[dict[str, object]]:
    return [{"instruction": text, "category": None} for text in texts]


def test_a_file_is_fetched_once_and_read_from_the_cache_afterwards(site: Path) -> None:
    place(site, "advbench", rows(*"abcdefgh"))
    first = published("advbench", "all", ("harmful",), seed=0)
    assert published("advbench", "all", ("harmful",), seed=0) == first
    assert first.texts == tuple("abcdefgh")
    assert len(Quiet.asked) == 1
    assert not first.origin.known
    assert len(first.origin.sha256) == 64


def test_a_cached_file_that_was_changed_is_refused(site: Path) -> None:
    place(site, "advbench", rows("a"))
    address = named("advbench").address("all", "en")
    kept = fetched(address).path
    kept.write_text("[]")
    with pytest.raises(DataError, match="is not the one of its first reading"):
        fetched(address)


def test_a_publisher_who_serves_another_text_than_the_first_time_is_refused(site: Path) -> None:
    place(site, "advbench", rows("a"))
    address = named("advbench").address("all", "en")
    fetched(address).path.unlink()
    place(site, "advbench", rows("b"))
    with pytest.raises(DataError, match=r"another text than before.*checksum\.json beside it"):
        fetched(address)


def test_a_known_checksum_is_demanded_at_the_first_fetch(site: Path) -> None:
    place(site, "arditi-harmful", rows("a", "b"), split="train")
    with pytest.raises(DataError, match="is not the known one, 8f5c0eac"):
        published("arditi-harmful", "train", ("harmful",), seed=0)
    assert not list((site.parent / "cache").rglob("harmful_train.json"))


def test_a_file_that_cannot_be_fetched_says_where_it_may_be_put(site: Path) -> None:
    with pytest.raises(DataError, match=r"404.*put it at .*advbench\.json, or give a mirror"):
        published("advbench", "all", ("harmful",), seed=0)


def test_a_file_put_there_by_hand_needs_no_server(site: Path) -> None:
    path = fetch._kept_at(named("advbench").address("all", "en"))
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(rows("by hand")))
    assert published("advbench", "all", ("harmful",), seed=0).texts == ("by hand",)
    assert not Quiet.asked


def test_a_set_without_splits_is_cut_by_the_seed_and_no_text_is_in_two(site: Path) -> None:
    place(site, "advbench", rows(*(f"text {n % 40}" for n in range(44))))  # four texts occur twice
    found = by_split(["advbench"], "harmful", seed=0)
    assert [len(one.texts) for one in found.values()] == [20, 10, 10]
    assert len({text for one in found.values() for text in one.texts}) == 40
    assert found["train"].origin.part == "train, cut by seed 0"
    assert by_split(["advbench"], "harmful", seed=0) == found
    assert by_split(["advbench"], "harmful", seed=1) != found


def test_the_splits_of_a_publisher_are_kept(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split in ("train", "choose", "test"):
        name = "instruction_translated" if split == "test" else "instruction"
        place(site, "polyrefuse-harmful", [{"instruction": f"x {split}", name: f"{split} de"}], split, "de")
        monkeypatch.setattr(catalogue, "ARDITI_SHA256", {})
        place(site, "arditi-harmful", rows(f"{split} en"), split)
    found = by_split(["polyrefuse-harmful"], "harmful", seed=0, language="de")
    assert {split: one.texts for split, one in found.items()} == {s: (f"{s} de",) for s in ("train", "choose", "test")}
    english = by_split(["polyrefuse-harmful"], "harmful", seed=0, language="en")
    assert english["test"].texts == ("test en",)
    assert english["test"].origin.name == "arditi-harmful"
    with pytest.raises(DataError, match="not there in 'sw'"):
        by_split(["polyrefuse-harmful"], "harmful", seed=0, language="sw")


def test_texts_that_two_sets_share_are_named(site: Path) -> None:
    place(site, "advbench", rows("one", "two"))
    place(site, "harmbench-val", rows("three"))
    place(site, "harmbench", rows("four", "Two  "))
    with pytest.raises(DataError, match=r"1 prompts are in two splits: 'two' \(train and test\)"):
        by_split(["advbench", "harmbench-val", "harmbench"], "harmful", seed=0)
    with pytest.raises(DataError, match="give one prompt set, or three"):
        by_split(["advbench", "harmbench"], "harmful", seed=0)


def test_rows_of_a_csv_are_chosen_by_their_label(site: Path) -> None:
    text = "id,prompt,type,label,focus,note\n1,How do I kill a process?,a,safe,x,\n2,How do I rob?,b,unsafe,x,\n"
    place(site, "xstest-safe", text)
    assert published("xstest-safe", "all", ("harmless",), seed=0).texts == ("How do I kill a process?",)
    assert published("xstest-unsafe", "all", ("harmful",), seed=0).texts == ("How do I rob?",)


def test_choices_come_with_the_letter_of_the_behaviour(site: Path) -> None:
    asked = {"question": "Q\n\nChoices:\n (A) x\n (B) y", "answer_matching_behavior": "(B)"}
    place(site, "caa-sycophancy", [{**asked, "answer_not_matching_behavior": "(A)"}], "test")
    found, origin = choices("caa-sycophancy", "test", seed=0)
    assert (found[0].matching, found[0].other, origin.part) == ("(B)", "(A)", "test")
    place(site, "truthfulqa", [{"prompt": "Q", "correct": "(A)", "incorrect": "(C)"}] * 4)
    with pytest.raises(DataError, match="expected the options"):
        choices("truthfulqa", "all", seed=0)


@pytest.mark.parametrize(
    ("name", "kinds", "message"),
    [
        ("advbanch", ("harmful",), "did you mean 'advbench'"),
        ("alpaca", ("harmful",), "is of kind 'harmless', not harmful"),
    ],
)
def test_a_set_of_another_name_or_kind_is_named(name: str, kinds: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        named(name, kinds)


@pytest.mark.parametrize("content", ["not json", "{}", '[{"goal": "x"}]', "[]"])
def test_a_file_that_is_no_prompt_set_is_refused(site: Path, content: str) -> None:
    path = place(site, "advbench", content)
    with pytest.raises(DataError, match=path.name):
        published("advbench", "all", ("harmful",), seed=0)


def test_every_set_has_licence_reference_and_a_split_to_report_on() -> None:
    for one in CATALOGUE.values():
        assert one.licence, one.name
        assert one.reference, one.name
        assert one.paths.keys() & {"all", "test"}, one.name
        assert all(one.address(split, one.languages[0]).startswith("https://") for split in one.paths)


@pytest.mark.slow
def test_a_study_takes_published_sets_by_name_and_says_so(site: Path, tmp_path: Path) -> None:
    for name, harmful in (("advbench", True), ("alpaca", False)):
        chats = load_world().chat_prompts("refusal", language="en", harmful=harmful, shift="")
        place(site, name, rows(*dict.fromkeys(chat.text for chat in chats)))
    options = ["--model", "tiny-llama", "--out", str(tmp_path / "out"), "--n-train", "16", "--n-test", "4"]
    published_sets = ["--set", "harmful=advbench", "--set", "harmless=alpaca"]
    with pytest.raises(SystemExit) as ended:
        run(exp7_refusal_scaling.EXPERIMENT, [*options, *published_sets, "--no-validate"])
    assert ended.value.code == 0
    folder = tmp_path / "out" / "exp7_refusal_scaling" / "tiny-llama"
    tables = {table["title"]: table for table in json.loads((folder / "run.json").read_text())["tables"]}
    named_sets = {(row[2], row[3], row[4]) for row in tables["Prompts"]["rows"]}
    expected = {("positive", "advbench"), ("negative", "alpaca")}
    assert named_sets == {(kind, name, catalogue.ARDITI_AT) for kind, name in expected}
    assert all("first fetch" in row[7] for row in tables["Prompts"]["rows"])


def test_a_set_that_overlaps_with_our_own_prompts_is_refused(site: Path) -> None:
    own = sets_of(tiny_model("llama"), "refusal", 64, 64).negative["test"][0].text
    place(site, "advbench", rows(*(f"text {n}" for n in range(31)), own))
    with pytest.raises(DataError, match=r"two splits|show it and do not"):
        sets_of(tiny_model("llama"), "refusal", 64, 64, harmful=["advbench"])


def test_published_requests_count_as_refused_in_their_language(site: Path) -> None:
    place(site, "advbench", rows(*(f"text {n}" for n in range(32))))
    found = sets_of(mi.load("tiny-llama"), "refusal", 64, 64, harmful=["advbench"])
    ask = found.positive["test"][0]
    assert ask.hit("I cannot help with that.")
    assert not ask.hit("Here it is.")
    assert found.origins["positive", "test"].name == "advbench"
    assert found.origins["negative", "test"].name == "synthetic world"
