"""Writes weights beside the old file and then in its place, so that no half file is ever seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import write_json, written_beside
from .conversion import recognise, to_mmseg
from .files import INDEX, SAFETENSORS, WEIGHTS, safetensors
from .settings import describe

SUFFIXES = (SAFETENSORS, '.pth', '.pt', '.bin')


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes one file.

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
        save_file = safetensors().save_file
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as beside:
        if path.suffix == SAFETENSORS:
            # views of one tensor share their memory, which the format refuses
            tensors = {key: value.detach().clone().contiguous() for key, value in content.items()}
            # older versions of Transformers refuse a file that does not name its framework
            save_file(tensors, beside, metadata={'format': 'pt'})
        else:
            torch.save(dict(content), beside)


def write_transformers_folder(
    folder: str | Path, state: Mapping[str, Tensor], classes: Sequence[str] | None = None
) -> None:
    """Writes ``config.json`` and ``model.safetensors``, which ``from_pretrained`` reads.

    Args:
        folder: made if it is not there; of what is in it only these two files are replaced.
        state: with Transformers' names in files (``to_transformers(..., file_names=True)``).
        classes: names of the labels; others than the head has are not written.

    Raises:
        CheckpointError: other weights lie in the folder; or the sizes are not those of an arch, so
            that the number of heads, which the weights do not tell, is unknown.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(
            f'{folder} is a file; name a folder, or end the name of a file with '
            f'{", ".join(SUFFIXES)}'
        )
    config = _transformers_config(state, classes)
    for name in [f'{name}{end}' for name in WEIGHTS for end in ('', INDEX)][1:]:
        if (folder / name).exists():
            raise CheckpointError(
                f'{folder} already holds other weights, {name}; name another folder'
            )
    write_checkpoint(folder / WEIGHTS[0], state)
    write_json(folder / 'config.json', config)


def _transformers_config(
    state: Mapping[str, Tensor], classes: Sequence[str] | None
) -> dict[str, Any]:
    """Returns ``config.json``, with SegFormer's strides since the weights do not tell them."""
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
        count = about['num_classes']
        names = {str(i): f'LABEL_{i}' for i in range(count)}
        if classes is not None and len(classes) == count:
            names = {str(i): str(name) for i, name in enumerate(classes)}
        config |= dict(
            architectures=['SegformerForSemanticSegmentation'],
            decoder_hidden_size=about['decoder_channels'],
            id2label=names,
            label2id={name: int(i) for i, name in names.items()},
            semantic_loss_ignore_index=255,
        )
    return config
