"""Training and testing with mmengine: a strict Runner that resumes exactly, and its hooks."""

from ..compat import lazily

__getattr__ = lazily(__name__, {'StrictRunner': 'runner'}, needs=('mmengine',))

__all__ = ['StrictRunner']
