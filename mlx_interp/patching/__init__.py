"""Patching: activations of one run written into another, and attention knocked out."""
