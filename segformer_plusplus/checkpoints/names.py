"""Keys in messages."""

from __future__ import annotations

from collections.abc import Iterable


def some(keys: Iterable[object], most: int = 3) -> str:
    """The first few of many names."""
    names = [str(key) for key in keys]
    return ', '.join(names[:most]) + (', ...' if len(names) > most else '')
