"""What a checkpoint of mmengine may hold besides tensors, and no more."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from inspect import isfunction
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging.history_buffer import HistoryBuffer

# NumPy 1.26 has numpy._core beside numpy.core, but empty until a part of it is imported.
# Checkpoints hold numbers under either name, and what may be read from one is looked up there.
with contextlib.suppress(ImportError):
    importlib.import_module('numpy._core.multiarray')


@contextlib.contextmanager
def mmengine_globals() -> Iterator[None]:
    """Admit what mmengine's Runner writes to ``torch.load(weights_only=True)``, for a while.

    Its message hub holds NumPy scalars and arrays and HistoryBuffers. NumPy 1 and 2 write the
    builders of these under different module names, and each may have to read the other's.
    """
    core: Any = getattr(np, '_core', None) or np.core
    builders = {'scalar': core.multiarray.scalar, '_reconstruct': core.multiarray._reconstruct}
    admitted: list[Any] = [np.ndarray, np.dtype, HistoryBuffer]
    admitted += [
        (builder, f'numpy.{module}.multiarray.{name}')
        for name, builder in builders.items()
        for module in ('core', '_core')
    ]
    admitted += {type(np.dtype(scalar)) for scalar in set(np.sctypeDict.values())}
    # a HistoryBuffer pickles references to its own methods as calls of getattr
    admitted += [(_history_buffer_method, 'builtins.getattr')]
    with torch.serialization.safe_globals(admitted):
        yield


def _history_buffer_method(owner: type, name: str) -> Any:
    """Stands in for ``getattr`` while a checkpoint is read."""
    found = getattr(owner, name, None) if owner is HistoryBuffer else None
    if name.startswith('_') or not isfunction(found):
        # as torch says of other names, so that whoever reads the file says which one it is
        raise UnpicklingError(f'it asks for {name!r} of {owner!r}')
    return found
