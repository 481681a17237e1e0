"""The one place that knows about OpenMMLab's two lines and about an mmcv without compiled ops.

mmcv from the maintained line, and mmcv-lite, come without ``mmcv._ext``. mmpose, and older mmseg,
import ``mmcv.ops`` all the same, though no SegFormer uses any of it.

The original line's mmengine calls ``torch.load`` as torch before 2.6 wanted it; it needs NumPy 1.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

from .errors import MissingDependencyError

# NumPy 1.26 has numpy._core beside numpy.core, but empty until a part of it is imported.
# Checkpoints hold numbers under either name, and what may be read from one is looked up there.
with contextlib.suppress(ImportError):
    importlib.import_module('numpy._core.multiarray')

_INSTALL = {
    'mmseg': "pip install 'segformer-plusplus[mmseg]'",
    'mmpose': (
        "pip install 'segformer-plusplus[mmpose]' cython setuptools && "
        'pip install --no-deps --no-build-isolation --no-binary xtcocotools xtcocotools==1.14.3 && '
        'pip install --no-deps mmpose==1.3.2 (the second step needs a C compiler)'
    ),
}
"""How a toolbox is installed."""


def require_foundation() -> None:
    """Raise if what every part of this package stands on is missing; mend what is old in it.

    Neither is a dependency of the package: the two lines share their import names, and one would
    overwrite the other.

    Raises:
        MissingDependencyError: mmengine or mmcv is not installed.
    """
    for name in ('mmengine', 'mmcv'):
        if find_spec(name) is None:
            raise MissingDependencyError(
                f'segformer_plusplus needs {name}, which is not installed; install the maintained '
                "line with pip install 'segformer-plusplus[mmseg]', or mmengine and mmcv-lite"
            )
    let_mmengine_read_its_checkpoints()


def let_mmengine_read_its_checkpoints() -> None:
    """Let the original line's mmengine read the files that its Runner writes.

    Up to 0.10.7 it leaves ``weights_only`` to torch, which turned it on in 2.6. Then the numbers
    and HistoryBuffers in a checkpoint's message hub are refused, so that its Runner cannot resume
    and ``init_model`` of mmseg and mmpose cannot load. While it reads a file from the disk, these
    types are admitted; ``weights_only`` stays on, and nothing else that a file may hold is run.
    Does nothing where mmengine sees to it itself.
    """
    if not _leaves_weights_only_to_torch():
        return
    module = importlib.import_module('mmengine.runner.checkpoint')
    original = module.load_from_local

    @functools.wraps(original)
    def load_from_local(filename: str, map_location: Any = None) -> Any:
        # imported late: it needs what this module sees to
        from .checkpoints.safe_globals import mmengine_globals

        with mmengine_globals():
            return original(filename, map_location)

    module.CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)


def _leaves_weights_only_to_torch() -> bool:
    version = importlib.import_module('mmengine').__version__
    digits = importlib.import_module('mmengine.utils').digit_version
    return bool(digits(version) < digits('0.10.8'))


class _OpsWithoutCode(ModuleType):
    """Stands in for ``mmcv._ext``: every op exists, and says on call that it was not compiled."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*_args: Any, **_kwargs: Any) -> NoReturn:
            raise ImportError(
                f'mmcv.ops needs the compiled op {name!r}, but this mmcv was installed without '
                'compiled ops; install an mmcv wheel built for your torch, or build it from source'
            )

        return missing


def make_mmcv_ops_importable() -> None:
    """Let ``import mmcv.ops`` succeed where mmcv has no compiled ops. Does nothing otherwise.

    The stand-in is taken away again, since mmengine looks for ``mmcv._ext`` to tell a full mmcv
    from a lite one.
    """
    if find_spec('mmcv') is None or 'mmcv.ops' in sys.modules:
        return
    if find_spec('mmcv._ext') is not None or find_spec('mmcv.ops') is None:
        return
    sys.modules['mmcv._ext'] = _OpsWithoutCode('mmcv._ext')
    try:
        importlib.import_module('mmcv.ops')
    finally:
        del sys.modules['mmcv._ext']


def import_toolbox(name: str, asked_for: str) -> ModuleType:
    """Import a module of mmseg or mmpose.

    Args:
        name: such as 'mmseg.models'.
        asked_for: what needs it, for the message.

    Raises:
        MissingDependencyError: it is not installed, or its own import fails.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, AssertionError, ValueError) as error:
        # OpenMMLab asserts the versions it accepts; an extension that was compiled for another
        # NumPy raises ValueError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingDependencyError(
            f'{asked_for} needs {name}, which cannot be imported ({reason}); install it with '
            + _INSTALL.get(name.split('.')[0], f'pip install {name}')
        ) from error
