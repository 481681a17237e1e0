"""segformer-plusplus demo MODEL: a page in the browser to try a model."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators
from mmengine.config import Config
from mmengine.logging import print_log
from rich.console import Console

from ..errors import SegformerPlusPlusError
from ..libraries import require
from .given import read_weights
from .guard import interruptible
from .options import CfgOptions, Positive, command

DEMO_DIR = Path('work_dirs/demo-seg')
"""Gets the model that ``make demo-seg`` trains."""

DEMO_SAMPLES = Path('data/demo_cityscapes/leftImg8bit/val')

KNOWN = 'nvidia/segformer-b0-finetuned-ade-512-512'

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
    merging, what was merged, and both times. Of exported files, the first predicts beside the one
    that is chosen; one may be alone. It listens on this machine only and loads nothing from
    elsewhere.

    Without a model it takes the one that make demo-seg left in work_dirs/demo-seg, else SegFormer's
    smallest for 150 classes of everyday scenes, from the Hugging Face Hub.

    Args:
        config: name of a model, see segformer-plusplus models; or config file of a segmentor or
            of a pose estimator; or an exported file.
        checkpoint: weights, of any library that the package reads; a named model has its own. Or
            an exported file; beside one, another one that is compared with it.
        samples: folder of images to choose from.
        max_pixels: larger images are scaled down to so many (default: 2048 * 1024).
        port: port to listen on (default: the first free one from 7860).
        host: address to listen on.
        device: where to run (default: cuda if there is one).
        open: open the page in the browser.
    """
    if samples is None and config is None and DEMO_SAMPLES.is_dir():
        samples = DEMO_SAMPLES
    with private_folder(), contextlib.suppress(KeyboardInterrupt):
        require('gradio', 'the page')
        cfg, checkpoint = find_model(config, checkpoint, cfg_options)
        _serve(cfg, checkpoint, samples, max_pixels, port, host, device, open)


def _serve(
    cfg: Config,
    checkpoint: str,
    samples: Path | None,
    max_pixels: int | None,
    port: int | None,
    host: str,
    device: str | None,
    open_browser: bool,
) -> None:
    from ..demo import MAX_PIXELS, open_comparer
    from ..demo.page import build_page
    from ..demo.serving import is_local, serve, wait

    images = {} if samples is None else find_samples(samples)
    comparer = open_comparer(cfg, checkpoint, device, max_pixels or MAX_PIXELS)
    page = build_page(comparer, Path(cfg.filename).name, images)
    if not is_local(host):
        print_log(
            f'--host {host}: whoever reaches this machine over the network can use the page; '
            'it asks for no password',
            logger='current',
            level=logging.WARNING,
        )
    # Gradio asks its own page whether it is there, which no proxy can know
    passed = os.environ.get('no_proxy') or os.environ.get('NO_PROXY', '')
    os.environ['no_proxy'] = f'{passed},localhost,127.0.0.1,::1,{host}'.lstrip(',')
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


def find_model(
    config: str | None, checkpoint: str | None, cfg_options: Mapping[str, Any] | None = None
) -> tuple[Config, str]:
    """Returns config and weights of the model that is given, else of the demo's, else a known one.

    Raises:
        SegformerPlusPlusError: CONFIG without CHECKPOINT, or none of them can be had.
    """
    found = None if config is not None else _latest_demo()
    if config is None and found is None:
        try:
            return read_weights(KNOWN, None, cfg_options)
        except SegformerPlusPlusError as error:
            raise SegformerPlusPlusError(
                f'no model given, none of a demo in {DEMO_DIR.absolute()} (in a checkout, make '
                f'demo-seg trains one), and {error}'
            ) from error
    config, checkpoint = found or (config, checkpoint)
    return read_weights(str(config), checkpoint, cfg_options)


def _latest_demo() -> tuple[str, str] | None:
    found = []
    for path in DEMO_DIR.glob('train/*/weights.pth'):
        configs = sorted(path.parent.glob('*.py'))
        if path.is_file() and configs:
            found.append((path.stat().st_mtime, str(configs[0]), str(path)))
    return max(found)[1:] if found else None


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
