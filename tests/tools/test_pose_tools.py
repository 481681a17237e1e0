"""The shipped pose configs through the tools and mmpose's inference, on a few synthetic jumpers."""

import importlib.util
import json
import pickle
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it

import segformer_plusplus  # noqa: F401  (must precede mmpose)

# isort: split
import cv2
import numpy as np
import torch
from mmpose.apis import inference_topdown, init_model

from tools.dataset_generators.layouts import LAYOUTS
from tools.dataset_generators.writing import write

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    'jbd': 'configs/jbd/td-hm_mit-b0_hq_1xb16-210e_jbd-640x480.py',
    'coco': 'configs/coco/td-hm_mit-b0_hq_1xb16-210e_coco-384x288.py',
}
METRICS = {
    'jbd': {'PCK@0.1', 'PCK@0.05'},
    'coco': {'PCK@0.1', 'PCK@0.05', 'coco/AP', 'coco/AP .5', 'coco/AR'},
}
SPLITS = 'train', 'val', 'test'


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f'tools_{name}', ROOT / f'tools/{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


train, evaluate, benchmark = (load_tool(name).main for name in ('train', 'test', 'benchmark'))


def options(data_root: Path) -> list[str]:
    """The shipped config on other data, without a download, small enough for a test."""
    loaders = [f'{split}_dataloader' for split in SPLITS]
    return [
        '--cfg-options',
        'model.backbone.init_cfg=None',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=1',
        'train_dataloader.batch_size=2',
        *(f'{loader}.dataset.data_root={data_root}' for loader in loaders),
        *(f'{loader}.num_workers=0' for loader in loaders),
        *(f'{loader}.persistent_workers=False' for loader in loaders),
    ]


@pytest.fixture(scope='module', params=list(CONFIGS))
def trained(request, tmp_path_factory):
    """The layout, its data, and a checkpoint after the two iterations of one epoch."""
    layout = request.param
    folder = tmp_path_factory.mktemp(layout)
    write(LAYOUTS[layout], folder / 'data', train=4, val=2, size=(180, 240), progress=False)
    more = options(folder / 'data')
    if layout == 'coco':  # one to three people in an image
        more.append('train_dataloader.dataset.indices=4')
    argv = [str(ROOT / CONFIGS[layout]), '--work-dir', str(folder / 'work'), *more]
    assert train(argv) == 0
    return layout, folder


def refused(capfd, main, *argv: object) -> str:
    """The one line of an error that a tool must end with."""
    capfd.readouterr()
    assert main([str(argument) for argument in argv]) == 2
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1, captured.err
    assert 'Traceback' not in captured.err
    return lines[0]


def test_training_validates_and_keeps_the_best(trained):
    layout, folder = trained
    log = '\n'.join(path.read_text() for path in (folder / 'work').glob('*/*.log'))
    assert 'Saving checkpoint at 1 epochs' in log
    assert 'PCK@0.1: ' in log and 'PCK@0.05: ' in log
    assert ('coco/AP: ' in log) == (layout == 'coco')
    assert [path.name for path in (folder / 'work').glob('best_*')] == ['best_PCK@0.1_epoch_1.pth']
    checkpoint = torch.load(folder / 'work/epoch_1.pth', weights_only=False)
    assert checkpoint['meta']['iter'] == 2


def test_test_reports_every_metric_under_its_name(trained, tmp_path):
    layout, folder = trained
    metrics = tmp_path / 'metrics.json'
    argv = [ROOT / CONFIGS[layout], folder / 'work/epoch_1.pth', '--work-dir', tmp_path / 'work']
    argv += ['--token-merging', 'fast', '--out', tmp_path / 'out', '--metrics-json', metrics]
    assert evaluate([*map(str, argv), *options(folder / 'data')]) == 0
    content = json.loads(metrics.read_text())
    assert set(content) >= METRICS[layout]
    assert 0 <= content['PCK@0.05'] <= content['PCK@0.1'] <= 1
    with (tmp_path / 'out/predictions.pkl').open('rb') as stream:
        predictions = pickle.load(stream)
    assert predictions[0]['pred_instances']['keypoints'].shape[-1] == 2


