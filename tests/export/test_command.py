"""tools/export.py: from a config and a checkpoint to a checked file, or a line of what is wrong."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_models import MEAN, STD, build_pose, build_segmentor, segmentor_config
from mmengine.config import Config
from PIL import Image

from segformer_plusplus.cli.calibrating import MOST_IMAGES, read_images
from segformer_plusplus.export import check_export, read_metadata

pytest.importorskip('openvino')
pytest.importorskip('onnxscript')

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'export.py'
CLASSES = ['road', 'grass', 'sky', 'car', 'person']


@pytest.fixture
def run(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('export_tool', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config, checkpoint = tmp_path / 'config.py', tmp_path / 'weights.pth'
    config.write_text(f'default_scope = "mmseg"\nmodel = {segmentor_config()!r}\n')
    torch.manual_seed(0)  # of random weights, int8 keeps too few labels now and then
    model = build_segmentor()
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    torch.save({'conv1.weight': torch.ones(1)}, tmp_path / 'other.pth')
    capsys.readouterr()  # what building the model says

    def call(*arguments, weights='weights.pth'):
        code = module.main([str(config), str(tmp_path / weights), *map(str, arguments)])
        out, error = capsys.readouterr()
        return code, out, error

    return call


def test_openvino_end_to_end(tmp_path, run):
    path = tmp_path / 'out' / 'model.xml'
    code, out, _ = run(
        '--format', 'openvino', '--out', path, '--shape', '64x96', '--token-merging', 'hq',
        '--labels', '--dynamic-batch',
    )  # fmt: skip
    assert code == 0 and 'openvino' in out
    assert sorted(each.name for each in path.parent.iterdir()) == ['model.bin', 'model.xml']
    metadata = read_metadata(path)
    assert metadata['class_names'] == CLASSES and metadata['token_merging']['preset'] == 'hq'
    assert metadata['output']['name'] == 'labels' and metadata['opset'] == 18
    (check,) = check_export(path, build_segmentor(token_merging='hq'))
    assert check.equal_labels >= 0.999


@pytest.mark.parametrize(
    ('arguments', 'weights', 'message'),
    [
        (['--format', 'tflite'], 'weights.pth', "'tflite' is unknown"),
        (['--format', 'openvino'], 'weights.pth', 'end in .xml'),
        ([], 'weights.pth', 'give one with shape (--shape HxW)'),
        (['--precision', 'half'], 'weights.pth', "'half' is unknown, use one of ['fp32'"),
        (['--precision', 'bf16'], 'weights.pth', 'no bfloat16 on a CPU; take fp16 or int8'),
        (['--precision', 'int8'], 'weights.pth', '(--calibrate FOLDER)'),
        (['--calibrate', 'here'], 'weights.pth', "'fp32' is not calibrated; leave the images"),
        (['--shape', '64x64'], 'other.pth', 'other.pth'),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, run, arguments, weights, message):
    code, out, error = run('--out', tmp_path / 'a.onnx', *arguments, weights=weights)
    assert (code, out) == (2, '') and error.startswith('error: ') and error.count('\n') == 1
    assert message in error and not (tmp_path / 'a.onnx').exists()


def save_image(path, size=(64, 96), seed=None):
    """Saves a photograph's like: smooth, and new every time without a seed; returns it in RGB."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)
    image.save(path)
    return np.asarray(image)


INT8 = ('--shape', '64x96', '--precision', 'int8', '--calibrate')


