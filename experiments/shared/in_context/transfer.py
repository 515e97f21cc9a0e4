"""Where a function vector still works: other templates, running text, answers written to their end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np

from experiments.harness.experiment import Records
from experiments.harness.state import Run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.added_vectors import addition, with_nothing
from experiments.shared.in_context.mediation import OTHER, RANDOM, VECTOR, Item, MediationConfig, sampled, solved_items
from experiments.shared.in_context.tasks import TaskConfig, prompts
from mlx_interp.behaviour.answers import answer_scores, verdicts
from mlx_interp.in_context.demonstrations import Examples, Template, in_context
from mlx_interp.interventions import Add, Intervention
from mlx_interp.stats import stable_draw

PORTED, NATURAL, WRITTEN = "templates", "running text", "written answers"
CONTROLS = (VECTOR, RANDOM, OTHER)
TEMPLATES = {
    "colon": Template("{input}: {output}, ", "{input}:"),
    "equals": Template("{input} = {output}, ", "{input} ="),
    "word first": Template("the {input} -> {output}, ", "the {input} ->"),
    "full stops": Template("{input} -> {output}. ", "{input} ->"),
    "no separator": Template("{input} -> {output} ", "{input} ->"),
    "lines": Template("{input}\n{output}\n\n", "{input}\n"),
    "questions": Template("Question: {input} Answer: {output}, ", "Question: {input} Answer:"),
    "input and output": Template("input: {input}\noutput: {output}\n\n", "input: {input}\noutput:"),
    "bar": Template("{input}|{output}\n", "{input}|"),
}
"""Other ways to write the same examples, to which a vector is carried over."""
WORDS = ('The word "{}" means', "When people say {}, they usually mean", 'Another way to put "{}" is')
LANDS = ("Last year they travelled to {} and visited", "Whoever goes to {} should see", "When I hear of {}, I think of")
SENTENCES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("capital", "language", "continent"), ("The capital of {} is",)),
    **dict.fromkeys(("plural", "noun_french", "noun_spanish", "noun_german"), ("The plural of {} is",)),
    **dict.fromkeys(("past", "gerund", "verb_spanish"), ("The past of {} is",)),
    **dict.fromkeys(("antonym", "comparative", "adjective_french"), ("The opposite of {} is",)),
    **dict.fromkeys(("next_item", "series_spanish"), ("The number after {} is",)),
}
"""For the synthetic world: its own sentences about the inputs' kind of word. They ask for a task of their own, which is
the vector's for the first task of each line but the last, and another one for all others."""
NEW_TOKENS, LONG = 5, 16
PER_TASK = 6


class Ported(TypedDict):
    """A query in another template, with the vector and its controls."""

    task: str
    template: str
    with_examples: bool
    """Whether the model answers it with examples in that template."""
    right: dict[str, bool]
    """By arm: the answer's first token comes first."""


def measure_ported(run: Run[MediationConfig], item: Item) -> Iterator[Ported]:
    """The vector in other templates: only queries that the model answers with examples in that template count."""
    model = run.model
    one, two = of_tasks.halves(run, item.task)
    pair = two.pairs[item.number]
    for name, shape in TEMPLATES.items():
        rng = np.random.default_rng(stable_draw(run.config.seed, (item.key, name), 2**31))
        made = in_context(one, pair, one.pairs, of_tasks.n_shots(run), shape, rng)
        with_examples = verdicts(model, [of_tasks.asked(run, made)])[0].first_token
        asked = of_tasks.asked(run, Examples(item.task, shape.prompt([], pair[0]), *pair))
        variants = with_nothing(*(addition(run, item, arm) for arm in CONTROLS))
        scores = np.asarray(model.sweep(asked.prompt, variants, metric=answer_scores(asked.first_tokens)))
        right = {arm: int(score[0]) == 0 for arm, score in zip(("nothing", *CONTROLS), scores, strict=True)}
        yield {"task": item.task, "template": name, "with_examples": with_examples, "right": right}


def sentences(run: Run[TaskConfig], task: str) -> Sequence[str]:
    """Running text for a task's inputs: the synthetic world's own, or sentences in the manner of the paper's."""
    if of_tasks.is_embedded(run):
        return SENTENCES.get(task, ())
    return LANDS if task.startswith("country-") else WORDS


def natural_items(run: Run[MediationConfig], earlier: Records) -> list[Item]:
    return [i for i in sampled(solved_items(run, earlier), PER_TASK) if sentences(run, i.task)]


class Said(TypedDict):
    """What follows a sentence, with the vector or a control added at its end and at every new token."""

    task: str
    sentence: str
    arm: str
    right: bool
    """Whether it contains the answer."""
    text: str


def measure_natural(run: Run[MediationConfig], item: Item) -> Iterator[Said]:
    """Whether the answer occurs in what follows a sentence, the vector added at its end and at every new token."""
    x, y = of_tasks.halves(run, item.task)[1].pairs[item.number]
    most = 2 * NEW_TOKENS if item.task.startswith("country-") else NEW_TOKENS
    for sentence in sentences(run, item.task):
        variants: list[list[Intervention]] = [[]]
        for arm in CONTROLS:
            first = addition(run, item, arm)
            variants.append([first, Add(first.site, first.vector, first.scale, "generated")])
        texts = [one.text for one in run.model.sweep_generate(sentence.format(x), variants, max_tokens=most)]
        for arm, text in zip(("nothing", *CONTROLS), texts, strict=True):
            yield {"task": item.task, "sentence": sentence, "arm": arm, "right": said(text, y), "text": text}


def said(text: str, answer: str) -> bool:
    """Whether a text contains an answer as whole words, in its own case, which is what some tasks are about."""
    words = f" {' '.join(_words(text))} "
    return f" {' '.join(_words(answer))} " in words


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c in "'-’" else " " for c in text).split()


def written_items(run: Run[MediationConfig], earlier: Records) -> list[Item]:
    return sampled(solved_items(run, earlier), PER_TASK - 2)


class Matched(TypedDict):
    """How well a written answer matches the right one, 0 to 1."""

    exact: float
    first_word: float
    f1: float
    """F1 of the words."""


class Written(Matched):
    """An answer written out greedily."""

    task: str
    arm: str
    text: str


def measure_written(run: Run[MediationConfig], item: Item) -> Iterator[Written]:
    """Answers written out greedily and cut where the template would end them: exact match, first word, F1 of words."""
    asked = prompts(run, item.query, 1)
    answer = of_tasks.halves(run, item.task)[1].pairs[item.number][1]
    end = of_tasks.template(run).example.split("{output}")[1].strip() or "\n"
    bare = with_nothing(*(addition(run, item, arm) for arm in CONTROLS))
    for kind, arms, variants in (("examples", ("examples",), [[]]), ("no examples", ("nothing", *CONTROLS), bare)):
        done = run.model.sweep_generate(asked[kind].prompt, variants, max_tokens=LONG)
        for arm, one in zip(arms, done, strict=True):
            text = one.text.split("\n")[0].split(end)[0].strip()
            yield {"task": item.task, "arm": arm, "text": text, **written_scores(text, answer)}


def written_scores(text: str, answer: str) -> Matched:
    """Exact match, first word, and F1 of the words of a written answer."""
    found, wanted = _words(text), _words(answer)
    common = sum((Counter(found) & Counter(wanted)).values())
    f1 = 2 * common / (len(found) + len(wanted)) if found or wanted else 0.0
    return {"exact": float(found == wanted), "first_word": float(found[:1] == wanted[:1]), "f1": f1}
