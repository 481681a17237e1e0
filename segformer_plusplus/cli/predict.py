"""segformer-plusplus predict MODEL INPUT... --out DIR: files and pictures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, count, groupby
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from rich.console import Console

from .. import inference
from ..errors import SegformerPlusPlusError
from ..files import write_json
from ..inference.legend import Legend
from ..inference.opening import check_device
from ..inference.predictor import Predictor
from ..inference.sources import list_names
from ..inference.video import VideoFile
from ..inference.writing import (
    coco_results,
    keypoints_record,
    overlay,
    save_colour_mask,
    save_keypoints,
    save_mask,
    save_picture,
)
from ..loading.images import unreadable
from .given import read_model
from .guard import INTERRUPTED, interruptible
from .options import CfgOptions, Flat, On, Positive, Shape, command

if TYPE_CHECKING:
    from ..inference import PoseEstimator, Segmenter

OVERLAYS, MASKS, GREY, KEYPOINTS, COCO = 'overlays', 'masks', 'grey', 'keypoints', 'coco'
KINDS = {'mmseg': (OVERLAYS, MASKS, GREY), 'mmpose': (OVERLAYS, KEYPOINTS, COCO)}
"""What is written for a toolbox; the first two unless something else is asked for."""
KEYPOINTS_FILE, COCO_FILE = 'keypoints.json', 'coco_keypoints.json'
IN_PART = 1
SAVING = 5.0
"""Seconds after which keypoints are written anew, so that a crash loses no more than these."""


@dataclass(frozen=True)
class Output:
    """Says where and what is written.

    Attributes:
        out: folder that gets a folder of each kind, or keypoints.json and coco_keypoints.json.
        save_as: what is written; of a segmentor overlays, masks (PNG in the colours of the
            classes, whose values are the labels) and grey (labels as grey values), of poses
            overlays, keypoints and coco (COCO results) (default: the first two).
        legend: name the classes beside overlays (segmentation).
        opacity: opacity of the colours (segmentation).
        min_score: lowest score of keypoints that are drawn (poses).
    """

    out: Path
    save_as: list[Literal['overlays', 'masks', 'grey', 'keypoints', 'coco']] | None = None
    legend: On = True
    opacity: float = 0.5
    min_score: float = 0.3


@command
@interruptible()
def main(
    config: str,
    files: list[str],
    /,
    *,
    output: Annotated[Output, Flat],
    token_merging: str | None = None,
    device: str | None = None,
    batch_size: Positive = 1,
    tile: Shape | None = None,
    overlap: int | None = None,
    boxes: Path | None = None,
    backend: Literal['torch', 'openvino', 'onnxruntime'] = 'torch',
    graphs: On = True,
    cfg_options: CfgOptions = None,
) -> int:
    """Predict images, folders (to any depth) and videos with a model of mmseg or mmpose.

    Exit code: 0, all is predicted; 1, some could not be read or predicted (they are named); 2, the
    call is wrong; 130, interrupted. What was predicted before an end of any kind is written.

    Args:
        config: name of a model, see segformer-plusplus models; or a config file.
        files: images, folders or videos; after a config file, first its weights, of any library
            that the package reads.
        token_merging: preset in place of the config's.
        device: where to run (default: cuda if there is one).
        batch_size: images, or people, of a forward pass.
        tile: predict in tiles of this size, such as 1024x1024 (segmentation).
        overlap: overlap of tiles in pixels (default: 128, or a quarter of a tile).
        boxes: JSON file (poses): {"image.jpg": [[left, top, right, bottom], ...], ...}, by the
            name below a folder that is given, or of the file; [] is nobody, and a picture that is
            not named is taken for one person.
        backend: openvino and onnxruntime compute the same on the CPU, mostly faster; the model is
            converted once for a size of images, and kept.
        graphs: on CUDA, replay pictures of one size as a CUDA graph.
    """
    cfg, checkpoint, inputs = read_model(config, files, cfg_options, token_merging)
    if not inputs:
        raise SegformerPlusPlusError('no INPUT: name images, folders or videos')
    scope = cfg.get('default_scope')
    tiled = bool(tile) or overlap is not None
    for wrong, message in (
        (
            scope not in ('mmseg', 'mmpose'),
            f'{config} has default_scope {scope!r}; expected one of mmseg, mmpose',
        ),
        (scope == 'mmpose' and tiled, '--tile and --overlap are for segmentation'),
        (scope == 'mmseg' and boxes, '--boxes is for poses'),
        (tiled and not tile, '--overlap goes with --tile'),
        (
            not 0 <= output.opacity <= 1,
            f'--opacity is {output.opacity}; give a number from 0 to 1',
        ),
    ):
        if wrong:
            raise SegformerPlusPlusError(message)
    if device:
        check_device(device)
    settings: dict[str, Any] = dict(
        token_merging=token_merging,
        device=device,
        batch_size=batch_size,
        backend=backend,
        graphs=graphs,
    )
    run = Run(output, kinds_of(scope, output.save_as))
    try:
        if scope == 'mmseg':
            segmenter = inference.Segmenter(cfg, checkpoint, tile=tile, overlap=overlap, **settings)
            write_labels(segmenter, run, inputs)
        else:
            people = {} if boxes is None else read_boxes(boxes, inputs)
            estimator = inference.PoseEstimator(cfg, checkpoint, boxes=people, **settings)
            write_poses(estimator, run, inputs)
    except KeyboardInterrupt:
        run.report('interrupted: ')
        return INTERRUPTED
    except Exception:
        if run.done or run.failed:
            run.report('ended early: ')
        raise
    run.report()
    return IN_PART if run.failed else 0


def kinds_of(scope: str, chosen: Collection[str] | None) -> Collection[str]:
    """Returns what is written for a toolbox.

    Raises:
        SegformerPlusPlusError: something was chosen that its models do not give.
    """
    kinds = KINDS[scope]
    for kind in chosen or ():
        if kind not in kinds:
            raise SegformerPlusPlusError(
                f'--save-as {kind} is not for a config of {scope}; give one or more of '
                f'{", ".join(kinds)}'
            )
    return chosen or kinds[:2]


class Run:
    """Names and counts the files of one call.

    Attributes:
        kinds: what is written.
        done: number of pictures that were predicted.
        failed: a message for each picture that could not be read or predicted.
        seen: the names of all pictures.
    """

    def __init__(self, output: Output, kinds: Collection[str]) -> None:
        self.output = output
        self.kinds = kinds
        self.done = 0
        self.failed: list[str] = []
        self.seen: set[str] = set()
        self._video: VideoFile | None = None
        self._used: set[Path] = set()
        self._start = perf_counter()

    def predict(
        self, predictor: Predictor[Any], inputs: list[str]
    ) -> Iterator[tuple[str, np.ndarray, Any]]:
        """Yields name, image and data sample of every picture that can be read and predicted.

        While the frames of a video are yielded, ``draw`` adds to its painted twin.
        """
        self._start = perf_counter()
        stream = predictor.stream(inputs, progress=True)
        # not by the path: a video that is given twice becomes two
        for _, predictions in groupby(stream, key=lambda each: id(each.picture.video)):
            first = next(predictions)
            video = first.picture.video
            with ExitStack() as stack:
                self._video = None
                if video is not None and OVERLAYS in self.kinds:
                    path = self.unused(OVERLAYS, video.stem, '.mp4')
                    self._video = stack.enter_context(VideoFile(path, like=video))
                for each in chain([first], predictions):
                    self.seen.add(each.picture.name)
                    if each.image is None:
                        self.failed.append(str(each.error))
                    else:
                        yield each.picture.name, each.image, each.sample
                        self.done += 1

    def unused(self, folder: str, name: str, suffix: str) -> Path:
        """Returns a path that no other input of this call has: a.jpg and a.png become two files."""
        stem = PurePosixPath(name).with_suffix('') if '.' in name else PurePosixPath(name)
        numbers = ('' if n == 1 else f'-{n}' for n in count(1))
        paths = (self.output.out / folder / f'{stem}{number}{suffix}' for number in numbers)
        path = next(path for path in paths if path not in self._used)
        self._used.add(path)
        return path

    @property
    def in_video(self) -> bool:
        """Whether the picture is a frame of a video that is written."""
        return self._video is not None

    def draw(self, name: str, picture: np.ndarray) -> None:
        """Writes a picture (H, W, 3) uint8 BGR, or adds it to the open video."""
        if self._video is not None:
            self._video.add(picture)
        else:
            save_picture(self.unused(OVERLAYS, name, '.png'), picture)

    def report(self, before: str = '') -> None:
        """Prints what failed, and how much was done."""
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        for message in self.failed:
            # a name may hold line breaks and commands to the terminal
            shown = ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
            console.print(f'error: {shown}', markup=False)
        rate = self.done / (perf_counter() - self._start)
        failed = f', {len(self.failed)} could not be read or predicted' if self.failed else ''
        console.print(
            f'{before}{self.done} predicted{failed}: {self.output.out} ({rate:.2f} images/s, '
            'reading and writing included)',
            markup=False,
        )


def write_labels(segmenter: Segmenter, run: Run, inputs: list[str]) -> None:
    """Writes label maps, and pictures of them."""
    if segmenter.reduces_zero_label and {MASKS, GREY} & set(run.kinds):
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            'a mask has the indices of the classes, from 0; the label maps of the data set, and '
            'those of test --out, have numbers that are one higher (reduce_zero_label)'
        )
    palette = segmenter.palette
    legend = Legend(segmenter.classes, palette)
    for name, image, sample in run.predict(segmenter, inputs):
        labels = sample.pred_sem_seg.data[0].numpy()
        if MASKS in run.kinds:
            save_colour_mask(run.unused(MASKS, name, '.png'), labels, palette)
        if GREY in run.kinds:
            save_mask(run.unused(GREY, name, '.png'), labels)
        if OVERLAYS in run.kinds:
            beside = legend.width(*labels.shape) if run.output.legend else 0
            picture = overlay(image, labels, palette, run.output.opacity, beside)
            legend.draw(picture[:, labels.shape[1] :], labels, steady=run.in_video)
            run.draw(name, picture)


def write_poses(estimator: PoseEstimator, run: Run, inputs: list[str]) -> None:
    """Writes keypoints, and pictures with skeletons."""
    from ..inference.pose import SkeletonPainter

    painter = SkeletonPainter(estimator.meta, run.output.min_score)
    records: list[dict[str, Any]] = []

    def save() -> float:
        if KEYPOINTS in run.kinds:
            save_keypoints(run.output.out / KEYPOINTS_FILE, records, estimator.keypoint_names)
        if COCO in run.kinds:
            write_json(run.output.out / COCO_FILE, coco_results(records))
        return perf_counter() + SAVING

    due = perf_counter() + SAVING
    try:
        for name, image, sample in run.predict(estimator, inputs):
            records.append(keypoints_record(name, sample))
            if OVERLAYS in run.kinds:
                run.draw(name, painter(image, sample))
            if perf_counter() > due:
                due = save()
    except BaseException:
        if records:
            save()
        raise
    save()
    run.failed += [
        f'--boxes: the video has no frame {n}' for n in estimator.boxes.keys() - run.seen
    ]


def read_boxes(path: Path, inputs: list[str]) -> dict[str, Any]:
    """Reads the file of ``--boxes``.

    Raises:
        SegformerPlusPlusError: it cannot be read, is no JSON object, or names a picture that is not
            among the inputs, or twice.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable('--boxes', path, error) from error
    if not isinstance(content, dict):
        raise SegformerPlusPlusError(
            f'--boxes {path} holds a {type(content).__name__}; expected an object with a list of '
            'boxes for each image'
        )
    names = list_names(inputs)
    known = Counter(name for name, _ in names)
    videos = {name for name, is_video in names if is_video}
    for key in content:
        if (known[key] == 1 and key not in videos) or key.rpartition('/')[0] in videos:
            continue
        example = next(f'{name}/000000' if is_video else name for name, is_video in names)
        what = f'{known[key]} pictures have' if known[key] > 1 else 'no picture has'
        raise SegformerPlusPlusError(
            f'--boxes {path}: {what} the name {key!r}; names are as {example!r}: the path below a '
            'folder that is given, else the name of the file, and VIDEO/000012 for a frame'
        )
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of JSON, of whose values for one name the first ones would be lost."""
    twice = next((name for name, amount in Counter(n for n, _ in pairs).items() if amount > 1), '')
    if twice:
        raise ValueError(f'{twice!r} stands there twice')
    return dict(pairs)
