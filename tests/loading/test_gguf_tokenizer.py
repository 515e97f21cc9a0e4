"""Tokenizers of GGUF files against transformers' own reading of them, and the rules that it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mlx_interp.loading.gguf import read_gguf
from tests.loading.gguf_files import N_TOKENS, byte_level, sentencepiece, tokenizer_of_transformers, write_gguf

TEXTS = [
    *("the theme of 123 sets", "a\n\n\tb  c   d", "  spaces first and last  ", "It's I'M they'll", "x1y22z333 4444"),
    *(
        "Привет, мир",
        "你好，世界 123",
        "مرحبا بالعالم",
        "שלום",
        "नमस्ते १२३",
        "🙂👩‍👩‍👧 ok",
        "def f(x):\r\n    return x**2",
    ),
    *("{'a': [1, 2]} != \"b\"", "3.14e-10", "\u00a0nbsp\u2003em", "", " ", "\n"),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_INTERP_CACHE", str(tmp_path / "cache"))


def ours(path: Path) -> Any:
    return AutoTokenizer.from_pretrained(read_gguf(path).tokenizer_folder)


def written(tmp_path: Path, tokenizer: dict[str, Any], family: str = "qwen2") -> Path:
    return write_gguf(tmp_path / "small.gguf", family, tokenizer=tokenizer)


@pytest.mark.parametrize("pre", ["qwen2", "gpt-2", "llama-bpe", "tekken", "gpt-4o"])
def test_byte_level_ids_are_those_of_transformers(pre: str, tmp_path: Path) -> None:
    path = written(tmp_path, {**byte_level(pre), "add_bos_token": False})
    theirs = tokenizer_of_transformers(path)
    own = ours(path)
    assert [own.encode(text) for text in TEXTS] == [theirs.encode(text) for text in TEXTS]


@pytest.mark.parametrize("family", ["gemma2", "phi3"])
def test_sentencepiece_ids_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    path = written(tmp_path, sentencepiece(add_space_prefix=family == "phi3", add_bos_token=True), family)
    theirs = tokenizer_of_transformers(path)
    own = ours(path)
    for text in filter(None, TEXTS):
        assert own.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False), text


def test_digits_of_smollm_stand_one_by_one(tmp_path: Path) -> None:
    """Published so for SmolLM2; transformers 5.23 reads the file as GPT-2's and merges them."""
    path = written(tmp_path, byte_level("smollm"))
    assert ours(path).convert_ids_to_tokens(ours(path).encode("12 123")) == ["1", "2", "Ġ", "1", "2", "3"]
    other = written(tmp_path, byte_level("gpt-2"))
    assert ours(other).convert_ids_to_tokens(ours(other).encode("12 123")) == ["12", "Ġ", "123"]


def test_qwen_composes_letters_and_accents_first(tmp_path: Path) -> None:
    """Published so (Unicode NFC); neither llama.cpp nor transformers' reading of the file does."""
    own = ours(written(tmp_path, byte_level("qwen2")))
    assert own.encode("e\u0301") == own.encode("\u00e9")


def test_a_space_before_a_text_is_kept_beside_the_prefix(tmp_path: Path) -> None:
    """Llama 2's published rule and llama.cpp's: a prefix always; transformers leaves it out before a space."""
    own = ours(written(tmp_path, sentencepiece(), "llama"))
    assert own.convert_ids_to_tokens(own.encode("the", add_special_tokens=False)) == ["▁the"]
    assert own.convert_ids_to_tokens(own.encode(" the", add_special_tokens=False)) == ["▁", "▁the"]
    assert own.decode(own.encode(" the", add_special_tokens=False)) == " the"


@pytest.mark.parametrize(
    ("tokenizer", "family", "framed"),
    [
        (byte_level("qwen2"), "qwen2", (False, False)),
        (byte_level("llama-bpe"), "qwen2", (True, False)),  # llama.cpp adds BOS to these unless the file forbids it
        ({**byte_level("llama-bpe"), "add_bos_token": False}, "qwen2", (False, False)),
        ({**byte_level("qwen2"), "add_bos_token": True, "add_eos_token": True}, "qwen2", (True, True)),
        (sentencepiece(), "llama", (True, False)),
        (sentencepiece(add_bos_token=False, add_eos_token=True), "llama", (False, True)),
    ],
)
def test_bos_and_eos_are_added_where_the_file_asks(
    tokenizer: dict[str, Any], family: str, framed: tuple[bool, bool], tmp_path: Path
) -> None:
    own = ours(written(tmp_path, tokenizer, family))
    ids = own.encode("the")
    assert (ids[0] == tokenizer["bos_token_id"], ids[-1] == tokenizer["eos_token_id"]) == framed


def test_template_and_every_closing_token_come_from_the_file(tmp_path: Path) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    path = written(tmp_path, {**byte_level("qwen2"), "chat_template": template})
    own = ours(path)
    chat = own.apply_chat_template([{"role": "user", "content": "the"}], tokenize=False)
    assert chat == "<|im_start|>the<|im_end|>"
    assert own.encode(chat, add_special_tokens=False) == [N_TOKENS - 3, own.convert_tokens_to_ids("the"), N_TOKENS - 2]
    assert read_gguf(path).config["eos_token_id"] == [N_TOKENS - 2, N_TOKENS - 1]  # <|im_end|>, <|endoftext|>
