"""Loads images in the pipelines of every OpenMMLab toolbox, and leaves listed ones out."""

from ..libraries import naming_what_is_missing

with naming_what_is_missing(__name__):
    from .images import CheckedLoadImageFromFile
    from .leave_out import without_listed

__all__ = ['CheckedLoadImageFromFile', 'without_listed']
