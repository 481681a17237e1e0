"""The tiny models of the tests of inference."""

from inference.conftest import pose, segmentation

__all__ = ['pose', 'segmentation']
