"""Imports libraries that need not be installed, or says in one line how to install them."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from .errors import MissingDependencyError, first_line

_OPENMMLAB = {
    'maintained': {
        'mmengine': 'onedl-mmengine onedl-mmcv',
        'mmcv': 'onedl-mmcv onedl-mmengine',
        'mmseg': "'segformer-plusplus[mmseg]'",
        'mmdet': 'onedl-mmdetection',
        'mmpose': (
            "'segformer-plusplus[mmpose]' cython setuptools && pip install --no-deps "
            '--no-build-isolation --no-binary xtcocotools xtcocotools==1.14.3 && '
            'pip install --no-deps mmpose==1.3.2 (the second step needs a C compiler)'
        ),
    },
    'original': {
        'mmengine': 'mmengine==0.10.7',
        'mmcv': 'mmcv-lite==2.1.0',
        'mmseg': 'mmsegmentation==1.2.2 ftfy regex',
        'mmdet': 'mmdet==3.3.0',
        'mmpose': (
            "mmdet==3.3.0 json-tricks munkres xtcocotools 'numpy<2' torchvision && "
            'pip install --no-deps mmpose==1.3.2'
        ),
    },
}
"""What pip installs for a toolbox, for either line of OpenMMLab."""

_PACKAGES = {
    'maintained': ('onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation', 'onedl-mmdetection'),
    'original': ('mmengine', 'mmengine-lite', 'mmcv', 'mmcv-lite', 'mmsegmentation', 'mmdet'),
}
"""Whose names in pip tell which line is installed."""

_OF_MMPOSE = ('xtcocotools', 'munkres', 'json_tricks')
"""Libraries that are installed with mmpose."""

_EXTRAS = {
    'transformers': 'hf',
    'safetensors': 'hf',
    'huggingface_hub': 'hf',
    'onnx': 'export',
    'onnxruntime': 'export',
    'onnxscript': 'export',
    'openvino': 'export',
    'nncf': 'int8',
    'optuna': 'tune',
    'gradio': 'demo',
    'av': 'video',
    'cityscapesscripts': 'cityscapes',
}
"""Library -> the extra of this package that brings it."""

_PIP = {'segmentation_models_pytorch': 'segmentation-models-pytorch', 'cv2': 'opencv-python'}
"""Libraries whose distribution has another name than the module."""


def require(name: str, asked_for: str) -> ModuleType:
    """Imports a module of a library that need not be installed.

    Args:
        name: such as 'onnx' or 'mmseg.models'.
        asked_for: what needs it, for the message.

    Raises:
        MissingDependencyError: it is not installed, or its own import fails.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, AssertionError, ValueError) as error:
        # OpenMMLab asserts the versions it accepts; an extension that was compiled for another
        # NumPy raises ValueError
        raise _missing(name, asked_for, error) from error


@contextlib.contextmanager
def naming_what_is_missing(asked_for: str | None = None) -> Iterator[None]:
    """Turns a failed import in our own code into an error that says how to install the library.

    Raises:
        MissingDependencyError: a library is not installed.
    """
    try:
        yield
    except (ModuleNotFoundError, MissingDependencyError) as error:
        name = error.name or ''
        if name.partition('.')[0] in ('', __name__.partition('.')[0]):
            raise  # a module of ours: that is a bug
        if asked_for is None and isinstance(error, MissingDependencyError):
            raise  # it says already what asked
        # what was asked for on the outside says more than what that needs inside
        reason = error.__cause__ if isinstance(error, MissingDependencyError) else error
        raise _missing(name, asked_for or 'this', reason or error) from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps warnings of OpenMMLab's own code off a user's terminal; ``python -W`` shows them.

    Nor has it a traceback for every line that a full disk keeps out of a log file.
    """
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.filterwarnings('ignore', module=r'mm(cv|engine|seg|det|pose)\.')
            yield
    finally:
        logging.raiseExceptions = before


def installed_line() -> str:
    """Returns 'original' or 'maintained', the line of OpenMMLab that is installed.

    Without either it is 'maintained'. Their packages share their import names, so that a package of
    one would overwrite that of the other.
    """
    if _packages_of('maintained') or not _packages_of('original'):
        return 'maintained'
    return 'original'


def _packages_of(line: str) -> list[str]:
    return list(filter(has_distribution, _PACKAGES[line]))


def has_distribution(name: str) -> bool:
    """Says whether a package is installed under this name of pip's."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _missing(name: str, asked_for: str, error: BaseException) -> MissingDependencyError:
    library = name.partition('.')[0]
    missing = MissingDependencyError(
        f'{asked_for} needs {name}, which cannot be imported ({first_line(error)}); '
        f'{what_to_do(library)}'
    )
    missing.name = name
    return missing


def what_to_do(library: str) -> str:
    """Says for a message how a library is installed, or why it cannot be."""
    maintained, original = map(_packages_of, _PACKAGES)
    if library in _OPENMMLAB['original'] and maintained and original:
        return (
            f'both lines of OpenMMLab are installed ({", ".join(maintained + original)}), each '
            'over files of the other: make a new environment with one of them'
        )
    what = _OPENMMLAB[installed_line()].get('mmpose' if library in _OF_MMPOSE else library)
    if what is None and library in _EXTRAS:
        what = f"'segformer-plusplus[{_EXTRAS[library]}]'"
    return f'install it with pip install {what or _PIP.get(library, library)}'
