"""Writing weights: beside what is there, then in its place, so that no half file is ever seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import written_beside
from .conversion import recognise, to_mmseg
from .files import INDEX, SAFETENSORS, WEIGHTS, safetensors
from .settings import describe

SUFFIXES = (SAFETENSORS, '.pth', '.pt', '.bin')


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write one file.

    Args:
        path: its suffix says how: ``.safetensors`` (a state dict; no code can hide in it), or
            ``.pth``, ``.pt`` or ``.bin`` for ``torch.save``.
        content: a state dict; for ``torch.save`` anything that may lie in a checkpoint.

    Raises:
        CheckpointError: another suffix, or something else than tensors for safetensors.
        MissingDependencyError: safetensors is not installed.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(
            f'cannot tell from the name {path} what to write; end it with one of '
            f'{", ".join(SUFFIXES)}'
        )
    if path.suffix == SAFETENSORS:
        others = [key for key, value in content.items() if not isinstance(value, Tensor)]
        if others:
            raise CheckpointError(f'{path} can hold tensors only, not {others[0]!r}')
        # views of one tensor share their memory, which the format refuses
        tensors = {key: value.detach().clone().contiguous() for key, value in content.items()}
        save = safetensors().save_file
        # older versions of Transformers refuse a file that does not name its framework
        _replace(path, lambda beside: save(tensors, beside, metadata={'format': 'pt'}))
    else:
        _replace(path, lambda beside: torch.save(dict(content), beside))


def write_transformers_folder(folder: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write ``config.json`` and ``model.safetensors``, which ``from_pretrained`` reads.

    Args:
        folder: made if it is not there; of what is in it only these two files are replaced.
        state: with Transformers' names in files (``to_transformers(..., file_names=True)``).

    Raises:
        CheckpointError: other weights lie in the folder; or the sizes are not those of an arch, so
            that the number of heads, which the weights do not tell, is unknown.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f'{folder} is a file; name a folder, or end the name of a file with '
                              f'{", ".join(SUFFIXES)}')  # fmt: skip
    config = transformers_config(state)
    others = [f'{name}{end}' for name in WEIGHTS for end in ('', INDEX)][1:]
    for name in others:
        if (folder / name).exists():
            raise CheckpointError(
                f'{folder} already holds other weights, {name}; name another folder'
            )
    safetensors()  # before anything is made
    folder.mkdir(parents=True, exist_ok=True)
    write_checkpoint(folder / WEIGHTS[0], state)
    text = json.dumps(config, indent=2) + '\n'
    _replace(folder / 'config.json', lambda beside: beside.write_text(text, encoding='utf-8'))


def transformers_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The content of Transformers' ``config.json`` for weights with its names.

    Strides are taken to be SegFormer's 4, 2, 2, 2: the weights do not tell them.

    Raises:
        CheckpointError: not Transformers' names, or the number of heads cannot be known.
    """
    if recognise(state) != 'transformers':
        raise CheckpointError('the weights do not have the names of Transformers')
    about = describe(to_mmseg(state))
    if about['num_heads'] is None:
        raise CheckpointError(
            f'the stages are {about["in_channels"]} wide, which is no MiT from B0 to B5, so that '
            'the number of heads for config.json is not known; write one file instead (name it '
            '*.safetensors) and load it with your own config'
        )
    stages = len(about['in_channels'])
    config: dict[str, Any] = dict(
        model_type='segformer',
        architectures=['SegformerModel'],
        num_channels=about['image_channels'],
        num_encoder_blocks=stages,
        depths=about['num_layers'],
        hidden_sizes=about['in_channels'],
        num_attention_heads=about['num_heads'],
        patch_sizes=about['patch_sizes'],
        strides=[4, 2, 2, 2][:stages],
        sr_ratios=about['sr_ratios'],
        mlp_ratios=[int(r) if r == int(r) else r for r in about['mlp_ratios']],
        hidden_act='gelu',
        reshape_last_stage=True,
        dtype=about['dtype'],
    )
    if about['head'] is not None:
        names = {str(i): f'LABEL_{i}' for i in range(about['num_classes'])}
        config |= dict(
            architectures=['SegformerForSemanticSegmentation'],
            decoder_hidden_size=about['decoder_channels'],
            id2label=names,
            label2id={name: int(i) for i, name in names.items()},
            semantic_loss_ignore_index=255,
        )
    return config


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as place:
        write(place)
