"""The validation suite: what must hold before a figure of this model is worth printing. It gates every experiment."""

from validation.suite import Report, gate, validate

__all__ = ["Report", "gate", "validate"]
