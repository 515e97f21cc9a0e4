"""Directions: found, tested, chosen, added, ablated, written into the weights."""
