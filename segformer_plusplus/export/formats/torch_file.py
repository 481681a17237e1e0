"""Files of ``torch.export``: a graph of PyTorch's own operators with its weights."""

from __future__ import annotations

import json
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
        return _load(path)[1]

    def runners(self, path: Path) -> dict[str, Runner]:
        module = _load(path)[0].module()

        def run(images: Tensor) -> Tensor:
            with torch.no_grad():
                return module(images)

        return {'torch': run}


def _load(path: Path) -> tuple[ExportedProgram, str | None]:
    extra: dict[str, Any] = {_ENTRY: ''}
    try:
        return torch.export.load(path, extra_files=extra), extra[_ENTRY]
    except Exception as error:  # a damaged file can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SegformerPlusPlusError(f'{path} is no file of torch.export: {reason}') from error
