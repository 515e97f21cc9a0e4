"""In-context pairs: a word after the same other words, shown with the images of one task or of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from mlx_interp.behaviour.answers import continuation
from mlx_interp.circuits.pairs import Pair
from mlx_interp.model import Model

Shown = Callable[[list[tuple[str, str]], str], str]
"""Words with their images, and the word that is asked -> the prompt."""


def contrasted(
    model: Model,
    names: tuple[str, str],
    images: tuple[Mapping[str, str], Mapping[str, str]],
    written: Shown,
    *,
    shots: int,
    turns: int = 1,
) -> Iterator[Pair]:
    """Each word of both tasks, whose images there differ; m is the first task's image against the second's.

    turns: choices of the words shown that are tried until both prompts are of one length.
    """
    own, others = images
    words = [word for word, image in own.items() if others.get(word, image) != image]
    for at, word in enumerate(words):
        for turn in range(turns):
            shown = [words[(at + 1 + turn + step) % len(words)] for step in range(shots)]
            prompt, donor = (model.prompt(written([(one, of[one]) for one in shown], word)) for of in images)
            if len(prompt) == len(donor):
                answer, wrong = (continuation(model, prompt, of[word])[0] for of in images)
                if answer != wrong:
                    key, group = f"{names[0]} / {names[1]}: {word}", f"{names[0]} {len(prompt)}"
                    yield Pair(key, prompt, donor, (answer,), (wrong,), group)
                break
