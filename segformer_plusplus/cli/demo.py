"""segformer-plusplus demo CONFIG CHECKPOINT: a page in the browser to try a model."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators
from mmengine.logging import print_log
from rich.console import Console

from ..errors import SegformerPlusPlusError
from ..libraries import require
from .guard import interruptible
from .options import CfgOptions, Positive, command

DEMO_DIR = Path('work_dirs/demo-seg')
"""Gets the model that ``make demo-seg`` trains."""

DEMO_SAMPLES = Path('data/demo_cityscapes/leftImg8bit/val')

_FOLDER = 'GRADIO_TEMP_DIR'

Port = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=65535))]


@command
@interruptible()
def main(
    config: str | None = None,
    checkpoint: str | None = None,
    /,
    *,
    samples: Path | None = None,
    max_pixels: Positive | None = None,
    port: Port | None = None,
    host: str = '127.0.0.1',
    device: str | None = None,
    open: bool = False,
    cfg_options: CfgOptions = None,
) -> None:
    """Serve a page in the browser until Ctrl-C or SIGTERM.

    On the page, choose an image and a strategy; see the classes, or the skeleton, with and without
    merging, what was merged, and both times. It listens on this machine only and loads nothing from
    elsewhere.

    Without CONFIG and CHECKPOINT it takes the model that make demo-seg left in work_dirs/demo-seg.

    Args:
        config: config file of a segmentor or of a pose estimator.
        checkpoint: weights; of any library that the package reads.
        samples: folder of images to choose from.
        max_pixels: larger images are scaled down to so many (default: 2048 * 1024).
        port: port to listen on (default: the first free one from 7860).
        host: address to listen on.
        device: where to run (default: cuda if there is one).
        open: open the page in the browser.
    """
    if samples is None and config is None and DEMO_SAMPLES.is_dir():
        samples = DEMO_SAMPLES
    config, checkpoint = find_model(config, checkpoint)
    with private_folder(), contextlib.suppress(KeyboardInterrupt):
        _serve(config, checkpoint, samples, max_pixels, port, host, device, open, cfg_options)


def _serve(
    config: str,
    checkpoint: str,
    samples: Path | None,
    max_pixels: int | None,
    port: int | None,
    host: str,
    device: str | None,
    open_browser: bool,
    cfg_options: Mapping[str, Any] | None,
) -> None:
    require('gradio', 'the page')
    from ..demo import MAX_PIXELS, open_comparer
    from ..demo.page import build_page
    from ..demo.serving import is_local, serve, wait
    from ..inference.configs import load_config

    images = {} if samples is None else find_samples(samples)
    cfg = load_config(config, cfg_options)
    comparer = open_comparer(cfg, checkpoint, device, max_pixels or MAX_PIXELS)
    page = build_page(comparer, Path(config).name, images)
    if not is_local(host):
        print_log(
            f'--host {host}: whoever reaches this machine over the network can use the page; '
            'it asks for no password',
            logger='current',
            level=logging.WARNING,
        )
    # Gradio asks its own page whether it is there, which no proxy can know
    passed = os.environ.get('no_proxy') or os.environ.get('NO_PROXY', '')
    os.environ['no_proxy'] = ','.join((passed, 'localhost', '127.0.0.1', '::1', host)).lstrip(',')
    address = serve(page, host, port, open_browser)
    Console().print(f'{address} (Ctrl-C ends it)', soft_wrap=True, highlight=False)
    wait(page)


@contextlib.contextmanager
def private_folder() -> Iterator[None]:
    """Gives Gradio, which must not be imported yet, a folder for uploads that is gone at the end.

    Nobody else may look into it; by itself, Gradio takes one folder of the machine for everybody.
    """
    with tempfile.TemporaryDirectory(prefix='segformer-plusplus-') as folder:
        before = os.environ.get(_FOLDER)
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            os.environ.pop(_FOLDER)
            if before is not None:
                os.environ[_FOLDER] = before


def find_model(config: str | None, checkpoint: str | None) -> tuple[str, str]:
    """Returns the config and checkpoint that are given, or the latest of the demo.

    Raises:
        SegformerPlusPlusError: CONFIG without CHECKPOINT, or no demo model.
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
    """Finds the images in a folder, to any depth, by their relative path.

    Raises:
        SegformerPlusPlusError: the folder does not exist, or holds no image.
    """
    from ..inference import IMAGE_SUFFIXES

    if not folder.is_dir():
        raise SegformerPlusPlusError(f'--samples {folder}: there is no such folder')
    files = (path for path in folder.rglob('*') if path.suffix.lower() in IMAGE_SUFFIXES)
    found = {
        # no page can say the bytes of a name that are no characters
        path.relative_to(folder).as_posix().encode(errors='backslashreplace').decode(): path
        for path in sorted(files)
        if path.is_file() and not path.name.startswith('.')
    }
    if not found:
        raise SegformerPlusPlusError(
            f'--samples {folder} holds no image ({" ".join(IMAGE_SUFFIXES)})'
        )
    return found
