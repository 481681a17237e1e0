"""What a format is: rules that pair our keys with theirs, and what has to be done to the tensors.

A template stands for many keys: ``{i}`` is the stage or level from 0, ``{n}`` the same from 1,
``{r}`` the level counted from the deepest one, ``{j}`` the block, ``{leaf}`` the parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from ...errors import CheckpointError

_NUMBER = '0|[1-9][0-9]*'  # one way to write each, so that no two keys mean the same
_FIELDS = {
    'i': _NUMBER,
    'n': _NUMBER,
    'r': _NUMBER,
    'j': _NUMBER,
    'leaf': 'weight|bias|running_mean|running_var|num_batches_tracked',
}
_FIELD = re.compile(r'\{(\w+)\}')


@dataclass(frozen=True)
class Rule:
    """One of our keys and the key, or keys, of another library that hold the same numbers.

    Args:
        ours: template of our key.
        theirs: templates of theirs; where there are several, ours is their concatenation.
        parts: how large each of them is, in shares of the whole.
        matrix: their weight is a matrix (C', C), ours a 1x1 convolution (C', C, 1, 1).
        reverse_levels: their input channels start with the deepest level, ours with the first.
    """

    ours: str
    theirs: tuple[str, ...]
    parts: tuple[int, ...] = (1,)
    matrix: bool = False
    reverse_levels: bool = False

    def join(self, key: str, tensors: list[Tensor]) -> Tensor:
        """Our tensor from theirs; ``key`` is ours, for the error."""
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if len(tensors) > 1:
            heights = [shape[0] if shape else 0 for shape in shapes]
            unit = heights[0] // self.parts[0]
            rests = {shape[1:] for shape in shapes}
            if len(rests) > 1 or heights != [unit * part for part in self.parts]:
                names = ' and '.join(self.theirs)
                raise CheckpointError(
                    f'{names} do not go together: their shapes are {shapes}, expected the same '
                    f'width and heights of {":".join(map(str, self.parts))} (for our {key})'
                )
        tensor = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        if self.matrix and key.endswith('.weight'):
            if tensor.dim() != 2:
                raise CheckpointError(
                    f'the weight for our {key} has the shape {tuple(tensor.shape)}, expected a '
                    'matrix'
                )
            tensor = tensor[:, :, None, None]
        return _reverse_levels(key, tensor) if self.reverse_levels else tensor

    def split(self, key: str, tensor: Tensor) -> list[Tensor]:
        """Their tensors from ours."""
        if self.reverse_levels:
            tensor = _reverse_levels(key, tensor)
        if self.matrix and key.endswith('.weight'):
            if tensor.dim() != 4 or tuple(tensor.shape[2:]) != (1, 1):
                raise CheckpointError(
                    f'{key} has the shape {tuple(tensor.shape)}, expected a 1x1 convolution'
                )
            tensor = tensor.flatten(1)
        if len(self.parts) == 1:
            return [tensor]
        total = sum(self.parts)
        if not tensor.dim() or tensor.shape[0] % total:
            raise CheckpointError(
                f'{key} has the shape {tuple(tensor.shape)}, its height must be a multiple of '
                f'{total}'
            )
        unit = tensor.shape[0] // total
        # files of tensors refuse two that share their memory
        return [part.clone() for part in tensor.split([unit * part for part in self.parts])]


@dataclass(frozen=True)
class Format:
    """The names of one library.

    Args:
        name: for people and for the command line.
        title: in messages.
        bare: rules for the backbone's keys below its prefix.
        prefix: what their backbone is called in a whole model.
        head: rules for the keys of a segmentor's head.
        left_out: prefixes of keys that SegFormer's features or logits do not need.
        anchor: a key of the backbone, below its prefix, that no other format has.
    """

    name: str
    title: str
    bare: tuple[Rule, ...]
    prefix: str
    head: tuple[Rule, ...]
    left_out: tuple[str, ...]
    anchor: str


def parse(template: str, key: str, levels: int) -> dict[str, str] | None:
    """The fields of a key that a template stands for, None if it does not."""
    match = _pattern(template).fullmatch(key)
    if match is None:
        return None
    fields = match.groupdict()
    if 'n' in fields:
        fields['i'] = str(int(fields['n']) - 1)
    if 'r' in fields:
        fields['i'] = str(levels - 1 - int(fields['r']))
    return fields


def fill(template: str, fields: Mapping[str, str], levels: int) -> str:
    """The key that a template stands for with these fields."""
    values = dict(fields)
    if 'i' in values:
        values['n'] = str(int(values['i']) + 1)
        values['r'] = str(levels - 1 - int(values['i']))
    return template.format(**values)


def prefixed(each: Format, theirs: str | None = None, ours: str = 'backbone.') -> tuple[Rule, ...]:
    """The rules of the backbone inside of a whole model."""
    prefix = each.prefix if theirs is None else theirs
    return tuple(
        replace(rule, ours=ours + rule.ours, theirs=tuple(prefix + name for name in rule.theirs))
        for rule in each.bare
    )


def match_theirs(
    key: str, rules: Iterable[Rule], levels: int
) -> tuple[Rule, int, dict[str, str]] | None:
    """The rule that one of their keys falls under, which part of ours it is, and its fields."""
    for rule in rules:
        for part, template in enumerate(rule.theirs):
            fields = parse(template, key, levels)
            if fields is not None:
                return rule, part, fields
    return None


def match_ours(key: str, rules: Iterable[Rule]) -> tuple[Rule, dict[str, str]] | None:
    """The rule that one of our keys falls under, and its fields."""
    for rule in rules:
        fields = parse(rule.ours, key, 0)
        if fields is not None:
            return rule, fields
    return None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = _FIELD.split(template)  # text, field, text, field, ..., text
    pattern = ''.join(
        f'(?P<{piece}>{_FIELDS[piece]})' if odd % 2 else re.escape(piece)
        for odd, piece in enumerate(pieces)
    )
    return re.compile(pattern)


def _reverse_levels(key: str, weight: Tensor) -> Tensor:
    """(C, L * C, 1, 1) with its L groups of input channels in the other order."""
    if weight.dim() != 4 or not weight.shape[0] or weight.shape[1] % weight.shape[0]:
        raise CheckpointError(
            f'{key} has the shape {tuple(weight.shape)}, expected (C, levels * C, 1, 1)'
        )
    levels = weight.shape[1] // weight.shape[0]
    return torch.cat(weight.chunk(levels, dim=1)[::-1], dim=1)
