"""Says what is searched: for each stage and side, which strategies with which settings."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ...errors import SegformerPlusPlusError, TokenMergingError
from ...inference.configs import load_config
from ...token_merging import PRESETS, TokenMerger, build_token_merging
from ...token_merging.config import build_token_merger, check_proportional, with_new_names

RATIOS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.88, 0.93, 0.97]
"""Includes nearly all that cells of 2x2, 3x3, 4x4 and 6x6 tokens allow."""

SIDES = ('q', 'kv')

Strategy = dict[str, Any]
"""A strategy as a config takes it, and maybe the ``proportional_attention`` of its stage."""

Setting = str | list[dict[str, Any]] | dict[str, Any]
"""A ``token_merging`` as JSON holds it: the name of a preset, or a dict for each stage; or a dict
of a ``token_merging``, the ``format`` of a file and its ``precision``."""

Entry = Mapping[str, Any]


def default_space(num_stages: int = 4) -> list[dict[str, Any]]:
    """Returns what is searched by default, an entry for each strategy and where it may act.

    A list in an entry holds choices; combinations that the strategy refuses are left out.
    ``sides`` ('q', 'kv') and ``stages`` (from 1) say where it may act, by default everywhere;
    ``proportional_attention`` (of keys and values) is that of the stage. To merge nothing is always
    a choice.

    Args:
        num_stages: of the backbone.
    """
    # matching compares every token with every destination: of the many queries of early stages
    # that takes gigabytes
    late = list(range(max(1, num_stages - 1), num_stages + 1))
    matching = dict(type='BipartiteSoftMatching2d', stride=[2, 3, 4, 6], ratio=RATIOS)
    return [
        # without their weights, merged keys cost ten times as many labels (docs/fidelity.md)
        dict(matching, sides=['kv'], proportional_attention='sampled'),
        dict(matching, sides=['q'], stages=late),
        dict(type='NeighborMerging2d', stride=2),
        dict(type='NeighborMerging2d', stride=4, sides=['kv']),
    ]


class Space:
    """Holds all settings that a search may propose.

    The strategies of a stage and side stand in the order of how many tokens they merge, nothing
    first, so that neighbours are alike: the sampler takes them for steps on a scale.

    Args:
        entries: as in ``default_space``, which None stands for.
        num_stages: of the backbone.

    Attributes:
        sites: 'stage 1 kv' -> its choices; None merges nothing.
        size: how many settings there are.

    Raises:
        SegformerPlusPlusError: an entry cannot be read, or no strategy is left.
    """

    def __init__(self, entries: Sequence[Entry] | None = None, num_stages: int = 4) -> None:
        entries = default_space(num_stages) if entries is None else entries
        self.num_stages = num_stages
        self.sites: dict[str, tuple[Strategy | None, ...]] = {}
        self._names: dict[str, list[str]] = {}
        self._identities: dict[str, str] = {}
        read = [
            each for number, entry in enumerate(entries, 1)
            for each in _read_entry(entry, number, num_stages)
        ]  # fmt: skip
        read.sort(key=lambda each: _tokens_left(each[2]), reverse=True)
        for stage, side, site in self._places():
            here = [each for sides, stages, each in read if side in sides and stage in stages]
            if here:
                named: dict[str, Strategy | None] = {_name(None): None}
                named.update((_name(each), each) for each in here)
                self.sites[site], self._names[site] = tuple(named.values()), list(named)
        if not self.sites:
            raise SegformerPlusPlusError('the search space is empty; give it one strategy or more')
        self.size = math.prod(map(len, self.sites.values()))

    def build(self, choices: Mapping[str, int]) -> Setting:
        """Returns the ``token_merging`` of these choices, by site the index of a strategy."""
        stages: list[dict[str, Any]] = [{} for _ in range(self.num_stages)]
        for stage, side, site in self._places():
            strategy = self.sites[site][choices[site]] if site in self.sites else None
            if strategy is not None:
                merger, proportional = _split(strategy)
                stages[stage - 1][side] = merger
                if proportional:
                    stages[stage - 1]['proportional_attention'] = proportional
        return stages

    def find(self, token_merging: Setting) -> dict[str, int] | None:
        """Returns the choices that make this setting, None where it is not in the space."""
        wanted = build_token_merging(token_merging, self.num_stages)
        if wanted.downsampling is not None:
            return None
        choices = {}
        for stage, side, site in self._places():
            names = self._names.get(site, [_name(None)])
            merging = wanted.stages[stage - 1]
            proportional = merging.proportional_attention if side == 'kv' else False
            name = _spell(getattr(merging, side), proportional)
            if name not in names or merging.share > 1:
                return None
            if site in self.sites:
                choices[site] = names.index(name)
        return choices

    def identify(self, token_merging: Setting) -> str:
        """Returns a text that is equal for settings that do the same, however they are written."""
        spelling = json.dumps(token_merging)
        if spelling not in self._identities:
            self._identities[spelling] = repr(build_token_merging(token_merging, self.num_stages))
        return self._identities[spelling]

    def presets(self) -> Iterator[Setting]:
        """Yields the names of the presets that fit this number of stages."""
        for name, preset in PRESETS.items():
            if len(preset['stages']) == self.num_stages or not any(preset['stages']):
                yield name

    def singles(self) -> Iterator[dict[str, int]]:
        """Yields choices that merge many tokens of one stage and side, and nothing else."""
        for site, options in self.sites.items():
            yield {**dict.fromkeys(self.sites, 0), site: max(1, 3 * (len(options) - 1) // 4)}

    def _places(self) -> Iterator[tuple[int, str, str]]:
        for stage, side in itertools.product(range(1, self.num_stages + 1), SIDES):
            yield stage, side, f'stage {stage} {side}'


def read_space(path: str | os.PathLike[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Reads a space of one's own from a config file with ``space = [...]``.

    Modules with strategies of one's own stand in its ``custom_imports``.

    Returns:
        The entries, and the modules of its ``custom_imports``.

    Raises:
        SegformerPlusPlusError: the file cannot be read, or holds no ``space``.
    """
    content = load_config(path).to_dict()
    entries = content.get('space')
    if not isinstance(entries, list | tuple) or not entries:
        raise SegformerPlusPlusError(
            f"{path} has no space: write space = [dict(type='BipartiteSoftMatching2d', "
            'stride=[2, 4], ratio=[0.5, 0.7]), ...]'
        )
    imports = (content.get('custom_imports') or {}).get('imports') or []
    return list(entries), [imports] if isinstance(imports, str) else list(imports)


