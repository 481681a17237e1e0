"""Reads configs, and checks early that the data they name exists."""

from __future__ import annotations

import copy
import difflib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.runner import Runner

from ..checkpoints.hub import is_hub_name
from ..errors import SegformerPlusPlusError, describe_error
from ..export.formats import is_exported
from ..libraries import require
from ..loading.datasets import datasets_of
from ..registration import component, component_name, component_names
from .exported import exported_config
from .pretrained import DEFAULT_MERGING, is_pretrained, openmmlab_models, pretrained_config

# mmengine's Runner reads these keys of the config beside its own arguments
_RUNNER_KEYS = {
    'activation_checkpointing',
    'compile',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'strict_load',
    'sync_bn',
}

SPLITS = ('train', 'val', 'test')

SWITCHES = ('amp', 'accumulate', 'gradient_checkpointing', 'adapt')
"""Top-level keys of our own training, see configs/_base_/runtime."""


def load_config(
    config: str | os.PathLike[str] | Config,
    cfg_options: Mapping[str, Any] | None = None,
    work_dir: str | None = None,
) -> Config:
    """Reads a config file, or copies a config, and applies settings.

    Args:
        config: a path, or the name of a shipped config, see ``find_config``; or a model that
            brings its weights: OWNER/NAME of the Hub, a folder that ``save_pretrained`` wrote, an
            exported file, or the name of one of mmseg's own SegFormers. See ``named_config``.
        cfg_options: dotted keys and their new values. The config or mmengine's Runner must know
            the first part of each key.
        work_dir: defaults to the config's ``work_dir``, else ``work_dirs/<name of the config>``.

    Raises:
        SegformerPlusPlusError: the file is missing or no config, an option does not fit, or a model
            by name cannot be had.
        MissingDependencyError: the toolbox of its ``default_scope`` is not installed.
    """
    if isinstance(config, Config):
        cfg = copy.deepcopy(config)
    elif isinstance(config, str | os.PathLike):
        cfg = named_config(os.fspath(config)) or _read(find_config(config))
    else:
        raise SegformerPlusPlusError(
            f'config_or_model is a {type(config).__name__}; give the path of a config, a Config or '
            'a model'
        )
    path = Path(cfg.filename or 'config')
    if cfg_options:
        _check_option_names(cfg, cfg_options)
        try:
            cfg.merge_from_dict(dict(cfg_options))
        except Exception as error:
            raise SegformerPlusPlusError(f'--cfg-options does not fit {path}: {error}') from error
    for key in (f'{split}_dataloader' for split in SPLITS):
        places = {key: cfg.get(key), f'{key}.dataset': _mapping(cfg, key).get('dataset')}
        for place, value in places.items():
            if not isinstance(value or {}, Mapping):
                raise SegformerPlusPlusError(f'{path}: {place}={value!r} is no dict')
    model = _mapping(cfg, 'model')
    _check_normalisation(model)
    scope = cfg.get('default_scope') or _scope_of(model)
    if scope in ('mmseg', 'mmpose'):
        cfg.default_scope = scope
        require(scope, str(path))
    cfg.work_dir = work_dir or cfg.get('work_dir') or os.path.join('work_dirs', path.stem)
    return cfg


def named_config(
    name: str, revision: str | None = None, token: str | bool | None = None
) -> Config | None:
    """Returns the config of a model that brings its weights; None if it is named as a file.

    Its ``pretrained_model.weights`` is the checkpoint. It merges as was saved with it, else by
    ``pretrained.DEFAULT_MERGING``.

    Args:
        name: see ``pretrained.pretrained_config``, and ``exported.exported_config``;
            or that of one of mmseg's own SegFormers, which gets the backbone and the head of this
            package.
        revision: of a model of the Hub, see ``..checkpoints.hub.fetch``, as for the token.

    Raises:
        SegformerPlusPlusError: see ``pretrained.pretrained_config``.
    """
    if revision is not None and not is_hub_name(name):
        raise SegformerPlusPlusError(f'revision={revision!r}: {name} is no model of the Hub')
    if is_exported(name):  # before the Hub: both may have one slash
        return exported_config(name)
    if is_pretrained(name):
        return pretrained_config(name, revision, token)
    if name.endswith('.py') or find_spec('mmseg') is None:
        return None
    about = openmmlab_models(configs_of('mmseg')).get(name)
    if about is None:
        return None
    cfg = _read(find_config(about.config))
    # the weights fit them as they are
    cfg.custom_imports = dict(imports=['segformer_plusplus'])
    cfg.model.type = 'EncoderDecoderPlusPlus'
    cfg.model.backbone.update(type='MixVisionTransformerPlusPlus', token_merging=DEFAULT_MERGING)
    cfg.model.decode_head.type = 'SegformerHeadPlusPlus'
    cfg.pretrained_model = dict(name=name, weights=about.weights)
    return cfg


