#!/usr/bin/env bash
# transformers 5 keeps the RoPE base of a config under rope_parameters; mlx-lm 0.32.2 looks for rope_theta at the top level
# in its llama, qwen2, phi3, mixtral and olmo2 and, not finding it, takes its default without a word. qwen3 reads the new key.
# Seen: of bases 5e5 (llama) and 2e6 (qwen2) saved by transformers 5.23.0, mlx-lm rotates by 1e4 and 1e6; qwen3 by its own.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
case $(uname -s) in Darwin) mlx=mlx==0.32.4 ;; *) mlx="mlx[cpu]==0.32.4" ;; esac
"$work/env/bin/pip" --disable-pip-version-check install --quiet "$mlx" mlx-lm==0.32.2 transformers==5.23.0
cd "$work"
"$work/env/bin/python" - <<'PY'
import json

import mlx_lm.models.llama as llama
import mlx_lm.models.qwen2 as qwen2
import mlx_lm.models.qwen3 as qwen3
import transformers

for module, kind, base in (
    (llama, transformers.LlamaConfig, 5e5),
    (qwen2, transformers.Qwen2Config, 2e6),
    (qwen3, transformers.Qwen3Config, 2e6),
):
    config = kind(
        rope_parameters={"rope_type": "default", "rope_theta": base},
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4,
        head_dim=8, vocab_size=64,
    )
    config.save_pretrained("saved")
    saved = json.load(open("saved/config.json"))
    assert "rope_theta" not in saved and saved["rope_parameters"]["rope_theta"] == base
    name = module.__name__.rpartition(".")[2]
    try:
        network = module.Model(module.ModelArgs.from_dict(saved))
    except (TypeError, KeyError) as error:
        print(f"{name}: refused, {error}")
        continue
    attention = network.model.layers[0].self_attn
    used = float(attention.rope.base)
    print(f"{name}: the config says {base:g}, the model rotates by {used:g}")
    if name == "qwen3":
        assert used == base, "qwen3 no longer reads rope_parameters"
    else:
        assert used != base, f"{name} reads rope_parameters now"
print("as described: llama and qwen2 rotate by a base that is not the model's")
PY
