"""Names of models: one table of short names, and what else a name can be (embedded, local folder, Hub id)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlx_interp.errors import UnknownModel, nearest
from mlx_interp.loading.packaged import PACKAGED_MODELS

EMBEDDED_ROOT = Path(__file__).resolve().parents[1] / "embedded" / "checkpoints"
EMBEDDED = ("tiny-llama", "tiny-gemma2", "tiny-qwen2", "tiny-mistral", "tiny-gpt2")
DEFAULT_MODELS = EMBEDDED[:3]  # what an experiment or a validation without --model runs on
"""Models that ship inside the package; they need no network."""


@dataclass(frozen=True)
class KnownModel:
    """One line of the table."""

    name: str
    hub_id: str
    """Repository on the Hub; 4-bit and instruction-tuned unless the name's line says otherwise."""
    n_layers: int
    billions: float
    """Parameters, in 10^9; memory follows from it."""

    @property
    def bits(self) -> float:
        """Bits per weight of `hub_id`: 4-bit words with a float16 scale and bias per 64 of them are 4.5.

        MXFP4 has experts in 4-bit words with an 8-bit scale per 32, and all else in 8 bits.
        """
        return 4.5 if self.hub_id.endswith("-4bit") else 4.6 if self.hub_id.endswith("-MXFP4-Q8") else 16

    def gigabytes(self, bits: float | None = None) -> float:
        """Memory of the weights, in 10^9 bytes, at `bits` per weight (default: as stored)."""
        return self.billions * (bits or self.bits) / 8


def _community(name: str, repository: str, n_layers: int, billions: float) -> KnownModel:
    return KnownModel(name, f"mlx-community/{repository}", n_layers, billions)


