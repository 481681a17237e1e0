"""Converts weights between mmseg's names, which are ours, and those of other libraries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .files import some
from .formats import FORMATS, MMSEG, NVLABS, SMP, TRANSFORMERS, TRANSFORMERS_5, Format, Rule, fill
from .settings import backbone_prefix, check_complete, describe

TARGETS = {'transformers': TRANSFORMERS, 'nvlabs': NVLABS}
"""Formats that can be written beside mmseg's; for Transformers the names in files."""

_LINEAR_HEAD = ('decode_head.fusion_conv.conv.weight', 'decode_head.convs.0.conv.bias')


@dataclass(frozen=True)
class Conversion:
    """Holds a state dict under new names and tells what became of the keys of the source.

    Args:
        source: name of the format of the source.
        converted: how many of its keys are in the state.
        left_out: its keys that are not, because nothing here has a place for them.
    """

    state: dict[str, Tensor]
    source: str
    converted: int
    left_out: tuple[str, ...] = ()


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Returns whose names these are: 'mmseg', 'transformers', 'nvlabs', 'smp', or None.

    Raises:
        CheckpointError: the names are those of several libraries.
    """
    found = _find_format(state)
    return None if found is None else found.name


def to_mmseg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of any library under our names; see ``convert``."""
    return convert(state).state


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts Transformers' SegFormer to ours; the head becomes a ``SegformerLinearHead``.

    Takes the names of files as well as those of the modules since version 5.9.
    """
    return _from(state, TRANSFORMERS.name)


def from_nvlabs(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts NVlabs' original to ours; the head becomes a ``SegformerLinearHead``."""
    return _from(state, NVLABS.name)