def test_int8_end_to_end_names_and_skips_what_cannot_be_read(tmp_path, run):
    """From raw images, of another size, to labels."""
    folder, path = tmp_path / 'images', tmp_path / 'out/model.onnx'
    folder.mkdir()
    for number in range(7):
        save_image(folder / f'{number}.png', (100, 120), seed=number)
    (folder / '3.png').write_bytes(os.urandom(200))
    (folder / 'notes.txt').touch()
    code, out, error = run('--out', path, '--with-preprocessing', '--labels', *INT8, folder)
    assert code == 0 and 'int8' in out, error
    skipped = [line for line in error.splitlines() if line.startswith('--calibrate: skipped')]
    assert len(skipped) == 1 and '3.png' in skipped[0]
    metadata = read_metadata(path)
    assert (metadata['calibration']['images'], metadata['calibration']['kept_back']) == (5, 1)
    assert metadata['precision'] == 'int8' and metadata['input']['type'] == 'uint8'


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (None, 'images is no folder; name one of images'),
        ([], 'holds no image or video'),
        (['a.png'], '1 image to calibrate on; int8 needs two at least'),
    ],
)
def test_bad_folders_to_calibrate_on(tmp_path, run, names, message):
    folder = tmp_path / 'images'
    if names is not None:
        folder.mkdir()
    for name in names or ():
        save_image(folder / name)
    code, out, error = run('--out', tmp_path / 'a.onnx', *INT8, folder)
    assert (code, out) == (2, '') and error.startswith('error: ') and error.count('\n') == 1
    assert message in error and not (tmp_path / 'a.onnx').exists()


@pytest.mark.parametrize('raw', [True, False])
def test_images_are_what_the_graph_takes(tmp_path, raw):
    """Against NumPy, where no size changes; of more than are read, evenly spaced ones."""
    model = build_segmentor()
    count = int(np.random.default_rng().integers(MOST_IMAGES + 1, 2 * MOST_IMAGES))
    images = [save_image(tmp_path / f'{number:03}.png') for number in range(count)][::2]
    found = read_images(model, tmp_path, (64, 96), raw)
    assert len(found) == len(images) <= MOST_IMAGES
    for image, each in zip(images, found, strict=True):
        normalised = ((image - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)
        expected = torch.from_numpy(image.copy() if raw else normalised.astype(np.float32))
        torch.testing.assert_close(each, expected[None])


def test_people_fill_the_images_that_a_pose_estimator_is_calibrated_on(tmp_path):
    """Its pipeline cuts each to the size of its codec."""
    pytest.importorskip('xtcocotools')
    model = build_pose()
    pipeline = [
        dict(type='LoadImage'),
        dict(type='GetBBoxCenterScale', padding=1.0),
        dict(type='TopdownAffine', input_size=(48, 64)),
        dict(type='PackPoseInputs'),
    ]
    model.cfg = Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    names = [f'joint {index}' for index in range(7)]
    points = {i: dict(name=name, id=i, color=[0, 0, 0], swap='') for i, name in enumerate(names)}
    model.dataset_meta = dict(
        dataset_name='seven', paper_info={}, keypoint_info=points, skeleton_info={},
        joint_weights=[1.0] * 7, sigmas=[0.1] * 7,
    )  # fmt: skip
    image = save_image(tmp_path / 'a.png', (64, 48))
    (found,) = read_images(model, tmp_path, (64, 48), raw=True)
    assert abs(found[0].float() - torch.tensor(image).float()).mean() < 3


def test_images_of_other_sizes_are_resized_whole(tmp_path):
    """Half dark and half light stays so; a crop would be of one kind."""
    image = np.zeros((50, 200, 3), np.uint8)
    image[:, 100:] = 255
    Image.fromarray(image).save(tmp_path / 'a.png')
    (found,) = read_images(build_segmentor(), tmp_path, (64, 96), raw=True)
    assert found.shape == (1, 64, 96, 3) and found.dtype == torch.uint8
    assert found[0, :, :46].max() == 0 and found[0, :, 50:].min() == 255


SMALL_DISK = """
import resource, sys
from segformer_plusplus.cli.export import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != 'posix', reason='needs a limit of the size of files')
@pytest.mark.parametrize(
    ('format', 'name', 'message'),
    [
        ('torch-export', 'model.pt2', 'error: File too large: {}'),
        ('openvino', 'model.xml', 'error: {} cannot be written: is the disk full?'),
    ],
)
def test_a_full_disk_is_one_line_and_ends_no_process(tmp_path, run, format, name, message):
    """PyTorch's writer, when it is freed, ends the process of which a write has failed."""
    path = tmp_path / 'out' / name
    words = [tmp_path / 'config.py', tmp_path / 'weights.pth', '--out', path, '--shape', '64x96']
    words += ['--format', format, '--precision', 'fp16']
    command = [sys.executable, '-c', SMALL_DISK, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == message.format(path)
    assert list(path.parent.iterdir()) == []
