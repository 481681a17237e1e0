from .runner import StrictRunner

__all__ = [
    'StrictRunner',
]
