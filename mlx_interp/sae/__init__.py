"""Sparse autoencoders: train, measure, splice, read and write them, and edit single features."""

from mlx_interp.pages import FeaturePage
from mlx_interp.sae.controls import control_dictionary, shuffled_apart
from mlx_interp.sae.dashboards import dashboard, feature_pages, page_of
from mlx_interp.sae.files import from_saelens, load, save
from mlx_interp.sae.kinds import KINDS, Kind
from mlx_interp.sae.metrics import Fidelity, Gate, Loss, Reconstruction, fidelity, loss, reconstruction
from mlx_interp.sae.pretrained import Pretrained, fetched, pretrained
from mlx_interp.sae.sae import SAE
from mlx_interp.sae.streams import InMemory, Streamed, activations
from mlx_interp.sae.training import TrainConfig, train
from mlx_interp.sae.truth import Detector, best_detectors, sparse_probe, stability

__all__ = [
    "KINDS",
    "SAE",
    "Detector",
    "FeaturePage",
    "Fidelity",
    "Gate",
    "InMemory",
    "Kind",
    "Loss",
    "Pretrained",
    "Reconstruction",
    "Streamed",
    "TrainConfig",
    "activations",
    "best_detectors",
    "control_dictionary",
    "dashboard",
    "feature_pages",
    "fetched",
    "fidelity",
    "from_saelens",
    "load",
    "loss",
    "page_of",
    "pretrained",
    "reconstruction",
    "save",
    "shuffled_apart",
    "sparse_probe",
    "stability",
    "train",
]
