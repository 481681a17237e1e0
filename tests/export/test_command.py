"""tools/export.py: from a config and a checkpoint to a checked file, or a line of what is wrong."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from export_models import build_segmentor, segmentor_config

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
        (['--shape', '64x64'], 'other.pth', 'other.pth'),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, run, arguments, weights, message):
    code, out, error = run('--out', tmp_path / 'a.onnx', *arguments, weights=weights)
    assert (code, out) == (2, '') and error.startswith('error: ') and error.count('\n') == 1
    assert message in error and not (tmp_path / 'a.onnx').exists()


SMALL_DISK = """
import resource, sys
from segformer_plusplus.cli.export import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name != 'posix', reason='needs a limit of the size of files')
def test_a_full_disk_is_one_line_and_ends_no_process(tmp_path, run):
    """PyTorch's writer, when it is freed, ends the process of which a write has failed."""
    path = tmp_path / 'out/model.pt2'
    words = [tmp_path / 'config.py', tmp_path / 'weights.pth', '--out', path, '--shape', '64x96']
    words += ['--format', 'torch-export']
    command = [sys.executable, '-c', SMALL_DISK, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f'error: File too large: {path}'
    assert list(path.parent.iterdir()) == []
