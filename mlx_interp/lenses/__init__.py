"""Lenses: what a hidden state says when it is read as a prediction, a description, a trajectory."""
