#!/usr/bin/env bash
# mlx-lm 0.32.2 rounds Gemma 3's embedding scale, the square root of the width, to bfloat16 in every precision: a float32
# model of width 640 multiplies its embeddings by 25.25 where the square root is 25.298. Widths whose root bfloat16 holds
# (1024: 32; 2304: 48) are untouched. transformers keeps the float32 value for a float32 model.
# Seen: for the width of Gemma 3 270M, what enters the first layer is .19 % too small; at width 1024 it is exact.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
case $(uname -s) in Darwin) mlx=mlx==0.32.4 ;; *) mlx="mlx[cpu]==0.32.4" ;; esac
"$work/env/bin/pip" --disable-pip-version-check install --quiet "$mlx" mlx-lm==0.32.2 transformers==5.23.0
cd "$work"
"$work/env/bin/python" - <<'PY'
import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import gemma3_text


class Seen(nn.Module):
    """A layer that keeps what it was given."""

    def __call__(self, x, *rest, **named):
        self.given = x
        return x


def off_by(width: int) -> float:
    """Relative deviation of what enters layer 0 from embedding times the square root of the width."""
    arguments = gemma3_text.ModelArgs.from_dict(
        {"model_type": "gemma3_text", "hidden_size": width, "num_hidden_layers": 6, "intermediate_size": 32,
         "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 8}
    )
    network = gemma3_text.Model(arguments)
    network.set_dtype(mx.float32)
    network.model.layers = [Seen() for _ in range(6)]
    tokens = mx.array([[1, 2, 3]])
    network(tokens)
    wanted = network.model.embed_tokens.weight[tokens] * width**0.5
    return float((mx.abs(network.model.layers[0].given - wanted).max() / mx.abs(wanted).max()))


for width in (640, 1024):
    print(f"width {width}: off by {off_by(width):.2e}")
assert 1e-3 < off_by(640) < 3e-3, "the scale of width 640 is no longer rounded to bfloat16"
assert off_by(1024) < 1e-6
print("as described: in float32, too, the scale is bfloat16's")
PY
