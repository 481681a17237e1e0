"""Fetches models from the Hugging Face Hub by their names, through its cache."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, first_line
from ..libraries import require
from .files import INDEX, SAFETENSORS, WEIGHTS

CONFIG, PREPROCESSOR = 'config.json', 'preprocessor_config.json'
"""What the settings of a model, and of its images, are called in a folder of Transformers."""

_NAME = re.compile(r'(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?')
_FILES = ('.py', '.pth', '.pt', '.bin', '.ckpt', SAFETENSORS, '.json', '.onnx', '.xml', '.pt2')
_SAFE, _PICKLED = (
    [name, f'{Path(name).stem}-*{Path(name).suffix}', name + INDEX] for name in WEIGHTS
)


def is_hub_name(source: str | os.PathLike[str]) -> bool:
    """Says whether this is meant as OWNER/NAME or OWNER/NAME@REVISION, and not as a path."""
    text = os.fspath(source)
    named = _NAME.fullmatch(text) is not None and not text.endswith(_FILES)
    return named and not Path(text).exists()


def fetch(
    name: str,
    revision: str | None = None,
    token: str | bool | None = None,
    weights: bool = True,
) -> Path:
    """Returns the folder of a model of the Hub; downloads what the cache lacks.

    Only settings and weights are fetched, and pickled weights only where there are no safetensors.
    ``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` work as for every program that
    uses huggingface_hub.

    Args:
        name: OWNER/NAME, or OWNER/NAME@REVISION.
        revision: branch, tag or commit; None takes that of the name, else the main branch.
        token: of somebody who may read it; None takes the one that the machine is logged in with.
        weights: whether weights are wanted, too, beside the settings.

    Raises:
        CheckpointError: no such model or revision, no permission, no network and nothing in the
            cache.
        MissingDependencyError: huggingface_hub is not installed.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise CheckpointError(f'{name!r} is no name of the Hub; write OWNER/NAME')
    hub: Any = require('huggingface_hub', f'the model {name}')
    errors, utils = import_module('.errors', hub.__name__), import_module('.utils', hub.__name__)
    wanted = dict(
        repo_id=match['repo'], revision=revision or match['revision'], token=token,
        tqdm_class=_patient(utils),
    )  # fmt: skip
    safe = _SAFE if weights else []
    try:
        found = Path(hub.snapshot_download(allow_patterns=[CONFIG, PREPROCESSOR, *safe], **wanted))
        if weights and not any((found / (WEIGHTS[0] + end)).exists() for end in ('', INDEX)):
            hub.snapshot_download(allow_patterns=_PICKLED, **wanted)
    except Exception as error:  # of the HTTP client, too, whichever the library uses
        raise CheckpointError(_explain(name, errors, error)) from error
    return found


def _patient(utils: Any) -> type:
    """Shows bars of downloads, and none where the cache has everything: after a second."""

    class Patient(utils.tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **dict(kwargs, delay=1))

        def display(self, *args: Any, **kwargs: Any) -> Any:
            early = self._time() < self.start_t + self.delay  # also when it is told what to say
            return None if early else super().display(*args, **kwargs)

    return Patient


def cached_model(path: str | os.PathLike[str]) -> Path | None:
    """Returns the folder of the Hub's cache that holds all of a model; None outside of a cache."""
    places = (each.parent for each in Path(path).parents if each.name == 'snapshots')
    return next((each for each in places if each.name.startswith('models--')), None)


def _explain(name: str, errors: Any, error: Exception) -> str:
    """Says in one line why a model cannot be had; the library takes a paragraph."""
    if isinstance(error, errors.GatedRepoError):
        return f'{name}: its owner has to let you in; ask on its page, then run `hf auth login`'
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f'{name} is neither a path here nor a model of the Hub that you may read (run `hf auth '
            'login` for a private one); segformer-plusplus models lists known ones'
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f'{name}: the model has no such revision'
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__ or error.__context__
        why = f' ({first_line(cause)})' if cause else ''
        return (
            f'{name} is not in the cache, and the Hub cannot be reached{why}; connect once, or name'
            ' a folder that save_pretrained wrote'
        )
    if getattr(getattr(error, 'response', None), 'status_code', None) == 401:
        return f'{name}: the Hub does not know your token; run `hf auth login`, or unset HF_TOKEN'
    return f'{name} cannot be fetched: {first_line(error)}'
