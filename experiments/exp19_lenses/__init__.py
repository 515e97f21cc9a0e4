"""exp19: logit lens, tuned lens and Patchscopes on text. What does a middle layer's state already say?

Question   How near is each layer's lens to the model's own prediction, and is what it shows used by the model?
Data       held-out texts of the embedded world, for other models of this project, or --texts FILE; the lens is trained
           on other texts (docs/lenses.md).
Measure    bits per byte, bias and transfer of translators; the other parts' measures stand below.
Figure     by layer, logit lens and tuned lens beside each other; intervals over texts.
Control    translators used one layer too low, a guess by the frequency of tokens; each part has its own beside it.
Parts      text        bits per byte, bias and transfer of the tuned lens on held-out text, against the logit lens,
                       translators one layer too low, and a guess by frequency.
           input       what is left of the input's tokens in the logit lens.
           basis       the directions that each lens depends on most: whether the model depends on them as well.
           depth       prediction depth against difficulty; the lens on the model fine-tuned on new compositions.
           early_exit  in-context prompts with wrong labels: whether a middle layer answers better than the last.
           injection   a second request in a prompt, told by the trajectory of the prediction.
           token_identity, reader, attributes   Patchscopes: what a state predicts, against lenses and map; read by
                       another model; attributes of entities in twelve relations, against a probe.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.exp19_lenses import attributes, basis, depth, early_exit, held_out_text, injection, text_report
from experiments.exp19_lenses import token_identity as tokens
from experiments.exp19_lenses.lens_texts import Text, held_out
from experiments.exp19_lenses.look import LOOK
from experiments.exp19_lenses.parts import Config, Part, parts_of, stage
from experiments.harness.experiment import Experiment, Plan, Records
from experiments.harness.state import Run


def headline(records: Records, config: Config) -> str:
    """What lenses spend on text, where that was measured."""
    return text_report.headline(records, config) or f"{len(records)} records of other parts than text"


def plan(run: Run[Config], items: Sequence[Text]) -> Plan:
    """The texts, and what the parts patch: at most a pass for each counterfactual."""
    prompts, variants = run.config.n_texts + run.config.n_train_texts, counterfactuals(run)
    longest = max((list(text.tokens) for text in items), key=len, default=[])
    memory = run.model.memory(longest, capture="resid_post") if longest else 0
    return Plan(prompts, variants, float(prompts + variants), run.model.weight_bytes + memory)


def counterfactuals(run: Run[Config]) -> int:
    """Number of sweep variants that the parts asked for run."""
    config, layers = run.config, run.model.n_layers
    of: dict[Part, int] = {
        "basis": len(basis.layers(run.model)) * len(basis.ARMS) * config.n_directions * config.n_basis_texts,
        "token_identity": 4 * layers * config.n_texts,
        "reader": 4 * layers * config.n_texts,
        "attributes": 12 * len(attributes.ARMS) * config.n_subjects * len(attributes.layer_pairs(layers)),
    }
    return sum(n for part, n in of.items() if part in parts_of(run))


EXPERIMENT = Experiment(
    name="exp19_lenses",
    config=Config,
    stages=[
        stage("text", held_out_text.TEXTS, held_out, held_out_text.measure, held_out_text.OnText),
        stage("text", held_out_text.BIAS, held_out_text.everything, held_out_text.measure_bias, held_out_text.Biased),
        stage("input", held_out_text.INPUT, held_out, held_out_text.measure_input, held_out_text.Read),
        stage("basis", basis.STAGE, basis.some_texts, basis.measure, basis.Influence),
        stage("depth", depth.STAGE, depth.queries, depth.measure, depth.Depth, batch=60),
        stage("depth", depth.LEARNT, depth.tuned_queries, depth.measure_learnt, depth.Learnt),
        stage("depth", depth.TRANSFER, held_out, depth.measure_transfer, depth.After),
        stage("early_exit", early_exit.STAGE, early_exit.queries, early_exit.measure, early_exit.Exited),
        stage("injection", injection.STAGE, injection.prompts, injection.measure, injection.Outlying),
        stage("token_identity", tokens.STAGE, tokens.texts, tokens.measure, tokens.Reading, tokens.BATCH),
        stage("reader", tokens.READER, tokens.reader_texts, tokens.measure_reader, tokens.Reading, tokens.BATCH),
        stage("attributes", attributes.STAGE, attributes.cases, attributes.measure, attributes.Attributed),
        stage("attributes", attributes.PROBE, attributes.probed, attributes.measure_probe, attributes.Probed),
    ],
    tables=[
        *(*text_report.TABLES, basis.table, *depth.TABLES, early_exit.table, injection.table),
        *(*tokens.TABLES, attributes.table),
    ],
    figures=[*text_report.FIGURES, basis.figure, depth.figure, early_exit.figure, tokens.figures, attributes.figure],
    headline=headline,
    plan=plan,
    look=LOOK,
    group=lambda text: text.kind,
    whole_model="lays an adapter beside the model",
)
