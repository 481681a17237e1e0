"""Runs a model by another runtime: converts it for each size of images, and keeps the files."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from mmengine.logging import print_log
from torch import nn

from ..errors import SegformerPlusPlusError
from ..export import export_model
from ..export.description import describe_export
from ..export.formats import find_format
from ..export.options import ExportOptions
from ..files import sha256
from ..mit.backbone import MixVisionTransformerPlusPlus
from .exported import exported_config
from .opening import device_of, open_model

BACKENDS = {'openvino': 'openvino', 'onnxruntime': 'onnx'}
"""Runtime -> format of the files that it gets."""

MOST_SIZES = 4
"""Of images, for which files are made; those of other sizes stay in PyTorch."""


def cache_folder() -> Path:
    """Returns where converted models are kept: beside the weights that torch.hub downloads."""
    return Path(torch.hub.get_dir()) / 'segformer_plusplus'


class Converter:
    """Gives the model for a size of images, in another runtime, computing the same in float32.

    Args:
        model: a segmentor or pose estimator with our backbone, on the CPU.
        backend: a key of ``BACKENDS``.

    Raises:
        SegformerPlusPlusError: another backend, or a model that is not on the CPU.
        MissingDependencyError: a library of the backend is not installed.
    """

    def __init__(self, model: nn.Module, backend: str) -> None:
        if backend not in BACKENDS:
            raise SegformerPlusPlusError(
                f'backend={backend!r} is unknown, use one of torch, {", ".join(BACKENDS)}'
            )
        if device_of(model).type != 'cpu':
            raise SegformerPlusPlusError(f'backend={backend!r} is for the CPU: device="cpu"')
        if not isinstance(getattr(model, 'backbone', None), MixVisionTransformerPlusPlus):
            raise SegformerPlusPlusError(
                f'backend={backend!r} takes models with the backbone MixVisionTransformerPlusPlus, '
                f'not {type(getattr(model, "backbone", model)).__name__}'
            )
        mode = (getattr(model, 'test_cfg', None) or {}).get('mode', 'whole')
        if mode != 'whole':
            raise SegformerPlusPlusError(
                f"backend={backend!r}: the model's test_cfg.mode is {mode!r}, but a graph takes "
                'whole images: --cfg-options model.test_cfg.mode=whole'
            )
        self._format = find_format(BACKENDS[backend])
        self._format.require()
        self._model = model
        self._backend = backend
        self._weights = _hash_weights(model)
        self._converted: dict[tuple[int, int], Any] = {}

    def __call__(self, size: Sequence[int]) -> Any:
        """Returns the model for images of this height and width.

        Raises:
            SegformerPlusPlusError: see ``..export.export_model``.
        """
        shape = int(size[0]), int(size[1])
        if shape not in self._converted:
            if len(self._converted) == MOST_SIZES:
                print_log(
                    f'images of more than {MOST_SIZES} sizes: those of others run in PyTorch',
                    logger='current',
                    level=logging.WARNING,
                )
            several = len(self._converted) >= MOST_SIZES
            self._converted[shape] = self._model if several else self._open(shape)
        return self._converted[shape]

    def _open(self, shape: tuple[int, int]) -> Any:
        path = cache_folder() / f'{self._name(shape)}{self._format.suffix}'
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f'{path}.lock'):  # others wait, and find the file
            if path.exists():
                try:
                    return open_model(exported_config(path))
                except SegformerPlusPlusError as error:
                    print_log(f'{error}; it is made anew', logger='current', level=logging.WARNING)
            height, width = shape
            print_log(
                f'converting the model for {self._backend} at {height}x{width}, once: {path}',
                logger='current',
            )
            export_model(self._model, path, format=self._format.name, shape=shape)
            return open_model(exported_config(path))

    def _name(self, shape: tuple[int, int]) -> str:
        model: Any = self._model
        output = 'logits' if hasattr(model, 'decode_head') else 'heatmaps'
        options = ExportOptions(self._format.name, shape, output=output)
        # what no weight says, such as how a layer is called, stands in the other two
        parts = self._weights, repr(model), describe_export(model, options, None)
        return sha256(parts)[:32]


def _hash_weights(model: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()
