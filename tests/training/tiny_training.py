"""Runs trainings of a second or two, in processes of their own that may be killed."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

CLASSES = 4
SIZE = 64
KILLS = int(os.environ.get('KILLS', '5'))


def write_data(folder: Path, train: int = 8, val: int = 5) -> Path:
    """Writes noise with blocks of classes as PNG files."""
    random = np.random.default_rng(0)
    for split, count in dict(train=train, val=val).items():
        for kind in ('images', 'labels'):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            labels = np.kron(random.integers(0, CLASSES, (4, 4)), np.ones((SIZE // 4,) * 2))
            noise = random.integers(0, 100, (SIZE, SIZE, 3))
            image = noise + labels[..., None] * 50
            cv2.imwrite(str(folder / 'images' / split / f'{number}.png'), image.clip(0, 255))
            cv2.imwrite(str(folder / 'labels' / split / f'{number}.png'), labels.astype(np.uint8))
    return folder


def config(data: Path, work: Path, *, random: bool = True, **changes: Any) -> Config:
    """Configures a tiny SegFormer, with all kinds of randomness or with none."""
    steps = [
        dict(type='CheckedLoadImageFromFile'),
        dict(type='CheckedLoadAnnotations', num_classes=CLASSES),
    ]
    augment = [
        dict(type='RandomCrop', crop_size=(48, 48)),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
    ]

    def loader(split: str, pipeline: list[Any], batch: int, sampler: Any) -> dict[str, Any]:
        prefix = dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}')
        dataset = dict(
            type='BaseSegDataset', data_root=str(data), data_prefix=prefix, pipeline=pipeline,
            img_suffix='.png', seg_map_suffix='.png',
            metainfo=dict(classes=list('abcd'), palette=[[0] * 3] * CLASSES),
        )  # fmt: skip
        return dict(batch_size=batch, num_workers=0, sampler=sampler, dataset=dataset)

    pack = [dict(type='PackSegInputs')]
    evaluated = loader('val', [*steps, *pack], 1, dict(type='DefaultSampler', shuffle=False))
    chance = 0.2 if random else 0.0
    content = dict(
        default_scope='mmseg',
        custom_imports=dict(imports=['segformer_plusplus']),
        work_dir=str(work),
        model=dict(
            type='EncoderDecoderPlusPlus',
            data_preprocessor=dict(
                type='SegDataPreProcessor', mean=[123.0] * 3, std=[58.0] * 3, pad_val=0,
                seg_pad_val=255, size=(48, 48) if random else (SIZE, SIZE),
            ),
            backbone=dict(
                type='MixVisionTransformerPlusPlus', embed_dims=8, num_heads=(1, 2, 5, 8),
                num_layers=(1, 1, 1, 1), token_merging='hq' if random else 'none',
                drop_path_rate=chance,
            ),
            decode_head=dict(
                type='SegformerHeadPlusPlus', in_channels=[8, 16, 40, 64], in_index=[0, 1, 2, 3],
                channels=16, num_classes=CLASSES, dropout_ratio=chance, align_corners=False,
                norm_cfg=dict(type='SyncBN') if random else dict(type='GN', num_groups=2),
                loss_decode=dict(type='CrossEntropyLoss'),
            ),
            train_cfg=dict(), test_cfg=dict(mode='whole'),
        ),
        train_dataloader=loader(
            'train', [*steps, *(augment if random else []), *pack], 2,
            dict(type='InfiniteSampler', shuffle=True),
        ),
        val_dataloader=None, val_cfg=None, val_evaluator=None,
        test_dataloader=evaluated, test_cfg=dict(),
        test_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=6),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
        param_scheduler=[dict(type='PolyLR', begin=0, end=60, by_epoch=False)],
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
        ),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=3, deterministic=True),
    )  # fmt: skip
    cfg = Config(content)
    cfg.merge_from_dict(changes)
    return cfg


def validated(cfg: Config) -> Config:
    """Adds a validation on the test data to a config."""
    cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    cfg.val_cfg = dict()
    return cfg


def run(cfg: Config, resume: bool = False, hook: Hook | None = None) -> Any:
    """Trains in this process, with one more hook than the config has."""
    from segformer_plusplus.training.runner import StrictRunner

    runner = StrictRunner.from_cfg(cfg)
    if resume:
        runner.resume_latest()
    if hook:
        runner.register_hook(hook)
    runner.train()
    return runner


def trained(cfg: Config, resume: bool = False, hook: Hook | None = None) -> Path:
    """Trains to the end in a child process and returns the work dir."""
    log = Path(f'{cfg.work_dir}.txt')
    assert in_child(lambda: run(cfg, resume, hook), log) == 0, log.read_text()[-3000:]
    return Path(cfg.work_dir)


class Sums(Hook):
    """Writes down the sum of every image that a process sees."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(Path(runner.work_dir) / f'sums_{runner.rank}.txt', 'a') as file:
            file.writelines(f'{int(image.sum())}\n' for image in data_batch['inputs'])


def fork(call: Callable[[], Any], log: Path, **environment: str) -> int:
    """Starts a call in a child process, whose output goes to ``log``, and returns its id."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.stdout = sys.stderr = os.fdopen(target, 'w', buffering=1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ.update(environment)
        torch.set_num_threads(1)  # the threads of the parent are not here
        from mmengine.logging import MessageHub, MMLogger
        from mmengine.registry import DefaultScope
        from mmengine.visualization import Visualizer

        for manager in (MMLogger, MessageHub, DefaultScope, Visualizer):
            manager._instance_dict.clear()
        logging.getLogger().handlers.clear()
        call()
        code = 0
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(child: int, seconds: float = 60) -> int:
    """Returns the exit code of a child, negative for a signal; kills it when it takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f'process {child} did not end within {seconds} s')


def in_child(call: Callable[[], Any], log: Path, **environment: str) -> int:
    """Runs a call to its end in a child process and returns its exit code."""
    return wait(fork(call, log, **environment))


def together(call: Callable[[], Any], folder: Path, count: int = 2) -> list[int]:
    """Starts a call in several processes as torchrun does, and returns their ids."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    folder.mkdir(parents=True, exist_ok=True)
    common = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE=str(count))
    os.environ.pop('LOCAL_RANK', None)
    return [
        fork(call, folder / f'rank_{n}.txt', RANK=str(n), LOCAL_RANK=str(n), **common)
        for n in range(count)
    ]


def weights(path: Path) -> dict[str, torch.Tensor]:
    from segformer_plusplus.checkpoints import read_checkpoint

    return read_checkpoint(path)['state_dict']


def largest_difference(one: Path, other: Path) -> float:
    """Returns how far the weights of two checkpoints are apart at most."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


def assert_same(one: Path, other: Path) -> None:
    """Asserts that every weight is the same to the last bit."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
