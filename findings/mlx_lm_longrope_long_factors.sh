#!/usr/bin/env bash
# LongRoPE (Phi-3.5, Phi-4-mini) has two sets of factors: short ones for texts up to original_max_position_embeddings, long
# ones beyond. mlx-lm 0.32.2 rotates by the long ones whatever the text's length; the short ones are read and never used.
# Seen: a prompt of 6 tokens, trained length 64: other short factors move no logit, other long factors move them by 78 %.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
case $(uname -s) in Darwin) mlx=mlx==0.32.4 ;; *) mlx="mlx[cpu]==0.32.4" ;; esac
"$work/env/bin/pip" --disable-pip-version-check install --quiet "$mlx" mlx-lm==0.32.2
cd "$work"
"$work/env/bin/python" - <<'PY'
import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models import phi3

PROMPT = mx.array([[3, 17, 5, 41, 8, 29]])


def logits(short, long):
    mx.random.seed(0)
    network = phi3.Model(phi3.ModelArgs.from_dict(dict(
        model_type="phi3", hidden_size=64, num_hidden_layers=2, intermediate_size=96, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, vocab_size=64, max_position_embeddings=256,
        original_max_position_embeddings=64, rope_theta=10000.0,
        rope_scaling={"type": "longrope", "short_factor": [short] * 8, "long_factor": [long] * 8},
    )))
    network.set_dtype(mx.float32)
    network.update(tree_map(lambda w: 4 * w if w.ndim > 1 else w, network.parameters()))  # so that attention is sharp
    return network(PROMPT)


plain = logits(1.0, 4.0)
by_short, by_long = (float(mx.linalg.norm(other - plain) / mx.linalg.norm(plain))
                     for other in (logits(2.0, 4.0), logits(1.0, 1.0)))
print(f"a prompt of 6 tokens, trained length 64: other short factors move the logits by {by_short:.1%}, "
      f"other long factors by {by_long:.1%}")
assert by_short == 0, "the short factors are used now"
assert by_long > 0.01, "the long factors are no longer used for a short prompt"
print("as described: a short prompt is rotated by the factors of long texts")
PY