def test_painted_predictions_lie_in_the_folder_that_was_named(trained, tmp_path, monkeypatch):
    layout, folder = trained
    monkeypatch.chdir(tmp_path)
    argv = [ROOT / CONFIGS[layout], folder / 'work/epoch_1.pth', '--show-dir', 'shown']
    argv += [*options(folder / 'data'), 'default_hooks.visualization.interval=1']
    argv += ['test_dataloader.batch_size=1']
    assert evaluate([str(argument) for argument in argv]) == 0
    pictures = [path for path in tmp_path.rglob('*') if path.suffix in ('.jpg', '.png')]
    assert len(pictures) == {'jbd': 2, 'coco': 3}[layout]  # one for each person
    assert {path.parent for path in pictures} == {tmp_path / 'shown'}
    assert all(cv2.imread(str(path)).shape == (180, 240, 3) for path in pictures)


def test_inference_topdown_under_every_strategy(trained, tmp_path):
    layout, folder = trained
    image = cv2.imread(str(next((folder / 'data').rglob('*.jpg'))))
    cv2.imwrite(str(tmp_path / 'frame.png'), image)
    checkpoint = str(folder / 'work/epoch_1.pth')
    model = init_model(str(ROOT / CONFIGS[layout]), checkpoint, device='cpu')
    count = {'jbd': 20, 'coco': 17}[layout]
    assert len(model.dataset_meta['keypoint_colors']) == count
    boxes = np.array([[20.0, 20, 120, 160], [60, 10, 200, 170]])
    for strategy in ('none', 'hq', '2x2'):
        model.backbone.set_token_merging(strategy)
        from_file = inference_topdown(model, str(tmp_path / 'frame.png'), boxes)
        from_array = inference_topdown(model, image, boxes)
        assert len(from_file) == 2
        for a, b in zip(from_file, from_array, strict=True):
            keypoints = a.pred_instances.keypoints
            assert keypoints.shape == (1, count, 2) and np.isfinite(keypoints).all()
            assert a.pred_instances.keypoint_scores.shape == (1, count)
            np.testing.assert_array_equal(keypoints, b.pred_instances.keypoints)


def test_benchmark_of_a_pose_model_at_another_size_than_its_codec(trained, tmp_path):
    layout, _ = trained
    result = tmp_path / 'result.json'
    argv = [ROOT / CONFIGS[layout], '--token-merging', 'none', 'hq', '--shape', '96x64']
    argv += ['--rounds', 1, '--warmup', 0, '--json', result]
    assert benchmark([str(argument) for argument in argv]) == 0
    none, merged = json.loads(result.read_text())['results']
    assert none['parameters'] == merged['parameters'] and merged['gflops'] < none['gflops']


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize('split', ['train', 'val'])
@pytest.mark.parametrize('missing', ['data_root', 'ann_file'])
def test_missing_data(trained, tmp_path, capfd, split, missing):
    layout, folder = trained
    argv = [ROOT / CONFIGS[layout], '--work-dir', tmp_path, *options(folder / 'data')]
    key = f'{split}_dataloader.dataset.{missing}'
    message = refused(capfd, train, *argv, f'{key}={tmp_path}/nowhere')
    assert 'nowhere' in message and f'{key}=' in message


def test_a_truncated_frame_is_named(trained, tmp_path, capfd):
    layout, _ = trained
    write(LAYOUTS[layout], tmp_path / 'data', train=2, val=1, size=(180, 240), progress=False)
    for path in (tmp_path / 'data').rglob('*.jpg'):
        path.write_bytes(path.read_bytes()[:-300])
    argv = [ROOT / CONFIGS[layout], '--work-dir', tmp_path / 'work', *options(tmp_path / 'data')]
    message = refused(capfd, train, *argv)
    assert '.jpg cannot be read' in message


DECODER, ENCODER = 'model.head.decoder', 'train_dataloader.dataset.pipeline.6.encoder'
AFFINE = 'train_dataloader.dataset.pipeline.5'


@pytest.mark.parametrize(
    'key',
    [
        f'{DECODER}.heatmap_size',
        f'{DECODER}.input_size',
        f'{ENCODER}.heatmap_size',
        f'{ENCODER}.input_size',
        f'{AFFINE}.input_size',
    ],
)
def test_a_codec_that_does_not_fit(trained, tmp_path, capfd, key):
    layout, folder = trained
    argv = [ROOT / CONFIGS[layout], '--work-dir', tmp_path / 'work', *options(folder / 'data')]
    message = refused(capfd, train, *argv, f'{key}="(36, 48)"')
    assert '48' in message and '36' in message and key.rpartition('.')[2] in message


def test_another_number_of_keypoints(trained, tmp_path, capfd):
    layout, folder = trained
    argv = [ROOT / CONFIGS[layout], '--work-dir', tmp_path / 'work', *options(folder / 'data')]
    message = refused(capfd, train, *argv, 'model.head.out_channels=5')
    assert 'out_channels' in message
