"""Errors meant for people: one line that names the thing, its value and what is allowed."""


class SegformerPlusPlusError(ValueError):
    """Base of every error this package raises on purpose. Takes one message, on one line."""

    exit_code = 2
    """With which a tool ends."""


class TokenMergingError(SegformerPlusPlusError):
    """A token merging strategy, preset or argument that cannot be used."""


class ArgumentError(SegformerPlusPlusError, TypeError):
    """A constructor was given an argument that it does not take, or lacks one."""


class CheckpointError(SegformerPlusPlusError):
    """A checkpoint that cannot be read, or that does not fit the model."""


class MissingDependencyError(SegformerPlusPlusError, ImportError):
    """Something was asked for whose toolbox is not installed or cannot be imported."""


class DivergedError(SegformerPlusPlusError):
    """The loss or a weight of a training is NaN or infinite."""

    exit_code = 1
