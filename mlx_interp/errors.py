"""Errors that a user can act on. Each message names the thing, what was given, what would have been right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MlxInterpError(Exception):
    """Base of every error that is a user's to solve; command lines print it without a traceback."""


class UnknownModel(MlxInterpError, ValueError):
    """A model name that resolves to nothing."""


class CheckpointError(MlxInterpError):
    """Files of a checkpoint that are missing, truncated, corrupted, or do not fit its config."""


class UnsupportedModel(MlxInterpError):
    """An architecture, or a setting of one, that is not described; never run wrongly instead."""


class SiteError(MlxInterpError, ValueError):
    """A site name that does not exist, or a layer the model does not have."""


class PositionError(MlxInterpError, IndexError):
    """A position outside a prompt."""


class ShapeError(MlxInterpError, ValueError):
    """An array whose shape does not fit the site it meets, or a value that is no array of real numbers."""


class NeverFired(MlxInterpError):
    """An intervention that touched nothing."""


class TooLarge(MlxInterpError, MemoryError):
    """Something that would not fit the memory, refused before it is computed; the message has the numbers."""


class PromptError(MlxInterpError, ValueError):
    """A prompt that cannot be used: empty, without the text looked for, or without a chat template."""


class DataError(MlxInterpError, ValueError):
    """A data file that cannot be read; the message names the file, the line and the field."""


class ConfigError(MlxInterpError, ValueError):
    """An option or config field that does not exist or has a wrong value."""


class DirectionError(MlxInterpError):
    """A direction that is noise, cannot be read, or belongs to another model."""


class SAEError(MlxInterpError, ValueError):
    """A sparse autoencoder that cannot be read, does not fit its site, or does not describe the model at hand."""


class CircuitError(MlxInterpError, ValueError):
    """Pairs of prompts, a metric or a circuit that cannot be used: unequal lengths, no gradient, unknown nodes."""


class RunError(MlxInterpError):
    """A run folder that cannot be written, or that belongs to another configuration or process."""


class RanksDiffer(RunError):
    """Processes that share a run or a model and do not have the same: options, versions, weights, what they compute."""


class PageError(MlxInterpError, ValueError):
    """A page that would be too large to open, or data that does not fit together on one."""


class SharingError(MlxInterpError):
    """What is not shared: nothing to share, no such repository, no token, an upload that stopped."""


class StoreError(MlxInterpError):
    """A store of activations that cannot be read, or that belongs to another model, prompts or configuration."""


class ValidationFailed(MlxInterpError):
    """The validation gate stopped a run."""


def nearest(name: str, known: Iterable[str], n: int = 3) -> str:
    """The known names closest to a mistyped one, as a phrase for an error: "did you mean 'a' or 'b'?" or ""."""
    close = difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)
    return f"did you mean {' or '.join(repr(match) for match in close)}? " if close else ""
