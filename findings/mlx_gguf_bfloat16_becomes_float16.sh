#!/usr/bin/env bash
# mlx 0.32.4 turns bfloat16 tensors of GGUF files into float16 without a word, although it has a bfloat16 of its own:
# values beyond 65,504 become infinite, small ones zero.
# Seen: [1, 70144, 1e-8] stored as bfloat16 comes back as float16 [1, inf, 0].
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
case $(uname -s) in Darwin) mlx=mlx==0.32.4 ;; *) mlx="mlx[cpu]==0.32.4" ;; esac
"$work/env/bin/pip" --disable-pip-version-check install --quiet "$mlx" gguf==0.19.0 numpy==2.4.6
cd "$work"
"$work/env/bin/python" - <<'PY'
import gguf
import mlx.core as mx
import numpy as np

kind = gguf.GGMLQuantizationType.BF16
values = np.array([[1.0, 70144.0, 1e-8, *[0.0] * 29]], np.float32)
raw = (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(1, 64)
writer = gguf.GGUFWriter("bf16.gguf", "llama")
writer.add_tensor("weight", raw, raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

reference = gguf.quants.dequantize(raw, kind)[0, :3]
loaded = mx.load("bf16.gguf")["weight"]
print("stored:", reference.tolist())
print("loaded:", loaded.dtype, loaded[0, :3].tolist())
assert reference[1] == 70144.0 and reference[2] > 0
assert loaded.dtype == mx.float16, "bfloat16 no longer becomes float16"
assert np.isinf(float(loaded[0, 1])) and float(loaded[0, 2]) == 0.0
print("as described: a large value is infinite, a small one is gone")
PY
