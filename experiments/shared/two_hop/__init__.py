"""Two-hop queries, their screening and lenses."""
