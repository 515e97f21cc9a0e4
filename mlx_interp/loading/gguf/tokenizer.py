"""Tokenizer of a GGUF file, as the files that transformers and mlx-lm read: tokenizer.json and its settings.

Two kinds are known. "gpt2" is byte-level BPE: the file has the merges, and `pretokenizers` how text is cut before them.
"llama" is SentencePiece's BPE: spaces are "▁", unknown characters are bytes, and merges follow from the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_interp.errors import CheckpointError, UnsupportedModel, nearest
from mlx_interp.loading.gguf.pretokenizers import CUTS, Cut
from mlx_interp.loading.gguf.reader import GGUFFile

CONTROL, USER_DEFINED, BYTE = 3, 4, 6
"""Types of tokens, as llama.cpp numbers them: never in text, found whole in text, one byte."""
SPACE = "▁"
END_NAMES = frozenset(
    """<|eot_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|end_of_text|> <|eom_id|> <EOT> <|eos|> </s> <eos>
    <|return|> <|call|>""".split()
)
"""Control tokens that end a text or a turn wherever they are there, as in llama.cpp."""
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
NAMED = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id"}
NAMED |= {"pad_token": "padding_token_id", "sep_token": "seperator_token_id", "mask_token": "mask_token_id"}


class Vocabulary:
    """What a file says of its tokens, checked."""

    def __init__(self, file: GGUFFile) -> None:
        """Raises CheckpointError for a vocabulary that is missing or does not fit the embedding."""
        self.file = file
        self.kind = str(self.key("model", ""))
        self.tokens: list[str] = list(self.key("tokens", []))
        self.types: list[int] = list(self.key("token_type", [])) or [1] * len(self.tokens)
        self.scores: list[float] = list(self.key("scores", []))
        n_rows = file.tensors["token_embd.weight"].shape[0]
        if len(self.tokens) != n_rows:
            raise CheckpointError(
                f"{file.path}: tokenizer.ggml.tokens has {len(self.tokens)} tokens, token_embd.weight {n_rows} rows: "
                "the tokenizer is not this model's"
            )
        for name, values in (("token_type", self.types), ("scores", self.scores)):
            if values and len(values) != n_rows:
                raise CheckpointError(
                    f"{file.path}: tokenizer.ggml.{name} has {len(values)} entries for {n_rows} tokens"
                )

    def key(self, name: str, default: Any = None) -> Any:
        return self.file.metadata.get(f"tokenizer.ggml.{name}", default)

    def token(self, name: str) -> str | None:
        """The token that a key of the file points to. Raises CheckpointError where there is none of that number."""
        number: int | None = self.key(name)
        if number is None:
            return None
        if not 0 <= number < len(self.tokens):
            raise CheckpointError(
                f"{self.file.path}: tokenizer.ggml.{name} is {number}, the vocabulary has {len(self.tokens)} tokens"
            )
        return self.tokens[number]

    def of_type(self, kind: int) -> list[int]:
        return [number for number, each in enumerate(self.types) if each == kind]

    @property
    def ends(self) -> list[int]:
        """Tokens that end a text or a turn; the one of eos_token_id first."""
        stated = [int(self.key(name)) for name in END_KEYS if self.token(name) is not None]
        named = [number for number in self.of_type(CONTROL) if self.tokens[number] in END_NAMES]
        return list(dict.fromkeys([*stated, *named]))


def tokenizer_files(file: GGUFFile) -> dict[str, dict[str, Any]]:
    """Contents of tokenizer.json, tokenizer_config.json and generation_config.json.

    Raises UnsupportedModel for a kind of tokenizer that is not known, CheckpointError for one that cannot be right.
    """
    vocabulary = Vocabulary(file)
    builders = {"gpt2": byte_level, "llama": sentencepiece}
    if vocabulary.kind not in builders:
        raise UnsupportedModel(
            f"{file.path}: tokenizer.ggml.model is {vocabulary.kind!r}: known are {', '.join(builders)}"
        )
    content = builders[vocabulary.kind](vocabulary)
    settings = {name: vocabulary.token(key) for name, key in NAMED.items()}
    generation = {"bos_token_id": vocabulary.key("bos_token_id"), "pad_token_id": vocabulary.key("padding_token_id")}
    return {
        "tokenizer.json": content,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_max_length": int(file.metadata[f"{file.architecture}.context_length"]),
            "chat_template": file.metadata.get("tokenizer.chat_template"),
            **{name: token for name, token in settings.items() if token is not None},
        },
        "generation_config.json": {
            "eos_token_id": vocabulary.ends,
            **{k: v for k, v in generation.items() if v is not None},
        },
    }


def byte_level(vocabulary: Vocabulary) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE."""
    cut, merges = cut_of(vocabulary), vocabulary.key("merges")
    if not merges:
        raise CheckpointError(f"{vocabulary.file.path}: tokenizer.ggml.merges is missing: BPE cannot do without")
    model = {"type": "BPE", "vocab": numbered(vocabulary.tokens), "merges": [pair.split(" ") for pair in merges]}
    return tokenizer_json(
        vocabulary,
        model={**BPE, **model, "ignore_merges": cut.whole_words},
        added=added_tokens(vocabulary),
        normalizer={"type": "NFC"} if cut.nfc else None,
        pre_tokenizer=cut.pre_tokenizer(),
        decoder={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        add_bos=cut.add_bos,
    )


def cut_of(vocabulary: Vocabulary) -> Cut:
    name = vocabulary.key("pre")
    if name not in CUTS:
        raise UnsupportedModel(
            f"{vocabulary.file.path}: tokenizer.ggml.pre is {name!r}: {nearest(str(name), CUTS)}"
            f"known are {', '.join(CUTS)}"
        )
    return CUTS[name]


BPE = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


def sentencepiece(vocabulary: Vocabulary) -> dict[str, Any]:
    """tokenizer.json of SentencePiece's BPE."""
    gemma = vocabulary.file.architecture.startswith("gemma")
    if not vocabulary.scores:
        raise CheckpointError(f"{vocabulary.file.path}: tokenizer.ggml.scores is missing: merges follow from them")
    tokens = [SPACE * len(token) if token and not token.strip(" ") else token for token in vocabulary.tokens]
    # Gemma's scores do not say in which order its merges were learned; the order of its tokens does.
    ranks = [-float(number) for number in range(len(tokens))] if gemma else vocabulary.scores
    prefix = bool(vocabulary.key("add_space_prefix", True))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    model = {"type": "BPE", "vocab": numbered(tokens), "merges": merges_of(tokens, ranks)}
    return tokenizer_json(
        vocabulary,
        model={
            **BPE,
            **model,
            "unk_token": vocabulary.token("unknown_token_id"),
            "fuse_unk": True,
            "byte_fallback": True,
        },
        added=added_tokens(vocabulary, tokens),
        normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]}
        if prefix
        else replace,
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": decoders},
        add_bos=True,
    )


