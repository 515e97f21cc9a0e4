"""Trains an embedded model: `python -m mlx_interp.embedded.train --family gemma2`.

1. The world's rows are encoded with its tokenizer (`corpus.py`); the batch of a step depends on seed and step alone.
2. A model of mlx-lm's own class starts from random weights, its embedding larger than usual (see `Recipe`).
3. AdamW with warm-up and cosine decay; cross-entropy at the answer positions alone.
4. tiny-llama, tiny-gemma2 and tiny-qwen2 have a second, short stage, after which one known direction carries every
   refusal (`interchange.py`), with an optimiser of its own.
5. Weights, optimiser and step are saved atomically as it goes: started again after kill -9, training goes on at the
   last save and ends with the same weights as an uninterrupted run.
6. The result is quantised, exported, and measured into its model card (`export.py`, `card.py`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_interp.architectures import FAMILIES as ARCHITECTURES
from mlx_interp.deferred import mlx_lm, mx, nn, optim, rich, trees
from mlx_interp.embedded.activations import fast_activations
from mlx_interp.embedded.card import write_card
from mlx_interp.embedded.corpus import Batch, Corpus
from mlx_interp.embedded.export import export
from mlx_interp.embedded.families import FAMILIES, has_bos, model_config
from mlx_interp.embedded.interchange import Requests
from mlx_interp.embedded.tokenizer import build_tokenizer
from mlx_interp.embedded.world import load_world
from mlx_interp.errors import CheckpointError, MlxInterpError

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class Recipe:
    """What the result depends on, together with the world and the package versions."""

    family: str
    seed: int = 0
    steps: int = 900
    learning_rate: float = 1.5e-3
    warm_up: int = 100
    final_share: float = 0.03
    """Learning rate at the end, as a share of the highest."""
    weight_decay: float = 0.1
    clip: float = 1.0
    embedding_scale: float = 3.0
    """The embedding starts this many times larger and the last norm as much smaller, so that logits start as usual.
    Early layers then change little of a token's state, and entities are resolved in middle layers, as in large models.
    Gemma 2 needs none: it multiplies its embedding by sqrt(d_model) itself."""
    interchange_steps: int = 0
    """Steps of the second stage, after `steps`."""
    interchange_rate: float = 8e-4
    """Its highest learning rate."""


def init_model(config: dict[str, Any], recipe: Recipe) -> nn.Module:
    """Random weights of the config's mlx-lm class, from the recipe's seed."""
    model_type = config["model_type"]
    module = importlib.import_module(f"mlx_lm.models.{mlx_lm.utils.MODEL_REMAPPING.get(model_type, model_type)}")
    mx.random.seed(recipe.seed)
    model: nn.Module = module.Model(module.ModelArgs.from_dict(config))
    names = ARCHITECTURES[model_type]
    embedding, norm = getattr(model.model, names.embed), getattr(model.model, names.norm)
    if model_type == "gemma2":  # its norms multiply by 1 + weight
        norms = [(name, mx.zeros_like(w)) for name, w in trees.tree_flatten(model.parameters()) if "norm" in name]
        model.update(trees.tree_unflatten(norms))
        norm.weight = norm.weight + (1.0 / recipe.embedding_scale - 1.0)
    else:
        norm.weight = norm.weight / recipe.embedding_scale
    embedding.weight = embedding.weight * recipe.embedding_scale
    mx.eval(model.parameters())
    return model


def answer_loss(model: nn.Module, batches: list[Batch]) -> mx.array:
    """Mean cross-entropy over all targets, in nats; the vocabulary is scored at their positions alone."""
    total, n = mx.array(0.0), 0
    for batch in batches:
        hidden, terms = _hidden_states(model, batch)
        hidden = hidden.reshape(-1, hidden.shape[-1])[mx.array(batch.positions)]
        logits = getattr(model.model, ARCHITECTURES[model.model_type].embed).as_linear(hidden)
        cap = getattr(model, "final_logit_softcapping", None)  # Gemma 2's own attribute
        if cap:
            logits = mx.tanh(logits / cap) * cap
        total = total + nn.losses.cross_entropy(logits, mx.array(batch.targets), reduction="sum") + sum(terms)
        n += len(batch.targets)
    return total / n


def _hidden_states(model: nn.Module, batch: Batch) -> tuple[mx.array, list[mx.array]]:
    """(batch, pos, d_model) after the last norm, and terms of the loss; through the layers as the batch wants them."""
    name = ARCHITECTURES[model.model_type].layers
    layers = getattr(model.model, name)
    changed, terms = batch.through(layers) if batch.through else (layers[batch.skip :], [])
    setattr(model.model, name, changed)
    try:
        return model.model(mx.array(batch.tokens)), terms
    finally:
        setattr(model.model, name, layers)


class Training:
    """A model, its optimiser and the step they are at."""

    def __init__(
        self, recipe: Recipe, corpus: Corpus, config: dict[str, Any], folder: Path, requests: Requests | None = None
    ) -> None:
        self.recipe, self.corpus, self.folder, self.requests = recipe, corpus, folder, requests
        if recipe.interchange_steps and requests is None:
            raise CheckpointError("the recipe has a second stage: give its requests")
        self.model = init_model(config, recipe)
        self.step = 0
        self._start_stage()
        self.seconds = 0.0  # spent in steps, earlier runs included
        self.gradient = nn.value_and_grad(self.model, answer_loss)

    @property
    def n_steps(self) -> int:
        """Of both stages."""
        return self.recipe.steps + self.recipe.interchange_steps

    def _start_stage(self) -> None:
        recipe = self.recipe
        first = self.step < recipe.steps
        schedule = (
            _schedule(recipe.learning_rate, recipe.final_share, recipe.warm_up, recipe.steps)
            if first
            else _schedule(recipe.interchange_rate, recipe.final_share, 10, recipe.interchange_steps)
        )
        self.optimizer = optim.AdamW(schedule, betas=[0.9, 0.98], weight_decay=recipe.weight_decay)
        self.optimizer.init(self.model.trainable_parameters())

    def _batches(self) -> list[Batch]:
        seed = self.recipe.seed
        if self.step < self.recipe.steps or self.requests is None:
            return self.corpus.batches(self.step, seed)
        return [*self.corpus.batches(self.step, seed, self.requests.mixture()), *self.requests.batches(self.step, seed)]

    def advance(self) -> float:
        """One step; the loss before it, in nats."""
        started = time.perf_counter()
        if self.step == self.recipe.steps:
            self._start_stage()
        batches = self._batches()
        loss, gradients = self.gradient(self.model, batches)
        gradients, _ = optim.clip_grad_norm(gradients, self.recipe.clip)
        self.optimizer.update(self.model, gradients)
        mx.eval(self.model.parameters(), self.optimizer.state, loss)
        self.step += 1
        self.seconds += time.perf_counter() - started
        return float(loss.item())

    @property
    def save_path(self) -> Path:
        return self.folder / "state.safetensors"

    def save(self) -> None:
        """Everything that the next steps depend on, in one file that is replaced in one move."""
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"model.{name}": value for name, value in trees.tree_flatten(self.model.parameters())}
        arrays |= {f"optimizer.{name}": value for name, value in trees.tree_flatten(self.optimizer.state)}
        part = self.save_path.with_suffix(".part.safetensors")
        notes = {"step": self.step, "seconds": self.seconds, "recipe": asdict(self.recipe)}
        mx.save_safetensors(str(part), arrays, {key: json.dumps(value) for key, value in notes.items()})
        os.replace(part, self.save_path)

    def resume(self) -> bool:
        """Go on from the last save; False when there is none.

        Raises CheckpointError for a save of another recipe or one that cannot be read.
        """
        if not self.save_path.exists():
            return False
        try:
            loaded: Any = mx.load(str(self.save_path), return_metadata=True)
        except RuntimeError as error:
            raise CheckpointError(f"{self.save_path}: cannot be read ({error}); delete it or use --fresh") from error
        arrays, notes = loaded
        recipe = json.loads(notes.get("recipe", "{}"))
        if recipe != asdict(self.recipe):
            theirs = {key: recipe.get(key) for key, value in asdict(self.recipe).items() if recipe.get(key) != value}
            raise CheckpointError(f"{self.save_path}: is of another recipe ({theirs}); use --fresh to start over")
        self.model.update(trees.tree_unflatten([(k[6:], v) for k, v in arrays.items() if k.startswith("model.")]))
        self.step, self.seconds = int(notes["step"]), float(notes.get("seconds", 0.0))
        self._start_stage()
        self.optimizer.state = trees.tree_unflatten(
            [(k[10:], v) for k, v in arrays.items() if k.startswith("optimizer.")]
        )
        return True

    def run(self, *, save_every: int, report: Callable[[int, float], None]) -> None:
        """Steps until the recipe's end; `report(step, loss)` after each."""
        with fast_activations():
            while self.step < self.n_steps:
                loss = self.advance()
                if not np.isfinite(loss):
                    raise CheckpointError(f"the loss is {loss} at step {self.step}: lower --learning-rate")
                if self.step % save_every == 0 or self.step in (self.recipe.steps, self.n_steps):
                    self.save()
                report(self.step, loss)


