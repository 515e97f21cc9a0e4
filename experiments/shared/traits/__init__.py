"""Requests, directions and their effects, for the studies of refusal, opinions and confidence."""
