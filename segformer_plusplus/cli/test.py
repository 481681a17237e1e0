"""segformer-plusplus test ...: test a model of mmseg or mmpose, by its config."""

from __future__ import annotations

import os
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import METRICS, MODELS

from ..errors import SegformerPlusPlusError
from ..export.formats import is_exported
from ..files import check_writable, write_json
from ..inference.configs import backbone_settings, check_codec_sizes, check_data_roots, load_config
from ..inference.exported import use_exported
from ..loading.datasets import datasets_of
from ..registration import component_name, component_names
from ..training.distributed import leaving_the_group
from ..training.predictions import SegmentationFilesHook
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
        checkpoint: weights to test, or the model exported to a file, which then is tested.
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
    if metrics_json:
        check_writable(metrics_json)
    cfg = load_config(config, cfg_options, work_dir)
    if not cfg.get('test_dataloader'):
        raise SegformerPlusPlusError(f'{config} has no test_dataloader to test with')
    cfg.launcher = launcher
    cfg.load_from, cfg.resume = checkpoint, False
    if is_exported(checkpoint):
        if tta:
            raise SegformerPlusPlusError(
                f'--tta averages logits of images of several sizes, for which {checkpoint} was not '
                'made; test the model that it was exported from'
            )
        use_exported(cfg, checkpoint, token_merging)
        cfg.load_from = None
    elif token_merging is not None:
        backbone_settings(cfg).update(token_merging=token_merging, tome_cfg=None)
    if tta:
        use_tta(cfg, config)
    masks = save_predictions(cfg, out) if out else None
    painted = show_predictions(cfg, config, show, show_dir, wait_time) if show or show_dir else None
    check_codec_sizes(cfg)
    check_data_roots(cfg, ['test'])
    with leaving_the_group():
        metrics = _test(cfg, masks, painted)
        if metrics_json and is_main_process():
            write_json(metrics_json, metrics)


def _test(cfg: Config, masks: str | None, painted: str | None) -> dict[str, float]:
    runner = StrictRunner.from_cfg(cfg)
    if masks or painted:
        runner.register_hook(SegmentationFilesHook(masks, painted))
    return runner.test()


def save_predictions(cfg: Config, folder: str) -> str | None:
    """Makes a test write predictions: mmseg's as label maps, others' as one pickle.

    Returns:
        The folder if label maps are to be written into it; Cityscapes' metric does so itself.
    """
    several = isinstance(cfg.test_evaluator, list | tuple)
    evaluators = list(cfg.test_evaluator) if several else [cfg.test_evaluator]
    kinds = [
        component_names(each.get('type'), METRICS, cfg.get('default_scope')) for each in evaluators
    ]
    for evaluator, names in zip(evaluators, kinds, strict=True):
        if 'CityscapesMetric' in names:
            evaluator.update(output_dir=folder, keep_results=True)
            return None
    if not any('IoUMetric' in names for names in kinds):
        path = os.path.join(folder, 'predictions.pkl')
        cfg.test_evaluator = [*evaluators, dict(type='DumpResults', out_file_path=path)]
        return None
    # one that only formats would write the same files, under names that may be those of others
    cfg.test_evaluator = [each for each in evaluators if not each.get('format_only')]
    for evaluator in cfg.test_evaluator:
        evaluator.pop('output_dir', None)
    return folder


def show_predictions(
    cfg: Config, path: str, show: bool, show_dir: str | None, wait_time: float
) -> str | None:
    """Switches the config's visualization hook on.

    Returns:
        The folder if segmentations are to be painted into it; mmpose's hook does so itself.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise SegformerPlusPlusError(
            f'--show and --show-dir need default_hooks.visualization, which {path} has not'
        )
    options: dict[str, Any] = dict(show=show, wait_time=wait_time)
    if 'Pose' in component_name(hook['type']):
        # the hook joins a relative path to its own last one at every batch
        out_dir = show_dir and os.path.abspath(show_dir)
        hook.update(options, enable=True, out_dir=out_dir)
        return None
    # mmseg's hook draws every 50th batch, its maintained line every image
    hook.update(options, draw=show, interval=1)
    return show_dir


def use_tta(cfg: Config, path: str) -> None:
    """Wraps the model into the config's model for test-time augmentation."""
    if not (cfg.get('tta_model') and cfg.get('tta_pipeline')):
        raise SegformerPlusPlusError(f'--tta needs tta_model and tta_pipeline, which {path} lacks')
    for _, dataset in datasets_of(cfg, 'test'):
        dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    if 'EncoderDecoderPlusPlus' in component_names(cfg.model.type, MODELS):
        cfg.model.labels_only = False  # the logits of all views are averaged
    cfg.model = cfg.tta_model
