"""segformer-plusplus advise MODEL --images FOLDER: the fastest way to run it on this machine."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from mmengine.logging import MMLogger
from rich.console import Console

from ..evaluation.tuning import tune
from .given import read_weights
from .guard import INTERRUPTED, interruptible
from .options import CfgOptions, Positive, command
from .tune import UNMET, print_result


@command
@interruptible()
def main(
    config: str,
    checkpoint: str | None = None,
    /,
    *,
    images: Path,
    max_changed: float = 0.5,
    minutes: float = 15,
    count: Positive | None = None,
    out: Path | None = None,
    rounds: Positive = 5,
    fresh: bool = False,
    cfg_options: CfgOptions = None,
) -> int:
    """Find the fastest way to run a model on this machine's processor, and write its file.

    Tries the presets in PyTorch, OpenVINO and ONNX Runtime, in the precisions that they have here,
    on half of your images; the winner is checked on the other half. It is the search of
    segformer-plusplus tune: interrupted, the same command goes on. Exit code: 0, written; 1,
    nothing is faster at so few changed labels; 2, the call is wrong; 130, interrupted.

    Args:
        config: name of a model, see segformer-plusplus models; or a config file.
        checkpoint: weights, of any library that the package reads; a named model has its own.
        images: folder of images such as the model will see; labels are not needed.
        max_changed: the most labels that may change, in percent of the pixels; of poses, the most
            pixels by which keypoints may move on average.
        minutes: begin no trial after so many.
        count: images to search on; as many others are for the check (default: half of them, at
            most 50).
        out: folder for the file and for what was measured (default: 'advice' in the config's
            work_dir).
        rounds: in which a trial is timed, in turn with the model as it is.
        fresh: forget what was measured in --out.
    """
    MMLogger.get_current_instance().setLevel(logging.WARNING)  # init_weights lists parameters
    console = Console()
    cfg, weights = read_weights(config, checkpoint, cfg_options)
    try:
        result = tune(
            config, weights, cfg_options=cfg_options, progress=True, max_drop=max_changed,
            trials=10**6, timeout=minutes, images=count, rounds=rounds, folder=images,
            out=out or Path(cfg.work_dir) / 'advice', fresh=fresh, deploy=True,
        )  # fmt: skip
    except KeyboardInterrupt:
        console.print('interrupted; the same command goes on from here')
        return INTERRUPTED
    for way, reason in result.left_out.items():
        console.print(f'not tried: {way}: {reason}', highlight=False, markup=False)
    given = [checkpoint] if checkpoint else []
    print_result(console, result, ['predict', *given, 'IMAGES', '--out', 'predicted'], cfg_options)
    if 'model' in result.files:
        line = shlex.join(['predict', str(result.files['model']), 'IMAGES', '--out', 'predicted'])
        console.print(f'run it: segformer-plusplus {line}', highlight=False, soft_wrap=True)
    if result.interrupted:
        return INTERRUPTED
    return UNMET if result.winner is None else 0
