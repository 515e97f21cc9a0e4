"""Sets of prompts: published ones, own ones, those of a collection."""
