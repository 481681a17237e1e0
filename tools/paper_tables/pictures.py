"""Draws what merging changes in the predictions of a demo.

python tools/paper_tables/pictures.py comparison PNG DATA none=FOLDER hq=FOLDER...  (label maps)
python tools/paper_tables/pictures.py skeletons PNG DATA CONFIG CHECKPOINT none hq...
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from segformer_plusplus.cli.guard import main_guard
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.files import written_beside
from segformer_plusplus.inference.drawing import colorize, highlight
from segformer_plusplus.libraries import require
from segformer_plusplus.loading.images import open_image

PEOPLE = 3
"""How many people are shown."""

Panels = dict[str, np.ndarray]


def compare_labels(
    image: np.ndarray,
    truth: np.ndarray,
    predictions: Mapping[str, np.ndarray],
    palette: Sequence[Sequence[int]],
) -> Panels:
    """Returns the panels that show where predictions differ from the first of them.

    Args:
        image: (H, W, 3) uint8, RGB.
        truth: (H, W) labels; values beyond the palette are black.
        predictions: (H, W) labels by strategy.
        palette: RGB of the labels, 0..255.
    """
    panels = {'image': image, 'ground truth': colorize(truth, palette)}
    panels |= {name: colorize(labels, palette) for name, labels in predictions.items()}
    baseline, *others = predictions
    for name in others:
        different = predictions[name] != predictions[baseline]
        share = f'{100 * different.mean():.1f} % of the pixels differ'
        panels[f'{name} against {baseline}: {share}'] = highlight(image, different)
    return panels


def draw_comparison(png: Path, data: Path, folders: Mapping[str, Path]) -> None:
    """Compares label maps of the image of which the second strategy changes a median share.

    Raises:
        SegformerPlusPlusError: there are no label maps.
    """
    from mmseg.datasets import CityscapesDataset

    baseline, second, *_ = folders.values()
    names = sorted(path.relative_to(baseline).as_posix() for path in baseline.glob('*/*.png'))
    if not names:
        raise SegformerPlusPlusError(f'no predictions in {baseline}; remove it to test again')
    changed = [(read_image(baseline / n) != read_image(second / n)).mean() for n in names]
    name = names[int(np.argsort(changed)[len(changed) // 2])]
    path = data / 'leftImg8bit' / 'val' / name
    truth = name.replace('_leftImg8bit', '_gtFine_labelTrainIds')
    image, labels = read_image(path), read_image(data / 'gtFine' / 'val' / truth)
    meta = CityscapesDataset.METAINFO
    predictions = {strategy: read_image(folder / name) for strategy, folder in folders.items()}
    panels = list(compare_labels(image, labels, predictions, meta['palette']).items())
    rows = [dict(panels[start : start + 2]) for start in range(0, len(panels), 2)]
    legend = {
        meta['classes'][label]: meta['palette'][label]
        for label in np.unique(labels)
        if label < len(meta['classes'])
    }
    draw_grid(png, rows, f'Trained without merging ({path.stem})', legend)


def draw_skeletons(
    png: Path, data: Path, config: str, checkpoint: str, strategies: Sequence[str]
) -> None:
    """Draws the skeletons that a model predicts under every strategy, a row for each person."""
    require('mmpose.apis', 'the picture of skeletons')
    from mmpose.apis import inference_topdown, init_model

    from segformer_plusplus.inference.pose import SkeletonPainter

    model = init_model(config, checkpoint, device='cpu')
    painter = SkeletonPainter(model.dataset_meta, min_score=0.5)
    rows = []
    for path, annotation in read_people(data):
        left, top, width, height = annotation['bbox']
        box = np.array([[left, top, left + width, top + height]])
        samples = {}
        for strategy in strategies:
            model.backbone.set_token_merging(strategy)
            (samples[strategy],) = inference_topdown(model, str(path), box)
        truth = np.reshape(annotation['keypoints'], (-1, 3))
        rows.append(show_person(read_image(path), box[0], truth, samples, painter))
    draw_grid(png, rows, 'Trained without merging')


def show_person(
    image: np.ndarray, box: np.ndarray, truth: np.ndarray, samples: Mapping[str, Any], painter: Any
) -> Panels:
    """Returns panels of one person: the annotated skeleton, then the predicted ones.

    Above each prediction stands how many of the annotated keypoints are within a tenth of the
    longer side of the box; the other keypoints are not drawn.

    Args:
        image: (H, W, 3) uint8, RGB.
        box: left, top, right, bottom in pixels; a margin around it is shown too.
        truth: (K, 3) x, y and whether the keypoint is annotated.
        samples: data samples of mmpose by strategy.
        painter: paints a data sample into an image.
    """
    visible = truth[:, 2] > 0
    side = max(box[2:] - box[:2])
    left, top = np.maximum(box[:2] - 0.15 * side, 0).astype(int)
    right, bottom = (box[2:] + 0.15 * side).astype(int)
    panels: Panels = {}
    for name, keypoints in _keypoints(truth, samples):
        caption = name
        if panels:
            near = np.linalg.norm(keypoints - truth[:, :2], axis=1) < 0.1 * side
            caption = f'{name}: {(near & visible).sum()} of {visible.sum()} within 10 %'
        sample = copy.deepcopy(next(iter(samples.values())))
        sample.pred_instances.pop('bboxes', None)
        sample.pred_instances.keypoints = keypoints[None]
        sample.pred_instances.keypoints_visible = visible[None].astype(np.float32)
        painted = painter(image[..., ::-1], sample)[..., ::-1]
        panels[caption] = painted[top:bottom, left:right]
    return panels


def _keypoints(truth: np.ndarray, samples: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    yield 'ground truth', truth[:, :2].astype(np.float32)
    for name, sample in samples.items():
        yield name, sample.pred_instances.keypoints[0]


def read_people(data: Path) -> list[tuple[Path, dict]]:
    """Returns some validation frames, spread over the set, each with its annotation."""
    content = json.loads((data / 'annotations' / 'val_jump.json').read_text())
    frames = {image['id']: image['file_name'] for image in content['images']}
    chosen = content['annotations'][:: max(len(content['annotations']) // PEOPLE, 1)][:PEOPLE]
    folder = data / 'images' / 'val'
    return [(folder / frames[annotation['image_id']], annotation) for annotation in chosen]


def read_image(path: Path) -> np.ndarray:
    """Returns an image in RGB, or a label map."""
    return np.asarray(open_image(path))


def draw_grid(
    png: Path,
    rows: Sequence[Panels],
    title: str,
    legend: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Draws rows of panels into a PNG file, each with its name above, and the colours below."""
    columns = max(map(len, rows))
    width = 7 if columns == 2 else 3
    shapes = [next(iter(row.values())).shape for row in rows]
    heights = [width * shape[0] / shape[1] + 0.3 for shape in shapes]
    figure = Figure(figsize=(width * columns, 0.9 + sum(heights)), layout='constrained')
    axes = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for axis in axes.ravel():
        axis.set_axis_off()
    for row, line in zip(rows, axes, strict=True):
        for (name, panel), axis in zip(row.items(), line, strict=False):
            axis.imshow(panel, interpolation='antialiased')
            axis.set_title(name, fontsize=10)
    figure.suptitle(title, fontsize=12)
    if legend:
        handles = [Patch(color='#' + bytes(rgb).hex(), label=n) for n, rgb in legend.items()]
        figure.legend(handles=handles, loc='outside lower center', ncols=10, fontsize=9)
    with written_beside(png) as place:
        figure.savefig(place, format='png', dpi=100)


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the tool and returns its exit code."""
    kind, png, data, *more = argv
    if kind == 'comparison':
        folders = dict(word.split('=', 1) for word in more)
        draw_comparison(Path(png), Path(data), {name: Path(f) for name, f in folders.items()})
    else:
        config, checkpoint, *strategies = more
        draw_skeletons(Path(png), Path(data), config, checkpoint, strategies)
    return 0


if __name__ == '__main__':
    sys.exit(main())
