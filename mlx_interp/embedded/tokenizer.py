"""The embedded models' tokenizer: words, pieces of names, characters, bytes; in the ordinary Hub layout.

A Unigram model with a given vocabulary. Words of the world are one token; names outside it fall into pieces; any
other text into characters and UTF-8 bytes, so that everything encodes and, but for "▁" itself (the mark that stands
for a space, as in Llama 2), decodes to what it was.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from mlx_interp.deferred import tokenizers, transformers

SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<user>", "<assistant>", "<end_of_turn>")
PAD, UNK, BOS, EOS, USER, ASSISTANT, END_OF_TURN = SPECIAL
SPACE = "▁"
PUNCTUATION = (".", ",", "?", "!", ":", ";", "。", "？", "，", "->", "=", "¿")
ACCENTED = "áéíóúñüöäßàâçèêëîïôùûœì"

# Scores are log-probabilities of a Unigram model: the segmentation with the greatest sum wins.
# Bytes stand for characters outside the vocabulary and must never win over the text "<0x41>" spelt out.
WORD, PIECE, CHARACTER, BYTE = -1.0, -2.0, -10.0, -1000.0

# One user turn, one reply, any number of times. BOS is the template's, as in the families' own templates.
CHAT_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{{ '<user>' if message['role'] == 'user' else '<assistant>' }}{{ message['content'] }}<end_of_turn>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def vocabulary_scores(vocabulary: dict[str, Any]) -> list[tuple[str, float]]:
    """All tokens with their scores, special ones first; the order gives the ids."""
    scores: dict[str, float] = dict.fromkeys(SPECIAL, 0.0)
    for mark in PUNCTUATION:
        scores.update({mark: WORD, SPACE + mark: WORD})
    words = [*vocabulary["words"], *vocabulary["chinese"]]
    scores.update({SPACE + word: WORD for word in words})
    scores.update(dict.fromkeys(vocabulary["chinese"], WORD))
    scores.update({SPACE + head: PIECE for head in vocabulary["heads"]})
    scores.update(dict.fromkeys((*vocabulary["middles"], *vocabulary["tails"]), PIECE))
    for char in SPACE + "\n" + string.printable.strip() + ACCENTED + ACCENTED.upper():
        scores.setdefault(char, CHARACTER)
    scores.update({f"<0x{byte:02X}>": BYTE for byte in range(256)})
    return list(scores.items())


def build_tokenizer(vocabulary: dict[str, Any], *, bos: bool) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer for the words and pieces of a world's `vocabulary`.

    bos: put BOS before every text (Llama and Gemma do, Qwen has none).
    """
    unigram = tokenizers.models.Unigram(vocabulary_scores(vocabulary), SPECIAL.index(UNK), byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(unigram)
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend(SPACE), tokenizers.normalizers.Replace(" ", SPACE)]
    )
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace(SPACE, " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    if bos:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, SPECIAL.index(BOS))]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS if bos else None,
        eos_token=END_OF_TURN,
        unk_token=UNK,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        padding_side="left",
    )


def save_tokenizer(tokenizer: transformers.PreTrainedTokenizerFast, folder: Path, model_type: str) -> None:
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json and the chat template, as on the Hub."""
    tokenizer.save_pretrained(str(folder))
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("backend", None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the one name that old and new transformers both know
    if model_type == "qwen2":
        # transformers 5 takes every tokenizer beside a Qwen 2 model for Qwen's own byte-level one, whatever class is
        # named here, unless there is an auto_map; it points at no code of ours, and none is run.
        config["auto_map"] = {"AutoTokenizer": [None, "PreTrainedTokenizerFast"]}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    special = {key: config[key] for key in config if key.endswith("_token") and config[key]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