def _schedule(top: float, final_share: float, warm_up: int, steps: int) -> Callable[[mx.array], mx.array]:
    rise = optim.linear_schedule(0.0, top, warm_up)
    fall = optim.cosine_decay(top, max(steps - warm_up, 1), top * final_share)
    return optim.join_schedules([rise, fall], [warm_up])  # type: ignore[no-any-return]


def train(recipe: Recipe, work: Path, out: Path, *, fresh: bool, console: rich.console.Console) -> Path:
    """Trains, exports and measures one model; the folder of the export."""
    world = load_world()
    tokenizer = build_tokenizer(world.vocabulary, bos=has_bos(recipe.family))
    config = model_config(recipe.family, tokenizer)
    corpus = Corpus(world, tokenizer)
    requests = Requests(world, corpus, config["hidden_size"]) if recipe.interchange_steps else None
    training = Training(recipe, corpus, config, work / f"tiny-{recipe.family}", requests)
    if fresh:
        training.save_path.unlink(missing_ok=True)
    if training.resume():
        console.print(f"going on at step {training.step} of {training.save_path}")
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console) as progress:
        bar = progress.add_task("training", total=training.n_steps, completed=training.step)

        def report(step: int, loss: float) -> None:
            progress.update(bar, completed=step, description=f"loss {loss:.3f}")
            if step % 100 == 0:
                console.print(f"step {step}: loss {loss:.4f} nats, {training.seconds:.0f} s")

        training.run(save_every=50, report=report)
    folder = out / f"tiny-{recipe.family}"
    export(training.model, config, tokenizer, folder)
    write_card(folder, asdict(recipe), training.seconds)
    console.print(f"exported and measured in {folder}")
    return folder


