"""Files of ``torch.export``: a graph of PyTorch's own operators with its weights."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ...errors import SegformerPlusPlusError
from .base import METADATA, Format, Runner

_ENTRY = f'{METADATA}.json'


class TorchExportFile(Format):
    """``torch.export.load(path).module()`` runs it."""

    name = 'torch-export'
    suffix = '.pt2'
    has_opset = False

    def write(self, program: ExportedProgram, path: Path, metadata: Mapping[str, Any]) -> None:
        torch.export.save(program, path, extra_files={_ENTRY: json.dumps(metadata)})

    def read_metadata(self, path: Path) -> str | None:
        # not torch.export.load, which would build the whole program for it
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(f'/extra/{_ENTRY}'):
                        return archive.read(name).decode()
        except (OSError, zipfile.BadZipFile) as error:
            raise _unreadable(path, error) from error
        return None

    def runners(self, path: Path) -> dict[str, Runner]:
        try:
            module = torch.export.load(path).module()
        except Exception as error:  # a damaged file can fail in any way
            raise _unreadable(path, error) from error

        def run(images: Tensor) -> Tensor:
            with torch.no_grad():
                return module(images)

        return {'torch': run}


def _unreadable(path: Path, error: Exception) -> SegformerPlusPlusError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SegformerPlusPlusError(f'{path} is no file of torch.export: {reason}')
