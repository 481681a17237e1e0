"""segformer-plusplus predict CONFIG CHECKPOINT INPUT... --out DIR: files and pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console

from ..errors import SegformerPlusPlusError
from ..inference.configs import load_config
from ..inference.opening import check_device
from ..inference.predictor import Prediction, Predictor
from ..inference.video import VideoFile
from ..inference.writing import keypoints_record, overlay, save_keypoints, save_mask, save_picture
from .guard import main_guard
from .options import add_config_arguments, parse_positive, parse_shape

MASKS, OVERLAYS, KEYPOINTS = 'masks', 'overlays', 'keypoints.json'
IN_PART = 1


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description='Predict images, folders (to any depth) and videos with a model of mmseg or '
        'mmpose.',
        epilog='Exit code: 0, all is predicted; 1, some could not be read (they are named); 2, '
        'the call is wrong.',
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='weights; of any library that the package reads')
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='image, folder or video')
    parser.add_argument(
        '--out', type=Path, required=True, metavar='DIR',
        help=f'gets {OVERLAYS}/, {MASKS}/ (labels as grey values), or {KEYPOINTS}',
    )  # fmt: skip
    parser.add_argument('--token-merging', metavar='NAME', help="in place of the config's")
    parser.add_argument('--device', help='(default: cuda if there is one)')
    parser.add_argument(
        '--batch-size', type=parse_positive, default=1, metavar='N', help='images (default: 1)'
    )
    parser.add_argument('--no-overlays', action='store_true', help='write no pictures')
    parser.add_argument('--no-masks', action='store_true', help='write no label maps')
    segmentation = parser.add_argument_group('segmentation')
    segmentation.add_argument(
        '--opacity', type=float, default=0.5, help='of the colours (default: 0.5)'
    )
    segmentation.add_argument(
        '--tile',
        type=parse_shape,
        metavar='HxW',
        help='predict in tiles of this size, such as 1024x1024',
    )
    segmentation.add_argument(
        '--overlap',
        type=int,
        metavar='N',
        help='of tiles, in pixels (default: 128, or a quarter of a tile)',
    )
    poses = parser.add_argument_group('poses')
    poses.add_argument(
        '--boxes', type=Path, metavar='FILE',
        help='JSON: {"image.jpg": [[left, top, right, bottom], ...], ...}, by the name below a '
        'folder that is given, or of the file; without one, a picture is taken for one person',
    )  # fmt: skip
    poses.add_argument(
        '--min-score', type=float, default=0.3, help='of keypoints that are drawn (default: 0.3)'
    )
    add_config_arguments(parser)
    return parser


@dataclass
class Summary:
    """What has been done.

    Attributes:
        done: number of pictures.
        failed: one message for each that could not be read.
        seconds: of all.
    """

    done: int = 0
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0


@main_guard
def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Runs the command and returns its exit code."""
    args = build_parser(prog).parse_args(argv)
    scope = load_config(args.config, args.cfg_options).get('default_scope')
    if scope not in _WRITERS:
        raise SegformerPlusPlusError(
            f'{args.config} has default_scope {scope!r}; expected one of {", ".join(_WRITERS)}'
        )
    _check_arguments(args, scope)
    console = Console(stderr=True)
    writer = _WRITERS[scope](args)
    summary = Summary()
    start = perf_counter()
    for prediction in _in_videos(writer, args):
        if prediction.error is not None:
            summary.failed.append(str(prediction.error))
            continue
        writer.write(prediction)
        summary.done += 1
    writer.finish()
    summary.seconds = perf_counter() - start
    _report(summary, args.out, console)
    return IN_PART if summary.failed else 0


def _report(summary: Summary, out: Path, console: Console) -> None:
    for message in summary.failed:
        console.print(f'error: {message}', soft_wrap=True, highlight=False, markup=False)
    rate = summary.done / summary.seconds if summary.seconds else 0.0
    failed = f', {len(summary.failed)} could not be read' if summary.failed else ''
    console.print(
        f'{summary.done} predicted{failed}: {out} ({rate:.2f} images/s, reading and writing '
        'included)',
        soft_wrap=True,
        highlight=False,
    )


def _in_videos(writer: _Writer, args: argparse.Namespace) -> Iterator[Prediction[Any]]:
    """All predictions; while those of a video are drawn, its file is open."""
    stream = writer.predictor.stream(list(args.inputs), progress=True)
    for video, predictions in groupby(stream, key=lambda each: each.picture.video):
        with ExitStack() as stack:
            writer.video = None
            if video is not None and not args.no_overlays:
                name = writer.unused(OVERLAYS, video.stem, '.mp4')
                writer.video = stack.enter_context(VideoFile(name, like=video))
            yield from predictions


