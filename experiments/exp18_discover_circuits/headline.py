"""The one line of exp18's runs: what each part that was measured says, in a few words."""

from __future__ import annotations

from experiments.exp18_discover_circuits import (
    acdc,
    circuit_report,
    clusters,
    feature_edge_report,
    feature_edges,
    tracing,
)
from experiments.exp18_discover_circuits.config import CircuitConfig
from experiments.harness.experiment import Records


def headline(records: Records, config: CircuitConfig) -> str:
    parts = [*circuit_report.headlines(records, config), *_features(records, config), *_others(records, config)]
    return "; ".join(parts) or "attribution alone"


def _features(records: Records, config: CircuitConfig) -> list[str]:
    table = feature_edge_report.check_table(records, config)
    rows = [row for row in table.rows if row[1] == feature_edges.METHODS[0]] if table else []
    return [f"{row[0]}: edges between features against patching: rank correlation {row[4]}" for row in rows]


def _others(records: Records, config: CircuitConfig) -> list[str]:
    found = []
    if table := acdc.acdc_table(records, config):
        for row in table.rows[:: len(config.acdc_thresholds)]:
            found.append(f"{row[0]}: ACDC's {row[2]} edges keep f {row[6]}, as many by EAP-IG {row[7]}")
    if table := clusters.agreement_table(records, config):
        found.append(f"prompts clustered by features: adjusted Rand with the tasks {table.rows[0][4]}")
    if "tracing" in config.parts and (table := tracing.position_table(records, config)):
        for row in table.rows:
            if row[1] == "stream" and row[3] == "clean":
                found.append(f"{row[0]}: the stream at the subject's last token restores {row[8]} of the answer")
    return found
