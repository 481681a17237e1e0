"""Weights between mmseg's names, which are ours, and those of other libraries."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .files import some
from .formats import (
    NVLABS,
    SMP,
    TRANSFORMERS,
    TRANSFORMERS_5,
    Format,
    Rule,
    fill,
    match_ours,
    match_theirs,
    parse,
    prefixed,
)
from .settings import check_complete, describe

_FORMATS = (TRANSFORMERS, TRANSFORMERS_5, NVLABS, SMP)
TARGETS = {'transformers': TRANSFORMERS, 'nvlabs': NVLABS}
"""What can be written, beside mmseg's own names; for Transformers the names in files."""

_OUR_ANCHOR = 'layers.0.0.projection.weight'


@dataclass(frozen=True)
class Conversion:
    """What became of a state dict.

    Args:
        state: with the new names.
        source: name of the format it was in.
        converted: how many keys of the source are in it.
        left_out: keys of the source that are not, because nothing here has a place for them.
    """

    state: dict[str, Tensor]
    source: str
    converted: int
    left_out: tuple[str, ...] = ()


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """The library whose names these are: 'mmseg', 'transformers', 'nvlabs', 'smp', or None.

    Args:
        state: a backbone or a whole segmentor, without the prefixes of wrappers.

    Raises:
        CheckpointError: the names are those of several libraries.
    """
    found = _find_format(state)
    return found if found is None or isinstance(found, str) else found.name


def to_mmseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under our names, whatever library they are from; see :func:`convert`."""
    return convert(state).state


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Transformers' SegFormer -> ours; the head becomes that of ``SegformerLinearHead``.

    Takes the names of files as well as those of version 5's modules.
    """
    return _from(state, TRANSFORMERS.name)