def _mapping(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Returns settings below a key; none if it is something else, which who builds it names."""
    value = settings.get(key)
    return value if isinstance(value, Mapping) else {}


def backbone_settings(cfg: Config) -> Any:
    """Returns a config's ``model.backbone``, a ``ConfigDict``.

    Raises:
        SegformerPlusPlusError: it has none.
    """
    found = _mapping(_mapping(cfg, 'model'), 'backbone')
    if not found:
        raise SegformerPlusPlusError(
            f'{cfg.filename or "the config"} has no model.backbone; expected model = dict(type='
            "'...', backbone=dict(...), ...)"
        )
    return found


def _check_normalisation(model: Mapping[str, Any]) -> None:
    channels = _mapping(model, 'backbone').get('in_channels', 3)
    for name in ('mean', 'std'):
        values = _mapping(model, 'data_preprocessor').get(name)
        if isinstance(values, list | tuple) and len(values) not in {1, 3} & {1, channels}:
            raise SegformerPlusPlusError(
                f'model.data_preprocessor.{name} has {len(values)} values for images of {channels} '
                'channels (model.backbone.in_channels): give as many, or one for all; mmengine '
                'takes 1 or 3, so that others are normalised in the pipeline, with mean=std=None'
            )


def _scope_of(model: Mapping[str, Any]) -> str | None:
    """Returns the toolbox of a model whose ``type`` is a class: such configs need no scope."""
    kind = component(model.get('type'), MODELS)
    modules = [base.__module__.partition('.')[0] for base in getattr(kind, '__mro__', ())]
    return next((name for name in modules if name in ('mmseg', 'mmpose')), None)


def _read(path: Path) -> Config:
    try:
        return Config.fromfile(str(path))
    except Exception as error:  # a config is a program: it can fail in any way
        reason = describe_error(error) or f'{type(error).__name__}: {error}'
        raise SegformerPlusPlusError(f'cannot read config {path}: {reason}') from error


def find_config(name: str | os.PathLike[str]) -> Path:
    """Finds the file of a config.

    Args:
        name: a path; or PACKAGE::PATH, as in ``_base_``, for a config that a package ships:
            'segformer_plusplus::cityscapes/segformer_mit-b5_hq_1xb4-160k_cityscapes-1024x1024.py'.

    Raises:
        SegformerPlusPlusError: the file does not exist.
    """
    package, is_shipped, inside = str(name).partition('::')
    path = (configs_of(package) if is_shipped else Path()) / (inside or name)
    if path.is_file():
        return path
    if not is_shipped:
        hint = '' if path.suffix else '; segformer-plusplus models lists what has a name'
        raise SegformerPlusPlusError(f'config not found: {name}{hint}')
    known = shipped_configs(package)
    close = difflib.get_close_matches(f'{package}::{inside}', known, n=1)
    hint = f'did you mean {close[0]}? ' if close else ''
    raise SegformerPlusPlusError(
        f'config not found: {name}; {hint}segformer-plusplus info --configs lists ours'
    )


def configs_of(package: str) -> Path:
    """Finds the folder of configs of a package: its ``.mim/configs``, or ``configs`` of a checkout.

    Raises:
        SegformerPlusPlusError: the package is not installed, or ships no configs.
    """
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise SegformerPlusPlusError(f'config {package}::...: no package {package!r} is installed')
    root = Path(spec.origin).parent
    for folder in (root / '.mim' / 'configs', root.parent / 'configs'):
        if folder.is_dir():
            return folder
    raise SegformerPlusPlusError(f'config {package}::...: {root} was installed without configs')


def shipped_configs(package: str = 'segformer_plusplus') -> list[str]:
    """Lists the names of a package's configs, as ``find_config`` takes them, without bases."""
    folder = configs_of(package)
    inside = (path.relative_to(folder).as_posix() for path in folder.glob('*/*.py'))
    return [f'{package}::{path}' for path in sorted(inside) if not path.startswith('_base_')]


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
    """Checks that the data of these splits exists, before anything is built.

    Args:
        cfg: a config of mmseg or mmpose.
        splits: some of 'train', 'val' and 'test'; a split without a data loader is skipped.
        labels: whether the label maps of segmentation must exist, too.

    Raises:
        SegformerPlusPlusError: names the key, the path, and how to change it.
    """
    for split in splits:
        for key, dataset in datasets_of(cfg, split):
            for name, path in _data_paths(dataset, labels):
                _check_path(f'{key}.{name}', path)


def check_codec_sizes(cfg: Config) -> None:
    """Checks that pipelines and codecs of an mmpose config have the same input size.

    A codec for another size would silently move every keypoint.

    Raises:
        SegformerPlusPlusError: names the keys and the sizes that differ.
    """
    decoder = _mapping(_mapping(_mapping(cfg, 'model'), 'head'), 'decoder')
    if 'input_size' not in decoder:
        return
    expected = tuple(decoder['input_size'])
    for split in SPLITS:
        for key, dataset in datasets_of(cfg, split):
            for step, size in _input_sizes(dataset.get('pipeline') or []):
                if tuple(size) != expected:
                    raise SegformerPlusPlusError(
                        f'{key}: {step} has input_size {tuple(size)}, but model.head.decoder '
                        f'{expected}; give all of them one size'
                    )


def is_loader(step: Mapping[str, Any], of: str = '') -> bool:
    """Says whether a step of a pipeline reads files: a loader of a toolbox, or derived from one.

    Args:
        step: of a config whose ``default_scope`` is set.
        of: 'Image' or 'Annotation', for those only that have it in their name.
    """
    names = component_names(step.get('type'), TRANSFORMS)
    return any('Load' in name and of in name for name in names)


def _input_sizes(pipeline: Sequence[Any]) -> Iterator[tuple[str, Sequence[int]]]:
    """Yields the sizes that a pose pipeline crops to and encodes keypoints for."""
    for step in _flatten(pipeline):
        kind, encoders = component_name(step.get('type')), step.get('encoder') or []
        for part in (step, *(encoders if isinstance(encoders, list | tuple) else [encoders])):
            if kind in ('TopdownAffine', 'GenerateTarget') and 'input_size' in part:
                yield kind, part['input_size']


def _data_paths(dataset: ConfigDict, labels: bool) -> Iterator[tuple[str, str]]:
    root = dataset.get('data_root') or ''
    yield 'data_root', root
    steps = _flatten(dataset.get('pipeline') or [])
    labels = labels and any(is_loader(step, 'Annotation') for step in steps)
    for name, prefix in (dataset.get('data_prefix') or {}).items():
        if isinstance(prefix, str) and (labels or name != 'seg_map_path'):
            yield f'data_prefix.{name}', os.path.join(root, prefix)
    if dataset.get('ann_file'):
        yield 'ann_file', os.path.join(root, dataset['ann_file'])
    yield 'bbox_file', dataset.get('bbox_file') or ''


def _flatten(steps: Any) -> Iterator[Mapping[str, Any]]:
    """Yields the steps of a pipeline, including those in TestTimeAug's nested lists."""
    for step in steps:
        if isinstance(step, list | tuple):
            yield from _flatten(step)
        elif isinstance(step, Mapping):
            yield step
            yield from _flatten(step.get('transforms') or [])


def _check_path(key: str, path: str) -> None:
    """Checks that a path exists and is no empty folder; remote addresses are not checked."""
    if '://' in path or not path:
        return
    place = Path(path)
    change = f'change it with --cfg-options {key}=...'
    if not place.exists():
        raise SegformerPlusPlusError(f'data not found: {path} ({key}); {change}')
    if place.is_dir() and next(place.iterdir(), None) is None:
        raise SegformerPlusPlusError(f'data folder is empty: {path} ({key}); {change}')
