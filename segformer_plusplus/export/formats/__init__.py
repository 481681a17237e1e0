"""The kinds of files that a model is exported to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import SegformerPlusPlusError
from .base import METADATA, Format
from .onnx_file import OnnxFile
from .openvino_file import OpenVinoFile
from .torch_file import TorchExportFile

FORMATS: dict[str, Format] = {
    each.name: each for each in (OnnxFile(), TorchExportFile(), OpenVinoFile())
}
"""Every format by the name that ``export_model`` takes."""


def find_format(name: str) -> Format:
    """The format of this name.

    Raises:
        SegformerPlusPlusError: there is none.
    """
    if name not in FORMATS:
        raise SegformerPlusPlusError(f'format={name!r} is unknown, use one of {list(FORMATS)}')
    return FORMATS[name]


def format_of(path: Path) -> Format:
    """The format that a file's name says.

    Raises:
        SegformerPlusPlusError: no such file, or another name.
    """
    if not path.is_file():
        raise SegformerPlusPlusError(f'exported model not found: {path}')
    for each in FORMATS.values():
        if path.suffix == each.suffix:
            return each
    suffixes = ', '.join(each.suffix for each in FORMATS.values())
    raise SegformerPlusPlusError(
        f'{path} is no exported model: its name ends in none of {suffixes}'
    )


def read_metadata(path: str | Path) -> dict[str, Any]:
    """What ``export_model`` recorded in the file: strategy, shape, normalisation, versions, ...

    Raises:
        SegformerPlusPlusError: no such file, a damaged one, or one that was made otherwise.
        MissingDependencyError: the library that reads it is not installed.
    """
    path = Path(path)
    kind = format_of(path)
    kind.require()
    text = kind.read_metadata(path)
    if not text:
        raise SegformerPlusPlusError(
            f'{path} has no metadata {METADATA!r}: it was not written by export_model'
        )
    return json.loads(text)


__all__ = ['FORMATS', 'METADATA', 'Format', 'find_format', 'format_of', 'read_metadata']
