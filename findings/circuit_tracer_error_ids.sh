#!/usr/bin/env bash
# circuit-tracer 0.5.0 names the error node of layer L at position P "0_L_P", which is also the name of feature L of layer
# 0 at position P. A graph in which both occur (any whose layer 0 has an active feature numbered below the model's depth)
# has two nodes of one id, and a link to or from "0_L_P" says no longer which of them it means.
# Seen: at one position, the errors of 12 layers have the ids of features 0 to 11 of layer 0; features of layer 1 share none.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" --disable-pip-version-check install --quiet pydantic==2.12.5
"$work/env/bin/pip" --disable-pip-version-check install --quiet --no-deps circuit-tracer==0.5.0
cd "$work"
"$work/env/bin/python" - <<'PY'
from circuit_tracer.frontend.graph_models import Node

position, layers = 3, range(12)
errors = {Node.error_node(layer, position).node_id: layer for layer in layers}
shared = [f for f in range(20) if Node.feature_node(0, position, f).node_id in errors]
other = [f for f in range(20) if Node.feature_node(1, position, f).node_id in errors]
one, two = Node.error_node(5, position), Node.feature_node(0, position, 5)
print(f"error of layer 5: {one.node_id} ({one.feature_type}); feature 5 of layer 0: {two.node_id} ({two.feature_type})")
print(f"features of layer 0 with the id of an error node: {shared}; of layer 1: {other}")
assert one.node_id == two.node_id == "0_5_3" and one.feature_type != two.feature_type, "ids are told apart now"
assert shared == list(layers) and other == []
print("as described: an error node and a feature of layer 0 have one id")
PY
