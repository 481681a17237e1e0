"""Reads from the shapes of weights what a model must be for them to fit."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .files import some

_ANCHOR = 'layers.0.0.projection.weight'
_LAST_LAYERS = {'decode_head': 'conv_seg', 'head': 'final_layer'}

Shapes = dict[str, tuple[int, ...]]


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Returns the settings of the backbone and of the head for weights under our names.

    Args:
        state: a backbone, a segmentor or a pose estimator.

    Returns:
        - arch: 'b0' to 'b5', None for other sizes;
        - embed_dims, num_heads: None for widths of no arch, since the weights do not tell them;
        - num_layers, in_channels (C_i), patch_sizes, sr_ratios, mlp_ratios: one entry per stage;
        - image_channels, qkv_bias, dtype (of the first weight);
        - head: 'mmseg' (norm or ReLU on every level), 'linear' (as NVlabs'), 'heatmap' or None;
        - head_in_channels, decoder_channels, num_classes (or keypoints); None without a head.

    Raises:
        CheckpointError: there is no backbone of SegFormer, or a part of it is missing.
    """
    start = f'{backbone_prefix(state)}layers.'
    stages = range(_count(state, rf'{re.escape(start)}(\d+)\.'))
    embeds = [_weight(state, f'{start}{i}.0.projection.weight') for i in stages]
    layers = [_count(state, rf'{re.escape(start)}{i}\.1\.(\d+)\.') for i in stages]
    hidden = [_weight(state, f'{start}{i}.1.0.ffn.layers.0.weight') for i in stages]
    channels = [embed.shape[0] for embed in embeds]
    reductions = [state.get(f'{start}{i}.1.0.attn.sr.weight') for i in stages]
    return dict(
        **_arch(channels, layers),
        num_layers=layers,
        in_channels=channels,
        patch_sizes=[embed.shape[-1] for embed in embeds],
        sr_ratios=[1 if sr is None else sr.shape[-1] for sr in reductions],
        mlp_ratios=[wide.shape[0] / c for wide, c in zip(hidden, channels, strict=True)],
        image_channels=embeds[0].shape[1],
        qkv_bias=f'{start}0.1.0.attn.attn.in_proj_bias' in state,
        dtype=str(embeds[0].dtype).removeprefix('torch.'),
        **_describe_head(state),
    )


