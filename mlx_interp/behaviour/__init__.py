"""Behaviour: what a model answers, says and does, how that is told from texts, and how it is changed."""
