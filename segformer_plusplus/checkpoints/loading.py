"""Reads checkpoints without running code from them, and loads them whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn
from torch.hub import download_url_to_file, get_dir

from ..errors import CheckpointError, SegformerPlusPlusError
from ..files import written_beside
from ..refusals import RefusedError, refused
from ..safe_globals import mmengine_globals
from .conversion import convert, not_recognised, recognise
from .files import read_path, some
from .hub import cached_model, fetch, is_hub_name
from .settings import differences, head_kind

# torch.hub takes any 'name-face.pth' for a file with a hash; a real one has eight digits or more
_HASH = re.compile(r'-([0-9a-f]{8,64})\.')
_PLACES = ('state_dict', 'model', 'model_state_dict')  # the first one that holds weights is taken
_WRAPPERS = ('module.', '_orig_mod.')


def read_checkpoint(
    source: str | Path, map_location: str | torch.device = 'cpu', *, unsafe: bool = False
) -> dict[str, Any]:
    """Reads a checkpoint, from an address after a download into torch.hub's cache.

    Args:
        source: a file of PyTorch or of safetensors, a folder of Transformers (also with weights in
            several files), the name of a model of the Hub, see ``hub.fetch``, or the http(s)
            address of a file. The hash in a file name such as ``mit_b0-0123abcd.pth`` is verified.
        map_location: where the tensors go.
        unsafe: run the code that a pickle holds, if it holds any.

    Returns:
        The content, a dict, under the names that it has there.

    Raises:
        CheckpointError: nothing there, no checkpoint, cut short, or one that would have to run
            code to be read.
        MissingDependencyError: it needs the package safetensors, which is not installed.
    """
    place = source
    try:
        with mmengine_globals():
            if urlparse(str(source)).scheme in ('http', 'https'):
                content = _download(str(source), map_location, unsafe)
            else:
                place = fetch(str(source)) if is_hub_name(source) else Path(source).expanduser()
                content = read_path(place, map_location, unsafe)
    except SegformerPlusPlusError:
        raise
    except RefusedError as error:
        raise refused(source, error) from error
    except Exception as error:  # a damaged file can fail in any way
        cached = cached_model(place)
        advice = f'; delete {cached} to have it fetched again' if cached else ''
        raise CheckpointError(
            f'checkpoint {source} cannot be read: it is damaged, cut short or no file of PyTorch '
            f'or safetensors ({_reason(error)}){advice}'
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
    """Loads a checkpoint and accounts for every key of the file and of the model.

    Weights of other libraries are converted first, see ``conversion.convert``.

    Args:
        model: loaded in place; untouched if anything does not fit.
        source: as for ``read_checkpoint``.
        prefix: load only the keys below it, e.g. 'backbone' of a whole segmentor; as they are
            called in the file, or here.
        map_location: where the file's tensors go first.

    Returns:
        The whole checkpoint, as read.

    Raises:
        CheckpointError: keys missing in the file, keys the model does not have, other shapes.
    """
    checkpoint = read_checkpoint(source, map_location)
    state = plain_state_dict(checkpoint, source)
    start = prefix.rstrip('.') + '.' if prefix else ''
    inside = _below(start, state)
    # a prefix that the file does not know may be one that its weights get here
    ours = _to_our_names(inside, source) if inside else _below(start, _to_our_names(state, source))
    if not ours:
        raise CheckpointError(
            f'checkpoint {source} has no key below prefix={prefix!r}; its keys are {some(state)}'
        )
    load_state_dict_strictly(model, ours, source)
    return checkpoint


@WEIGHT_INITIALIZERS.register_module(force=True)
class StrictPretrained:
    """Loads ``init_cfg=dict(type='Pretrained', ...)`` by ``load_checkpoint_strictly``."""

    def __init__(
        self, checkpoint: str | Path, prefix: str | None = None, map_location: str = 'cpu'
    ) -> None:
        self._source = checkpoint
        self._options: dict[str, Any] = dict(prefix=prefix or '', map_location=map_location)

    def __call__(self, module: nn.Module) -> None:
        load_checkpoint_strictly(module, self._source, **self._options)


def load_state_dict_strictly(
    model: nn.Module, state: dict[str, Tensor], source: str | Path
) -> None:
    """Loads a state dict as ``load_checkpoint_strictly``; ``source`` names it in the error."""
    own = model.state_dict()
    expected = {key: tuple(tensor.shape) for key, tensor in own.items()}
    problems = differences(state, expected, 'the model')
    if problems:
        raise CheckpointError(
            f'checkpoint {source} does not fit {type(model).__name__}: {problems}'
            f'{_hint(own, state)}'
        )
    model.load_state_dict(state, strict=True)


def extract_state_dict(checkpoint: dict[str, Any], source: str | Path) -> dict[str, Tensor]:
    """Returns the weights of a checkpoint that was read from ``source``, under our names.

    Those of a library that is not recognised keep theirs.

    Raises:
        CheckpointError: there are none, or a library is recognised but its keys are not complete.
    """
    return _to_our_names(plain_state_dict(checkpoint, source), source)


def plain_state_dict(checkpoint: dict[str, Any], source: str | Path) -> dict[str, Tensor]:
    """Returns the weights of a checkpoint under the names that they have there.

    They may lie under 'state_dict' or 'model'; the prefixes of DDP and of ``torch.compile`` go.

    Raises:
        CheckpointError: there are none.
    """
    for place in (*(checkpoint.get(name) for name in _PLACES), checkpoint):
        if isinstance(place, dict) and place and all(map(torch.is_tensor, place.values())):
            break
    else:
        raise CheckpointError(
            f'checkpoint {source} holds no state dict; its keys are {some(checkpoint)}'
        )
    state = dict(place)
    while wrapper := next((w for w in _WRAPPERS if all(k.startswith(w) for k in state)), None):
        state = {key.removeprefix(wrapper): value for key, value in state.items()}
    return state


def _to_our_names(state: dict[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    try:
        if recognise(state) in (None, 'mmseg'):
            return state
        result = convert(state)
    except CheckpointError as error:
        raise CheckpointError(f'checkpoint {source}: {error}') from error
    left_out = f': {", ".join(result.left_out)}' if result.left_out else ''
    print_log(
        f'{source} has the names of {result.source}: {result.converted} keys converted, '
        f'{len(result.left_out)} left out{left_out}',
        logger='current',
    )
    return result.state


def _below(start: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(start): v for key, v in state.items() if key.startswith(start)}


def _download(url: str, map_location: str | torch.device, unsafe: bool) -> Any:
    # two addresses with one file name must not share a cache entry
    digest = hashlib.sha256(url.encode()).hexdigest()[:12]
    cached = Path(get_dir()) / 'checkpoints' / f'{digest}_{Path(urlparse(url).path).name}'
    hashed = _HASH.search(cached.name)
    try:
        if not cached.exists():
            cached.parent.mkdir(parents=True, exist_ok=True)
            with written_beside(cached) as place:
                download_url_to_file(url, str(place), hashed[1] if hashed else None)
        return read_path(cached, map_location, unsafe)
    except Exception as error:
        # a download that was cut short must not stand in the way of the next try
        with contextlib.suppress(OSError):
            cached.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        if error.filename and not isinstance(error, URLError):
            raise CheckpointError(
                f'checkpoint {url} cannot be kept in {cached.parent}: {error.strerror}; set '
                'TORCH_HOME to a folder that can be written'
            ) from error
        reason = error if isinstance(error, HTTPError) else getattr(error, 'reason', error)
        why = getattr(reason, 'strerror', None) or reason
        raise CheckpointError(f'checkpoint {url} cannot be downloaded: {why}') from error


def _hint(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Says for a message what may be meant instead."""
    missing = [key for key in own if key not in state]
    if missing and all(f'backbone.{key}' in state for key in missing):
        return "; the file is a whole model, use prefix='backbone' for its backbone"
    if recognise(own) != 'mmseg':
        return ''
    if recognise(state) is None:
        return f'; the file is of no known format: {not_recognised(state)}'
    heads = head_kind(own), head_kind(state)
    if heads == ('mmseg', 'linear'):
        channels = state['decode_head.fusion_conv.conv.weight'].shape[0]
        return (
            '; the levels of its head are linear, as in the original and in Transformers: use '
            f"decode_head=dict(type='SegformerLinearHead', channels={channels})"
        )
    if heads == ('linear', 'mmseg'):
        return "; its head is mmseg's: use decode_head=dict(type='SegformerHeadPlusPlus')"
    if heads[0] and not heads[1]:
        return '; the file is a backbone alone: name it in the init_cfg of the backbone'
    return ''


def _reason(error: BaseException) -> str:
    """Returns the first sentence of an error; its kind where the words are not for people."""
    text = '' if isinstance(error, LookupError | pickle.UnpicklingError) else str(error)
    return text.strip().partition('\n')[0].partition('. ')[0] or type(error).__name__
