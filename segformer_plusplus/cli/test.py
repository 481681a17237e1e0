"""segformer-plusplus test ...: test a model of mmseg or mmpose, by its config."""

from __future__ import annotations

import os
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from ..errors import SegformerPlusPlusError
from ..files import write_json
from ..inference.configs import check_codec_sizes, check_data_roots, load_config
from ..training.distributed import leaving_the_group
from ..training.runner import StrictRunner
from .options import CfgOptions, Launcher, LocalRank, command, set_local_rank


@command
def main(
    config: str,
    checkpoint: str,
    /,
    *,
    work_dir: str | None = None,
    out: str | None = None,
    metrics_json: str | None = None,
    token_merging: str | None = None,
    tta: bool = False,
    show: bool = False,
    show_dir: str | None = None,
    wait_time: float = 2,
    launcher: Launcher = 'none',
    local_rank: LocalRank = 0,
    cfg_options: CfgOptions = None,
) -> None:
    """Test a model of mmseg or mmpose.

    Args:
        config: config file.
        checkpoint: weights to test.
        work_dir: folder for logs and metrics.
        out: save the predictions in this folder.
        metrics_json: write the metrics to this file.
        token_merging: test under this preset instead of the config's.
        tta: use test-time augmentation.
        show: show the predictions in a window.
        show_dir: save painted predictions in this folder.
        wait_time: seconds that --show waits.
    """
    set_local_rank(local_rank)
    cfg = load_config(config, cfg_options, work_dir)
    if not cfg.get('test_dataloader'):
        raise SegformerPlusPlusError(f'{config} has no test_dataloader to test with')
    cfg.launcher = launcher
    cfg.load_from, cfg.resume = checkpoint, False
    if token_merging is not None:
        cfg.model.backbone.update(token_merging=token_merging, tome_cfg=None)
    if tta:
        use_tta(cfg, config)
    if out:
        save_predictions(cfg, out)
    if show or show_dir:
        show_predictions(cfg, config, show, show_dir, wait_time)
    check_codec_sizes(cfg)
    check_data_roots(cfg, ['test'])
    with leaving_the_group():
        metrics = StrictRunner.from_cfg(cfg).test()
        if metrics_json and is_main_process():
            write_json(metrics_json, metrics)


def save_predictions(cfg: Config, folder: str) -> None:
    """Makes the evaluators write predictions: mmseg's as label maps, others' as one pickle."""
    several = isinstance(cfg.test_evaluator, list | tuple)
    evaluators = list(cfg.test_evaluator) if several else [cfg.test_evaluator]
    segmentation = [e for e in evaluators if e.get('type') in ('IoUMetric', 'CityscapesMetric')]
    for evaluator in segmentation:
        evaluator['output_dir'] = folder
        evaluator['keep_results'] = True
    if not segmentation:
        path = os.path.join(folder, 'predictions.pkl')
        cfg.test_evaluator = [*evaluators, dict(type='DumpResults', out_file_path=path)]


def show_predictions(
    cfg: Config, path: str, show: bool, show_dir: str | None, wait_time: float
) -> None:
    """Switches the config's visualization hook on."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise SegformerPlusPlusError(
            f'--show and --show-dir need default_hooks.visualization, which {path} has not'
        )
    options: dict[str, Any] = dict(show=show, wait_time=wait_time)
    if 'Pose' in str(hook['type']):
        # the hook joins a relative path to its own last one at every batch
        out_dir = show_dir and os.path.abspath(show_dir)
        options.update(enable=True, out_dir=out_dir)
    else:
        # mmseg's hook draws every 50th batch, its maintained line every image
        options.update(draw=True, interval=1)
        if show_dir:
            cfg.visualizer['save_dir'] = show_dir
    hook.update(options)


def use_tta(cfg: Config, path: str) -> None:
    """Wraps the model into the config's model for test-time augmentation."""
    if not (cfg.get('tta_model') and cfg.get('tta_pipeline')):
        raise SegformerPlusPlusError(f'--tta needs tta_model and tta_pipeline, which {path} lacks')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    if cfg.model.type == 'EncoderDecoderPlusPlus':
        cfg.model.labels_only = False  # the logits of all views are averaged
    cfg.model = cfg.tta_model