MODELS: dict[str, KnownModel] = {
    model.name: model
    for model in (
        _community("gemma-2-2b", "gemma-2-2b-it-4bit", 26, 2.6),
        _community("gemma-2-9b", "gemma-2-9b-it-4bit", 42, 9.2),
        _community("gemma-2-27b", "gemma-2-27b-it-4bit", 46, 27.2),
        KnownModel("gemma-3-270m", "google/gemma-3-270m", 18, 0.27),  # base model; gated, bfloat16
        _community("gemma-3-270m-it", "gemma-3-270m-it-4bit", 18, 0.27),
        _community("gemma-3-1b", "gemma-3-1b-it-4bit", 26, 1.0),
        _community("gemma-3-4b", "gemma-3-text-4b-it-4bit", 34, 3.9),
        _community("gemma-3-12b", "gemma-3-text-12b-it-4bit", 48, 11.8),
        _community("gemma-3-27b", "gemma-3-text-27b-it-4bit", 62, 27.0),
        _community("llama-3.2-1b", "Llama-3.2-1B-Instruct-4bit", 16, 1.24),
        _community("llama-3.2-3b", "Llama-3.2-3B-Instruct-4bit", 28, 3.2),
        _community("llama-3.1-8b", "Llama-3.1-8B-Instruct-4bit", 32, 8.0),
        KnownModel("llama-2-7b", "meta-llama/Llama-2-7b-chat-hf", 32, 6.7),  # gated, float16
        _community("qwen-2.5-0.5b", "Qwen2.5-0.5B-Instruct-4bit", 24, 0.49),
        _community("qwen-2.5-1.5b", "Qwen2.5-1.5B-Instruct-4bit", 28, 1.54),
        _community("qwen-2.5-3b", "Qwen2.5-3B-Instruct-4bit", 36, 3.1),
        _community("qwen-2.5-7b", "Qwen2.5-7B-Instruct-4bit", 28, 7.6),
        _community("qwen-2.5-14b", "Qwen2.5-14B-Instruct-4bit", 48, 14.8),
        _community("qwen-2.5-32b", "Qwen2.5-32B-Instruct-4bit", 64, 32.8),
        _community("qwen-3-0.6b", "Qwen3-0.6B-4bit", 28, 0.6),
        _community("qwen-3-1.7b", "Qwen3-1.7B-4bit", 28, 1.7),
        _community("qwen-3-4b", "Qwen3-4B-4bit", 36, 4.0),
        _community("qwen-3-8b", "Qwen3-8B-4bit", 36, 8.2),
        _community("qwen-3-14b", "Qwen3-14B-4bit", 40, 14.8),
        _community("mistral-7b", "Mistral-7B-Instruct-v0.3-4bit", 32, 7.2),
        _community("phi-3-mini", "Phi-3-mini-4k-instruct-4bit", 32, 3.8),
        KnownModel("phi-2", "microsoft/phi-2", 32, 2.8),  # base model, float16
        KnownModel("pythia-160m", "EleutherAI/pythia-160m", 12, 0.16),  # base models, float16
        KnownModel("pythia-410m", "EleutherAI/pythia-410m", 24, 0.41),
        KnownModel("pythia-1.4b", "EleutherAI/pythia-1.4b", 24, 1.4),
        KnownModel("pythia-2.8b", "EleutherAI/pythia-2.8b", 32, 2.8),
        KnownModel("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", 30, 0.135),  # bfloat16
        KnownModel("gpt2", "openai-community/gpt2", 12, 0.12),  # base models, float32
        KnownModel("gpt2-medium", "openai-community/gpt2-medium", 24, 0.35),
        KnownModel("gpt2-xl", "openai-community/gpt2-xl", 48, 1.56),
        # As their makers publish them, bfloat16; of mixtures of experts all parameters, of which a token uses a part.
        KnownModel("olmo-2-7b", "allenai/OLMo-2-1124-7B-Instruct", 32, 7.3),
        KnownModel("smollm3-3b", "HuggingFaceTB/SmolLM3-3B", 36, 3.08),
        KnownModel("olmoe-1b-7b", "allenai/OLMoE-1B-7B-0924-Instruct", 16, 6.92),
        _community("qwen-3-30b-a3b", "Qwen3-30B-A3B-4bit", 48, 30.5),
        KnownModel("command-r7b", "CohereForAI/c4ai-command-r7b-12-2024", 32, 8.03),
        KnownModel("gpt-j-6b", "EleutherAI/gpt-j-6b", 28, 6.05),  # base models
        KnownModel("deepseek-v2-lite", "deepseek-ai/DeepSeek-V2-Lite-Chat", 27, 15.7),
        _community("gpt-oss-20b", "gpt-oss-20b-MXFP4-Q8", 24, 20.9),
        KnownModel("ministral-3-3b", "mistralai/Ministral-3-3B-Instruct-2512-BF16", 26, 3.43),
        KnownModel("qwen-3.5-0.8b", "Qwen/Qwen3.5-0.8B", 24, 0.75),
        KnownModel("qwen-3.5-4b", "Qwen/Qwen3.5-4B", 32, 4.2),
        KnownModel("gemma-4-e2b", "google/gemma-4-E2B-it", 35, 4.63),
        KnownModel("gemma-4-e4b", "google/gemma-4-E4B-it", 42, 7.46),
        KnownModel("granite-4-h-micro", "ibm-granite/granite-4.0-h-micro", 40, 3.19),
        KnownModel("lfm2.5-1.2b", "LiquidAI/LFM2.5-1.2B-Instruct", 16, 1.17),
        KnownModel("olmo-3-7b", "allenai/Olmo-3-1025-7B", 32, 7.3),
        # Base models of what is instructed above, as their makers publish them: bfloat16, some gated.
        KnownModel("gemma-2-2b-base", "google/gemma-2-2b", 26, 2.6),
        KnownModel("gemma-2-9b-base", "google/gemma-2-9b", 42, 9.2),
        KnownModel("gemma-3-1b-base", "google/gemma-3-1b-pt", 26, 1.0),
        KnownModel("llama-3.2-1b-base", "meta-llama/Llama-3.2-1B", 16, 1.24),
        KnownModel("llama-3.2-3b-base", "meta-llama/Llama-3.2-3B", 28, 3.2),
        KnownModel("llama-3.1-8b-base", "meta-llama/Llama-3.1-8B", 32, 8.0),
        KnownModel("llama-2-7b-base", "meta-llama/Llama-2-7b-hf", 32, 6.7),
        KnownModel("qwen-2.5-0.5b-base", "Qwen/Qwen2.5-0.5B", 24, 0.49),
        KnownModel("qwen-2.5-1.5b-base", "Qwen/Qwen2.5-1.5B", 28, 1.54),
        KnownModel("qwen-2.5-3b-base", "Qwen/Qwen2.5-3B", 36, 3.1),
        KnownModel("qwen-2.5-7b-base", "Qwen/Qwen2.5-7B", 28, 7.6),
        KnownModel("qwen-3-0.6b-base", "Qwen/Qwen3-0.6B-Base", 28, 0.6),
        KnownModel("qwen-3-1.7b-base", "Qwen/Qwen3-1.7B-Base", 28, 1.7),
        KnownModel("qwen-3-4b-base", "Qwen/Qwen3-4B-Base", 36, 4.0),
        KnownModel("qwen-3-8b-base", "Qwen/Qwen3-8B-Base", 36, 8.2),
        KnownModel("mistral-7b-base", "mistralai/Mistral-7B-v0.3", 32, 7.2),
        KnownModel("olmo-2-7b-base", "allenai/OLMo-2-1124-7B", 32, 7.3),
        KnownModel("smollm3-3b-base", "HuggingFaceTB/SmolLM3-3B-Base", 36, 3.08),
        KnownModel("olmoe-1b-7b-base", "allenai/OLMoE-1B-7B-0924", 16, 6.92),
        KnownModel("ministral-3-3b-base", "mistralai/Ministral-3-3B-Base-2512", 26, 3.43),
        KnownModel("qwen-3.5-0.8b-base", "Qwen/Qwen3.5-0.8B-Base", 24, 0.75),
        KnownModel("qwen-3.5-4b-base", "Qwen/Qwen3.5-4B-Base", 32, 4.2),
        KnownModel("gemma-4-e2b-base", "google/gemma-4-E2B", 35, 4.63),
        KnownModel("gemma-4-e4b-base", "google/gemma-4-E4B", 42, 7.46),
        KnownModel("granite-4-h-micro-base", "ibm-granite/granite-4.0-h-micro-base", 40, 3.19),
        KnownModel("lfm2.5-1.2b-base", "LiquidAI/LFM2.5-1.2B-Base", 16, 1.17),
        KnownModel("deepseek-v2-lite-base", "deepseek-ai/DeepSeek-V2-Lite", 27, 15.7),
        KnownModel("smollm2-135m-base", "HuggingFaceTB/SmolLM2-135M", 30, 0.135),
    )
}

