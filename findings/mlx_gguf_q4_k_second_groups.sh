#!/usr/bin/env bash
# mlx 0.32.4 reads Q4_K tensors of GGUF files with every second group of 32 weights wrong, silently.
# Seen: groups 0, 2, 4, 6 of a super-block of 256 agree with the reference reader of ggml-org (gguf 0.19.0) to float16's
# precision; groups 1, 3, 5, 7 differ by as much as the weights themselves. mx.load raises nothing.
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

kind = gguf.GGMLQuantizationType.Q4_K
rng = np.random.default_rng(0)
blocks = rng.integers(0, 256, size=(4, 2, 144), dtype=np.uint8)  # scale and minimum (float16), 12 bytes of 6-bit ones, 128 of nibbles
blocks[..., 0:2] = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
blocks[..., 2:4] = np.frombuffer(np.float16(0.005).tobytes(), np.uint8)
raw = blocks.reshape(4, 288)
writer = gguf.GGUFWriter("q4_k.gguf", "llama")
writer.add_tensor("weight", raw, raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

reference = gguf.quants.dequantize(raw, kind)
loaded = np.asarray(mx.load("q4_k.gguf")["weight"].astype(mx.float32))
errors = np.abs(loaded - reference).reshape(4, 2, 8, 32).max(axis=(0, 1, 3))
print("largest weight:", np.abs(reference).max().round(2))
print("largest error in groups 0 to 7 of a super-block:", errors.round(3).tolist())
assert (errors[0::2] < 0.01).all(), "even groups are no longer right"
assert (errors[1::2] > 1.0).all(), "odd groups are no longer wrong"
print("as described: every second group is wrong")
PY
