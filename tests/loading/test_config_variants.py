"""Published forms of config.json: each loads and computes what transformers computes from the same folder."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.directions.orthogonalization import save_checkpoint
from tests.loading.checkpoints import write_tokenizer
from tests.loading.config_variants import GPT2, LAYOUTS, SIZES, VARIANTS, Variant

TOKENS = np.random.default_rng(0).integers(2, 64, size=24).tolist()


def reference(variant: Variant, folder: Path) -> np.ndarray:
    """Logits of transformers on a folder that is written here."""
    torch = pytest.importorskip("torch", reason="compares with transformers; `pip install torch` to run it")
    import transformers

    torch.manual_seed(0)
    sizes = GPT2 if variant.kind in ("GPT2", "GPTJ") else SIZES
    config = getattr(transformers, f"{variant.kind}Config")(**{**sizes, **variant.fields})
    causal = {
        "GPT2": "GPT2LMHeadModel",
        "Gemma3Text": "Gemma3ForCausalLM",
        "Qwen3_5Text": "Qwen3_5ForCausalLM",
        "Gemma4Text": "Gemma4ForCausalLM",
    }
    model = getattr(transformers, causal.get(variant.kind, f"{variant.kind}ForCausalLM"))(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    path = folder / "config.json"
    written = {key: value for key, value in json.loads(path.read_text()).items() if key not in variant.without}
    path.write_text(json.dumps({**written, **variant.written}))
    read = {"attn_implementation": "eager", "dtype": torch.float32, "trust_remote_code": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "tie_word_embeddings" in variant.without:  # a class's default is no tie, and a folder's missing head says it
            read["tie_word_embeddings"] = bool(variant.fields.get("tie_word_embeddings"))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, **read).eval()
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].numpy()


def logits_of(model: mi.Model, tokens: list[int]) -> np.ndarray:
    return np.asarray(model.run([tokens], logits="all").logits)[0]


def assert_equal(found: np.ndarray, expected: np.ndarray, kind: str) -> None:
    bound = 1e-3 if kind == "Gemma" else 1e-4  # mlx-lm's GELU for Gemma: docs/differences.md
    assert np.abs(found - expected).max() < bound * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*RoPE of type")
@pytest.mark.parametrize("name", VARIANTS)
def test_a_published_config_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    expected = reference(variant, tmp_path)
    model = mi.load(tmp_path)
    assert_equal(logits_of(model, TOKENS), expected, variant.kind)
    assert set(variant.ignored) <= set(model.ignored_config)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_base_is_read_from_the_layouts_of_transformers_4_and_5(kind: str, tmp_path: Path) -> None:
    new = Variant(kind, {**LAYOUTS[kind], "rope_parameters": {"rope_type": "default", "rope_theta": 345.0}})
    older = Variant(kind, LAYOUTS[kind], {"rope_theta": 345.0, "rope_scaling": None}, ("rope_parameters", "dtype"))
    for number, variant in enumerate((new, older)):
        folder = tmp_path / str(number)
        expected = reference(variant, folder)
        assert_equal(logits_of(mi.load(folder), TOKENS), expected, kind)


def test_a_saved_checkpoint_means_what_it_was_loaded_as(tmp_path: Path) -> None:
    reference(VARIANTS["phi 3.5, short of its original length"], tmp_path / "first")
    with pytest.warns(RuntimeWarning, match="RoPE of type longrope is computed as transformers does"):
        model = mi.load(tmp_path / "first")
    saved = save_checkpoint(model, tmp_path / "second")
    with pytest.warns(RuntimeWarning, match="longrope"):
        again = mi.load(saved)
    assert np.array_equal(logits_of(again, TOKENS), logits_of(model, TOKENS))
    assert again.ignored_config == model.ignored_config


def test_at_least_twenty_five_variants_are_tried() -> None:
    assert len(VARIANTS) >= 25


def test_keys_inside_a_rope_that_nothing_reads_are_listed(tmp_path: Path) -> None:
    reference(VARIANTS["llama, yarn with attention factor"], tmp_path)
    with pytest.warns(RuntimeWarning, match="yarn"):
        assert "rope_parameters.finetuned" in mi.load(tmp_path).ignored_config
