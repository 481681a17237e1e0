"""segformer-plusplus test ...: test a model of mmseg or mmpose, by its config."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process

from ..errors import SegformerPlusPlusError
from ..files import write_json
from ..inference.configs import check_codec_sizes, check_data_roots, load_config
from ..training.distributed import leaving_the_group
from ..training.runner import StrictRunner
from .guard import main_guard
from .options import add_config_arguments, add_launcher_arguments, set_local_rank


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line of this command."""
    parser = argparse.ArgumentParser(prog=prog, description='Test a model of mmseg or mmpose.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='weights to test')
    parser.add_argument('--work-dir', help='folder for logs and metrics')
    parser.add_argument('--out', metavar='DIR', help='save the predictions in this folder')
    parser.add_argument('--metrics-json', metavar='FILE', help='write the metrics to this file')
    parser.add_argument(
        '--token-merging', metavar='NAME', help="test under this preset instead of the config's"
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='save painted predictions here')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that --show waits (default: 2)'
    )
    add_launcher_arguments(parser)
    add_config_arguments(parser)
    return parser


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


def show_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Switches the config's visualization hook on."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise SegformerPlusPlusError(
            f'--show and --show-dir need default_hooks.visualization, which {args.config} has not'
        )
    options: dict[str, Any] = dict(show=args.show, wait_time=args.wait_time)
    if 'Pose' in str(hook['type']):
        # the hook joins a relative path to its own last one at every batch
        out_dir = args.show_dir and os.path.abspath(args.show_dir)
        options.update(enable=True, out_dir=out_dir)
    else:
        # mmseg's hook draws every 50th batch, its maintained line every image
        options.update(draw=True, interval=1)
        if args.show_dir:
            cfg.visualizer['save_dir'] = args.show_dir
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


@main_guard
def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Runs the command and returns its exit code."""
    args = build_parser(prog).parse_args(argv)
    set_local_rank(args.local_rank)
    cfg = load_config(args.config, args.cfg_options, args.work_dir)
    if not cfg.get('test_dataloader'):
        raise SegformerPlusPlusError(f'{args.config} has no test_dataloader to test with')
    cfg.launcher = args.launcher
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.token_merging is not None:
        cfg.model.backbone.update(token_merging=args.token_merging, tome_cfg=None)
    if args.tta:
        use_tta(cfg, args.config)
    if args.out:
        save_predictions(cfg, args.out)
    if args.show or args.show_dir:
        show_predictions(cfg, args)
    check_codec_sizes(cfg)
    check_data_roots(cfg, ['test'])
    with leaving_the_group():
        metrics = StrictRunner.from_cfg(cfg).test()
        if args.metrics_json and is_main_process():
            write_json(args.metrics_json, metrics)
    return 0