def check_complete(state: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Checks that the backbone and SegFormer's head are whole and their shapes go together.

    Keys of other parts, such as auxiliary heads, may be there. ``about`` is what ``describe``
    says of the state.

    Raises:
        CheckpointError: keys are missing, unknown or of another shape; the first few are named.
    """
    prefix = backbone_prefix(state)
    expected, ours = _backbone_shapes(prefix, about), [f'{prefix}layers.']
    head = _head_prefix(state)
    if head:
        expected |= _head_shapes(head, state, about)
        ours.append(f'{head}.')
    # a count of batches stands beside every norm and changes nothing in inference
    inside = {
        key: tensor
        for key, tensor in state.items()
        if key.startswith(tuple(ours)) and not key.endswith('.num_batches_tracked')
    }
    problems = differences(inside, expected, 'SegFormer')
    if problems:
        raise CheckpointError(problems)


def differences(state: Mapping[str, Tensor], expected: Shapes, owner: str) -> str:
    """Lists for a message which keys are missing, unknown to ``owner``, or of another shape."""
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    reshaped = [k for k in expected if k in state and tuple(state[k].shape) != expected[k]]
    problems = []
    if missing:
        problems.append(f'{len(missing)} keys missing: {some(missing)}')
    if unknown:
        problems.append(f'{len(unknown)} keys {owner} does not have: {some(unknown)}')
    if reshaped:
        key = reshaped[0]
        problems.append(
            f'{len(reshaped)} of another shape: {key} is {tuple(state[key].shape)} in the file '
            f'and {expected[key]} in {owner}'
        )
    return '; '.join(problems)


def backbone_prefix(state: Iterable[str]) -> str:
    """Returns what stands before our keys of a backbone, '' or 'backbone.', or raises."""
    keys = set(state)
    for prefix in ('', 'backbone.'):
        if prefix + _ANCHOR in keys:
            return prefix
    raise CheckpointError(
        f'there is no backbone of SegFormer: neither {_ANCHOR} nor backbone.{_ANCHOR} is among '
        f'the keys, which are {some(state)}'
    )


def head_kind(state: Iterable[str]) -> str | None:
    """Returns 'mmseg', 'linear', 'heatmap' or None for keys that may be incomplete."""
    keys = set(state)
    prefix = _head_prefix(keys)
    if prefix != 'decode_head':
        return None if prefix is None else 'heatmap'
    # mmseg's head has one norm_cfg for all of its convolutions; a bias stands for a missing norm
    biased = f'{prefix}.convs.0.conv.bias' in keys
    return 'linear' if biased and f'{prefix}.fusion_conv.conv.bias' not in keys else 'mmseg'


def _count(state: Iterable[str], pattern: str) -> int:
    """Returns one more than the largest index in the keys."""
    compiled = re.compile(pattern)
    return max((int(match[1]) + 1 for key in state if (match := compiled.match(key))), default=0)


def _weight(state: Mapping[str, Tensor], key: str) -> Tensor:
    tensor = state.get(key)
    if tensor is None:
        raise CheckpointError(f'1 keys missing: {key}')
    if tensor.dim() != 4 or not tensor.shape[0]:
        raise CheckpointError(
            f'{key} has the shape {tuple(tensor.shape)}, expected (C, C, rows, columns)'
        )
    return tensor


def _arch(channels: list[int], layers: list[int]) -> dict[str, Any]:
    from ..mit.archs import ARCHS  # the backbones import this package

    found: dict[str, Any] = dict(arch=None, embed_dims=None, num_heads=None)
    for name, sizes in ARCHS.items():
        if [sizes['embed_dims'] * heads for heads in sizes['num_heads']] == channels:
            found |= dict(embed_dims=sizes['embed_dims'], num_heads=list(sizes['num_heads']))
            if list(sizes['num_layers']) == layers:
                found['arch'] = name
    return found


def _head_prefix(state: Container[str]) -> str | None:
    places = (name for name in _LAST_LAYERS if f'{name}.fusion_conv.conv.weight' in state)
    return next(places, None)


def _describe_head(state: Mapping[str, Tensor]) -> dict[str, Any]:
    prefix = _head_prefix(state)
    if prefix is None:
        return dict(head=None, head_in_channels=None, decoder_channels=None, num_classes=None)
    levels = range(_count(state, rf'{prefix}\.convs\.(\d+)\.'))
    convs = [_weight(state, f'{prefix}.convs.{i}.conv.weight') for i in levels]
    return dict(
        head=head_kind(state),
        head_in_channels=[conv.shape[1] for conv in convs],
        decoder_channels=_weight(state, f'{prefix}.fusion_conv.conv.weight').shape[0],
        num_classes=_weight(state, f'{prefix}.{_LAST_LAYERS[prefix]}.weight').shape[0],
    )


def _backbone_shapes(prefix: str, about: Mapping[str, Any]) -> Shapes:
    shapes: Shapes = {}
    before = about['image_channels']
    for i, width in enumerate(about['in_channels']):
        stage = f'{prefix}layers.{i}'
        sr, hidden = about['sr_ratios'][i], round(about['mlp_ratios'][i] * width)
        shapes |= _conv(f'{stage}.0.projection', width, before, about['patch_sizes'][i])
        shapes |= _vectors(f'{stage}.0.norm', width)
        for j in range(about['num_layers'][i]):
            block = f'{stage}.1.{j}'
            shapes |= _vectors(f'{block}.norm1', width) | _vectors(f'{block}.norm2', width)
            if sr > 1:
                shapes |= _conv(f'{block}.attn.sr', width, width, sr)
                shapes |= _vectors(f'{block}.attn.norm', width)
            attention = f'{block}.attn.attn'
            shapes[f'{attention}.in_proj_weight'] = 3 * width, width
            shapes[f'{attention}.out_proj.weight'] = width, width
            # mmseg's qkv_bias=False takes away the bias of the output as well
            if about['qkv_bias']:
                shapes[f'{attention}.in_proj_bias'] = (3 * width,)
                shapes[f'{attention}.out_proj.bias'] = (width,)
            shapes |= _conv(f'{block}.ffn.layers.0', hidden, width, 1)
            shapes |= _conv(f'{block}.ffn.layers.1', hidden, 1, 3)
            shapes |= _conv(f'{block}.ffn.layers.4', width, hidden, 1)
        shapes |= _vectors(f'{stage}.2', width)
        before = width
    return shapes


def _head_shapes(prefix: str, state: Mapping[str, Tensor], about: Mapping[str, Any]) -> Shapes:
    width, inputs = about['decoder_channels'], about['head_in_channels']
    if not _is_part_of(inputs, about['in_channels']):
        inputs = about['in_channels'][: len(inputs)]
    linear = about['head'] == 'linear'
    norms = {'bn': {'weight', 'bias', 'running_mean', 'running_var'}} if linear else {}
    for key in () if linear else state:
        match = re.match(rf'{prefix}\.(?:convs\.\d+|fusion_conv)\.(\w+)\.(\w+)$', key)
        if match and match[1] != 'conv' and match[2] != 'num_batches_tracked':
            norms.setdefault(match[1], set()).add(match[2])
    parts = {f'{prefix}.convs.{i}': (channels, linear) for i, channels in enumerate(inputs)}
    parts[f'{prefix}.fusion_conv'] = len(inputs) * width, False
    shapes: Shapes = {}
    for name, (channels, bare) in parts.items():
        shapes[f'{name}.conv.weight'] = width, channels, 1, 1
        if bare or not norms:  # a bias stands for the norm that is missing
            shapes[f'{name}.conv.bias'] = (width,)
        else:
            for norm, leaves in norms.items():
                shapes |= _vectors(f'{name}.{norm}', width, leaves)
    last = f'{prefix}.{_LAST_LAYERS[prefix]}'
    return shapes | _conv(last, about['num_classes'], width, state[f'{last}.weight'].shape[-1])


def _is_part_of(numbers: list[int], of: list[int]) -> bool:
    """Says whether the second list has all of the first, in this order."""
    rest = iter(of)
    return all(number in rest for number in numbers)


def _conv(name: str, out: int, into: int, kernel: int) -> Shapes:
    return {f'{name}.weight': (out, into, kernel, kernel), f'{name}.bias': (out,)}


def _vectors(name: str, width: int, leaves: Iterable[str] = ('weight', 'bias')) -> Shapes:
    return {f'{name}.{leaf}': (width,) for leaf in leaves}