def from_smp(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts the Segformer of segmentation_models.pytorch to ours, as ``from_nvlabs``."""
    return _from(state, SMP.name)


def to_transformers(
    state: Mapping[str, Tensor], *, backbone_only: bool = False, file_names: bool = False
) -> dict[str, Tensor]:
    """Returns the state dict of ``transformers.SegformerForSemanticSegmentation``.

    Args:
        state: of a segmentor with ``SegformerLinearHead`` (or from any library with such a head),
            or of a backbone alone, which becomes a ``SegformerModel``.
        backbone_only: leave the head out.
        file_names: the names in files, which ``from_pretrained`` of every version reads and
            ``load_state_dict`` takes before 5.9, instead of those of the modules since then.

    Raises:
        CheckpointError: the head is mmseg's, whose norm and ReLU on every level Transformers' head
            does not have; or keys are missing, unknown or of a wrong shape.
    """
    target = TRANSFORMERS if file_names else TRANSFORMERS_5
    return convert_to(state, target, backbone_only=backbone_only).state


def to_nvlabs(state: Mapping[str, Tensor], *, backbone_only: bool = False) -> dict[str, Tensor]:
    """Returns the state dict of NVlabs' original; see ``to_transformers``.

    A whole segmentor has the keys that its forward pass uses; theirs also has an idle
    ``decode_head.conv_seg``.
    """
    return convert_to(state, NVLABS, backbone_only=backbone_only).state


def convert(state: Mapping[str, Tensor]) -> Conversion:
    """Converts to our names and accounts for every key.

    A whole segmentor gets keys below ``backbone.`` and ``decode_head.``, a backbone (also one with
    a classifier for ImageNet, which is left out) keys without a prefix, as in mmseg's files. What
    already has our names is returned as it is, without a check.

    Raises:
        CheckpointError: not recognised; names of several libraries; keys that are missing, unknown
            or of a wrong shape.
    """
    found = _find_format(state)
    if found is None:
        raise CheckpointError(f'the weights are of no known format: {not_recognised(state)}')
    if found is MMSEG:
        return Conversion(dict(state), found.name, len(state))
    result = _read(state, found)
    try:
        missing = [key for key in _LINEAR_HEAD if key not in result.state]
        if missing and any(key.startswith('decode_head.') for key in result.state):
            # without these the head would look like none, or like mmseg's
            raise CheckpointError(f'{len(missing)} keys missing: {some(missing)}')
        check_complete(result.state, describe(result.state))
    except CheckpointError as error:
        raise CheckpointError(
            f'the weights have the names of {found.title}, but under our names: {error}'
        ) from error
    return result


def convert_to(
    state: Mapping[str, Tensor], target: Format, *, backbone_only: bool = False
) -> Conversion:
    """Converts to the names of another library; see ``to_transformers``."""
    read = convert(state)
    about = describe(read.state)
    if not about['qkv_bias']:
        raise CheckpointError(
            f'the attention has no bias (qkv_bias=False), {target.title} needs one'
        )
    whole = any(key.startswith(('decode_head.', 'head.')) for key in read.state)
    if whole and not backbone_only:
        _check_head(about, target)
    else:
        read = backbone_of(read)
        about['head'] = None
    check_complete(read.state, about)
    # what the names of a backbone alone lack
    ours, theirs = ('', '') if about['head'] else ('backbone.', target.prefixes[-1])
    result: dict[str, Tensor] = {}
    left_out = []
    for key, tensor in read.state.items():
        matched = target.match(ours + key, ours=True)
        if matched is None:
            left_out.append(key)
            continue
        rule, _, fields = matched
        for template, part in zip(rule.theirs, rule.split(key, tensor), strict=True):
            result[fill(template, fields).removeprefix(theirs)] = part
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
    """Returns the backbone under our names without its prefix, and leaves all other keys out."""
    prefix = backbone_prefix(result.state)
    inside = {k: v for k, v in result.state.items() if k.startswith(f'{prefix}layers.')}
    rest = [key for key in result.state if key not in inside]
    return Conversion(
        {key.removeprefix(prefix): value for key, value in inside.items()},
        result.source,
        result.converted - len(rest),
        (*result.left_out, *rest),
    )


def not_recognised(state: Iterable[str]) -> str:
    """Says for a message what the keys are and what was looked for."""
    looked = ', '.join(f'{each.anchor} ({each.name})' for each in FORMATS if each is not SMP)
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


def _find_format(state: Mapping[str, Tensor]) -> Format | None:
    found = [
        each for each in FORMATS if any(prefix + each.anchor in state for prefix in each.prefixes)
    ]
    if len(found) > 1:
        titles = ' and '.join(each.title for each in found)
        raise CheckpointError(f'the weights mix the names of {titles}')
    return found[0] if found else None


def _read(state: Mapping[str, Tensor], found: Format) -> Conversion:
    """Renames the keys of a known format to ours, without a check for missing ones."""
    prefix = found.prefixes[-1]
    lacking = '' if prefix + found.anchor in state else prefix
    matches: dict[str, tuple[Rule, int, dict[str, str]]] = {}
    left_out: list[str] = []
    unknown: list[str] = []
    for key in state:
        matched = found.match(lacking + key)
        if matched:
            matches[key] = matched
        else:
            (left_out if key.startswith(found.left_out) else unknown).append(key)
    but = f'the weights have the names of {found.title}, but'
    if unknown:
        raise CheckpointError(
            f'{but} {len(unknown)} keys that it does not have: {some(unknown)}{_whose(unknown)}'
        )
    levels = len({fields['r'] for _, _, fields in matches.values() if 'r' in fields})
    pieces: dict[str, tuple[Rule, dict[str, str], dict[int, Tensor]]] = {}
    for key, (rule, part, fields) in matches.items():
        if 'r' in fields:
            fields['i'] = str(levels - 1 - int(fields['r']))
        pieces.setdefault(fill(rule.ours, fields), (rule, fields, {}))[2][part] = state[key]
    whole = any(key.startswith('decode_head.') for key in pieces)
    result = {}
    for key, (rule, fields, parts) in pieces.items():
        missing = [fill(name, fields) for n, name in enumerate(rule.theirs) if n not in parts]
        if missing:
            raise CheckpointError(f'{but} there is no {missing[0].removeprefix(lacking)}')
        ours = key if whole else key.removeprefix('backbone.')
        result[ours] = rule.join(ours, [parts[n] for n in range(len(rule.theirs))])
    return Conversion(result, found.name, len(matches), tuple(left_out))


def _whose(keys: list[str]) -> str:
    """Says for a message which other library has these keys."""
    others = [each.title for each in FORMATS if any(map(each.match, keys))]
    return f' (names of {" and ".join(others)}: the file is a mixture)' if others else ''
