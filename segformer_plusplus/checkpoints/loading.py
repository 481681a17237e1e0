"""Read a checkpoint without running code from it, and load it with every key accounted for."""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torch.hub import get_dir, load_state_dict_from_url

from ..errors import CheckpointError
from .safe_globals import mmengine_globals

# torch.hub takes any 'name-face.pth' for a file with a hash; a real one has eight digits or more
_HASH = re.compile(r'-[0-9a-f]{8,64}\.')
_FORBIDDEN = re.compile(r'Unsupported (?:global: GLOBAL \S+|class \S+|operand \S+)')
_ANSI = re.compile(r'\x1b\[[0-9;]*m')


def read_checkpoint(source: str | Path, map_location: str | torch.device = 'cpu') -> dict[str, Any]:
    """Read a checkpoint file, or download it into torch.hub's cache first.

    Args:
        source: a path, or an http(s) address. The hash in a file name such as
            ``mit_b0-0123abcd.pth`` is verified.
        map_location: where the tensors go.

    Returns:
        The file's content, a dict.

    Raises:
        CheckpointError: nothing there, no checkpoint, cut short, or one that would have to run
            code to be read.
    """
    scheme = urlparse(str(source)).scheme
    try:
        with mmengine_globals():
            if scheme in ('http', 'https'):
                content = _download(str(source), map_location)
            else:
                content = _read_file(Path(source).expanduser(), map_location)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f'checkpoint {source} cannot be read safely: {_reason(error)}; it holds more than '
            'tensors and plain values, or it is damaged'
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(
            f'checkpoint {source} cannot be read: {_reason(error)}; it is damaged, cut short or '
            'no PyTorch file'
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f'checkpoint {source} holds a {type(content).__name__}, expected a dict'
        )
    return content


def load_checkpoint_strictly(
    model: nn.Module,
    source: str | Path,
    *,
    prefix: str = '',
    map_location: str | torch.device = 'cpu',
) -> dict[str, Any]:
    """Load a checkpoint so that every key of the file and of the model is accounted for.

    Args:
        model: loaded in place; untouched if anything does not fit.
        source: as for :func:`read_checkpoint`.
        prefix: load only the keys below it, e.g. 'backbone' of a whole segmentor.
        map_location: where the file's tensors go first.

    Returns:
        The whole checkpoint, as read.

    Raises:
        CheckpointError: keys missing in the file, keys the model does not have, other shapes.
    """
    checkpoint = read_checkpoint(source, map_location)
    state = extract_state_dict(checkpoint, source)
    if prefix:
        start = prefix.rstrip('.') + '.'
        state = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
        if not state:
            raise CheckpointError(f'checkpoint {source} has no key below prefix={prefix!r}')
    load_state_dict_strictly(model, state, source)
    return checkpoint


def load_state_dict_strictly(
    model: nn.Module, state: dict[str, Tensor], source: str | Path
) -> None:
    """Load a state dict all or nothing; ``source`` names it in the error.

    Raises:
        CheckpointError: as :func:`load_checkpoint_strictly`.
    """
    _check_fit(model, state, source)
    model.load_state_dict(state, strict=True)


def _download(url: str, map_location: str | torch.device) -> Any:
    name = Path(urlparse(url).path).name
    # two addresses with one file name must not share a cache entry
    cached_as = f'{hashlib.sha256(url.encode()).hexdigest()[:12]}_{name}'
    try:
        return load_state_dict_from_url(
            url,
            map_location=map_location,
            check_hash=_HASH.search(cached_as) is not None,
            file_name=cached_as,
            weights_only=True,
        )
    except Exception:
        # a download that was cut short must not stand in the way of the next try
        (Path(get_dir()) / 'checkpoints' / cached_as).unlink(missing_ok=True)
        raise


def _read_file(path: Path, map_location: str | torch.device) -> Any:
    if not path.is_file():
        raise CheckpointError(f'checkpoint {path} does not exist or is not a file')
    return torch.load(path, map_location=map_location, weights_only=True)


def extract_state_dict(checkpoint: dict[str, Any], source: str | Path) -> dict[str, Tensor]:
    """The weights of a checkpoint that was read from ``source``, without DDP's prefix.

    Raises:
        CheckpointError: there are none.
    """
    state = checkpoint.get('state_dict', checkpoint)
    tensors = isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values())
    if not tensors or not state:
        raise CheckpointError(
            f'checkpoint {source} holds no state dict; its keys are {_some(checkpoint)}'
        )
    return {key.removeprefix('module.'): value for key, value in state.items()}


def _check_fit(model: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    reshaped = [k for k in own if k in state and own[k].shape != state[k].shape]
    problems = []
    if missing:
        problems.append(f'{len(missing)} keys missing: {_some(missing)}')
    if unexpected:
        problems.append(f'{len(unexpected)} keys the model does not have: {_some(unexpected)}')
    if reshaped:
        key = reshaped[0]
        problems.append(
            f'{len(reshaped)} of another shape: {key} is {tuple(state[key].shape)} in the file '
            f'and {tuple(own[key].shape)} in the model'
        )
    if not problems:
        return
    hint = ''
    if missing and all(f'backbone.{key}' in state for key in missing):
        hint = "; the file is a whole model, use prefix='backbone' for its backbone"
    raise CheckpointError(
        f'checkpoint {source} does not fit {type(model).__name__}: {"; ".join(problems)}{hint}'
    )


def _some(keys: Any, most: int = 3) -> str:
    names = [str(key) for key in keys]
    return ', '.join(names[:most]) + (', ...' if len(names) > most else '')


def _reason(error: BaseException) -> str:
    text = _ANSI.sub('', str(error))
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        return forbidden[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
