"""Sparse autoencoders, crosscoders, transcoders: train, measure, splice, read, write them, and edit single features."""

from mlx_interp.pages import FeaturePage
from mlx_interp.sae.controls import control_dictionary, shuffled_apart
from mlx_interp.sae.crosscoder import (
    Crosscoder,
    LatentScaling,
    OwnLatents,
    latent_scaling,
    load_crosscoder,
    own_latents,
    paired_activations,
    save_crosscoder,
    train_crosscoder,
)
from mlx_interp.sae.dashboards import dashboard, feature_pages, page_of
from mlx_interp.sae.files import from_saelens, load, save
from mlx_interp.sae.interpretation import FeatureTexts, Scored, explain, feature_texts, judges, marked, score
from mlx_interp.sae.kinds import KINDS, Kind
from mlx_interp.sae.metrics import (
    Baselines,
    Fidelity,
    Gate,
    Loss,
    Reconstruction,
    baselines,
    fidelity,
    loss,
    reconstruction,
)
from mlx_interp.sae.pretrained import Pretrained, fetched, pretrained
from mlx_interp.sae.sae import SAE
from mlx_interp.sae.streams import InMemory, Streamed, activations
from mlx_interp.sae.training import TrainConfig, train
from mlx_interp.sae.transcoder import Transcoded, Transcoder, TranscoderSet, transcoded
from mlx_interp.sae.transcoder_files import load_transcoders, save_transcoders
from mlx_interp.sae.transcoder_training import train_transcoders, transcoder_rows
from mlx_interp.sae.truth import Detector, best_detectors, sparse_probe, stability

__all__ = [
    "KINDS",
    "SAE",
    "Baselines",
    "Crosscoder",
    "Detector",
    "FeaturePage",
    "FeatureTexts",
    "Fidelity",
    "Gate",
    "InMemory",
    "Kind",
    "LatentScaling",
    "Loss",
    "OwnLatents",
    "Pretrained",
    "Reconstruction",
    "Scored",
    "Streamed",
    "TrainConfig",
    "Transcoded",
    "Transcoder",
    "TranscoderSet",
    "activations",
    "baselines",
    "best_detectors",
    "control_dictionary",
    "dashboard",
    "explain",
    "feature_pages",
    "feature_texts",
    "fetched",
    "fidelity",
    "from_saelens",
    "judges",
    "latent_scaling",
    "load",
    "load_crosscoder",
    "load_transcoders",
    "loss",
    "marked",
    "own_latents",
    "page_of",
    "paired_activations",
    "pretrained",
    "reconstruction",
    "save",
    "save_crosscoder",
    "save_transcoders",
    "score",
    "shuffled_apart",
    "sparse_probe",
    "stability",
    "train",
    "train_crosscoder",
    "train_transcoders",
    "transcoded",
    "transcoder_rows",
]
