"""Configs of the first published checkpoint of families: `published/FAMILY.json`, as config.json has them.

Written down, not downloaded: sizes, RoPE, and all that means something; of parts that are no language model, their
type. The source of each is the config.json of the named repository on the Hub, for those of 2025 and 2026 as public
code that reads them quotes it. That they make the number of parameters which the model's card names is tested where
studies are planned from them (`tests/experiments/test_published_families.py`). No weights: a plan needs none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True)
class Published:
    """A checkpoint on the Hub."""

    hub_id: str
    billions: float
    """Parameters of its language model, in 10^9, as its card has them."""


PUBLISHED: dict[str, Published] = {
    "llama": Published("meta-llama/Llama-2-7b-hf", 6.74),
    "qwen2": Published("Qwen/Qwen1.5-7B", 7.72),
    "gemma2": Published("google/gemma-2-9b", 9.24),
    "mistral": Published("mistralai/Mistral-7B-v0.1", 7.24),
    "qwen3": Published("Qwen/Qwen3-8B-Base", 8.19),
    "gemma": Published("google/gemma-2b", 2.51),
    "phi3": Published("microsoft/Phi-3-mini-4k-instruct", 3.82),
    "granite": Published("ibm-granite/granite-3.0-2b-base", 2.53),
    "gemma3_text": Published("google/gemma-3-1b-pt", 1.0),
    "gemma3": Published("google/gemma-3-4b-pt", 3.88),
    "gpt2": Published("openai-community/gpt2", 0.124),
    "gpt_neox": Published("EleutherAI/gpt-neox-20b", 20.55),
    "phi": Published("microsoft/phi-1", 1.42),
    "olmo2": Published("allenai/OLMo-2-1124-7B", 7.3),
    "olmo3": Published("allenai/Olmo-3-1025-7B", 7.3),
    "smollm3": Published("HuggingFaceTB/SmolLM3-3B-Base", 3.08),
    "cohere": Published("CohereForAI/c4ai-command-r-v01", 35.0),
    "cohere2": Published("CohereForAI/c4ai-command-r7b-12-2024", 8.03),
    "gptj": Published("EleutherAI/gpt-j-6b", 6.05),
    "qwen3_moe": Published("Qwen/Qwen3-30B-A3B-Base", 30.5),
    "mixtral": Published("mistralai/Mixtral-8x7B-v0.1", 46.7),
    "olmoe": Published("allenai/OLMoE-1B-7B-0924", 6.92),
    "gpt_oss": Published("openai/gpt-oss-20b", 20.9),
    # named 123B; what is stored, both matrices of tokens included
    "ministral3": Published("mistralai/Devstral-2-123B-Instruct-2512", 125.0),
    "mistral3": Published("mistralai/Ministral-3-3B-Base-2512", 3.43),
    "qwen3_5": Published("Qwen/Qwen3.5-27B", 26.9),
    # The language model of the card's 5.1B, the rest is for pictures and sound; no checkpoint has it alone.
    "gemma4_text": Published("google/gemma-4-E2B", 4.63),
    "gemma4": Published("google/gemma-4-E2B", 4.63),
    "lfm2": Published("LiquidAI/LFM2-1.2B", 1.17),
    "deepseek_v2": Published("deepseek-ai/DeepSeek-V2-Lite", 15.7),
    "granitemoehybrid": Published("ibm-granite/granite-4.0-h-micro-base", 3.19),
}


def config_of(family: str) -> dict[str, Any]:
    """The config.json of a family's first published checkpoint."""
    config: dict[str, Any] = json.loads((FOLDER / f"{family}.json").read_text(encoding="utf-8"))
    return config