def merges_of(tokens: Sequence[str], ranks: Sequence[float]) -> list[list[str]]:
    """Every way to make a token of two others, best token first: the order in which SentencePiece would merge them."""
    number = numbered(tokens)
    found: list[tuple[float, int, int, str, str]] = []
    for token, rank in zip(tokens, ranks, strict=True):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in number and right in number:
                found.append((-rank, -len(left), -len(right), left, right))
    found.sort(key=lambda merge: merge[:3])
    return [[left, right] for *_, left, right in found]


def numbered(tokens: Sequence[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def added_tokens(vocabulary: Vocabulary, spelled: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Tokens that are found whole in a text: control tokens, and what the model's makers added.

    spelled: the tokens as the model has them, where it spells some differently: these are left to the merges.
    """
    spelled = spelled or vocabulary.tokens
    phi3 = vocabulary.file.architecture == "phi3" and vocabulary.kind == "llama"
    added = []
    for number, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if kind in (CONTROL, USER_DEFINED) and token and token == spelled[number]:
            swallows = phi3 and token not in ("<unk>", "<s>", "<|endoftext|>")  # spaces behind it, as published
            flags = {"single_word": False, "lstrip": False, "rstrip": swallows, "normalized": False}
            added.append({"id": number, "content": token, **flags, "special": kind == CONTROL})
    return added


def tokenizer_json(
    vocabulary: Vocabulary, *, model: Mapping[str, Any], added: list[dict[str, Any]], add_bos: bool, **parts: Any
) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        **parts,
        "post_processor": frame(vocabulary, add_bos),
        "model": model,
    }


def frame(vocabulary: Vocabulary, add_bos: bool) -> dict[str, Any] | None:
    """What is put before and after a text: BOS and EOS, where the file asks for them."""
    wanted = {
        "bos_token_id": vocabulary.key("add_bos_token", add_bos),
        "eos_token_id": vocabulary.key("add_eos_token", False),
    }
    around = {name: vocabulary.token(name) for name, asked in wanted.items() if asked}
    special = {name: token for name, token in around.items() if token is not None}
    if not special:
        return None
    bos, eos = ([{"SpecialToken": {"id": special[name], "type_id": 0}}] if name in special else [] for name in wanted)
    first, second = {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [*bos, first, *eos],
        "pair": [*bos, first, *eos, *bos, second, *eos],
        "special_tokens": {
            token: {"id": token, "ids": [vocabulary.key(name)], "tokens": [token]} for name, token in special.items()
        },
    }