class _Writer:
    """Writes what a predictor gives.

    Args:
        args: of the command line.
        predictor: gives it.
    """

    def __init__(self, args: argparse.Namespace, predictor: Predictor[Any]) -> None:
        self.args = args
        self.predictor = predictor
        self.video: VideoFile | None = None
        self._used: set[Path] = set()

    def write(self, prediction: Prediction[Any]) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """What is written once, at the end."""

    def unused(self, folder: str, name: str, suffix: str) -> Path:
        """A path that no other input of this call has: a.jpg and a.png are two."""
        stem = PurePosixPath(name).with_suffix('') if '.' in name else PurePosixPath(name)
        path = self.args.out / folder / f'{stem}{suffix}'
        number = 2
        while path in self._used:
            path = self.args.out / folder / f'{stem}-{number}{suffix}'
            number += 1
        self._used.add(path)
        return path

    def draw(self, prediction: Prediction[Any], picture: np.ndarray) -> None:
        """A frame of the open video, or a file."""
        if self.video is not None:
            self.video.add(picture)
        else:
            save_picture(self.unused(OVERLAYS, prediction.picture.name, '.png'), picture)


class _SegmentationWriter(_Writer):
    def __init__(self, args: argparse.Namespace) -> None:
        from ..inference import Segmenter

        tiles = dict(tile=args.tile, overlap=args.overlap)
        segmenter = Segmenter(args.config, args.checkpoint, **tiles, **_settings(args))
        super().__init__(args, segmenter)
        self._palette = segmenter.palette

    def write(self, prediction: Prediction[Any]) -> None:
        assert prediction.sample is not None and prediction.image is not None
        labels = prediction.sample.pred_sem_seg.data[0].numpy()
        if not self.args.no_masks:
            save_mask(self.unused(MASKS, prediction.picture.name, '.png'), labels)
        if not self.args.no_overlays:
            painted = overlay(prediction.image, labels, self._palette, self.args.opacity)
            self.draw(prediction, painted)


class _PoseWriter(_Writer):
    def __init__(self, args: argparse.Namespace) -> None:
        from ..inference import PoseEstimator
        from ..inference.pose import SkeletonPainter

        boxes = None if args.boxes is None else read_boxes(args.boxes)
        estimator = PoseEstimator(args.config, args.checkpoint, boxes=boxes, **_settings(args))
        super().__init__(args, estimator)
        self._painter = SkeletonPainter(estimator.meta, args.min_score)
        self._names = estimator.keypoint_names
        self._records: list[Any] = []

    def write(self, prediction: Prediction[Any]) -> None:
        assert prediction.sample is not None and prediction.image is not None
        self._records.append(keypoints_record(prediction.picture.name, prediction.sample))
        if not self.args.no_overlays:
            self.draw(prediction, self._painter(prediction.image, prediction.sample))

    def finish(self) -> None:
        save_keypoints(self.args.out / KEYPOINTS, self._records, self._names)


_WRITERS: dict[str, Any] = {'mmseg': _SegmentationWriter, 'mmpose': _PoseWriter}


def read_boxes(path: Path) -> dict[str, Any]:
    """The file of ``--boxes``.

    Raises:
        SegformerPlusPlusError: it cannot be read, or is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise SegformerPlusPlusError(f'--boxes {path} cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise SegformerPlusPlusError(
            f'--boxes {path} holds a {type(content).__name__}; expected an object with a list of '
            'boxes for each image'
        )
    return content


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return dict(
        token_merging=args.token_merging,
        device=args.device,
        batch_size=args.batch_size,
        cfg_options=args.cfg_options,
    )


def _check_arguments(args: argparse.Namespace, scope: str) -> None:
    """What cannot go well is said before the model is built."""
    if scope == 'mmpose' and (args.tile or args.overlap is not None):
        raise SegformerPlusPlusError('--tile and --overlap are for segmentation')
    if scope == 'mmseg' and args.boxes:
        raise SegformerPlusPlusError('--boxes is for poses')
    if args.overlap is not None and not args.tile:
        raise SegformerPlusPlusError('--overlap goes with --tile')
    if scope == 'mmseg' and args.no_masks and args.no_overlays:
        raise SegformerPlusPlusError('--no-masks and --no-overlays together leave nothing to write')
    if not 0 <= args.opacity <= 1:
        raise SegformerPlusPlusError(f'--opacity is {args.opacity}; give a number from 0 to 1')
    if args.device:
        check_device(args.device)
