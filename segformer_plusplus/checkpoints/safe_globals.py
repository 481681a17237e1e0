"""What a checkpoint of mmengine may hold besides tensors, and no more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from ..errors import CheckpointError


@contextlib.contextmanager
def mmengine_globals() -> Iterator[None]:
    """Admit what mmengine's Runner writes to ``torch.load(weights_only=True)``, for a while.

    Its message hub holds NumPy scalars and arrays and HistoryBuffers. PyTorch before 2.5 has no
    such list: there only checkpoints of plain tensors can be read.
    """
    if not hasattr(torch.serialization, 'safe_globals'):
        yield
        return
    core: Any = getattr(np, '_core', None) or np.core  # moved between NumPy 1 and 2
    admitted: list[Any] = [np.ndarray, np.dtype, HistoryBuffer]
    admitted += [core.multiarray.scalar, core.multiarray._reconstruct]
    admitted += {type(np.dtype(scalar)) for scalar in set(np.sctypeDict.values())}
    # a HistoryBuffer pickles references to its own methods as calls of getattr
    admitted += [(_history_buffer_method, 'builtins.getattr')]
    with torch.serialization.safe_globals(admitted):
        yield


def _history_buffer_method(owner: type, name: str) -> Any:
    """Stands in for ``getattr`` while a checkpoint is read."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise CheckpointError(f'the checkpoint asks for {name!r} of {owner!r}; not read')
    return getattr(owner, name)