VARIANTS: dict[str, float] = {"4bit": 4.5, "8bit": 8.5, "bf16": 16}
"""Precisions that `name:variant` may ask for, with their bits per weight."""


@dataclass(frozen=True)
class Source:
    """Where a name leads."""

    kind: Literal["embedded", "folder", "gguf", "package", "hub"]
    name: str
    """As given, for messages and result folders."""
    model_id: str
    """The Hub id, the embedded name, the name of a package's file, or the path of the folder or GGUF file."""
    path: Path | None = None
    """The folder or GGUF file, where the kind alone decides it."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    known: KnownModel | None = None
    bits: float | None = None
    """Bits per weight where the table tells."""


def resolve(name: str | Path) -> Source:
    """What a name means: an embedded model, a short name (`gemma-2-9b`, `gemma-2-9b:8bit`), a folder, a GGUF file,
    or a Hub id. A short name whose model is installed as a package is that package's.

    `@revision` pins a branch, tag or commit of the Hub. Nothing is read or downloaded here.
    Raises UnknownModel with the nearest names.
    """
    text = str(name).strip()
    if text in EMBEDDED:
        return Source("embedded", text, text, EMBEDDED_ROOT / text)
    if text and Path(text).expanduser().is_dir():
        folder = Path(text).expanduser().resolve()
        return Source("folder", folder.name, str(folder), folder)
    if text.lower().endswith(".gguf"):
        return gguf_file(text)
    base, _, revision = text.partition("@")
    base, _, variant = base.partition(":")
    if base in MODELS:
        known = MODELS[base]
        packaged = PACKAGED_MODELS.get(base)
        if packaged and text == base and packaged.installed():
            return Source("package", base, packaged.file, known=known)
        hub_id, bits = variant_of(known, variant)
        return Source("hub", text, hub_id, revision=revision or None, known=known, bits=bits)
    if not variant and re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not base.startswith("."):
        return Source("hub", text, base, revision=revision or None)
    raise UnknownModel(
        f"no model {text!r}: {nearest(base, [*EMBEDDED, *MODELS])}give an embedded model ({', '.join(EMBEDDED)}), "
        "a short name (`python -m mlx_interp models` lists them), a Hub id (owner/name), an existing folder, or a "
        "GGUF file (model.gguf)"
    )


def gguf_file(text: str) -> Source:
    """A GGUF file, called by its name without the ending. Raises UnknownModel for one that is not there."""
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise UnknownModel(f"no GGUF file {text!r}: give the path of one that is there")
    return Source("gguf", path.stem, str(path), path)


def variant_of(known: KnownModel, variant: str) -> tuple[str, float]:
    """Hub id and bits per weight of a table line in another precision. Raises UnknownModel if it has no such one."""
    if not variant:
        return known.hub_id, known.bits
    if not known.hub_id.endswith("-4bit") or variant not in VARIANTS:
        offered = ", ".join(VARIANTS) if known.hub_id.endswith("-4bit") else "none"
        raise UnknownModel(
            f"no variant {variant!r} of {known.name}: {nearest(variant, VARIANTS)}variants are {offered}"
        )
    return known.hub_id.removesuffix("4bit") + variant, VARIANTS[variant]
