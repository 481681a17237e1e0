"""Runs trained models on images, folders and videos, and shows what they merge."""

from ..compat import lazily

__getattr__, __all__ = lazily(__name__, __file__, ('mmengine', 'mmcv'))