def _read_entry(
    entry: Entry, number: int, num_stages: int
) -> list[tuple[Sequence[str], Sequence[int], Strategy]]:
    """Returns the strategies of an entry, each with the sides and stages where it may act."""
    where = f'space, entry {number}'
    if not isinstance(entry, Mapping):
        raise SegformerPlusPlusError(f"{where}: {entry!r} is no dict with 'type'")
    settings = with_new_names(entry, where)
    places: dict[str, Sequence[Any]] = {}
    for key, allowed in (('sides', list(SIDES)), ('stages', list(range(1, num_stages + 1)))):
        given = settings.pop(key, allowed)
        if not isinstance(given, list | tuple) or not given or set(given) - set(allowed):
            raise SegformerPlusPlusError(
                f'{where}: {key}={given!r} is no list of some of {allowed}'
            )
        places[key] = given
    proportional = settings.get('proportional_attention', False)
    check_proportional(proportional, 'kv' in places['sides'], where)
    if proportional and list(places['sides']) != ['kv']:
        raise SegformerPlusPlusError(
            f"{where}: proportional_attention={proportional!r} goes with sides=['kv'] alone"
        )
    return [(places['sides'], places['stages'], each) for each in _expand(settings, where)]


def _expand(settings: dict[str, Any], where: str) -> list[Strategy]:
    """Returns every combination of the choices that the strategy takes."""
    choices = []
    for key, given in settings.items():
        values = given if isinstance(given, list) else [given]
        choices.append([_read_choice(value, f'{where}: {key}') for value in values])
    strategies, refused = [], None
    for combination in itertools.product(*choices):
        strategy = dict(zip(settings, combination, strict=True))
        try:
            _build(strategy, where)
        except TokenMergingError as error:
            refused = error
        else:
            strategies.append(strategy)
    if not strategies:
        raise refused or SegformerPlusPlusError(f'{where}: a list of choices is empty')
    return strategies


def _read_choice(value: Any, where: str) -> Any:
    """Returns a value with lists for tuples: so it is equal when it is read from the study."""
    if isinstance(value, float):
        value = round(value, 6)
    listed = _with_lists(value)
    try:
        if json.loads(json.dumps(value, allow_nan=False)) == listed:
            return listed
    except (TypeError, ValueError):
        pass
    raise SegformerPlusPlusError(
        f'{where}={value!r} cannot be kept as JSON; give names, numbers, lists, and dicts whose '
        'keys are names'
    )


def _with_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_lists(each) for key, each in value.items()}
    return list(map(_with_lists, value)) if isinstance(value, list | tuple) else value


def _split(strategy: Strategy) -> tuple[dict[str, Any], bool | str]:
    """Returns the strategy itself, and the ``proportional_attention`` of its stage."""
    merger = dict(strategy)
    return merger, merger.pop('proportional_attention', False)


def _build(strategy: Strategy, where: str = 'space') -> TokenMerger:
    return build_token_merger(_split(strategy)[0], where)


def _name(strategy: Strategy | None) -> str:
    """Returns a text that is equal for strategies that do the same, however they are written."""
    if strategy is None:
        return _spell(None, False)
    return _spell(_build(strategy), _split(strategy)[1])


def _spell(merger: TokenMerger | None, proportional: bool | str) -> str:
    return f'{merger!r}, proportional={proportional}' if proportional else repr(merger)


def _tokens_left(strategy: Strategy) -> int:
    """Returns how many of 1024 tokens on a square grid are left."""
    tokens = torch.rand(1, 1024, 8, generator=torch.Generator().manual_seed(0))
    return _build(strategy).plan(tokens, (32, 32)).num_merged
