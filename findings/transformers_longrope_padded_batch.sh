#!/usr/bin/env bash
# LongRoPE's two sets of factors are chosen by length: in a padded batch transformers 5.23.0 chooses for all rows by the
# longest one. A prompt within the trained length then gets other logits beside a long neighbour than alone, although its
# padding is masked and its positions are its own.
# Seen: 6 tokens, trained length 32: alone and beside 10 tokens equal to 2e-6, beside 40 tokens 108 % apart.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" --disable-pip-version-check install --quiet torch==2.13.0 transformers==5.23.0
cd "$work"
"$work/env/bin/python" - <<'PY'
import torch
import transformers

torch.manual_seed(0)
config = transformers.Phi3Config(
    hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, max_position_embeddings=128,
    original_max_position_embeddings=32, initializer_range=0.3,
    rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 8, "long_factor": [4.0] * 8,
                     "original_max_position_embeddings": 32},
)
network = transformers.Phi3ForCausalLM(config).eval()
prompt = [3, 17, 5, 41, 8, 29]


@torch.no_grad()
def logits(neighbour):
    """Of the prompt's last token; padded on the right where it has a neighbour."""
    width = max(len(prompt), neighbour)
    rows = [prompt + [0] * (width - len(prompt))] + ([[7] * neighbour] if neighbour else [])
    mask = [[1] * len(prompt) + [0] * (width - len(prompt))] + ([[1] * neighbour] if neighbour else [])
    return network(torch.tensor(rows), attention_mask=torch.tensor(mask)).logits[0, len(prompt) - 1]


alone = logits(0)
near, far = (float((logits(n) - alone).norm() / alone.norm()) for n in (10, 40))
print(f"6 tokens beside 10: {near:.1e} from alone; beside 40: {far:.1%}")
assert near < 1e-4, "a short neighbour matters"
assert far > 0.01, "a long neighbour no longer matters"
print("as described: a prompt's logits depend on how long its neighbour is")
PY
