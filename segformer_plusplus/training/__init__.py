"""Training and testing with mmengine: a strict Runner that resumes exactly, and its hooks."""

from ..compat import lazily

__getattr__, __all__ = lazily(__name__, __file__, ('mmengine',))
