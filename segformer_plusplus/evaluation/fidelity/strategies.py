"""Strategies as a user names them: a preset, or a file that holds one."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...errors import SegformerPlusPlusError, TokenMergingError
from ...inference.configs import load_config
from ...token_merging import PRESETS, TokenMergingConfig, build_token_merging
from .base import REFERENCE

SUFFIXES = ('.py', '.json')

Strategies = dict[str, TokenMergingConfig]


def read_strategies(names: Iterable[str] | None = None) -> Strategies:
    """Read and check strategies; 'none' is always there, and first.

    Args:
        names: presets, or files. Python with ``token_merging``, or JSON that holds one: the row is
            called as the file without its suffix. Python with ``strategies``, a dict of several by
            name. None: all presets.

    Raises:
        TokenMergingError: an unknown preset, or a strategy that cannot be built.
        SegformerPlusPlusError: a file that is missing or holds none, or two of one name.
    """
    strategies: Strategies = {REFERENCE: REFERENCE}
    for each in PRESETS if names is None else names:
        if each == REFERENCE:
            continue
        for name, token_merging in _read(each).items():
            if name in strategies:
                raise SegformerPlusPlusError(f'strategies: two are called {name!r}')
            strategies[name] = token_merging
    return strategies


def check_strategies(strategies: Mapping[str, TokenMergingConfig]) -> Strategies:
    """The same for strategies by name, as Python code has them.

    Raises:
        TokenMergingError: one that cannot be built.
        SegformerPlusPlusError: another one than no merging is called 'none'.
    """
    if strategies.get(REFERENCE, REFERENCE) not in (REFERENCE, None):
        raise SegformerPlusPlusError(f'strategies: {REFERENCE!r} is the name of no merging')
    for name, each in strategies.items():
        _check(name, each)
    return {REFERENCE: REFERENCE, **strategies}


def spell_out(token_merging: TokenMergingConfig) -> TokenMergingConfig:
    """What a preset's name stands for, so that a record outlives the preset."""
    return PRESETS[token_merging] if isinstance(token_merging, str) else token_merging


def _read(name: str) -> Strategies:
    if name in PRESETS:
        return {name: name}
    path = Path(name)
    if path.suffix.lower() not in SUFFIXES:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f'did you mean {close[0]!r}? ' if close else ''
        raise TokenMergingError(
            f'strategy {name!r} is unknown; {hint}use one of {", ".join(PRESETS)}, or a file that '
            f'ends in {" or ".join(SUFFIXES)}'
        )
    found = _from_json(path) if path.suffix.lower() == '.json' else _from_python(path)
    for each, token_merging in found.items():
        _check(name if len(found) == 1 else f'{name}, {each}', token_merging)
    return found


def _from_json(path: Path) -> Strategies:
    try:
        return {path.stem: json.loads(path.read_text(encoding='utf-8'))}
    except (OSError, ValueError) as error:
        raise SegformerPlusPlusError(f'strategy {path} cannot be read: {error}') from error


def _from_python(path: Path) -> Strategies:
    cfg = load_config(path)
    if ('token_merging' in cfg) == ('strategies' in cfg):
        raise SegformerPlusPlusError(
            f'strategy {path}: a file has token_merging, or strategies by name, one of the two'
        )
    # plain lists and dicts, without mmengine's classes
    plain = Config(cfg._cfg_dict).to_dict()
    if 'token_merging' in plain:
        return {path.stem: plain['token_merging']}
    if not isinstance(plain['strategies'], Mapping) or not plain['strategies']:
        raise SegformerPlusPlusError(f'strategy {path}: strategies is not a dict of them by name')
    return {str(name): each for name, each in plain['strategies'].items()}


def _check(name: str, token_merging: TokenMergingConfig) -> None:
    """Whether it can be built; the model's number of stages is known only when it is loaded."""
    stages: Any = token_merging
    if isinstance(token_merging, Mapping):
        stages = token_merging.get('stages')
    count = len(stages) if isinstance(stages, list | tuple) else 4
    build_token_merging(token_merging, count, name)
