"""The paper's inference table on synthetic street scenes: train once, test under every strategy."""

import sys
from collections.abc import Sequence
from pathlib import Path

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image

from segformer_plusplus.cli.guard import main_guard
from tools.demos.comparison import draw_comparison
from tools.demos.steps import Demo, Run, build_parser

SHAPE = (1024, 2048)
TRAIN_IMAGES, VAL_IMAGES = 80, 8
DEMO = Demo(
    config='configs/synthetic/segformer_mit-b0_{}_1xb2-demo_synthetic-cityscapes.py',
    strategies=('none', 'hq', 'fast', '2x2', 'downsampling'),
    shape=SHAPE,
    accuracy=lambda metrics: {'miou': metrics['mIoU']},
    generator=(
        'synthetic_scenes',
        *('--size', f'{SHAPE[0]}x{SHAPE[1]}'),
        *('--train', str(TRAIN_IMAGES), '--val', str(VAL_IMAGES)),
    ),
    record='scenes.json',
    paper_table='cityscapes_inference',
    caption=(
        f'Left: MiT-B0, trained once without merging on {TRAIN_IMAGES} synthetic street scenes of '
        f'{SHAPE[0]}x{SHAPE[1]}, tested under every strategy on {VAL_IMAGES}; batch 1, float32, '
        'whole image to label map, median of {rounds} rounds in turn on {cpu}, {torch}. '
        'Right: the paper, MiT-B5 on Cityscapes.'
    ),
)


def draw(run: Run) -> None:
    """Compare HQ and downsampling with no merging, on the image where HQ changes a median share."""

    # after segformer_plusplus, which sees to what it prints when it is imported
    from mmseg.datasets import CityscapesDataset

    def predictions(strategy: str) -> list[Path]:
        return sorted((run.out / 'test' / strategy / 'predictions').glob('*.png'))

    def read(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path))

    pairs = zip(predictions('none'), predictions('hq'), strict=True)
    changed = [(read(none) != read(hq)).mean() for none, hq in pairs]
    index = int(np.argsort(changed)[len(changed) // 2])
    images = sorted((run.data_root / 'leftImg8bit' / 'val').rglob('*_leftImg8bit.png'))
    stem = predictions('none')[index].stem
    image = next(path for path in images if path.stem == stem)
    name = image.name.replace('_leftImg8bit', '_gtFine_labelTrainIds')
    truth = run.data_root / 'gtFine' / 'val' / image.parent.name / name
    draw_comparison(
        run.out / 'comparison.png',
        read(image),
        read(truth),
        {name: read(predictions(name)[index]) for name in ('none', 'hq', 'downsampling')},
        CityscapesDataset.METAINFO['classes'],
        CityscapesDataset.METAINFO['palette'],
        title=f'MiT-B0, trained without merging, tested at {SHAPE[0]}x{SHAPE[1]} ({stem})',
    )


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the demo and returns its exit code."""
    args = build_parser(__doc__, 'work_dirs/demo-seg', 'data/demo_cityscapes').parse_args(argv)
    run = Run(DEMO, args.out, args.data_root, args.workers)
    run.draw_data()
    table = run.table(run.train())
    draw(run)
    run.write(table)
    return 0


if __name__ == '__main__':
    sys.exit(main())