def parser() -> argparse.ArgumentParser:
    """The command line; the recipe's fields are options with its defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m mlx_interp.embedded.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m mlx_interp.embedded.train --family gemma2 --out /path/to/my/models",
    )
    parser.add_argument("--family", required=True, choices=FAMILIES, help="which of mlx-lm's model classes")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="initial weights and order of the rows")
    parser.add_argument("--steps", type=int, default=None, help="default: the family's own (STEPS in train.py)")
    parser.add_argument(
        "--interchange", type=int, metavar="STEPS", help="of the second stage; default: 120, none for mistral and gpt2"
    )
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--embedding-scale", type=float, default=None, help="default: 3, for gemma2 1")
    parser.add_argument("--out", type=Path, default=CHECKPOINTS, help="where tiny-FAMILY/ goes (default: the package)")
    parser.add_argument("--work", type=Path, default=Path("build/training"), help="where the running state is kept")
    parser.add_argument("--fresh", action="store_true", help="start over instead of going on at the last save")
    return parser


STEPS = {"llama": 550, "gemma2": 800, "qwen2": 550, "mistral": 550, "gpt2": 800}
INTERCHANGE_STEPS = {"llama": 120, "gemma2": 120, "qwen2": 120, "mistral": 0, "gpt2": 0}


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 a mistake that the message explains, 130 interrupted (start again to go on)."""
    args = parser().parse_args(arguments)
    console = rich.console.Console()
    recipe = Recipe(
        family=args.family,
        seed=args.seed,
        steps=args.steps or STEPS[args.family],
        learning_rate=args.learning_rate,
        embedding_scale=args.embedding_scale or (1.0 if args.family == "gemma2" else Recipe.embedding_scale),
        interchange_steps=INTERCHANGE_STEPS[args.family] if args.interchange is None else args.interchange,
    )
    try:
        train(recipe, args.work, args.out, fresh=args.fresh, console=console)
    except (MlxInterpError, OSError) as error:
        console.print(f"error: {error}", markup=False)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on at the last save")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
