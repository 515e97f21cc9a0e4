"""Lenses: hidden states read as predictions, as descriptions, and by what each part adds to a logit.

`logit_lens`, `logit_lenses`, `tuned_lens`, `jacobian_lens`, `patchscope`, `token_identity`, `direct_logit_attribution`,
`activation_difference` (of a model and its fine-tune), `ActivationOracle` (a reader that answers questions about
activations); `top_tokens` reads any of their logits, `decoded_lens` shows the tokens of all layers and positions,
`attention_patterns` where each head looks.
"""

from mlx_interp.lenses.affine import affine_lens, affine_map
from mlx_interp.lenses.attention import AttentionPatterns, attention_patterns
from mlx_interp.lenses.decoded import DecodedLens, decoded_lens
from mlx_interp.lenses.direct_attribution import LogitAttribution, direct_logit_attribution
from mlx_interp.lenses.jacobian import jacobian_cost, jacobian_lens
from mlx_interp.lenses.logit import logit_lens, logit_lenses, top_tokens, tuned_lens
from mlx_interp.lenses.model_difference import ActivationDifference, activation_difference
from mlx_interp.lenses.oracle import ActivationOracle, OracleSettings, load_oracle
from mlx_interp.lenses.oracle_training import OracleExample, train_oracle
from mlx_interp.lenses.patchscopes import patchscope, token_identity
from mlx_interp.lenses.trajectories import prediction_depth
from mlx_interp.lenses.tuned import TunedLens, load_lens, train_tuned_lens

__all__ = [
    "ActivationDifference",
    "ActivationOracle",
    "AttentionPatterns",
    "DecodedLens",
    "LogitAttribution",
    "OracleExample",
    "OracleSettings",
    "TunedLens",
    "activation_difference",
    "affine_lens",
    "affine_map",
    "attention_patterns",
    "decoded_lens",
    "direct_logit_attribution",
    "jacobian_cost",
    "jacobian_lens",
    "load_lens",
    "load_oracle",
    "logit_lens",
    "logit_lenses",
    "patchscope",
    "prediction_depth",
    "token_identity",
    "top_tokens",
    "train_oracle",
    "train_tuned_lens",
    "tuned_lens",
]
