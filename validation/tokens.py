"""Are prompts tokenised as the model expects, and is its config understood to the last key?"""

from __future__ import annotations

from mlx_interp.architectures import family_of
from mlx_interp.behaviour.answers import continuation
from mlx_interp.errors import UnsupportedModel
from validation.check import Check, Finding, Status, Subject

SPELLED = 0.9
"""Share of the answers that a model must write in the spelling that is scored."""


def one_bos(subject: Subject) -> Finding:
    """As many BOS tokens as tokenizer and template prescribe, at the beginning one or none: never two, never left out.

    A tokenizer writes one at the beginning of a text, or by its own rule none. A template may write one there too (then
    it is the same one), and may open each of its turns with one: SmolLM2's does.
    """
    model, bos = subject.model, subject.model.tokenizer.bos_token_id
    if bos is None:
        return Finding("not applicable", "none", "as prescribed", "the tokenizer has no BOS token")
    writes = int(bos in model.tokenizer.encode("x"))
    texts, prescribed, first = {"plain": subject.prompt.tokens}, {"plain": writes}, {"plain": writes}
    if model.tokenizer.chat_template:
        turns = [{"role": "user", "content": "How are you?"}]
        whole = str(model.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        own = str(model.tokenizer.bos_token)
        begins = int(whole.startswith(own))
        texts["chat"] = model.prompt("How are you?", chat=True).tokens
        prescribed["chat"], first["chat"] = whole.count(own) + (1 - begins) * writes, max(begins, writes)
    counts = {name: tokens.count(bos) for name, tokens in texts.items()}
    misplaced = [name for name, tokens in texts.items() if (tokens[0] == bos) != first[name]]
    passed: Status = "passed" if counts == prescribed and not misplaced else "failed"
    note = f"not where it is prescribed: {', '.join(misplaced)}" if misplaced else ""
    return Finding(passed, _counted(counts), f"{_counted(prescribed)}, as tokenizer and template prescribe", note)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def chat_template_present(subject: Subject) -> Finding:
    """A model that was tuned for chat is asked through its template."""
    present = bool(subject.model.tokenizer.chat_template)
    name = f"{subject.model.model_id} {subject.model.name}".lower()
    tuned = any(word in name for word in ("instruct", "-it", "chat"))
    if not present and not tuned:
        return Finding("not applicable", "none", "present", "a base model without a chat template")
    if not present:
        return Finding("failed", "none", "present")
    text = "How are you?"
    plain, chat = subject.model.prompt(text), subject.model.prompt(text, chat=True)
    around = chat.text.replace(text, "")
    used = text in chat.text and bool(around.strip()) and len(chat) > len(plain)
    return Finding("passed" if used else "failed", "used" if used else "not used", "used", f"around: {around[:60]!r}")


def answers_continue_prompts(subject: Subject) -> Finding:
    """The first token of an answer is the one the model would write: as in the running text, space included.

    Behind a chat template that ends in a mark or a line's end no space is included.
    """
    model = subject.model
    wrong = []
    replies = ("Yes", "No") if model.tokenizer.chat_template else ()
    for reply in replies:
        prompt = model.prompt("How are you?", chat=True)
        behind = model.prompt(prompt.text + reply).tokens
        mark = prompt.tokens[-1] in model.tokenizer.get_added_vocab().values() or prompt.text[-1:].isspace()
        if mark and behind[: len(prompt)] == prompt.tokens:
            wrong += [prompt.text] * (tuple(behind[len(prompt) :]) != continuation(model, prompt, reply))
    for fact in subject.facts:
        prompt = model.prompt(fact.prompt)
        name = continuation(model, prompt, fact.answer)
        whole = model.prompt(f"{fact.prompt} {fact.answer}").tokens
        runs_on = whole[: len(prompt)] == prompt.tokens
        if (runs_on and tuple(whole[len(prompt) :]) != name) or model.tokenizer.decode(
            list(name)
        ).strip() != fact.answer:
            wrong.append(fact.prompt)
    note = f"first at {wrong[0]!r}" if wrong else ""
    n = len(subject.facts) + len(replies)
    return Finding("failed" if wrong else "passed", f"{len(wrong)} of {n} wrong", "0", note)


def answers_are_spelled_as_written(subject: Subject) -> Finding:
    """Of an answer with and without its leading space, the model itself writes the form that is scored.

    Over the facts whose two forms begin with different tokens, one of which is the model's arg-max.
    """
    model = subject.model
    ours = written = 0
    for item in subject.worlds.best.asked:
        scored = continuation(model, item.question.prompt, item.answer)[0]
        spaced = {model.tokenizer.encode(space + item.answer, add_special_tokens=False)[0] for space in ("", " ")}
        if len(spaced | {scored}) > 1 and item.top in spaced | {scored}:
            written += 1
            ours += item.top == scored
    if not written:
        reason = "no fact is answered in one of two spellings"
        return Finding("not applicable", "0 answers", f">= {SPELLED:.0%}", reason)
    passed: Status = "passed" if ours >= SPELLED * written else "failed"
    return Finding(passed, f"{ours} of {written} as scored", f">= {SPELLED:.0%}")


def positions_are_found(subject: Subject) -> Finding:
    """A word's positions are the tokens that spell it, counted with everything that stands before it."""
    wrong = []
    for prompt in subject.prompts:
        words = [word for word in prompt.text.split() if prompt.text.count(word) == 1]
        for word in words:
            spelled = "".join(prompt.strings[position] for position in prompt.find(word))
            if word not in spelled.replace("\u2581", " ").replace("\u0120", " "):
                wrong.append(word)
    n = sum(len(prompt.text.split()) for prompt in subject.prompts)
    note = f"first at {wrong[0]!r}" if wrong else ""
    return Finding("failed" if wrong else "passed", f"{len(wrong)} of {n} words", "0", note)


def config_is_understood(subject: Subject) -> Finding:
    """Every key that means something is one that the family knows; one that it cannot compute would be refused."""
    config = subject.model.config
    try:
        family_of(config)
    except UnsupportedModel as error:
        return Finding("failed", "refused", "understood", str(error))
    inner = subject.model.network.family.text_config
    text = config if inner is None else config[inner]
    unknown = {**text, "is_causal": False}  # transformers' models of every type read it; no family here does
    try:
        family_of(unknown if inner is None else {**config, inner: unknown})
    except UnsupportedModel:
        return Finding("passed", f"{len(text)} keys understood", "all; one that is not computed is refused")
    return Finding("failed", "a key that nothing computes was let through", "refused")


CHECKS = [
    Check(
        "config is understood",
        "a config key that neither mlx-lm nor the family reads: another model than its weights mean",
        "mlx-lm drops keys that it does not know, and a silent default is a wrong number",
        "mlx_interp/architectures/families.py: the family's `understands`",
        config_is_understood,
    ),
    Check(
        "one BOS",
        "a doubled or missing BOS token, which shifts every activation",
        "what tokenizer and template prescribe is what a model was trained with: one, none, or one a turn",
        "mlx_interp/prompts.py: make_prompt",
        one_bos,
    ),
    Check(
        "chat template present",
        "an instruct model that is asked as if it were a base model",
        "instruct checkpoints ship their template",
        "tokenizer_config.json or chat_template.jinja of the checkpoint",
        chat_template_present,
    ),
    Check(
        "answers continue prompts",
        "an answer scored by a token that the model would not write there: with or without the leading space",
        "tokenising the whole text decides",
        "mlx_interp/behaviour/answers.py: continuation",
        answers_continue_prompts,
    ),
    Check(
        "answers are spelled as the model writes them",
        "answers scored in a spelling that the model does not use, so that it seems to know nothing",
        "fixed before any model was looked at; a wrong spelling gives a share near 0",
        "mlx_interp/behaviour/answers.py: continuation",
        answers_are_spelled_as_written,
    ),
    Check(
        "words are found where they stand",
        "positions that are off by the BOS token, or by a word that is split",
        "the tokens at the positions spell the word",
        "mlx_interp/prompts.py: find",
        positions_are_found,
    ),
]
