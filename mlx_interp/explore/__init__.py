"""Explore: a model behind a page of one's own browser, for a first look; every action also as lines of Python.

1. `Explorer` does what the page asks for: read a prompt (lens and attention), patch a cell, steer. It knows no network.
2. `serve` gives it to a browser on this machine: on the loopback alone, behind a random word in the address, requests
   bounded in size and number. Connections are answered in threads; the model works in the one that called `serve`.
3. It ends by itself when nobody asks for anything for a while, and by Ctrl-C.
"""

from mlx_interp.explore.actions import Explorer
from mlx_interp.explore.server import serve

__all__ = ["Explorer", "serve"]
