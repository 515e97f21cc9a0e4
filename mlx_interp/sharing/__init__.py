"""Sharing: directions, autoencoders and tuned lenses on the Hugging Face Hub, with a model card of their own facts.

`push_to_hub(thing, "user/name")`; `directions_from_hub`, `sae_from_hub`, `lens_from_hub`. Control vectors for llama.cpp
are files: `mi.directions.save_control_vector`.
"""

from mlx_interp.sharing.cards import card_of
from mlx_interp.sharing.hub import directions_from_hub, lens_from_hub, push_to_hub, sae_from_hub

__all__ = ["card_of", "directions_from_hub", "lens_from_hub", "push_to_hub", "sae_from_hub"]
