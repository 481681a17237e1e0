"""Trains a model: python tools/train.py CONFIG [--work-dir DIR] [--resume [auto|CHECKPOINT]]."""

import argparse
import logging
import sys
from collections.abc import Sequence

import segformer_plusplus  # noqa: F401  (registers everything; must precede mmseg and mmpose)

# isort: split
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from segformer_plusplus.engine.cli import (
    add_config_arguments,
    add_launcher_arguments,
    check_codec_sizes,
    check_data_roots,
    load_config,
    set_local_rank,
)
from segformer_plusplus.engine.guard import main_guard
from segformer_plusplus.engine.runner import StrictRunner
from segformer_plusplus.errors import SegformerPlusPlusError


def build_parser() -> argparse.ArgumentParser:
    """The command line of this tool."""
    parser = argparse.ArgumentParser(description='Train a model of mmseg or mmpose.')
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue training from this checkpoint; without one, or with "auto", from the '
        'latest in the work dir, and from the start if there is none',
    )
    parser.add_argument('--load-from', metavar='CHECKPOINT', help='start from these weights')
    parser.add_argument('--amp', action='store_true', help='train with mixed precision (CUDA)')
    add_launcher_arguments(parser)
    add_config_arguments(parser)
    return parser


def enable_amp(cfg: Config) -> None:
    """Switches the config to mixed precision."""
    if get_device() == 'cpu':
        raise SegformerPlusPlusError('--amp needs an accelerator: none is available here')
    wrapper = cfg.optim_wrapper
    if wrapper.get('type', 'OptimWrapper') not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise SegformerPlusPlusError(
            f'--amp works with optim_wrapper.type OptimWrapper, not {wrapper.type}'
        )
    wrapper.type = 'AmpOptimWrapper'
    wrapper.setdefault('loss_scale', 'dynamic')


def set_resume(cfg: Config, resume: str) -> None:
    """Tells the Runner what to continue from."""
    checkpoint = find_latest_checkpoint(cfg.work_dir) if resume == 'auto' else resume
    if checkpoint is None:
        message = f'nothing to resume in {cfg.work_dir}: training starts anew'
        print_log(message, logger='current', level=logging.WARNING)
        return
    cfg.resume = True
    cfg.load_from = checkpoint


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.load_from and args.resume not in (None, 'auto'):
        parser.error('--load-from and --resume CHECKPOINT exclude each other')
    set_local_rank(args.local_rank)
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    if not cfg.get('train_dataloader'):
        raise SegformerPlusPlusError(f'{args.config} has no train_dataloader to train with')
    cfg.launcher = args.launcher
    if args.amp:
        enable_amp(cfg)
    if args.load_from:
        cfg.load_from = args.load_from
    if args.resume:
        set_resume(cfg, args.resume)
    check_codec_sizes(cfg)
    check_data_roots(cfg, ['train', 'val'])
    StrictRunner.from_cfg(cfg).train()
    return 0


if __name__ == '__main__':
    sys.exit(main())
