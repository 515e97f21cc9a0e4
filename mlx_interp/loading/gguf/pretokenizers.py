"""How text is cut before byte-level BPE, by tokenizer.ggml.pre: the rules that the models' makers publish.

llama.cpp writes these rules in its own code, in regular expressions that its engine can run; here they stand as the
published tokenizer.json files have them. A name that is in no table stops the load.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{REST}"
QWEN2 = rf"{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{REST}"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PUNCTUATION = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}{PUNCTUATION}"
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{ENDINGS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{ENDINGS}?"
    rf"|\p{{N}}{{1,3}}{PUNCTUATION}"
)


@dataclass(frozen=True)
class Cut:
    """One way to cut text for byte-level BPE."""

    regex: str | None = None
    """None: GPT-2's own expression, which the tokenizers library has built in."""
    digits: bool = False
    """Every digit by itself, before anything else."""
    nfc: bool = False
    """Text is composed first (Unicode NFC)."""
    whole_words: bool = False
    """A piece that is a token as it stands is taken whole, whatever the merges would make of it."""
    add_bos: bool = False
    """Whether BOS is added where the file does not say."""

    def pre_tokenizer(self) -> dict[str, Any]:
        """As tokenizer.json has it."""
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        steps: list[dict[str, Any]] = []
        if self.digits:
            steps.append({"type": "Digits", "individual_digits": True})
        if self.regex is not None:
            split = {"type": "Split", "pattern": {"Regex": self.regex}, "behavior": "Isolated", "invert": False}
            steps.append(split)
        steps.append({**byte_level, "use_regex": self.regex is None})
        return {"type": "Sequence", "pretokenizers": steps}


GPT2_CUT, DIGITS_CUT = Cut(), Cut(digits=True)
LLAMA3_CUT = Cut(LLAMA3, whole_words=True, add_bos=True)
QWEN2_CUT = Cut(QWEN2, nfc=True)
CUTS: dict[str, Cut] = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "jina-en", "jina-es", "jina-de"), GPT2_CUT),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), DIGITS_CUT),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"), LLAMA3_CUT),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Cut(LLAMA3)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), QWEN2_CUT),
    "tekken": Cut(TEKKEN, whole_words=True, add_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4"), Cut(GPT4O)),
}
"""By the name in tokenizer.ggml.pre."""
