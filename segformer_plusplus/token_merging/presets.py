"""The named strategies as data, and the spelling of the paper's original repository.

Source of 'hq', 'fast', '2x2' and 'downsampling': Segformer++ (Kienzle et al., MIPR 2024).
'weighted' and 'weighted-fast' are ours; docs/fidelity.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import TokenMergingError

StageConfig = dict[str, Any]

_NO_MERGING: list[StageConfig] = [{}, {}, {}, {}]


def _bipartite(ratio: float, stride: int) -> StageConfig:
    return dict(type='BipartiteSoftMatching2d', ratio=ratio, stride=stride)


_MEAN_2X2 = dict(type='NeighborMerging2d', stride=2)
_WEIGHTED = dict(kv=_bipartite(0.9, 4), weigh_keys=True)

PRESETS: dict[str, dict[str, Any]] = {
    'none': dict(stages=_NO_MERGING),
    'hq': dict(
        stages=[
            dict(kv=_bipartite(0.6, 2)),
            dict(kv=_bipartite(0.6, 2)),
            dict(q=_bipartite(0.8, 4)),
            dict(q=_bipartite(0.8, 4)),
        ]
    ),
    'fast': dict(
        stages=[
            dict(kv=_bipartite(0.9, 4)),
            dict(kv=_bipartite(0.9, 4)),
            dict(q=_bipartite(0.9, 4)),
            dict(q=_bipartite(0.9, 4)),
        ]
    ),
    '2x2': dict(stages=[dict(q=_MEAN_2X2)] * 4),
    # ours: keys and values alone, which count as often as the tokens that they stand for
    'weighted': dict(stages=[_WEIGHTED] * 4),
    'weighted-fast': dict(stages=[dict(q=_MEAN_2X2, **_WEIGHTED)] * 4),
    # the paper's baseline: the image is halved, nothing is merged
    'downsampling': dict(stages=_NO_MERGING, downsampling=dict(factor=2, mode='nearest')),
    # the same with a fair filter
    'downsampling-bilinear': dict(stages=_NO_MERGING, downsampling=dict(factor=2, mode='bilinear')),
}
"""What ``token_merging='hq'`` stands for. ``stages`` has one dict per stage, with a strategy for
the queries (``q``) and one for keys and values (``kv``); both may be left out. Other keys are those
of :class:`~segformer_plusplus.token_merging.StageMerging`."""

_TOME_PRESETS = {'bsm_hq': 'hq', 'bsm_fast': 'fast', 'n2d_2x2': '2x2'}

_TOME_MODES: dict[str, tuple[str, dict[str, str]]] = {
    # mode: (our strategy, the keys it needs without their prefix and what they are called here)
    'bsm': ('BipartiteSoftMatching2d', {'r': 'ratio', 'sx': 'stride', 'sy': 'stride'}),
    'n1d': ('NeighborMerging1d', {'s': 'stride'}),
    'n2d': ('NeighborMerging2d', {'s': 'stride'}),
}
_TOME_KEYS = ('mode', 'r', 'sx', 'sy', 's')


def read_tome_cfg(tome_cfg: str | Sequence[Mapping[str, Any]]) -> str | list[StageConfig]:
    """Translate the original repository's ``tome_cfg`` into ``token_merging``.

    Args:
        tome_cfg: one dict per stage, such as ``dict(kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2)``
            or ``dict(q_mode='n2d', q_s=(2, 2))``; or the name of one of that repository's presets.

    Raises:
        TokenMergingError: an unknown mode or key, a key that is missing, or one that its mode
            does not use.
    """
    if isinstance(tome_cfg, str):
        if tome_cfg not in _TOME_PRESETS:
            raise TokenMergingError(
                f'tome_cfg={tome_cfg!r} is unknown, use one of {sorted(_TOME_PRESETS)} or a list'
            )
        return _TOME_PRESETS[tome_cfg]
    if not isinstance(tome_cfg, Sequence) or not all(isinstance(s, Mapping) for s in tome_cfg):
        raise TokenMergingError(f'tome_cfg={tome_cfg!r} is not a list of one dict per stage')
    stages: Any = tome_cfg
    return [_read_tome_stage(stage, number) for number, stage in enumerate(stages, start=1)]


def _read_tome_stage(stage: Mapping[str, Any], number: int) -> StageConfig:
    allowed = [f'{side}_{key}' for side in ('q', 'kv') for key in _TOME_KEYS]
    unknown = [key for key in stage if key not in allowed]
    if unknown:
        raise TokenMergingError(
            f'tome_cfg, stage {number}: unknown key {unknown[0]!r}, allowed are {allowed}'
        )
    result: StageConfig = {}
    for side in ('q', 'kv'):
        given = {
            key: stage[f'{side}_{key}']
            for key in _TOME_KEYS
            if stage.get(f'{side}_{key}') is not None
        }
        mode = given.pop('mode', None)
        where = f'tome_cfg, stage {number}: {side}_mode={mode!r}'
        needed: dict[str, str] = {}
        if mode is not None:
            if not isinstance(mode, str) or mode not in _TOME_MODES:
                raise TokenMergingError(f'{where} is unknown, use one of {list(_TOME_MODES)}')
            strategy, needed = _TOME_MODES[mode]
        if set(given) != set(needed):
            expected = [f'{side}_{key}' for key in needed]
            found = [f'{side}_{key}' for key in given]
            raise TokenMergingError(f'{where} takes the keys {expected}, found {found}')
        if mode == 'bsm':
            stride = (given['sy'], given['sx'])
            result[side] = dict(type=strategy, ratio=given['r'], stride=stride)
        elif mode is not None:
            result[side] = dict(type=strategy, stride=given['s'])
    return result
