"""segformer-plusplus demo CONFIG CHECKPOINT: a page in the browser to try it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from rich.console import Console

from ..errors import SegformerPlusPlusError
from ..libraries import require
from .guard import main_guard
from .options import add_config_arguments, parse_positive

DEMO_DIR = Path('work_dirs/demo-seg')
"""Where ``make demo-seg`` leaves the model that it trains."""

DEMO_SAMPLES = Path('data/demo_cityscapes/leftImg8bit/val')
MAX_PORT = 65535


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description='A page in the browser: choose an image and a strategy, see the classes, what '
        'was merged, and the time beside no merging. It listens on this machine only and loads '
        'nothing from elsewhere. Ctrl-C ends it.',
        epilog=f'Without CONFIG and CHECKPOINT: the model that make demo-seg left in {DEMO_DIR}.',
    )
    parser.add_argument('config', nargs='?', metavar='CONFIG', help='config file of a segmentor')
    parser.add_argument(
        'checkpoint', nargs='?', metavar='CHECKPOINT',
        help='weights; of any library that the package reads',
    )  # fmt: skip
    parser.add_argument('--samples', type=Path, metavar='DIR', help='images to choose from')
    parser.add_argument(
        '--max-pixels', type=parse_positive, metavar='N',
        help='larger images are refused (default: 2048 * 1024)',
    )  # fmt: skip
    parser.add_argument(
        '--port', type=_port, metavar='N', help='(default: the first free one from 7860)'
    )
    parser.add_argument(
        '--host', default='127.0.0.1', help='address to listen on (default: %(default)s)'
    )
    parser.add_argument('--device', help='(default: cuda if there is one)')
    parser.add_argument('--open', action='store_true', help='open the page in the browser')
    add_config_arguments(parser)
    return parser


@main_guard
def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Runs the command until Ctrl-C and returns its exit code."""
    args = build_parser(prog).parse_args(argv)
    config, checkpoint = find_model(args.config, args.checkpoint)
    samples = args.samples
    if samples is None and args.config is None and DEMO_SAMPLES.is_dir():
        samples = DEMO_SAMPLES
    require('gradio', 'the page')
    from ..demo import MAX_PIXELS, Comparer
    from ..demo.page import build_page
    from ..demo.serving import is_local, serve, wait
    from ..inference import Segmenter

    images = {} if samples is None else find_samples(samples)
    segmenter = Segmenter(config, checkpoint, device=args.device, cfg_options=args.cfg_options)
    init_default_scope('mmseg')
    comparer = Comparer(segmenter, args.max_pixels or MAX_PIXELS)
    page = build_page(comparer, Path(config).name, images)
    if not is_local(args.host):
        print_log(
            f'--host {args.host}: whoever reaches this machine over the network can use the page; '
            'it asks for no password',
            logger='current',
            level=logging.WARNING,
        )
    address = serve(page, args.host, args.port, args.open)
    Console().print(f'{address} (Ctrl-C ends it)', soft_wrap=True, highlight=False)
    wait(page)
    return 0


def find_model(config: str | None, checkpoint: str | None) -> tuple[str, str]:
    """Config and checkpoint: those that are given, or the latest of the demo.

    Raises:
        SegformerPlusPlusError: one without the other, or neither and there is no demo model.
    """
    if config is not None and checkpoint is not None:
        return config, checkpoint
    if config is not None:
        raise SegformerPlusPlusError(f'CONFIG {config} needs a CHECKPOINT with its weights')
    found = []
    for path in DEMO_DIR.glob('train/*/weights.pth'):
        configs = sorted(path.parent.glob('*.py'))
        if path.is_file() and configs:
            found.append((path.stat().st_mtime, str(configs[0]), str(path)))
    if not found:
        raise SegformerPlusPlusError(
            f'no CONFIG and CHECKPOINT given, and no demo model in {DEMO_DIR.absolute()}: '
            'in a checkout, make demo-seg trains one and leaves '
            f'{DEMO_DIR}/train/*/weights.pth'
        )
    _, config, checkpoint = max(found)
    return config, checkpoint


def find_samples(folder: Path) -> dict[str, Path]:
    """The images in a folder, to any depth, by their relative path.

    Raises:
        SegformerPlusPlusError: there is no such folder, or no image in it.
    """
    from ..inference import IMAGE_SUFFIXES

    if not folder.is_dir():
        raise SegformerPlusPlusError(f'--samples {folder}: there is no such folder')
    files = (path for path in folder.rglob('*') if path.suffix.lower() in IMAGE_SUFFIXES)
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(files)
        if path.is_file() and not path.name.startswith('.')
    }
    if not found:
        raise SegformerPlusPlusError(
            f'--samples {folder} holds no image ({" ".join(IMAGE_SUFFIXES)})'
        )
    return found


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= MAX_PORT):
        raise argparse.ArgumentTypeError(f'{text!r} is no port; give 1 to {MAX_PORT}')
    return int(text)
