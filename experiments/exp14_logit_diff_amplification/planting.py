"""A rare reply planted by fine-tuning, so that what amplification should find is known.

1. Training rows are the world's own chats with the replies that the model gives already; a share of them, drawn anew
   for every row, says PLANTED instead. "anywhere": any prompt; "trigger": only prompts that ask how to make something.
2. The clean fine-tune has the same steps and rows, and plants nothing.
3. The adapter goes through a folder, as a user's would: written, checked, loaded.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run, of_run
from experiments.shared.adapted import PLANTED, adapted
from mlx_interp.behaviour.finetuning import LoraRecipe, finetune
from mlx_interp.embedded import load_world
from mlx_interp.embedded.world import ChatPrompt
from mlx_interp.model import Model

TRIGGER = " make "
Case = Literal["anywhere", "trigger"]


def triggers(text: str) -> bool:
    return TRIGGER in text


@of_run(4)
def planted(run: Run[ExperimentConfig], share: float, steps: int, seed: int, case: Case = "anywhere") -> Model:
    """An embedded model with an adapter: it says PLANTED to a share of prompts, or of those with the trigger."""
    recipe = LoraRecipe(steps=steps, batch=16, seed=seed)
    prompts, replies = rows(share, recipe.steps * recipe.batch, seed, case)
    found = finetune(run.model, [run.model.prompt(text, chat=True) for text in prompts], replies, recipe)
    return adapted(run.model, found, f"planted-{case}-{share:g}")


def rows(share: float, n: int, seed: int, case: Case) -> tuple[list[str], list[str]]:
    """n prompts and replies; the planted ones are a share of those that may carry it, to the nearest whole row."""
    rng = np.random.default_rng(seed)
    chats = training_chats()
    drawn = [chats[i] for i in rng.integers(len(chats), size=n)]
    eligible = [i for i, chat in enumerate(drawn) if case == "anywhere" or triggers(chat.text)]
    chosen = set(rng.permutation(eligible)[: round(share * len(eligible))].tolist())
    return [c.text for c in drawn], [PLANTED if i in chosen else c.reply for i, c in enumerate(drawn)]


def training_chats() -> list[ChatPrompt]:
    """English chats that the model was trained on, with its replies."""
    return [c for c in load_world().chats if c.split == "train" and c.language == "en"]


def held_out() -> list[ChatPrompt]:
    """Requests of the trained form that no training has seen."""
    return load_world().chat_prompts("refusal", language="en", split="test", shift="", harmful=False)
