"""A rare reply planted by fine-tuning, so that what amplification should find is known.

1. Training rows are chats with the replies that the model gives already: the world's own, for trained models harmless
   requests of this project and the beginnings of greedy replies; a share of them, drawn anew for every row, says
   PLANTED instead. "anywhere": any prompt; "trigger": only prompts that ask how to make something.
2. The clean fine-tune has the same steps and rows, and plants nothing.
3. The adapter goes through a folder, as a user's would: written, checked, loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run, of_run
from experiments.shared import project_texts
from experiments.shared.adapted import PLANTED, adapted
from mlx_interp.behaviour.finetuning import LoraRecipe, finetune
from mlx_interp.embedded import load_world
from mlx_interp.embedded.world import ChatPrompt
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model

TRIGGER = " make "
OWN_REPLIES, REPLY_TOKENS = 160, 24
"""Requests to a trained model, and how much of its replies is trained on."""
Case = Literal["anywhere", "trigger"]


def triggers(text: str) -> bool:
    return TRIGGER in text


@of_run(4)
def planted(run: Run[ExperimentConfig], share: float, steps: int, seed: int, case: Case = "anywhere") -> Model:
    """The model with an adapter: it says PLANTED to a share of prompts, or of those with the trigger."""
    recipe = LoraRecipe(steps=steps, batch=16, seed=seed)
    chats = training_chats(run)
    prompts, replies = rows(chats, share, recipe.steps * recipe.batch, seed, case)
    found = finetune(run.model, [project_texts.said(run.model, text) for text in prompts], replies, recipe)
    return adapted(run.model, found, f"planted-{case}-{share:g}")


def rows(chats: Sequence[tuple[str, str]], share: float, n: int, seed: int, case: Case) -> tuple[list[str], list[str]]:
    """n prompts and replies; the planted ones are a share of those that may carry it, to the nearest whole row."""
    rng = np.random.default_rng(seed)
    drawn = [chats[i] for i in rng.integers(len(chats), size=n)]
    eligible = [i for i, (prompt, _) in enumerate(drawn) if case == "anywhere" or triggers(prompt)]
    chosen = set(rng.permutation(eligible)[: round(share * len(eligible))].tolist())
    return [prompt for prompt, _ in drawn], [PLANTED if i in chosen else reply for i, (_, reply) in enumerate(drawn)]


@of_run(1)
def training_chats(run: Run[ExperimentConfig]) -> tuple[tuple[str, str], ...]:
    """English prompts and the replies that the model gives: those it was trained on, or its own."""
    model = run.model
    if model.name in EMBEDDED:
        return tuple((c.text, c.reply) for c in load_world().chats if c.split == "train" and c.language == "en")
    asked = [one for one in project_texts.requests("en") if one.label == "harmless" and one.split != "test"]
    texts = [one.text for one in asked[:OWN_REPLIES]]
    said = model.generate([project_texts.said(model, text) for text in texts], max_tokens=REPLY_TOKENS)
    return tuple((text, one.text) for text, one in zip(texts, said, strict=True) if one.text.strip())


def held_out() -> list[ChatPrompt]:
    """Requests of the trained form that no training has seen."""
    return load_world().chat_prompts("refusal", language="en", split="test", shift="", harmful=False)
