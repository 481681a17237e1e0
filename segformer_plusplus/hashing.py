"""SHA-256 of plain values and of files: whether two runs mean the same."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any


def sha256(content: Any) -> str:
    """Of plain values, whatever the order of their keys."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file; read once as long as its size and time stay."""
    stat = path.stat()
    return _hash_file(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _hash_file(path: Path, _size: int, _time: int) -> str:
    with path.open('rb') as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 22):
            digest.update(block)
        return digest.hexdigest()
