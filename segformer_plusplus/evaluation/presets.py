"""Reads and checks presets by name and from files."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..errors import SegformerPlusPlusError, TokenMergingError
from ..export.formats import is_exported
from ..inference.configs import load_config
from ..inference.exported import ExportedFile
from ..token_merging import BASELINE, PRESETS, TokenMergingConfig, build_token_merging

SUFFIXES = ('.py', '.json')

Presets = dict[str, Any]
"""By name: what ``token_merging`` takes, or an ``..inference.exported.ExportedFile``."""


def read_presets(names: Iterable[str] | None = None) -> Presets:
    """Reads and checks presets; 'none' is always there, and first.

    Args:
        names: presets, or files: Python with ``token_merging``, or JSON that holds it, whose row
            has the name of the file without its suffix; or Python with ``presets``, a dict of
            several by name; or exported models. None: all presets of the package.

    Raises:
        TokenMergingError: an unknown preset, or one that cannot be built.
        SegformerPlusPlusError: a file that is missing or holds none, or two of one name.
    """
    presets: Presets = {BASELINE: BASELINE}
    for each in PRESETS if names is None else names:
        if each == BASELINE:
            continue
        for name, token_merging in read_preset(each).items():
            if name in presets:
                raise SegformerPlusPlusError(f'two presets are called {name!r}')
            presets[name] = token_merging
    return presets


def check_presets(presets: Mapping[str, TokenMergingConfig]) -> Presets:
    """Checks presets that Python code gives by name; 'none' is added as the first.

    Raises:
        TokenMergingError: one that cannot be built.
        SegformerPlusPlusError: another one than no merging is called 'none'.
    """
    if presets.get(BASELINE, BASELINE) not in (BASELINE, None):
        raise SegformerPlusPlusError(f'presets: {BASELINE!r} is the name of no merging')
    for name, each in presets.items():
        _check_preset(name, each)
    return {BASELINE: BASELINE, **presets}


def spell_out(token_merging: Any) -> Any:
    """Returns what a preset's name or a file stands for, so that a record outlives them."""
    if isinstance(token_merging, ExportedFile):
        return token_merging.record['token_merging']
    return PRESETS[token_merging] if isinstance(token_merging, str) else token_merging


def read_preset(name: str) -> Presets:
    """Reads and checks one preset, or those of a file, by name; see ``read_presets``."""
    if name in PRESETS:
        return {name: name}
    path = Path(name)
    if is_exported(path):
        return {path.name: ExportedFile(name)}
    if path.suffix.lower() not in SUFFIXES:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f'did you mean {close[0]!r}? ' if close else ''
        raise TokenMergingError(
            f'preset {name!r} is unknown; {hint}use one of {", ".join(PRESETS)}, or a file that '
            f'ends in {" or ".join(SUFFIXES)}, or an exported model'
        )
    found = _from_json(path) if path.suffix.lower() == '.json' else _from_python(path)
    for each, token_merging in found.items():
        _check_preset(name if len(found) == 1 else f'{name}, {each}', token_merging)
    return found


def _from_json(path: Path) -> Presets:
    try:
        return {path.stem: json.loads(path.read_text(encoding='utf-8'))}
    except (OSError, ValueError) as error:
        raise SegformerPlusPlusError(f'preset {path} cannot be read: {error}') from error


def _from_python(path: Path) -> Presets:
    # plain lists and dicts, without mmengine's classes
    plain = Config(load_config(path)._cfg_dict).to_dict()
    if 'strategies' in plain:
        warnings.warn(f"{path}: 'strategies' is 'presets' now", FutureWarning, stacklevel=2)
        plain['presets'] = plain.pop('strategies')
    if ('token_merging' in plain) == ('presets' in plain):
        raise SegformerPlusPlusError(
            f'preset {path}: a file has either token_merging = ... or presets = dict(name=...)'
        )
    if 'token_merging' in plain:
        return {path.stem: plain['token_merging']}
    presets = plain['presets']
    if not isinstance(presets, Mapping) or not presets:
        raise SegformerPlusPlusError(f'preset {path}: presets is not a dict of them by name')
    return {str(name): each for name, each in presets.items()}


def _check_preset(name: str, token_merging: Any) -> None:
    """Checks that it can be built; the model's number of stages is known only when it is loaded."""
    if isinstance(token_merging, ExportedFile):
        return
    stages: Any = token_merging
    if isinstance(token_merging, Mapping):
        stages = token_merging.get('stages')
    count = len(stages) if isinstance(stages, list | tuple) else 4
    build_token_merging(token_merging, count, name)
