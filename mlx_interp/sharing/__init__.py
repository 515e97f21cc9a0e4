"""Sharing: directions, probes, autoencoders, tuned lenses and stores on the Hugging Face Hub, with a card of facts.

`push_to_hub(thing, "user/name")`; `directions_from_hub`, `probes_from_hub`, `sae_from_hub`, `lens_from_hub`,
`store_from_hub`. Feature pages for Neuronpedia are files: `save_for_neuronpedia`; so are control vectors for llama.cpp:
`mi.directions.save_control_vector`.
"""

from mlx_interp.sharing.cards import card_of
from mlx_interp.sharing.hub import (
    directions_from_hub,
    lens_from_hub,
    probes_from_hub,
    push_to_hub,
    sae_from_hub,
    store_from_hub,
)
from mlx_interp.sharing.neuronpedia import NeuronpediaSource, save_for_neuronpedia

__all__ = [
    "NeuronpediaSource",
    "card_of",
    "directions_from_hub",
    "lens_from_hub",
    "probes_from_hub",
    "push_to_hub",
    "sae_from_hub",
    "save_for_neuronpedia",
    "store_from_hub",
]
