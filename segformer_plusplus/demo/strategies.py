"""Makes the strategies that the page offers, and reads them from the address of a page."""

from __future__ import annotations

import copy
from collections.abc import Collection, Container, Mapping
from typing import Any, NamedTuple

from ..errors import SegformerPlusPlusError
from ..token_merging import PRESETS, TokenMerging, build_token_merging
from ..token_merging.bipartite import BipartiteSoftMatching2d, highest_ratio

FIRST_PRESET = 'hq'

_STEP = 0.0125  # of the sliders: all ratios and limits of the presets are multiples of it


class Ratios(NamedTuple):
    """Holds the shares of the keys and values, and of the queries, that are merged away."""

    kv: float
    q: float


class Settings(NamedTuple):
    """Holds what an address asks for.

    Attributes:
        preset: the strategy.
        ratios: None are those of the preset.
        sample: name of the image; '' is none.
        ignored: what of it made no sense, a sentence each.
    """

    preset: str
    ratios: Ratios | None
    sample: str
    ignored: tuple[str, ...]


def preset_ratios(preset: str) -> tuple[Ratios, Ratios] | None:
    """Returns the ratios of a preset and the largest that it takes; None if it has none.

    None, too, for a name that is no preset.
    """
    if preset not in PRESETS:
        return None
    ratios, limits = {}, {}
    for stage in build_token_merging(preset).stages:
        for role, merger in (('kv', stage.kv), ('q', stage.q)):
            if isinstance(merger, BipartiteSoftMatching2d):
                ratios[role], limits[role] = merger.ratio, highest_ratio(merger.stride)
    return (Ratios(**ratios), Ratios(**limits)) if len(ratios) == 2 else None


def make_strategy(preset: str, ratios: Ratios | None = None) -> TokenMerging:
    """Makes the strategy of a preset, with other ratios in every stage that has them.

    Raises:
        TokenMergingError: an unknown preset, or a ratio that its strategy refuses.
        SegformerPlusPlusError: ratios for a preset that has none.
    """
    strategy = build_token_merging(preset)
    if ratios is None:
        return strategy
    if preset_ratios(preset) is None:
        raise SegformerPlusPlusError(f'{preset!r} takes no ratios')
    changed = copy.deepcopy(PRESETS[preset])
    for stage in changed['stages']:
        for role, settings in stage.items():
            settings['ratio'] = getattr(ratios, role)
    return build_token_merging(changed)


def sliders(preset: str, ratios: Ratios | None = None) -> list[dict[str, Any]]:
    """Returns the settings of the sliders of both ratios, hidden for a preset that has none.

    Args:
        preset: the strategy.
        ratios: None are those of the preset.
    """
    found = preset_ratios(preset)
    if found is None:
        return [dict(visible=False)] * 2
    return [
        dict(minimum=0, maximum=limit, step=_STEP, value=value, visible=True)
        for value, limit in zip(ratios or found[0], found[1], strict=True)
    ]


def read_address(
    query: Mapping[str, str],
    presets: Collection[str],
    samples: Container[str],
    first: str = FIRST_PRESET,
) -> Settings:
    """Reads '?strategy=hq&kv=0.6&q=0.8&sample=NAME'; what makes no sense is ignored, and said.

    Args:
        query: by the names above; all may be missing. Names with '__' in front are Gradio's own.
        presets: that are offered.
        samples: names that there are.
        first: of the presets, if the address names none.
    """
    ignored = [
        f'{key[:40]!r} is none of strategy, kv, q, sample'
        for key in query
        if key not in ('strategy', 'kv', 'q', 'sample') and not key.startswith('__')
    ]
    preset, ratios = query.get('strategy', first), None
    if preset not in presets:
        ignored.append(f'strategy={preset[:40]!r} is none of {", ".join(presets)}')
        preset = first
    if 'kv' in query or 'q' in query:
        try:
            usual = preset_ratios(preset)
            before = usual[0] if usual else Ratios(0, 0)
            ratios = Ratios(
                *(_number(query[k]) if k in query else getattr(before, k) for k in Ratios._fields)
            )
            make_strategy(preset, ratios)
        except SegformerPlusPlusError as error:
            ignored.append(f'kv and q: {error}')
            ratios = None
    sample = query.get('sample', '')
    if sample and sample not in samples:
        ignored.append(f'there is no sample {sample[:40]!r}')
        sample = ''
    return Settings(preset, ratios, sample, tuple(ignored))


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text[:40]  # which the strategy refuses in words
