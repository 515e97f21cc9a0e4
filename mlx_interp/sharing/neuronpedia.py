"""Neuronpedia's import format: feature pages of an autoencoder as the folder that a Neuronpedia server reads.

MODEL/LAYER-SET/ with model, release, source set and source as one line of JSON each, and features and activations in
gzipped JSON lines, 1,024 features a file. Names and meanings of the fields are those of the script with which
Neuronpedia turns SAEDashboard's output into an import (neuronpedia-utils, github.com/hijohnnylin/neuronpedia). What a
feature page has not is left empty: correlated neurons and features, alignment with neurons, the histogram of logits.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mlx_interp.errors import SharingError
from mlx_interp.pages.feature_page import Example, FeaturePage
from mlx_interp.sae.files import hook_of
from mlx_interp.sae.sae import SAE

BATCH = 1024
"""Features a file, as in Neuronpedia's own exports."""
TOP = -1.0
"""In place of a bin's lower edge and share: the example is one of the largest, not drawn from a bin."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class NeuronpediaSource:
    """What Neuronpedia asks of a source beside its features: how it is called, whose it is, what was read."""

    model: str
    """The model's id there, e.g. "gemma-2-2b"."""
    source_set: str
    """Short name of author, site and width, without the layer, e.g. "mine-res-16k"."""
    release: str
    """Short name of the release: letters, digits and dashes."""
    title: str
    """Of the release, e.g. of its paper."""
    creator: str
    dataset: str
    """Of the texts, e.g. "monology/pile-uncopyrighted"."""
    n_prompts: int
    n_tokens: int
    """Tokens a prompt."""
    description: str = ""
    """Of the source set, e.g. "Residual stream, 16k"."""
    url: str = ""
    weights: str = ""
    """Repository of the Hub with the autoencoder."""
    weights_folder: str = ""
    """Its folder there."""
    creator_id: str = "clkht01d40000jv08hvalcvly"
    """User of the server; this one is a local server's own."""
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    def id_at(self, layer: int) -> str:
        """A source's id: its layer and set."""
        return f"{layer}-{self.source_set}"


