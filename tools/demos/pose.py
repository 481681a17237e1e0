"""The paper's pose table on synthetic jumpers: train once, test under every strategy."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

# what lies beside this file is found from the root of the checkout
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image

from segformer_plusplus.cli.guard import main_guard
from segformer_plusplus.libraries import require
from tools.demos.skeletons import PosedPerson, draw_skeletons
from tools.demos.steps import ROOT, Demo, Run, build_parser

SHAPE = (640, 480)
TRAIN_IMAGES, VAL_IMAGES, SHOWN = 1200, 60, 3
DEMO = Demo(
    config='configs/synthetic/td-hm_mit-b0_{}_1xb2-demo_synthetic-jbd-640x480.py',
    strategies=('none', 'hq', 'fast', '2x2'),
    shape=SHAPE,
    accuracy=lambda metrics: {
        'pck_0.1': 100 * metrics['PCK@0.1'],
        'pck_0.05': 100 * metrics['PCK@0.05'],
    },
    generator=(
        'synthetic_jumpers',
        *('--layout', 'jbd', '--train', str(TRAIN_IMAGES), '--val', str(VAL_IMAGES)),
    ),
    record='jumpers.json',
    paper_table='jbd_training',
    caption=(
        f'Left: MiT-B0, trained once without merging on {TRAIN_IMAGES} synthetic jumpers, input '
        f'{SHAPE[0]}x{SHAPE[1]}, tested under every strategy on {VAL_IMAGES} with flip test and '
        'heatmaps of sigma 6 (the paper: 3), which are learnt sooner; speed: batch 1, '
        'float32, cut-out person to heatmaps, median of {rounds} rounds in turn on {cpu}, {torch}. '
        'Right: the paper, MiT-B5 on the Jump-Broadcast dataset, every row trained.'
    ),
)


def read_people(data_root: Path) -> list[tuple[Path, dict]]:
    """Some validation frames, spread over the set, each with its annotation."""
    content = json.loads((data_root / 'annotations' / 'val_jump.json').read_text())
    frames = {image['id']: image['file_name'] for image in content['images']}
    chosen = content['annotations'][:: max(len(content['annotations']) // SHOWN, 1)][:SHOWN]
    folder = data_root / 'images' / 'val'
    return [(folder / frames[annotation['image_id']], annotation) for annotation in chosen]


def draw(run: Run, checkpoint: Path) -> None:
    """The skeletons predicted under every strategy, on a few frames of the validation set."""
    from mmpose.apis import inference_topdown, init_model

    model = init_model(str(ROOT / run.config('none')), str(checkpoint), device='cpu')
    people = []
    for path, annotation in read_people(run.data_root):
        truth = np.reshape(annotation['keypoints'], (-1, 3))
        left, top, width, height = annotation['bbox']
        box = (left, top, left + width, top + height)
        skeletons = {'ground truth': truth[:, :2]}
        for strategy in run.demo.strategies:
            model.backbone.set_token_merging(strategy)
            (sample,) = inference_topdown(model, str(path), np.array([box]))
            skeletons[strategy] = sample.pred_instances.keypoints[0]
        image = np.asarray(Image.open(path).convert('RGB'))
        people.append(PosedPerson(image, box, truth[:, 2] > 0, skeletons))
    draw_skeletons(
        run.out / 'skeletons.png',
        people,
        model.dataset_meta['skeleton_links'],
        model.dataset_meta['skeleton_link_colors'],
        model.dataset_meta['keypoint_colors'],
        title=f'MiT-B0, trained without merging, input {SHAPE[0]}x{SHAPE[1]}',
    )


@main_guard
def main(argv: Sequence[str]) -> int:
    """Runs the demo and returns its exit code."""
    args = build_parser(__doc__, 'work_dirs/demo-pose', 'data/demo_jumpers').parse_args(argv)
    require('mmpose.apis', 'the pose demo')
    run = Run(DEMO, args.out, args.data_root, args.workers)
    run.draw_data()
    checkpoint = run.train()
    table = run.table(checkpoint)
    draw(run, checkpoint)
    run.write(table)
    return 0


if __name__ == '__main__':
    sys.exit(main())
