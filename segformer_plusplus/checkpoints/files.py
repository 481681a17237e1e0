"""Reads the files that weights come in: pickles of PyTorch, safetensors, and folders of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..libraries import require
from ..refusals import RefusedError, why_refused

WEIGHTS = ('model.safetensors', 'pytorch_model.bin')
"""What the weights in a folder of Transformers are called, the preferred one first."""

INDEX = '.index.json'
"""Ends the name of the file that says which of several files a tensor is in."""

SAFETENSORS = '.safetensors'
_LFS = b'version https://git-lfs'


def some(keys: Iterable[object]) -> str:
    """Lists the first few of many names."""
    names = [str(key) for key in keys]
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


def read_path(path: Path, map_location: Any, unsafe: bool = False) -> Any:
    """Reads a file, or a folder with weights in it.

    Args:
        path: ends in ``.safetensors``, or in ``.index.json`` for weights in several files; or a
            folder; anything else is a pickle of ``torch.save``.
        map_location: where the tensors go.
        unsafe: run the code that a pickle may hold.

    Raises:
        CheckpointError: nothing there, or the pieces of a folder do not go together.
        MissingDependencyError: safetensors is not installed.
        RefusedError: a pickle asks for more than tensors and plain values; says for what.
        Exception: anything else that a damaged file leads to.
    """
    if path.is_dir():
        return read_path(_weights_in(path), map_location, unsafe)
    if not path.is_file():
        raise CheckpointError(f'checkpoint {path} does not exist or is not a file')
    with path.open('rb') as file:
        if file.read(len(_LFS)) == _LFS:
            raise CheckpointError(
                f'checkpoint {path} is a pointer of Git LFS, not the weights: run `git lfs pull`'
            )
    if path.name.endswith(INDEX):
        return _read_shards(path, map_location, unsafe)
    if path.suffix == SAFETENSORS:
        location = map_location if isinstance(map_location, str | torch.device) else 'cpu'
        return safetensors().load_file(path, device=str(location))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of formats that are refused, or read as any other
            return torch.load(path, map_location=map_location, weights_only=not unsafe)
    except Exception as error:
        reason = None if unsafe else why_refused(path, error)
        if reason is None:
            raise
        raise RefusedError(reason) from error


def safetensors() -> Any:
    """Returns the module that reads and writes safetensors, if it is installed."""
    return require('safetensors.torch', f'a file that ends in {SAFETENSORS}')


def _weights_in(folder: Path) -> Path:
    names = [name + end for name in WEIGHTS for end in ('', INDEX)]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = some(sorted(path.name for path in folder.iterdir())) or 'nothing'
    raise CheckpointError(
        f'the folder {folder} has no weights: looked for {", ".join(names)}, found {found}'
    )


def _read_shards(index: Path, map_location: Any, unsafe: bool) -> dict[str, Tensor]:
    """Reads several files, each of which must hold what the index says and no more."""
    places = _read_index(index)
    state: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        shard = read_path(index.parent / name, map_location, unsafe)
        if not isinstance(shard, dict):
            raise CheckpointError(f'{index.parent / name} holds a {type(shard).__name__}')
        different = {key for key, place in places.items() if place == name} ^ set(shard)
        if different:
            raise CheckpointError(
                f'{index} and {name} do not go together: {len(different)} keys are in one of them '
                f'only: {some(sorted(map(str, different)))}'
            )
        state |= shard
    return state


def _read_index(index: Path) -> dict[str, str]:
    """Returns the name of the file beside the index that holds a key, for every key."""
    try:
        content = json.loads(index.read_text(encoding='utf-8'))
    except ValueError as error:
        raise CheckpointError(f'{index} cannot be read as JSON: {error}') from error
    places = content.get('weight_map') if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} has no 'weight_map', which says where the weights are")
    kind = Path(index.name.removesuffix(INDEX)).suffix
    for name in places.values():
        # a path could lead anywhere, and another kind of file could run code where this one cannot
        plain = isinstance(name, str) and not set(name) & set('/\\:\0')
        if not plain or Path(name).suffix != kind:
            raise CheckpointError(
                f'{index} names {name!r}: the weights must lie in files beside it that end in '
                f'{kind}; nothing is read'
            )
    return places
