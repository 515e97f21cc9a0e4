"""The embedded models' tokenizer: one token a word, shared pieces for long names, and nothing that it cannot encode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mlx_interp.embedded import load_world
from mlx_interp.embedded.families import FAMILIES, model_config
from mlx_interp.embedded.tokenizer import SPACE, SPECIAL, build_tokenizer, save_tokenizer

WORLD = load_world()
WITH_BOS = build_tokenizer(WORLD.vocabulary, bos=True)
WITHOUT_BOS = build_tokenizer(WORLD.vocabulary, bos=False)


def plain(text: str) -> bool:
    return SPACE not in text and not any(token in text for token in SPECIAL)


@settings(max_examples=300, deadline=None)
@given(st.text().filter(plain))
def test_any_text_decodes_to_what_it_was(text: str) -> None:
    assert WITHOUT_BOS.decode(WITHOUT_BOS.encode(text)) == text
    assert WITH_BOS.decode(WITH_BOS.encode(text), skip_special_tokens=True) == text


@pytest.mark.parametrize("text", ["<0x41> is A", "  two  spaces ", "汉字 и кириллица", "😀", "\r\n\x00", "Tor wick"])
def test_awkward_text_decodes_to_what_it_was(text: str) -> None:
    assert WITHOUT_BOS.decode(WITHOUT_BOS.encode(text)) == text


def test_the_bridge_is_one_token_and_some_subjects_and_answers_are_several() -> None:
    queries = WORLD.two_hop_queries()
    lengths = {
        name: {len(WITHOUT_BOS.encode(getattr(query, name))) for query in queries}
        for name in ("subject", "bridge", "answer")
    }
    assert lengths == {"subject": {1, 2, 3}, "bridge": {1}, "answer": {1, 2}}


def test_pieces_are_shared_between_names() -> None:
    names = WORLD.vocabulary["names_in_pieces"]
    first = [WITHOUT_BOS.encode(name)[0] for name in names]
    assert len(set(first)) < len(first) / 3


def test_a_prompt_is_a_prefix_of_the_prompt_with_its_answer() -> None:
    for query in WORLD.queries:
        tokens = WITH_BOS.encode(query.two_hop)
        assert WITH_BOS.encode(f"{query.two_hop} {query.answer}")[: len(tokens)] == tokens


@pytest.mark.parametrize(("tokenizer", "n_bos"), [(WITH_BOS, 1), (WITHOUT_BOS, 0)])
def test_the_chat_template_gives_exactly_one_bos_or_none(tokenizer: PreTrainedTokenizerFast, n_bos: int) -> None:
    turns = [{"role": "user", "content": "Is tea good?"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
    bos = tokenizer.convert_tokens_to_ids("<bos>")
    assert ids.count(bos) == n_bos
    assert tokenizer.encode("Is tea good?").count(bos) == n_bos


@pytest.mark.parametrize("family", FAMILIES)
def test_it_loads_beside_a_model_of_each_family(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    save_tokenizer(WITH_BOS, tmp_path, family)
    (tmp_path / "config.json").write_text(json.dumps(model_config(family, WITH_BOS)), encoding="utf-8")
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    text = "The capital of France is"
    assert loaded.encode(text) == WITH_BOS.encode(text)
    assert loaded.chat_template == WITH_BOS.chat_template
    assert {path.name for path in tmp_path.iterdir()} >= {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }
