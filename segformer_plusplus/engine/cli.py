"""What the command line tools share: their arguments, reading a config, and early path checks."""

import argparse
import difflib
import inspect
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import Runner

from ..compat import import_toolbox
from ..errors import SegformerPlusPlusError
from ..files import written_beside
from .guard import add_traceback_argument, describe_error
from .switches import SWITCHES

# Keys that the Runner reads from the config beside its own arguments.
_RUNNER_KEYS = {
    'activation_checkpointing',
    'compile',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'strict_load',
    'sync_bn',
}


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--cfg-options`` and ``--traceback``, which every tool has."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_OptionAction,
        metavar='KEY=VALUE',
        help='settings to change in the config, for example '
        'train_dataloader.batch_size=4 optim_wrapper.optimizer.lr=1e-4; lists as key="[a,b]"',
    )
    add_traceback_argument(parser)


class _OptionAction(DictAction):
    """mmengine's ``DictAction``, which meets an option without '=' with a traceback."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for value in values:
            if '=' not in value:
                raise argparse.ArgumentError(self, f'{value!r} is not KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


def parse_shape(text: str) -> tuple[int, int]:
    """'1024x2048' -> (1024, 2048): height, width; a type for argparse."""
    height, _, width = text.partition('x')
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is no shape; write HEIGHTxWIDTH, as 512x1024')
    return int(height), int(width)


def parse_positive(text: str) -> int:
    """A whole number above 0; a type for argparse."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number above 0')
    return int(text)


def add_launcher_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds ``--launcher`` and ``--local-rank``, for distributed runs."""
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes were started (default: %(default)s)',
    )
    # torch.distributed.launch passes one spelling or the other, by its version.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def set_local_rank(local_rank: int) -> None:
    """Hands ``--local-rank`` on to mmengine, unless the launcher has set ``LOCAL_RANK``."""
    os.environ.setdefault('LOCAL_RANK', str(local_rank))


def load_config(
    path: str | os.PathLike[str],
    cfg_options: Mapping[str, Any] | None = None,
    work_dir: str | None = None,
) -> Config:
    """Reads a config and applies the command line's settings.

    Args:
        path: the config file.
        cfg_options: dotted keys and their new values. The first part of a key must be one that
            the config has or that mmengine's Runner knows.
        work_dir: by default the config's ``work_dir``, else ``work_dirs/<name of the config>``.

    Raises:
        SegformerPlusPlusError: the file is missing or no config, or an option does not fit.
        MissingDependencyError: the toolbox of its ``default_scope`` is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise SegformerPlusPlusError(f'config not found: {path}')
    try:
        cfg = Config.fromfile(str(path))
    except Exception as error:  # a config is a program: it can fail in any way
        reason = describe_error(error) or f'{type(error).__name__}: {error}'
        raise SegformerPlusPlusError(f'cannot read config {path}: {reason}') from error
    if cfg_options:
        _check_option_names(cfg, cfg_options)
        try:
            cfg.merge_from_dict(dict(cfg_options))
        except Exception as error:
            raise SegformerPlusPlusError(f'--cfg-options does not fit {path}: {error}') from error
    if cfg.get('default_scope') in ('mmseg', 'mmpose'):
        import_toolbox(cfg.default_scope, asked_for=str(path))
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join('work_dirs', path.stem)
    return cfg


def _check_option_names(cfg: Config, cfg_options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(Runner.__init__).parameters
    known = {*cfg.keys(), *parameters, *_RUNNER_KEYS, *SWITCHES} - {'self'}
    for option in cfg_options:
        first = option.split('.')[0]
        if first not in known:
            close = difflib.get_close_matches(first, known, n=1)
            hint = f'did you mean {close[0]!r}?' if close else 'the config has no such key'
            raise SegformerPlusPlusError(f'--cfg-options {option}: unknown key {first!r}; {hint}')


def check_data_roots(cfg: Config, splits: Sequence[str], labels: bool = True) -> None:
    """Checks that the data of these splits is there, before anything is built.

    Args:
        cfg: an mmseg or mmpose config.
        splits: out of 'train', 'val' and 'test'; one without a data loader is passed over.
        labels: whether segmentation's labels have to be there.

    Raises:
        SegformerPlusPlusError: names the key, the path, and how to change it.
    """
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader:
            for key, dataset in _datasets(loader.get('dataset'), f'{split}_dataloader.dataset'):
                _check_dataset(key, dataset, labels)


def check_codec_sizes(cfg: Config) -> None:
    """Checks that an mmpose config means one size of its input throughout.

    A codec for another size than the cut-out person moves every keypoint without a word.

    Raises:
        SegformerPlusPlusError: names the keys and the sizes that differ.
    """
    decoder = (cfg.get('model', {}).get('head') or {}).get('decoder')
    if not isinstance(decoder, dict) or 'input_size' not in decoder:
        return
    expected = tuple(decoder['input_size'])
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        for key, dataset in _datasets(loader.get('dataset'), f'{split}_dataloader.dataset'):
            for step, size in _input_sizes(dataset.get('pipeline') or []):
                if tuple(size) != expected:
                    raise SegformerPlusPlusError(
                        f'{key}: {step} has input_size {tuple(size)}, but model.head.decoder '
                        f'{expected}; give all of them one size'
                    )


def _input_sizes(pipeline: Sequence[Any]) -> Iterator[tuple[str, Sequence[int]]]:
    """What a pose pipeline cuts out to, and what its codecs take it for."""
    for step in _flatten(pipeline):
        kind, encoders = str(step.get('type')), step.get('encoder') or []
        for part in (step, *(encoders if isinstance(encoders, list | tuple) else [encoders])):
            if kind in ('TopdownAffine', 'GenerateTarget') and 'input_size' in part:
                yield kind, part['input_size']


def _datasets(dataset: Any, key: str) -> Iterator[tuple[str, ConfigDict]]:
    """Every innermost dataset of wrappers such as RepeatDataset and ConcatDataset, with its key."""
    if not isinstance(dataset, dict):
        return
    if 'dataset' in dataset:
        yield from _datasets(dataset['dataset'], f'{key}.dataset')
    elif 'datasets' in dataset:
        for index, part in enumerate(dataset['datasets']):
            yield from _datasets(part, f'{key}.datasets.{index}')
    else:
        yield key, dataset


def _check_dataset(key: str, dataset: ConfigDict, labels: bool) -> None:
    root = dataset.get('data_root') or ''
    if root:
        _check_path(f'{key}.data_root', root)
    for name, prefix in (dataset.get('data_prefix') or {}).items():
        if isinstance(prefix, str) and (
            name != 'seg_map_path' or (labels and _reads_labels(dataset))
        ):
            _check_path(f'{key}.data_prefix.{name}', os.path.join(root, prefix))
    if dataset.get('ann_file'):
        _check_path(f'{key}.ann_file', os.path.join(root, dataset['ann_file']))
    if dataset.get('bbox_file'):
        _check_path(f'{key}.bbox_file', dataset['bbox_file'])


def _reads_labels(dataset: ConfigDict) -> bool:
    steps = dataset.get('pipeline') or []
    return any('Annotations' in str(step.get('type')) for step in _flatten(steps))


def _flatten(steps: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a pipeline, those inside TestTimeAug's nested lists included."""
    for step in steps:
        if isinstance(step, list | tuple):
            yield from _flatten(step)
        elif isinstance(step, Mapping):
            yield step
            yield from _flatten(step.get('transforms') or [])


def check_device(device: str) -> None:
    """Checks that PyTorch has this device.

    Raises:
        SegformerPlusPlusError: it has not, or there is none of that name.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SegformerPlusPlusError(f'--device {device}: {reason}') from error


def _check_path(key: str, path: str) -> None:
    """``path`` must exist, and hold something if it is a folder; remote addresses pass."""
    if '://' in path or not path:
        return
    place = Path(path)
    change = f'change it with --cfg-options {key}=...'
    if not place.exists():
        raise SegformerPlusPlusError(f'data not found: {path} ({key}); {change}')
    if place.is_dir() and next(place.iterdir(), None) is None:
        raise SegformerPlusPlusError(f'data folder is empty: {path} ({key}); {change}')


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes JSON atomically: readers see the old file or the whole new one, never a half."""
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + '\n')


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Writes a text file atomically, see :func:`write_json`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as place:
        place.write_text(content)


def _plain(value: Any) -> Any:
    """Tensors and NumPy scalars as Python numbers; what JSON cannot hold (nan, inf) as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, 'tolist'):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
