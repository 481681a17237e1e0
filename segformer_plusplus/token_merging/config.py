"""Builds strategies from what a config says (``token_merging=...``), and holds the presets.

Source of 'hq', 'fast', '2x2' and 'downsampling': Segformer++ (Kienzle et al., MIPR 2024).
'weighted' and 'weighted-fast' are ours; docs/fidelity.md has what was measured.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias

import torch.nn.functional as F
from torch import Tensor

from ..errors import TokenMergingError
from .base import TOKEN_MERGERS, TokenMerger

StageConfig = dict[str, Any]

BASELINE = 'none'
"""The preset that merges nothing, which all others are compared with."""

_NO_MERGING: list[StageConfig] = [{}, {}, {}, {}]

_MEAN_2X2 = dict(type='NeighborMerging2d', stride=2)

_TOME_PRESETS = {'bsm_hq': 'hq', 'bsm_fast': 'fast', 'n2d_2x2': '2x2'}

_TOME_MODES: dict[str, tuple[str, dict[str, str]]] = {
    # mode: (our strategy, the keys it needs without their prefix and what they are called here)
    'bsm': ('BipartiteSoftMatching2d', {'r': 'ratio', 'sx': 'stride', 'sy': 'stride'}),
    'n1d': ('NeighborMerging1d', {'s': 'stride'}),
    'n2d': ('NeighborMerging2d', {'s': 'stride'}),
}
_TOME_KEYS = ('mode', 'r', 'sx', 'sy', 's')

_RENAMED = {'weigh_keys': 'proportional_attention'}
"""Maps old keys of a stage, which work with a warning for one version, to new ones."""

DOWNSAMPLING_MODES = ('nearest', 'bilinear', 'bicubic', 'area')


def _bipartite(ratio: float, stride: int) -> StageConfig:
    return dict(type='BipartiteSoftMatching2d', ratio=ratio, stride=stride)


def _sampled(ratio: float, stride: int) -> StageConfig:
    return dict(kv=_bipartite(ratio, stride), proportional_attention='sampled')


PRESETS: dict[str, dict[str, Any]] = {
    BASELINE: dict(stages=_NO_MERGING),
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
    # ours: keys and values alone, which count as much as a sample of the queries says; stages 2
    # and 4 are merged less than the others, as docs/fidelity.md found on photographs
    'weighted': dict(
        stages=[_sampled(0.8, 3), _sampled(0.5, 2), _sampled(0.8, 3), _sampled(0.5, 2)]
    ),
    'weighted-fast': dict(stages=[*[_sampled(0.88, 3)] * 3, _sampled(0.5, 2)]),
    # what the paper compares merging with: the image is halved, nothing is merged
    'downsampling': dict(stages=_NO_MERGING, downsampling=dict(factor=2, mode='nearest')),
    # the same with a fair filter
    'downsampling-bilinear': dict(stages=_NO_MERGING, downsampling=dict(factor=2, mode='bilinear')),
}
"""Holds what ``token_merging='hq'`` stands for: ``stages`` has one dict per stage, whose keys are
those of ``segformer_plusplus.token_merging.StageMerging``; all may be left out."""

PURPOSES: dict[str, str] = {
    BASELINE: 'merges nothing; the exact model, which all others are compared with',
    'hq': "the paper's careful choice; merges similar tokens, 60 to 80 % of them",
    'fast': "the paper's quick one; merges 90 % of the tokens and changes more of the prediction",
    '2x2': 'simple; averages every 2x2 queries, whatever they show',
    'weighted': 'keeps labels on photographs; merges keys and values, weighed by attention',
    'weighted-fast': 'merges more of the same; nearly as quick as fast on large images',
    'downsampling': 'halves the image and merges nothing; what merging has to beat',
    'downsampling-bilinear': 'halves the image with a smooth filter',
}
"""Says of every preset in a few words what it is for; docs/strategies.md has more."""


def read_tome_cfg(tome_cfg: str | Sequence[Mapping[str, Any]]) -> str | list[StageConfig]:
    """Translates the original repository's ``tome_cfg`` into ``token_merging``.

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
        values = {key: stage.get(f'{side}_{key}') for key in _TOME_KEYS}
        given = {key: value for key, value in values.items() if value is not None}
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


