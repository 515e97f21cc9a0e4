"""In-context learning: prompts with demonstrations, and the function vectors of their tasks.

`in_context` and `corrupted` write the prompts, `indirect_effects` mediates head by head, `function_vector` does it all.
"""

from mlx_interp.in_context.demonstrations import (
    ARROW,
    QUESTIONS,
    Examples,
    FunctionTask,
    Template,
    corrupted,
    in_context,
)
from mlx_interp.in_context.function_vectors import (
    FunctionVector,
    HeadMeans,
    average_effects,
    function_vector,
    head_means,
    indirect_effects,
    random_heads,
    top_heads,
)

__all__ = [
    "ARROW",
    "QUESTIONS",
    "Examples",
    "FunctionTask",
    "FunctionVector",
    "HeadMeans",
    "Template",
    "average_effects",
    "corrupted",
    "function_vector",
    "head_means",
    "in_context",
    "indirect_effects",
    "random_heads",
    "top_heads",
]
