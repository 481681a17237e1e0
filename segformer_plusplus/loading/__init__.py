"""What the pipelines of every OpenMMLab toolbox load: images, and which of them are left out."""

from .images import CheckedLoadImageFromFile
from .leave_out import without_listed

__all__ = ['CheckedLoadImageFromFile', 'without_listed']
