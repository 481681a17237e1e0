"""segformer-plusplus info [NAME|CONFIG|CHECKPOINT]: versions, strategies, what a model is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..checkpoints import convert, describe, plain_state_dict, read_checkpoint, recognise
from ..checkpoints.hub import CONFIG
from ..errors import CheckpointError
from ..evaluation.timing import describe_environment
from ..export.formats import find_metadata, is_exported
from ..inference.configs import load_config, named_config, shipped_configs
from ..inference.exported import ExportedFile, sizes_in_words, steps_of
from ..inference.opening import open_model
from ..inference.pretrained import resized_to
from ..loading.datasets import test_dataset
from ..token_merging import TOKEN_MERGERS, TokenMerging
from ..token_merging.config import PURPOSES
from ..token_merging.words import in_words
from ..version import __version__
from .options import command

Rows = Iterator[tuple[str, str]]

_NAMED = 20  # classes


@command
def main(file: str | None = None, /, *, configs: bool = False) -> None:
    """Show versions and strategies, or what a model is, or whose weights a checkpoint holds.

    Args:
        file: config (a program, which is run), name of a model (see segformer-plusplus models),
            exported file, checkpoint, folder of Transformers or URL.
        configs: list the configs that every command takes by these names.
    """
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # it names what is converted
    if configs:
        Console().print('\n'.join(shipped_configs()), highlight=False, soft_wrap=True)
        return
    if file is None:
        title, rows = 'SegFormer++', _environment()
    elif is_exported(file):
        title, rows = file, _exported(file)
    elif Path(urlparse(file).path).suffix == '.py' or '::' in file:
        title, rows = file, _model(load_config(file))
    elif _has_settings(file) and (named := named_config(file)):
        title, rows = named.pretrained_model.name, _model(named)
    else:
        title, rows = file, _checkpoint(file)
    table = Table(title=escape(title), title_justify='left', show_header=False)
    table.add_column(style='bold')
    table.add_column(overflow='fold')
    for row in rows:
        table.add_row(*map(escape, row))  # a file can hold what rich would take for markup
    Console().print(table)


def _has_settings(file: str) -> bool:
    return not Path(file).is_dir() or (Path(file) / CONFIG).exists()


def _environment() -> Rows:
    environment = describe_environment()
    yield 'segformer-plusplus', __version__
    yield 'Python', str(environment['python'])
    for name, version in environment['versions'].items():
        yield name, str(version or 'not installed')
    yield 'CPU', str(environment['cpu'])
    yield 'GPU', str(environment['gpu'] or 'none')
    for name, purpose in PURPOSES.items():
        yield f'preset {name}', purpose
    yield 'strategies', ', '.join(sorted(TOKEN_MERGERS.module_dict))


def _model(config: Config) -> Rows:
    config.pop('pretrained_model', None)  # its weights tell nothing that is shown
    model = open_model(config, random_weights=True, device='cpu')
    backbone = getattr(model, 'backbone', model)
    yield 'toolbox', str(model.cfg.get('default_scope'))
    yield 'model', type(model).__name__
    yield 'backbone', type(backbone).__name__
    merging = getattr(backbone, 'token_merging', None)
    if isinstance(merging, TokenMerging):
        given = config.model.backbone.get('token_merging')
        yield 'token merging', given if isinstance(given, str) else 'of its own'
        for number, words in enumerate(in_words(merging), 1):
            yield f'stage {number}', words
    count = sum(parameter.numel() for parameter in model.parameters())
    yield 'parameters', f'{count / 1e6:.2f} million'
    names = list(model.dataset_meta.get('classes') or ())
    if names:
        yield _classes(names)
    if scale := resized_to(test_dataset(config).get('pipeline') or ()):
        yield 'images', f'resized to fit {" x ".join(map(str, scale))}'
    normalised = config.model.get('data_preprocessor') or {}
    for name in ('mean', 'std'):
        if normalised.get(name):
            yield name, ', '.join(f'{value:g}' for value in normalised[name])


def _exported(file: str) -> Rows:
    metadata = find_metadata(file)
    record = ExportedFile(file).record
    yield 'size', f'{record["megabytes"]:.1f} MB'
    if metadata is None:
        yield 'recognised', 'no: a file of another program'
        return
    yield 'format', f'{metadata["format"]}, opset {metadata["opset"] or "none"}'
    yield 'precision', record['precision']
    given, output = metadata['input'], metadata['output']
    batch = metadata['batch_size'] or 'any number of'
    size = sizes_in_words(metadata['shape'], steps_of(metadata))
    yield (
        'takes',
        f'{batch} x {size}, {given["channels"]} channels, {given["type"]} {given["layout"]}',
    )
    yield 'gives', f'{output["name"]}, {output["channels"]} channels'
    normalised = given['normalisation']
    for name in ('mean', 'std'):
        if normalised[name]:
            where = ', inside' if normalised['inside'] else ''
            yield name, ', '.join(f'{value:g}' for value in normalised[name]) + where
    merging = metadata['token_merging']
    yield 'token merging', merging['preset'] or 'of its own'
    for number, stage in enumerate(merging['stages'], 1):
        merged = ', '.join(f'{role}: {stage[role]}' for role in ('q', 'kv') if stage[role])
        yield f'stage {number}', merged or 'nothing'
    if metadata['class_names']:
        yield _classes(metadata['class_names'])
    if left_out := (metadata.get('predicting') or {}).get('left_out'):
        yield 'left out', f'steps of its pipeline: {", ".join(left_out)}'
    if calibration := metadata.get('calibration'):
        yield 'calibration', ', '.join(f'{key}: {each}' for key, each in calibration.items())
    check = metadata.get('check') or {}
    for seen in check.get('seen', ()):
        error, equal = seen['relative_error'], seen['equal_labels']
        parts = [] if error is None else [f'relative error {error:.1e}']
        parts += [] if equal is None else [f'{equal:.3%} equal labels']
        yield f'check in {seen["runtime"]}', f'{", ".join(parts)} (images: {check["images"]})'
    yield 'made by', ', '.join(f'{name} {each}' for name, each in metadata['versions'].items())


def _classes(names: Sequence[str]) -> tuple[str, str]:
    more = f', and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    return f'{len(names)} classes', f'{", ".join(names[:_NAMED])}{more}'


def _checkpoint(source: str) -> Rows:
    content = read_checkpoint(source)
    state = plain_state_dict(content, source)
    kind = recognise(state)
    yield 'recognised', kind or 'no: of no library that is known'
    yield 'tensors', str(len(state))
    yield 'parameters', f'{sum(t.numel() for t in state.values()) / 1e6:.2f} million'
    if kind is not None:
        try:
            yield from _description(describe(convert(state).state))
        except CheckpointError as error:
            yield 'not complete', str(error)
    meta = content.get('meta')
    for key in ('epoch', 'iter', 'time', 'mmengine_version'):
        if isinstance(meta, dict) and key in meta:
            yield key, str(meta[key])
    if 'optimizer' in content:
        yield 'training state', 'yes: --resume can go on from it'


def _description(about: Mapping[str, Any]) -> Rows:
    named = dict(arch='arch', head='head', decoder_channels='decoder channels', dtype='numbers')
    named['num_classes'] = 'keypoints' if about['head'] == 'heatmap' else 'classes'
    for key, name in named.items():
        if about[key] is not None:
            yield name, str(about[key])
