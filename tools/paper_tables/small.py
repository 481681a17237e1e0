"""Makes the paper's tables small: drawn data in every layout, MiT-B0, a few iterations.

The shipped configs of the rows are what runs; everything small is an option on top of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tools.paper_tables.tables import DrawnImages

TRAIN_IMAGES, VAL_IMAGES = 16, 4
BATCH = 2
SCENE = (128, 256)
CROP = (128, 128)
STRIDE = (96, 96)
JUMPER = (192, 256)
PERSON = (128, 96)
IN_CHANNELS = '[32,64,160,256]'

SMALL = {
    'cityscapes': DrawnImages('scenes', 'cityscapes', TRAIN_IMAGES, VAL_IMAGES, SCENE),
    'ade20k': DrawnImages('scenes', 'ade20k', TRAIN_IMAGES, VAL_IMAGES, SCENE),
    'jbd': DrawnImages('jumpers', 'jbd', TRAIN_IMAGES, VAL_IMAGES, JUMPER),
    'coco': DrawnImages('jumpers', 'coco', TRAIN_IMAGES, VAL_IMAGES, JUMPER),
}
"""What is drawn in the place of each of ``DATA_SETS``."""


def small_shape(data: str) -> tuple[int, int]:
    """Returns height and width that are timed in the place of the paper's, for a data set."""
    return SCENE if SMALL[data].kind == 'scenes' else PERSON


def small_options(cfg: Mapping[str, Any], iterations: int) -> tuple[str, ...]:
    """Returns the KEY=VALUE options that make a shipped config small.

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
            options += [f'{key}.{option}' for option in _small_step(step)]
    options += _small_poses(iterations) if poses else _small_scenes(cfg, iterations)
    return tuple(options)


def _small_step(step: Mapping[str, Any]) -> Iterator[str]:
    """Yields what to change in a step of a pipeline."""
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
