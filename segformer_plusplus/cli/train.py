"""segformer-plusplus train ...: train a model of mmseg or mmpose, by its config."""

import argparse
from collections.abc import Sequence

from mmengine.config import Config

from ..errors import SegformerPlusPlusError
from ..inference.configs import check_codec_sizes, check_data_roots, find_config, load_config
from ..training.distributed import leaving_the_group
from ..training.runner import StrictRunner
from .guard import main_guard
from .options import add_config_arguments, add_launcher_arguments, set_local_rank


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line of this command."""
    parser = argparse.ArgumentParser(prog=prog, description='Train a model of mmseg or mmpose.')
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue training from this checkpoint; without one, or with "auto", from the '
        'latest whole one in the work dir, and from the start if there is none',
    )
    parser.add_argument('--load-from', metavar='CHECKPOINT', help='start from these weights')
    parser.add_argument('--amp', action='store_true', help='train with mixed precision (CUDA)')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the images per step: batch size x processes x '
        "accumulate, over auto_scale_lr.base_batch_size or the config file's own batch size",
    )
    add_launcher_arguments(parser)
    add_config_arguments(parser)
    return parser


def enable_auto_scale_lr(cfg: Config, path: str) -> None:
    """Scales the learning rate with the images per step.

    Without a ``base_batch_size`` the rate is meant for what the file itself says: one process with
    its batch size, whatever ``--cfg-options`` change.
    """
    settings = dict(cfg.get('auto_scale_lr') or {}, enable=True)
    if not settings.get('base_batch_size'):
        settings['base_batch_size'] = Config.fromfile(find_config(path)).train_dataloader.batch_size
    cfg.auto_scale_lr = settings


@main_guard
def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    if args.load_from and args.resume not in (None, 'auto'):
        parser.error('--load-from and --resume CHECKPOINT exclude each other')
    set_local_rank(args.local_rank)
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    if not cfg.get('train_dataloader'):
        raise SegformerPlusPlusError(f'{args.config} has no train_dataloader to train with')
    cfg.launcher = args.launcher
    if args.amp:
        cfg.amp = 'float16'
    if args.load_from:
        cfg.load_from = args.load_from
    if args.resume not in (None, 'auto'):
        cfg.load_from, cfg.resume = args.resume, True
    if args.auto_scale_lr or (cfg.get('auto_scale_lr') or {}).get('enable'):
        enable_auto_scale_lr(cfg, args.config)
    check_codec_sizes(cfg)
    check_data_roots(cfg, ['train', 'val'])
    with leaving_the_group():
        runner = StrictRunner.from_cfg(cfg)
        if args.resume == 'auto':
            runner.resume_latest()
        runner.train()
    return 0
