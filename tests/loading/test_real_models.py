"""Real models in GGUF against transformers' own reading of the same file. Needs the packages: `make real`."""

from __future__ import annotations

import importlib.util
import itertools
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

import mlx_interp as mi
from mlx_interp.loading.gguf import read_gguf
from mlx_interp.loading.packaged import PACKAGED_MODELS, packaged_file
from tests.loading.gguf_files import tokenizer_of_transformers

SEEDS = [
    *("The quick brown fox jumps over the lazy dog.", "It's I'M they'll we've", "  spaces   around  ", "a\n\n\tb\r\nc"),
    *(
        "Привет, как дела?",
        "你好，世界！",
        "こんにちは、カタカナ",
        "안녕하세요 세계",
        "مرحبا بالعالم",
        "שלום עולם",
        "नमस्ते दुनिया",
    ),
    *(
        "สวัสดีชาวโลก",
        "Γειά σου",
        "Zażółć gęślą jaźń",
        "🙂 👩‍👩‍👧 🇩🇪",
        "def f(x):\n    return x ** 2",
        "<div class='x'>&amp;</div>",
    ),
    *("https://example.org/a?b=c", "{'a': [None]}", "λx. ∑ ≤ ∞", "...!!!---", "CamelCase snake_case"),
    *("The year 1984, 3.14", "x1y22 007", "½ ² ٣٤ १२३"),
]
TEXTS = [*SEEDS, *(f"{a}{b}" for a, b in itertools.islice(itertools.permutations(SEEDS, 2), 5, 600, 3))][:200]
installed = pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.skipif(not model.installed(), reason=f"{name} is not installed: make real"),
        )
        for name, model in PACKAGED_MODELS.items()
    ],
)


def file_of(name: str) -> Path:
    return packaged_file(PACKAGED_MODELS[name])


@pytest.mark.slow
@installed
def test_ids_of_200_texts_are_those_of_transformers(name: str) -> None:
    """Digits aside for SmolLM2: its makers cut them one by one, transformers' reading of the file does not."""
    path = file_of(name)
    theirs = tokenizer_of_transformers(path)
    own = AutoTokenizer.from_pretrained(read_gguf(path).tokenizer_folder)
    assert len(set(TEXTS)) == 200
    for text in TEXTS:
        ids = own.encode(text)
        assert own.decode(ids, skip_special_tokens=True) == text
        if name == "smollm2-135m" and any(unicodedata.category(character).startswith("N") for character in text):
            spelled = [own.decode([token]) for token in ids]
            assert not [token for token in spelled if re.search(r"\d\d", token)]
        else:
            assert ids == theirs.encode(text), text


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("torch", "accelerate"))), reason="needs torch and accelerate: .[parity]"
)
@installed
def test_logits_are_those_of_transformers(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    path = file_of(name)
    model = mi.load(name)
    tokens = model.prompt(" ".join(TEXTS[:4])).tokens[:40]
    found = np.array(model.run(tokens, logits="all").logits)[0]
    theirs: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    if name == "gemma-3-270m":  # mlx-lm rounds the embedding's scale: Family.unread says so
        scale = theirs.model.embed_tokens.embed_scale
        scale.copy_(scale.to(torch.bfloat16))
    with torch.no_grad():
        wanted = theirs(torch.tensor([tokens])).logits[0].numpy()
    assert np.abs(found - wanted).max() / np.abs(wanted).max() < 1e-5
