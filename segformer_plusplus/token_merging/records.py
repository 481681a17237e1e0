"""Keeps a strategy as values that JSON holds, as in the config of a model, and reads it again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..errors import TokenMergingError
from .base import TOKEN_MERGERS, TokenMerger
from .config import (
    BASELINE,
    StageConfig,
    StageMerging,
    TokenMerging,
    TokenMergingConfig,
    build_token_merging,
    expand_preset,
    find_preset,
)

_SIDES = ('q', 'kv')


def to_record(token_merging: TokenMergingConfig, merging: TokenMerging) -> dict[str, Any]:
    """Returns ``stages`` and ``downsampling``; of a preset they are spelt out beside its name.

    Its numbers may be others in another version.

    Args:
        token_merging: the strategy as it was given.
        merging: what was built of it.

    Raises:
        TokenMergingError: JSON cannot hold it: a part of it is built already, or is of a class
            that has no registered name.
    """
    if isinstance(token_merging, TokenMerging):
        raise TokenMergingError('what it was built of is not known')
    given: Any = BASELINE if token_merging is None else token_merging
    record: dict[str, Any] = {}
    if isinstance(given, str):
        record['preset'] = given
        given = expand_preset(given, len(merging.stages))
    stages = given['stages'] if isinstance(given, Mapping) else given
    record['stages'] = [
        _of_stage(stage or {}, built) for stage, built in zip(stages, merging.stages, strict=True)
    ]
    if merging.downsampling is not None:
        record['downsampling'] = asdict(merging.downsampling)
    return record


def from_record(record: Any, num_stages: int) -> str | dict[str, Any]:
    """Reads what ``to_record`` returned, or what somebody wrote there.

    The numbers of the record hold; where its preset has others by now, a warning says so. Nothing
    is imported by a name: a record may come from anybody.

    Returns:
        What ``build_token_merging`` takes, the name of a preset where it is one.

    Raises:
        TokenMergingError: as ``build_token_merging``.
    """
    named = {'preset': record} if isinstance(record, str) else {'stages': record}
    settings = dict(record) if isinstance(record, Mapping) else named
    preset = settings.pop('preset', None)
    if not isinstance(preset, str | None):
        raise TokenMergingError(f'token_merging: preset={preset!r} is not the name of one')
    if preset is not None and not settings:
        build_token_merging(preset, num_stages)
        return preset
    _check_names(settings.get('stages'))
    found = find_preset(build_token_merging(settings, num_stages))
    if preset is not None and preset != found:
        warnings.warn(
            f'token_merging: preset {preset!r} is not what it was when the model was saved; what '
            'was saved holds',
            stacklevel=4,
        )
    return found or settings


def _of_stage(stage: Mapping[str, Any], built: StageMerging) -> StageConfig:
    record: StageConfig = {
        side: _of_strategy(stage[side], getattr(built, side))
        for side in _SIDES
        if stage.get(side) is not None
    }
    if built.proportional_attention:
        record['proportional_attention'] = built.proportional_attention
    if built.share > 1:
        record['share'] = built.share
    return record


def _of_strategy(given: Any, built: TokenMerger) -> StageConfig:
    """Returns the registered name of a strategy with the arguments that it was given."""
    known = TOKEN_MERGERS.module_dict.items()
    name = next((name for name, kind in known if kind is type(built)), None)
    if name is None:
        raise TokenMergingError(f'{type(built).__name__} is not registered')
    if isinstance(given, TokenMerger):
        raise TokenMergingError(f'the arguments of {built} are not known, as it is built already')
    arguments = {**given, 'type': name} if isinstance(given, Mapping) else {'type': name}
    try:
        return json.loads(json.dumps(arguments))
    except (TypeError, ValueError) as error:
        raise TokenMergingError(f'an argument of {name}: {error}') from error


def _check_names(stages: Any) -> None:
    for stage in stages if isinstance(stages, list | tuple) else ():
        for side in _SIDES:
            kind = stage.get(side) if isinstance(stage, Mapping) else None
            kind = kind.get('type') if isinstance(kind, Mapping) else kind
            if isinstance(kind, str) and kind not in TOKEN_MERGERS.module_dict:
                raise TokenMergingError(
                    f'token_merging: strategy {kind!r} is not registered, known are '
                    f'{sorted(TOKEN_MERGERS.module_dict)}; import the module of your own first'
                )
