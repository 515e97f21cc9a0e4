"""Behaviour: what a model answers, says and does, how that is told from texts, and how it is changed from outside.

`question` and `verdicts` for answers; `refusal`, `agreement`, `hedging`, `repetition` and `Judge` for texts; `amplify`,
`adversarial_suffix` and `finetune` change what a model does without touching its activations by hand.
"""

from mlx_interp.behaviour.amplification import Amplified, amplify
from mlx_interp.behaviour.answers import Question, Verdict, question, verdicts
from mlx_interp.behaviour.detectors import agreement, hedging, log_odds, opener_tokens, refusal, repetition
from mlx_interp.behaviour.finetuning import LoraRecipe, finetune
from mlx_interp.behaviour.judge import Judge, Trust, trust
from mlx_interp.behaviour.suffix import Suffix, adversarial_suffix
from mlx_interp.behaviour.text_classifier import TextClassifier, fit_text_classifier

__all__ = [
    "Amplified",
    "Judge",
    "LoraRecipe",
    "Question",
    "Suffix",
    "TextClassifier",
    "Trust",
    "Verdict",
    "adversarial_suffix",
    "agreement",
    "amplify",
    "finetune",
    "fit_text_classifier",
    "hedging",
    "log_odds",
    "opener_tokens",
    "question",
    "refusal",
    "repetition",
    "trust",
    "verdicts",
]
