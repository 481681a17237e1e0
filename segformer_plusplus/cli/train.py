"""segformer-plusplus train ...: train a model of mmseg or mmpose, by its config."""

from __future__ import annotations

import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from tqdm import tqdm

from ..errors import SegformerPlusPlusError
from ..inference.configs import check_codec_sizes, check_data_roots, find_config, load_config
from ..inference.exported import refuse_exported
from ..training.checkpoint_files import latest_named
from ..training.distributed import leaving_the_group
from ..training.runner import StrictRunner
from .guard import INTERRUPTED, is_interrupt
from .options import CfgOptions, Launcher, LocalRank, command, set_local_rank


@command(bare={'--resume': 'auto'})
def main(
    config: str,
    /,
    *,
    work_dir: str | None = None,
    resume: str | None = None,
    load_from: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    launcher: Launcher = 'none',
    local_rank: LocalRank = 0,
    cfg_options: CfgOptions = None,
) -> int:
    """Train a model of mmseg or mmpose.

    Args:
        config: config file.
        work_dir: folder for logs and checkpoints.
        resume: continue training from this checkpoint; without one, or with "auto", from the
            latest whole one in the work dir, and from the start if there is none.
        load_from: start from these weights.
        amp: train with mixed precision (CUDA).
        auto_scale_lr: scale the learning rate with the images per step: batch size x processes x
            accumulate, over auto_scale_lr.base_batch_size or the config file's own batch size.
    """
    if load_from and resume not in (None, 'auto'):
        raise SegformerPlusPlusError('--load-from and --resume CHECKPOINT exclude each other')
    for each in (config, load_from, resume):
        refuse_exported(each, 'there is nothing to train, or to start from')
    set_local_rank(local_rank)
    cfg = load_config(config, cfg_options, work_dir)
    if not cfg.get('train_dataloader'):
        raise SegformerPlusPlusError(f'{config} has no train_dataloader to train with')
    cfg.launcher = launcher
    if amp:
        cfg.amp = 'float16'
    if load_from:
        cfg.load_from = load_from
    if resume not in (None, 'auto'):
        cfg.load_from, cfg.resume = resume, True
    if auto_scale_lr or (cfg.get('auto_scale_lr') or {}).get('enable'):
        enable_auto_scale_lr(cfg, config)
    check_codec_sizes(cfg)
    check_data_roots(cfg, ['train', 'val'])
    with leaving_the_group():
        return _train(cfg, latest=resume == 'auto')


def _train(cfg: Config, latest: bool) -> int:
    try:
        runner = StrictRunner.from_cfg(cfg)
        if latest:
            runner.resume_latest()
        runner.train()
    except (Exception, KeyboardInterrupt) as error:
        if not is_interrupt(error):
            raise
        if is_main_process():
            saved = latest_named(Path(cfg.work_dir))
            goes_on = f'{saved} is saved: --resume goes on from there'
            what = goes_on if saved else 'no checkpoint was saved'
            tqdm.write(f'interrupted; {what}', file=sys.stderr)
        return INTERRUPTED
    return 0


def enable_auto_scale_lr(cfg: Config, path: str) -> None:
    """Scales the learning rate with the images per step.

    Without a ``base_batch_size`` the rate is meant for what the file itself says: one process with
    its batch size, whatever ``--cfg-options`` change.
    """
    settings = dict(cfg.get('auto_scale_lr') or {}, enable=True)
    if not settings.get('base_batch_size'):
        settings['base_batch_size'] = Config.fromfile(find_config(path)).train_dataloader.batch_size
    cfg.auto_scale_lr = settings