def save_for_neuronpedia(folder: Path | str, found: Sequence[FeaturePage], sae: SAE, source: NeuronpediaSource) -> Path:
    """Write feature pages (`mi.sae.feature_pages`) of an autoencoder for Neuronpedia; returns the source's folder.

    folder: of imports; MODEL/LAYER-SET is made in it, whole or not at all. Raises SharingError for no pages, two of one
    feature, a feature that the autoencoder has not, a name that cannot be one, and a source that is there already; and
    SAEError for a site without a hook's name.
    """
    hook = hook_of(sae.site)
    _refuse_mistakes(found, sae, source)
    layer = int(sae.site.rpartition(".")[2])
    target = Path(folder) / source.model / source.id_at(layer)
    if target.exists():
        raise SharingError(f"{target}: is there already; give another folder or source set, or remove it")
    part = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        part.mkdir(parents=True)
        for name, line in _descriptions(source, sae, layer).items():
            (part / f"{name}.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        for number in range(0, len(found), BATCH):
            batch = found[number : number + BATCH]
            name = f"batch-{number // BATCH}.jsonl.gz"
            _write(part / "features" / name, (_feature(one, sae, source, layer, hook) for one in batch))
            _write(part / "activations" / name, (line for one in batch for line in _activations(one, source, layer)))
        os.replace(part, target)
    except OSError as error:
        raise SharingError(f"{target}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _refuse_mistakes(found: Sequence[FeaturePage], sae: SAE, source: NeuronpediaSource) -> None:
    if not found:
        raise SharingError("no feature pages: make some with mi.sae.feature_pages")
    numbers = [one.feature for one in found]
    if len(set(numbers)) < len(numbers):
        raise SharingError("two pages of one feature")
    if beyond := [number for number in numbers if not 0 <= number < sae.d_sae]:
        raise SharingError(f"pages of features {beyond[:5]}, and {sae} has 0 to {sae.d_sae - 1}: another autoencoder's")
    for name, value in (("model", source.model), ("source_set", source.source_set), ("release", source.release)):
        if not NAME.fullmatch(value):
            raise SharingError(f"{name} {value!r}: letters, digits and . _ - only, as it becomes part of an address")


def _descriptions(source: NeuronpediaSource, sae: SAE, layer: int) -> dict[str, dict[str, Any]]:
    when, creator = source.created.isoformat(), source.creator_id
    return {
        "release": {
            "name": source.release,
            "description": source.title,
            "descriptionShort": source.title,
            "urls": [source.url] if source.url else [],
            "creatorNameShort": source.creator,
            "creatorName": source.creator,
            "creatorId": creator,
            "visibility": "PUBLIC",
            "isNewUi": False,
            "featured": False,
            "creatorEmail": None,
            "defaultSourceSetName": None,
            "defaultSourceId": None,
            "defaultUmapSourceIds": [],
            "createdAt": when,
        },
        "model": {
            "id": source.model,
            "instruct": source.model.endswith("-it"),
            "displayNameShort": source.model,
            "displayName": source.model,
            "creatorId": creator,
            "tlensId": None,
            "dimension": sae.d_model,
            "visibility": "PUBLIC",
            "defaultSourceSetName": None,
            "defaultSourceId": None,
            "inferenceEnabled": False,
            "layers": 0,
            "neuronsPerLayer": 0,
            "owner": "",
            "website": None,
            "createdAt": when,
            "updatedAt": when,
        },
        "sourceset": {
            "modelId": source.model,
            "name": source.source_set,
            "creatorId": creator,
            "creatorName": source.creator,
            "releaseName": source.release,
            "description": source.description or source.title,
            "visibility": "PUBLIC",
            "hasDashboards": True,
            "type": "",
            "urls": [source.url] if source.url else [],
            "creatorEmail": None,
            "defaultOfModelId": None,
            "defaultRange": 1,
            "defaultShowBreaks": True,
            "showDfa": False,
            "showCorrelated": False,
            "showHeadAttribution": False,
            "showUmap": False,
            "createdAt": when,
        },
        "source": {
            "id": source.id_at(layer),
            "modelId": source.model,
            "setName": source.source_set,
            "creatorId": creator,
            "visibility": "PUBLIC",
            "dataset": source.dataset,
            "num_prompts": source.n_prompts,
            "num_tokens_in_prompt": source.n_tokens,
            "hfRepoId": source.weights or None,
            "hfFolderId": source.weights_folder or None,
            "hasDashboards": True,
            "inferenceEnabled": False,
            "inferenceHosts": [],
            "saelensConfig": None,
            "saelensRelease": None,
            "saelensSaeId": None,
            "defaultOfModelId": None,
            "hasUmap": False,
            "hasUmapLogSparsity": False,
            "hasUmapClusters": False,
            "notes": None,
            "createdAt": when,
        },
    }


def _feature(one: FeaturePage, sae: SAE, source: NeuronpediaSource, layer: int, hook: str) -> dict[str, Any]:
    edges = np.linspace(0, one.largest or 1.0, len(one.histogram) + 1)
    nearest = list(one.nearest)
    return {
        "modelId": source.model,
        "layer": source.id_at(layer),
        "index": str(one.feature),
        "creatorId": source.creator_id,
        "createdAt": source.created.isoformat(),
        "maxActApprox": one.largest,
        "hasVector": True,
        "vector": np.asarray(sae.directions[one.feature], dtype=np.float64).round(6).tolist(),
        "vectorLabel": None,
        "vectorDefaultSteerStrength": one.largest,
        "hookName": hook,
        "topkCosSimIndices": [number for number, _ in nearest],
        "topkCosSimValues": [cosine for _, cosine in nearest],
        "neg_str": [token for token, _ in one.lowered],
        "neg_values": [logits for _, logits in one.lowered],
        "pos_str": [token for token, _ in one.raised],
        "pos_values": [logits for _, logits in one.raised],
        "frac_nonzero": one.n_active / one.n_tokens if one.n_tokens else 0.0,
        "freq_hist_data_bar_heights": list(one.histogram),
        "freq_hist_data_bar_values": ((edges[:-1] + edges[1:]) / 2).round(4).tolist(),
        **dict.fromkeys(_EMPTY, ()),
    }


_EMPTY = (
    *(f"neuron_alignment_{part}" for part in ("indices", "values", "l1")),
    *(f"correlated_{what}_{part}" for what in ("neurons", "features") for part in ("indices", "pearson", "l1")),
    *(f"logits_hist_data_bar_{part}" for part in ("heights", "values")),
    "decoder_weights_dist",
)


def _activations(one: FeaturePage, source: NeuronpediaSource, layer: int) -> Iterable[dict[str, Any]]:
    for rank, example in enumerate(one.examples):
        yield _activation(one, rank, example, source, layer)


def _activation(one: FeaturePage, rank: int, example: Example, source: NeuronpediaSource, layer: int) -> dict[str, Any]:
    values = [float(value) for value in example.values]
    place = int(np.argmax(values))
    where = f"{source.model} {source.id_at(layer)} {one.feature} {rank}"
    return {
        "id": "c" + hashlib.sha256(where.encode()).hexdigest()[:24],
        "tokens": list(example.tokens),
        "index": str(one.feature),
        "layer": source.id_at(layer),
        "modelId": source.model,
        "maxValue": values[place],
        "maxValueTokenIndex": place,
        "minValue": min(values),
        "values": values,
        "creatorId": source.creator_id,
        "createdAt": source.created.isoformat(),
        "binMin": TOP,
        "binMax": one.largest,
        "binContains": TOP,
        "qualifyingTokenIndex": place,
        "dfaValues": [],
        "lossValues": [],
        **dict.fromkeys(("dataSource", "dataIndex", "dfaTargetIndex", "dfaMaxValue", "logitContributions")),
    }


def _write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with gzip.GzipFile(path, "wb", compresslevel=5, mtime=0) as file:  # no time inside: equal pages, equal files
        for line in lines:
            file.write((json.dumps(line) + "\n").encode())
