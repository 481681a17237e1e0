"""All tables at a small size: drawn data in every layout, MiT-B0, a few iterations.

The shipped configs of the rows are what runs; everything small is an option on top of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.paper_tables.state import hash_file, sha256

TRAIN_IMAGES, VAL_IMAGES = 16, 4
BATCH = 2
SCENE = (128, 256)
CROP = (128, 128)
STRIDE = (96, 96)
JUMPERS = (192, 256)
PERSON = (128, 96)
IN_CHANNELS = '[32,64,160,256]'

_HEIGHT_WIDTH = dict(scenes=SCENE, jumpers=JUMPERS)
_LAYOUTS = {
    'cityscapes': ('scenes', 'cityscapes'),
    'ade20k': ('scenes', 'ade20k'),
    'jbd': ('jumpers', 'jbd'),
    'coco': ('jumpers', 'coco'),
}

_GENERATORS = Path(__file__).resolve().parents[1] / 'dataset_generators'


@dataclass(frozen=True)
class DrawnData:
    """A drawn data set and the command that draws it.

    Attributes:
        data: a key of ``DATA_SETS``.
        parent: the folder that data sets are drawn into.
    """

    data: str
    parent: Path

    @property
    def arguments(self) -> tuple[str, ...]:
        """Of the generator, without the folder."""
        kind, layout = _LAYOUTS[self.data]
        size = 'x'.join(map(str, _HEIGHT_WIDTH[kind]))
        amounts = ('--train', str(TRAIN_IMAGES), '--val', str(VAL_IMAGES))
        return '--layout', layout, *amounts, '--size', size, '--workers', '1'

    @property
    def folder(self) -> Path:
        """Named after what is drawn and by which code: other code draws into another folder."""
        code = {path.name: hash_file(path) for path in sorted(_GENERATORS.glob('*.py'))}
        return self.parent / f'{self.data}-{sha256([code, self.arguments])[:8]}'

    @property
    def command(self) -> tuple[str, ...]:
        """The tool with its arguments."""
        tool = f'tools/dataset_generators/synthetic_{_LAYOUTS[self.data][0]}.py'
        return tool, str(self.folder), *self.arguments

    @property
    def complete(self) -> bool:
        """Whether all of it is drawn."""
        record = self.folder / f'{_LAYOUTS[self.data][0]}.json'
        try:
            return json.loads(record.read_text()).get('complete') is True
        except (OSError, ValueError, AttributeError):
            return False


def small_shape(data: str) -> tuple[int, int]:
    """Height and width that are timed in place of the paper's; ``data`` as in DATA_SETS."""
    return SCENE if _LAYOUTS[data][0] == 'scenes' else PERSON


def small_options(cfg: Mapping[str, Any], iterations: int) -> tuple[str, ...]:
    """KEY=VALUE options that make a shipped config small.

    Args:
        cfg: the resolved config.
        iterations: of training; for poses rounded up to whole epochs.
    """
    poses = 'head' in cfg['model']
    options = [
        'model.backbone.arch=b0',
        'model.backbone.init_cfg=None',
        f'model.{"head" if poses else "decode_head"}.in_channels={IN_CHANNELS}',
        f'train_dataloader.batch_size={BATCH}',
        'randomness.seed=0',
        'default_hooks.logger.interval=1',
    ]
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        options += [f'{loader}.num_workers=0', f'{loader}.persistent_workers=False']
        for index, step in enumerate(cfg[loader]['dataset']['pipeline']):
            key = f'{loader}.dataset.pipeline.{index}'
            options += [f'{key}.{option}' for option in _small_step(step, poses)]
    options += _small_poses(iterations) if poses else _small_scenes(cfg, iterations)
    return tuple(options)


def _small_step(step: Mapping[str, Any], poses: bool) -> Iterator[str]:
    """What to change in a step of a pipeline."""
    kind = step['type']
    if kind in ('RandomResize', 'Resize'):
        yield f'scale={_pair(SCENE[::-1])}'
    elif kind == 'RandomCrop':
        yield f'crop_size={_pair(CROP)}'
    elif kind == 'TopdownAffine':
        yield f'input_size={_pair(PERSON[::-1])}'
    elif kind == 'GenerateTarget':
        yield from (f'encoder.{option}' for option in _small_codec())


def _small_codec() -> tuple[str, str]:
    height, width = PERSON
    return (
        f'input_size={_pair((width, height))}',
        f'heatmap_size={_pair((width // 4, height // 4))}',
    )


def _small_scenes(cfg: Mapping[str, Any], iterations: int) -> Iterator[str]:
    warm_up = max(1, iterations // 10)
    yield f'model.data_preprocessor.size={_pair(CROP)}'
    if cfg['model']['test_cfg']['mode'] == 'slide':
        yield f'model.test_cfg.crop_size={_pair(CROP)}'
        yield f'model.test_cfg.stride={_pair(STRIDE)}'
    yield 'optim_wrapper.optimizer.lr=1.5e-3'
    yield 'optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult=1.0'
    yield f'param_scheduler.0.end={warm_up}'
    yield f'param_scheduler.1.begin={warm_up}'
    yield f'param_scheduler.1.end={max(iterations, warm_up + 1)}'
    yield f'train_cfg.max_iters={iterations}'
    yield f'train_cfg.val_interval={iterations}'
    yield f'default_hooks.checkpoint.interval={max(1, iterations // 4)}'
    yield 'default_hooks.checkpoint.max_keep_ckpts=2'


def _small_poses(iterations: int) -> Iterator[str]:
    people = min(TRAIN_IMAGES, iterations * BATCH)
    epochs = -(-iterations * BATCH // people)
    yield from (f'model.head.decoder.{option}' for option in _small_codec())
    yield f'train_dataloader.dataset.indices={people}'
    yield f'param_scheduler.0.end={max(1, iterations // 10)}'
    yield f'train_cfg.max_epochs={epochs}'
    yield f'train_cfg.val_interval={epochs}'
    yield f'default_hooks.checkpoint.interval={max(1, epochs // 4)}'


def _pair(values: Sequence[int]) -> str:
    return f'({values[0]},{values[1]})'