@dataclass(frozen=True)
class InputDownsampling:
    """Makes the image smaller before the first stage.

    Attributes:
        factor: by which height and width are divided, an integer >= 2.
        mode: of ``torch.nn.functional.interpolate``.
    """

    factor: int
    mode: str

    def __post_init__(self) -> None:
        if not isinstance(self.factor, int) or isinstance(self.factor, bool) or self.factor < 2:
            raise TokenMergingError(f'downsampling: factor={self.factor!r} is not an integer >= 2')
        if self.mode not in DOWNSAMPLING_MODES:
            raise TokenMergingError(
                f'downsampling: mode={self.mode!r} is unknown, use one of {DOWNSAMPLING_MODES}'
            )

    def __call__(self, image: Tensor) -> Tensor:
        """Resizes (B, C, H, W) to (B, C, H // factor, W // factor), at least one pixel each."""
        size = [max(1, side // self.factor) for side in image.shape[2:]]
        align = False if self.mode in ('bilinear', 'bicubic') else None
        return F.interpolate(image, size=size, mode=self.mode, align_corners=align)


@dataclass(frozen=True)
class StageMerging:
    """Holds the strategies of one stage.

    Attributes:
        q: merges queries; None merges none.
        kv: merges keys and values; None merges none.
        proportional_attention: whether a merged key counts as often as the tokens that it stands
            for: the logarithm of their number is added to its scores. Where these tokens are equal,
            the attention is that without merging (ToMe, Bolya et al., ICLR 2023). 'sampled':
            how often, and in which proportions its tokens are averaged, is measured in every head
            on a sample of the queries. Where mmseg's attention has to be called whole (hooks or
            adapters on it), that is as True.
        share: so many consecutive blocks use the plans of the first of them, which saves matchings
            where these are dear, as on a GPU with small batches.
    """

    q: TokenMerger | None = None
    kv: TokenMerger | None = None
    proportional_attention: bool | Literal['sampled'] = False
    share: int = 1

    def __post_init__(self) -> None:
        check_proportional(self.proportional_attention, self.kv is not None, 'StageMerging')


@dataclass(frozen=True)
class TokenMerging:
    """Holds the strategies of a whole backbone."""

    stages: tuple[StageMerging, ...]
    downsampling: InputDownsampling | None = None


TokenMergingConfig: TypeAlias = (
    str | Sequence[Mapping[str, Any]] | Mapping[str, Any] | TokenMerging | None
)
"""Is what ``token_merging=...`` takes, see ``build_token_merging``."""


def build_token_merging(
    token_merging: TokenMergingConfig, num_stages: int = 4, name: str | None = None
) -> TokenMerging:
    """Builds the strategies of every stage.

    Args:
        token_merging: the name of a preset (see ``PRESETS``), or one dict per stage such as
            ``dict(kv=dict(type='NeighborMerging2d', stride=2), proportional_attention=True)``
            (see ``StageMerging``), or
            ``dict(stages=[...], downsampling=dict(factor=2, mode='bilinear'))``. None is the
            baseline. What was built before is taken as it is.
        num_stages: how many stages the backbone has.
        name: how messages call it; by default 'token_merging'.

    Raises:
        TokenMergingError: anything unknown, missing, out of range, or a wrong number of stages.
    """
    token_merging = BASELINE if token_merging is None else token_merging
    if isinstance(token_merging, TokenMerging):
        _check_stages(token_merging.stages, num_stages, name or 'token_merging')
        return token_merging
    if isinstance(token_merging, str):
        if token_merging not in PRESETS:
            example = f'[dict(kv={token_merging!r}), {{}}, {{}}, {{}}]'
            if token_merging in TOKEN_MERGERS.module_dict:
                raise TokenMergingError(
                    f'token_merging={token_merging!r} is a strategy, not a preset: say in which '
                    f'stages and for what, such as {example}'
                )
            raise TokenMergingError(
                f'token_merging={token_merging!r} is unknown, use one of {list(PRESETS)} '
                'or one dict per stage'
            )
        name = name or f'token_merging={token_merging!r}'
        token_merging = expand_preset(token_merging, num_stages)
    name = name or 'token_merging'
    if isinstance(token_merging, Mapping):
        unknown = set(token_merging) - {'stages', 'downsampling'}
        if unknown or 'stages' not in token_merging:
            raise TokenMergingError(
                f"{name}: a dict takes the keys 'stages' and 'downsampling', found "
                f'{list(token_merging)}'
            )
        stages, shrink = token_merging['stages'], token_merging.get('downsampling')
    else:
        stages, shrink = token_merging, None
    if isinstance(stages, str) or not isinstance(stages, Sequence):
        raise TokenMergingError(
            f'{name}: {stages!r} is neither a preset nor a list of one dict per stage'
        )
    _check_stages(stages, num_stages, name)
    return TokenMerging(
        tuple(_build_stage(stage, f'{name}, stage {i}') for i, stage in enumerate(stages, 1)),
        None if shrink is None else _build_downsampling(shrink, name),
    )


def expand_preset(name: str, num_stages: int) -> dict[str, Any]:
    """Returns what the name of a preset stands for.

    One without strategies says the same about any number of stages.
    """
    preset = PRESETS[name]
    return preset if any(preset['stages']) else {**preset, 'stages': [{}] * num_stages}


def find_preset(merging: TokenMerging) -> str | None:
    """Returns the name of the preset that these strategies are, or None."""
    for name, content in PRESETS.items():
        if any(content['stages']) and len(content['stages']) != len(merging.stages):
            continue
        if repr(build_token_merging(name, len(merging.stages))) == repr(merging):
            return name
    return None


def build_token_merger(
    config: str | type | Mapping[str, Any] | TokenMerger, where: str
) -> TokenMerger:
    """Builds a strategy from its registered name, its class or a dict with ``type``."""
    if isinstance(config, TokenMerger):
        return config
    by_name = isinstance(config, str) or inspect.isclass(config)
    settings: Any = dict(type=config) if by_name else config
    if not isinstance(settings, Mapping) or 'type' not in settings:
        raise TokenMergingError(
            f"{where}: {config!r} is neither a strategy's name nor a dict with 'type'"
        )
    arguments = {str(key): value for key, value in settings.items() if key != 'type'}
    kind = settings['type']
    # mmengine looks up no other kind of name, nor an empty one
    named = isinstance(kind, str) and kind != ''
    cls = TOKEN_MERGERS.get(kind) if named else kind if inspect.isclass(kind) else None
    if cls is None:
        known = sorted(TOKEN_MERGERS.module_dict)
        raise TokenMergingError(
            f'{where}: strategy {kind!r} is not registered, known are {known} '
            '(import the module of your own through custom_imports)'
        )
    if not (inspect.isclass(cls) and issubclass(cls, TokenMerger)):
        raise TokenMergingError(f'{where}: {kind!r} is not a TokenMerger')
    try:
        inspect.signature(cls).bind(**arguments)
    except TypeError as error:
        allowed = list(inspect.signature(cls).parameters)
        raise TokenMergingError(
            f'{where}: {cls.__name__}: {error}; it takes {allowed}, found {list(arguments)}'
        ) from error
    try:
        return cls(**arguments)
    except TokenMergingError as error:
        raise TokenMergingError(f'{where}: {error}') from error


def with_new_names(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the settings of a stage with the new names of those that were renamed.

    Args:
        settings: from a config or a recorded result, which may have old names, for one version.
        where: starts the messages.

    Raises:
        TokenMergingError: a setting is given under both names.
    """
    result = dict(settings)
    for old, new in _RENAMED.items():
        if old in result:
            if new in result:
                raise TokenMergingError(f'{where}: {old} is {new} now; give only the latter')
            warnings.warn(f'{where}: {old} is {new} now', FutureWarning, stacklevel=2)
            result[new] = result.pop(old)
    return result


def _check_stages(stages: Sequence[Any], num_stages: int, name: str) -> None:
    if len(stages) != num_stages:
        raise TokenMergingError(
            f'{name}: {len(stages)} stages given, the backbone has {num_stages}'
        )


def _build_stage(stage: Mapping[str, Any] | None, where: str) -> StageMerging:
    if stage is None:
        return StageMerging()
    if not isinstance(stage, Mapping):
        raise TokenMergingError(f"{where}: {stage!r} is not a dict with 'q' and 'kv'")
    stage = with_new_names(stage, where)
    allowed = [field.name for field in fields(StageMerging)]
    unknown = [key for key in stage if key not in allowed]
    if unknown:
        raise TokenMergingError(f'{where}: unknown key {unknown[0]!r}, allowed are {allowed}')
    built: dict[str, Any] = {
        side: build_token_merger(stage[side], f'{where}, {side}')
        for side in ('q', 'kv')
        if stage.get(side) is not None
    }
    return StageMerging(**built, **_read_options(stage, list(built), where))


def _read_options(stage: Mapping[str, Any], sides: list[str], where: str) -> dict[str, Any]:
    """Reads what a stage says beside its strategies for ``sides``; None counts as not given."""
    options = {k: stage[k] for k in ('proportional_attention', 'share') if stage.get(k) is not None}
    proportional, share = options.get('proportional_attention', False), options.get('share', 1)
    check_proportional(proportional, 'kv' in sides, where)
    if isinstance(share, bool) or not isinstance(share, int) or share < 1:
        raise TokenMergingError(f'{where}: share={share!r} is not a number of blocks, 1 or more')
    if share > 1 and not sides:
        raise TokenMergingError(f'{where}: share={share}, but neither q nor kv makes a plan')
    return options


def check_proportional(value: Any, merges_keys: bool, where: str) -> None:
    """Raises unless ``value`` is one of ``proportional_attention``, and keys are merged for it."""
    if not isinstance(value, bool) and value != 'sampled':
        raise TokenMergingError(
            f"{where}: proportional_attention={value!r} is not True, False or 'sampled'"
        )
    if value and not merges_keys:
        raise TokenMergingError(
            f'{where}: proportional_attention={value!r}, but no kv that merges keys'
        )


def _build_downsampling(config: Mapping[str, Any], name: str) -> InputDownsampling:
    if not isinstance(config, Mapping) or set(config) != {'factor', 'mode'}:
        raise TokenMergingError(
            f"{name}: downsampling takes the keys 'factor' and 'mode', found {config!r}"
        )
    return InputDownsampling(**config)
