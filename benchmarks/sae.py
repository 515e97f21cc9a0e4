"""Training autoencoders, against SAELens on the same activations: variance explained at equal L0, tokens a second.

    python -m benchmarks.sae            topk at three k, 60,000 activations of tiny-gemma2, 500 steps of 512
    python -m benchmarks.sae --smoke    20 steps: are exported weights the same function, does the benchmark run?

Both sides: the same tokens, number of features, k, steps, batch, Adam, warm-up and decay over the last fifth; each with
its own initialisation, scaling and auxiliary loss. topk, so that L0 is equal by construction. Each side is given the
same two learning rates and counts with the better one, chosen on activations that are not those reported. Ours is then
written to files, read by SAELens, and must give the same features. Without sae_lens, which brings torch and
transformer_lens, only our own side runs. Seconds of processor time (one thread), since other work lengthens the clock.
Exit status 1 if the exported weights compute something else.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import mlx_interp as mi
from mlx_interp.embedded import load_world
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.sae import SAE, TrainConfig, activations, reconstruction, save, train

SITE, BOUND, D_SAE = "resid_post.4", 1e-4, 512
RATES = (1e-3, 3e-3)
Floats = npt.NDArray[np.float32]
Side = Callable[[Floats, int, float, "Size"], SAE]
"""(activations, k, learning rate, size) -> autoencoder."""


@dataclass(frozen=True)
class Size:
    """Of a training run."""

    steps: int
    batch: int


def tokens(limit: int | None) -> tuple[Floats, Floats, Floats]:
    """Activations to train on, to choose by, and to report, of different texts."""
    model = mi.load("tiny-gemma2")
    world = load_world()
    texts = [model.prompt(f"{q.two_hop} {q.answer}.") for q in world.queries]
    texts += [model.prompt(f"{f.prompt} {f.answer}.") for f in world.facts]
    texts += [model.prompt(chat.text, chat=True) for chat in world.chats]
    order = np.random.default_rng(0).permutation(len(texts))[:limit]
    cut = [0, int(0.8 * len(order)), int(0.9 * len(order)), len(order)]
    train_on, choose_by, report_on = (
        activations(model, [texts[i] for i in order[start:stop]], SITE) for start, stop in itertools.pairwise(cut)
    )
    return train_on, choose_by, report_on


def ours(x: Floats, k: int, rate: float, size: Size) -> SAE:
    config = TrainConfig(
        kind="topk",
        d_sae=D_SAE,
        k=k,
        steps=size.steps,
        batch_size=size.batch,
        learning_rate=rate,
        warm_up=max(1, size.steps // 10),
        dead_after=size.steps * size.batch // 8,
        aux_k=x.shape[1] // 2,
    )
    return train(x, SITE, config)


def theirs(x: Floats, k: int, rate: float, size: Size) -> SAE:
    """SAELens's trainer, on rows drawn as ours are."""
    import torch
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    torch.set_num_threads(1)

    def rows() -> Iterator[Any]:
        epoch = 0
        while True:
            order = np.random.default_rng(epoch).permutation(len(x))
            for start in range(0, len(x) - size.batch + 1, size.batch):
                yield torch.from_numpy(x[order[start : start + size.batch]])
            epoch += 1

    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=x.shape[1], d_sae=D_SAE, k=k, normalize_activations="expected_average_only_in", device="cpu"
        )
    )
    settings = SAETrainerConfig(
        total_training_samples=size.steps * size.batch,
        train_batch_size_samples=size.batch,
        lr=rate,
        lr_end=rate / 10,
        lr_warm_up_steps=max(1, size.steps // 10),
        lr_decay_steps=size.steps // 5,
        dead_feature_window=size.steps // 8,
        n_batches_for_norm_estimate=32,
    )
    with contextlib.redirect_stderr(io.StringIO()):
        trained = SAETrainer(settings, sae, rows()).fit()
    with tempfile.TemporaryDirectory() as folder:
        trained.save_inference_model(folder)
        return mi.sae.load(folder, site=SITE)


def exported_difference(sae: SAE, x: Floats) -> float:
    """Largest difference of features and reconstruction once SAELens has read our files."""
    import sae_lens
    import torch

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        read = sae_lens.SAE.load_from_disk(str(save(sae, Path(folder) / "one")))
        features = read.encode(torch.from_numpy(x))
        out = read.decode(features).numpy()
    scale = float(np.abs(x).max())
    differences = (features.numpy() - np.asarray(sae.encode(x)), out - np.asarray(sae(x)))
    return max(float(np.abs(one).max()) for one in differences) / scale


def main() -> int:
    """Exit status 1 if exported weights are not the same function."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sae", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500, metavar="N")
    parser.add_argument("--batch", type=int, default=512, metavar="N", help="tokens of a step")
    parser.add_argument("--k", type=int, nargs="+", default=[8, 16, 32], metavar="K", help="active features")
    parser.add_argument("--smoke", action="store_true", help="20 steps at one k")
    options = parser.parse_args()
    size = Size(20 if options.smoke else options.steps, options.batch)
    x, choose_by, report_on = tokens(400 if options.smoke else None)
    sides: dict[str, Side] = {"mlx_interp": ours}
    if importlib.util.find_spec("sae_lens"):
        sides["SAELens"] = theirs
    rows: list[list[Cell]] = []
    worst = 0.0
    for k in options.k[:1] if options.smoke else options.k:
        seconds: dict[str, float] = {}
        for name, side in sides.items():
            found = []
            start = time.process_time()
            for rate in RATES[:1] if options.smoke else RATES:
                sae = side(x, k, rate, size)
                found.append((reconstruction(sae, choose_by).fve, rate, sae))
            seconds[name] = (time.process_time() - start) / len(found)
            _, rate, best = max(found, key=lambda one: one[0])
            measured = reconstruction(best, report_on)
            speed = size.steps * size.batch / seconds[name]
            ratio = seconds[name] / seconds["mlx_interp"]
            rows.append([k, name, rate, measured.n_tokens, measured.l0, measured.fve, measured.dead, speed, ratio])
            if name == "mlx_interp" and len(sides) > 1:
                worst = max(worst, exported_difference(best, report_on[:512]))
    table = Table(
        f"topk, {D_SAE} features of {SITE}, {size.steps} steps of {size.batch} of {len(x)} tokens",
        [
            *("k", "side", Column("learning rate", digits=4), "n tokens", Column("L0", digits=1)),
            *(Column("FVE", digits=4), Column("dead", "%"), Column("tokens a second of processor time", digits=0)),
            Column("times our seconds"),
        ],
        rows,
        [f"Exported weights read by SAELens: largest difference {worst:.0e} of the largest activation."]
        if len(sides) > 1
        else ["sae_lens is not installed: our side alone."],
    )
    print(table.markdown())
    return 1 if worst > BOUND else 0


if __name__ == "__main__":
    sys.exit(main())