def from_nvlabs(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """NVlabs' original -> ours; the head becomes that of ``SegformerLinearHead``."""
    return _from(state, NVLABS.name)


def from_smp(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Segformer of segmentation_models.pytorch -> ours, with ``SegformerLinearHead``."""
    return _from(state, SMP.name)


def to_transformers(
    state: Mapping[str, Tensor], *, backbone_only: bool = False, file_names: bool = False
) -> dict[str, Tensor]:
    """The state dict of ``transformers.SegformerForSemanticSegmentation``, or of its backbone.

    Args:
        state: of a segmentor with ``SegformerLinearHead`` (or from any library with such a head),
            or of a backbone alone, which becomes a ``SegformerModel``.
        backbone_only: leave the head out.
        file_names: the names in files, which ``from_pretrained`` of every version reads, instead
            of those of version 5's modules, which ``load_state_dict`` takes.

    Raises:
        CheckpointError: the head is mmseg's, whose norm and ReLU on every level Transformers' head
            does not have; or keys are missing, unknown or of a wrong shape.
    """
    target = TRANSFORMERS if file_names else TRANSFORMERS_5
    return convert_to(state, target, backbone_only=backbone_only).state


def to_nvlabs(state: Mapping[str, Tensor], *, backbone_only: bool = False) -> dict[str, Tensor]:
    """The state dict of NVlabs' original; see :func:`to_transformers`.

    A whole segmentor has the keys that its forward pass uses; theirs also has an idle
    ``decode_head.conv_seg``.
    """
    return convert_to(state, NVLABS, backbone_only=backbone_only).state


def convert(state: Mapping[str, Tensor]) -> Conversion:
    """To our names, with every key accounted for.

    A whole segmentor gets keys below ``backbone.`` and ``decode_head.``, a backbone (also one with
    a classifier for ImageNet, which is left out) keys without a prefix, as in mmseg's files. What
    already has our names is returned as it is, without a check.

    Args:
        state: without the prefixes of wrappers.

    Raises:
        CheckpointError: not recognised; names of several libraries; keys that are missing, unknown
            or of a wrong shape.
    """
    found = _find_format(state)
    if found is None:
        raise CheckpointError(f'the weights are of no known format: {not_recognised(state)}')
    if isinstance(found, str):
        return Conversion(dict(state), found, len(state))
    result = _read(state, found)
    try:
        _check_has_linear_head(result.state)
        check_complete(result.state, describe(result.state))
    except CheckpointError as error:
        raise CheckpointError(
            f'the weights have the names of {found.title}, but under our names: {error}'
        ) from error
    return result


def convert_to(
    state: Mapping[str, Tensor], target: Format, *, backbone_only: bool = False
) -> Conversion:
    """To the names of another library; see :func:`to_transformers`."""
    read = convert(state)
    ours, about = read.state, describe(read.state)
    if not about['qkv_bias']:
        raise CheckpointError(
            f'the attention has no bias (qkv_bias=False), {target.title} needs one'
        )
    with_head = not backbone_only and any(key.startswith(('decode_head.', 'head.')) for key in ours)
    if with_head:
        _check_head(about, target)
    prefix = _our_prefix(ours)
    rules = (*prefixed(target), *target.head) if with_head else target.bare
    kept = {key.removeprefix('' if with_head else prefix): value for key, value in ours.items()}
    levels = len(about['head_in_channels'] or ())
    result: dict[str, Tensor] = {}
    left_out = []
    for key, tensor in kept.items():
        matched = match_ours(key, rules)
        if matched is None:
            left_out.append(key)
            continue
        rule, fields = matched
        for template, part in zip(rule.theirs, rule.split(key, tensor), strict=True):
            result[fill(template, fields, levels)] = part
    check_complete(ours, about if with_head else {**about, 'head': None})
    used = read.converted - len(left_out)
    return Conversion(result, read.source, used, (*read.left_out, *left_out))


def _check_head(about: Mapping[str, Any], target: Format) -> None:
    if about['head'] != 'linear':
        what = {
            'mmseg': "mmseg's SegformerHead, with a norm or a ReLU after the projection of every "
            'level',
            'heatmap': 'a heatmap head for poses',
            None: 'none of SegFormer',
        }[about['head']]
        raise CheckpointError(
            f'the head is {what}; the levels of the head of {target.title} are linear, so that no '
            'weights make it compute the same. Convert the backbone alone (backbone_only=True, '
            "--backbone-only), or train with decode_head=dict(type='SegformerLinearHead'), whose "
            'weights convert exactly'
        )
    if len(about['head_in_channels']) != len(about['in_channels']):
        raise CheckpointError(
            f'the head fuses {len(about["head_in_channels"])} of the {len(about["in_channels"])} '
            f'stages; the head of {target.title} fuses all of them'
        )


def backbone_of(result: Conversion) -> Conversion:
    """The same under our names without the prefix of the backbone, and without all other keys."""
    prefix = _our_prefix(result.state)
    inside = {k: v for k, v in result.state.items() if k.startswith(f'{prefix}layers.')}
    rest = [key for key in result.state if key not in inside]
    return Conversion(
        {key.removeprefix(prefix): value for key, value in inside.items()},
        result.source,
        result.converted - len(rest),
        (*result.left_out, *rest),
    )


def not_recognised(state: Iterable[str]) -> str:
    """What the keys are and what was looked for, for a message."""
    looked = ', '.join(
        f'{anchor} ({name})'
        for name, anchor in (
            ('mmseg', _OUR_ANCHOR),
            *((each.name, each.anchor) for each in _FORMATS[:3]),
        )
    )
    return (
        f'its keys are {some(state)}; looked for {looked}, each also below backbone., segformer. '
        'or encoder.'
    )


def _from(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    found = recognise(state)
    if found != name:
        what = f'they are those of {found}' if found else not_recognised(state)
        raise CheckpointError(f'the weights do not have the names of {name}: {what}')
    return to_mmseg(state)


def _find_format(state: Mapping[str, Tensor]) -> Format | str | None:
    found: list[Format | str] = [
        each for each in _FORMATS if each.anchor in state or each.prefix + each.anchor in state
    ]
    # both of these name their backbone's parts alike; the prefix of the backbone decides
    if NVLABS in found and SMP in found:
        found.remove(NVLABS if SMP.prefix + SMP.anchor in state else SMP)
    if _OUR_ANCHOR in state or f'backbone.{_OUR_ANCHOR}' in state:
        found.append('mmseg')
    if len(found) > 1:
        names = [each if isinstance(each, str) else each.title for each in found]
        raise CheckpointError(f'the weights mix the names of {" and ".join(names)}')
    return found[0] if found else None


def _read(state: Mapping[str, Tensor], found: Format) -> Conversion:
    """The keys of a known format under our names, without a check for missing ones."""
    heads = [matched for key in state if (matched := match_theirs(key, found.head, 0))]
    levels = len({fields['i'] for _, _, fields in heads if 'i' in fields})
    inside = found.prefix + found.anchor in state
    backbone = prefixed(found, found.prefix if inside else '', 'backbone.' if heads else '')
    rules = (*backbone, *found.head)
    pieces: dict[str, tuple[Rule, dict[int, tuple[str, Tensor]]]] = {}
    left_out: list[str] = []
    unknown: list[str] = []
    for key, tensor in state.items():
        matched = match_theirs(key, rules, levels)
        if matched is None:
            (left_out if key.startswith(found.left_out) else unknown).append(key)
            continue
        rule, part, fields = matched
        ours = fill(rule.ours, fields, levels)
        pieces.setdefault(ours, (rule, {}))[1][part] = key, tensor
    if unknown:
        raise CheckpointError(
            f'the weights have the names of {found.title}, but {len(unknown)} keys that it does '
            f'not have: {some(unknown)}{_whose(unknown)}'
        )
    result = {}
    for ours, (rule, parts) in pieces.items():
        if len(parts) < len(rule.theirs):
            beside = next(iter(parts.values()))[0]
            raise CheckpointError(
                f'the weights have the names of {found.title}, but beside {beside} there is no '
                f'{_others(rule, parts, beside)}'
            )
        result[ours] = rule.join(ours, [parts[n][1] for n in range(len(rule.theirs))])
    return Conversion(result, found.name, len(state) - len(left_out), tuple(left_out))


def _others(rule: Rule, present: Container[int], key: str) -> str:
    """The keys that are missing beside ``key``, one of those that make up one of ours."""
    fields = next(found for name in rule.theirs if (found := parse(name, key, 0)))
    missing = [name for part, name in enumerate(rule.theirs) if part not in present]
    return ' and no '.join(fill(name, fields, 0) for name in missing)


def _check_has_linear_head(state: Mapping[str, Tensor]) -> None:
    """Without these two keys the head of another library would look like none, or like mmseg's."""
    needed = ('decode_head.fusion_conv.conv.weight', 'decode_head.convs.0.conv.bias')
    missing = [key for key in needed if key not in state]
    if missing and any(key.startswith('decode_head.') for key in state):
        raise CheckpointError(f'{len(missing)} keys are missing: {some(missing)}')


def _whose(keys: list[str]) -> str:
    """For a message: which other library has these keys."""
    others = [
        each.title
        for each in _FORMATS
        if any(match_theirs(key, (*prefixed(each), *each.head), 0) for key in keys)
    ]
    ours = [rule for each in _FORMATS for rule in (*prefixed(each), *each.head)]
    others += ['mmseg'] if any(match_ours(key, ours) for key in keys) else []
    return f' (names of {" and ".join(others)}: the file is a mixture)' if others else ''


def _our_prefix(ours: Mapping[str, Tensor]) -> str:
    return '' if _OUR_ANCHOR in ours else 'backbone.'
