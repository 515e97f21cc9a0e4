"""Providers: a steered or edited model as a model of Inspect and of lm-eval, so that it runs any of their tasks.

`inspect_model(model, interventions)` and `lm_eval_model(model, interventions)`; both packages are optional, and are
imported when one of these is called. On Inspect's command line the model is `mlx-interp/NAME`.
"""

from mlx_interp.providers.edited import edited, inspect_model, lm_eval_model

__all__ = ["edited", "inspect_model", "lm_eval_model"]
