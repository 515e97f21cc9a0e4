#!/usr/bin/env bash
# Dynamic NTK scaling takes its RoPE base from the length of the text, once that is beyond the trained length. In
# transformers 5.23.0 a model that has read a long text keeps that text's base: a shorter text, also beyond the trained
# length, then gets other logits than from a fresh model. A text within the trained length brings the first base back.
# Seen: trained length 16; logits of 20 tokens are 76 % apart before and after the model has read 60 tokens.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" --disable-pip-version-check install --quiet torch==2.13.0 transformers==5.23.0
cd "$work"
"$work/env/bin/python" - <<'PY'
import torch
import transformers

torch.manual_seed(0)
config = transformers.LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
    vocab_size=64, max_position_embeddings=16, initializer_range=0.3,
    rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
)
network = transformers.LlamaForCausalLM(config).eval()
text = torch.arange(20)[None] % 64


@torch.no_grad()
def logits():
    return network(text).logits[0, -1]


def apart(one, other):
    return float((one - other).norm() / one.norm())


with torch.no_grad():
    fresh = logits()
    network(torch.arange(60)[None] % 64)
    after_long = logits()
    network(torch.arange(8)[None])
    after_short = logits()
print(f"20 tokens: {apart(fresh, after_long):.1%} apart once 60 tokens have been read, "
      f"{apart(fresh, after_short):.1%} once 8 have been read after that")
assert apart(fresh, after_long) > 0.01, "what ran before no longer matters"
assert apart(fresh, after_short) < 1e-5, "a short text no longer brings the base back"
print("as described: the logits of a text depend on what the model has read before")
PY
