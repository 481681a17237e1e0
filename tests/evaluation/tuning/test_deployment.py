"""segformer-plusplus advise: presets, formats and precisions are tried, and the best is a file."""

import json

import pytest

pytest.importorskip('onnxruntime')
pytest.importorskip('onnxscript')

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.cli import advise as command, predict
from segformer_plusplus.evaluation.tuning import deployment, run
from segformer_plusplus.evaluation.tuning.deployment import EAGER, DeploymentSpace
from segformer_plusplus.export import read_metadata
from segformer_plusplus.export.formats import find_format
from segformer_plusplus.inference.exported import ExportedFile

ONNX = ('onnx', 'fp32')


@pytest.fixture
def images(scenes):
    return next((scenes[0].parent / 'data').rglob('leftImg8bit/val'))


@pytest.fixture
def two_ways(monkeypatch):
    """Float32 in PyTorch and ONNX Runtime, of three presets: few files are written."""
    monkeypatch.setattr(run, 'find_ways', lambda: ([EAGER, ONNX], {'openvino int8': 'no nncf'}))
    monkeypatch.setattr(deployment, '_PRESETS', ('2x2', 'none', 'hq'))


def test_the_space_holds_every_preset_in_every_way_once():
    space = DeploymentSpace([EAGER, ONNX, ('openvino', 'int8')])
    settings = list(space.presets())
    assert settings[0] == 'none' and space.size == 18
    assert len({space.identify(each) for each in settings}) == 18
    assert dict(token_merging='weighted', format='openvino', precision='int8') in settings
    for setting in settings:
        assert space.build(space.find(setting)) == setting
    assert space.find('downsampling') is None
    assert space.find(dict(token_merging='hq', format='onnx', precision='int8')) is None


def test_presets_that_do_not_fit_the_backbone_are_left_out():
    assert list(DeploymentSpace([EAGER], num_stages=3).sites['preset']) == ['none']


def test_what_this_machine_cannot_write_is_left_out_with_the_reason(monkeypatch):
    def refuse(precision):
        if precision == 'bf16':
            raise SegformerPlusPlusError('no bfloat16 here')

    monkeypatch.setattr(find_format('openvino'), 'require', lambda: None)
    monkeypatch.setattr(find_format('openvino'), 'check_precision', refuse)
    ways, left_out = deployment.find_ways()
    assert ways[0] == EAGER and ONNX in ways
    assert left_out == {'openvino bf16': 'no bfloat16 here'}


def test_from_a_checkpoint_to_a_file_that_predicts(scenes, images, two_ways, tmp_path, capsys):
    out = tmp_path / 'advice'
    stale = out / 'files' / '2x2_onnx_fp32.onnx'  # of a search that was interrupted
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b'of other weights')
    arguments = [*map(str, scenes), '--images', str(images), '--max-changed', '100']
    arguments += ['--rounds', '1', '--out', str(out), '--fresh']
    code = command.main(arguments)
    said = capsys.readouterr().out
    front = json.loads((out / 'front.json').read_text())
    tried = {(each['preset'], each.get('format', 'torch')) for each in front['trials']}
    assert tried == {(p, f) for p in ('2x2', 'none', 'hq') for f in ('torch', 'onnx')}
    assert front['measure'] == 'changed' and not front['failed']
    assert 'not tried: openvino int8: no nncf' in said
    assert not (out / 'files').exists()
    by_name = {(each['preset'], each.get('format')): each for each in front['trials']}
    # the file computes what the model computes
    assert by_name['none', 'onnx']['drop'] < 0.1
    assert abs(by_name['2x2', 'onnx']['drop'] - by_name['2x2', None]['drop']) < 0.1
    winner = front['winner']
    if winner is None:  # where nothing is faster than the tiny model itself
        assert code == 1
    elif winner.get('format'):
        (file,) = out.glob('*.onnx')
        assert read_metadata(file)['token_merging']['preset'] == winner['preset']
        assert f'run it: segformer-plusplus predict {file}' in said.replace('\n', '')
        assert predict.main([str(file), str(images), '--out', str(tmp_path / 'p')]) == 0
    else:
        assert list(out.glob('*_tuned.py')) and code == 0


def test_a_file_is_written_once_and_moved_with_what_belongs_to_it(tmp_path, monkeypatch):
    written = []

    def write(model, path, **options):
        written.append(options)
        path.parent.mkdir(exist_ok=True)
        path.write_text('xml')
        path.with_suffix('.bin').write_text('weights')

    class Images:
        model, shape = object(), (64, 96)

        def inputs(self):
            return ['an image']

    monkeypatch.setattr(deployment, 'export_model', write)
    exporter = deployment.Exporter(Images(), tmp_path / 'files')
    setting = dict(token_merging='hq', format='openvino', precision='int8')
    assert exporter('hq') == 'hq' and not written
    file = ExportedFile(str(tmp_path / 'files' / 'hq_openvino_int8.xml'))
    assert exporter(setting) == file == exporter(setting)
    (options,) = written
    assert options['calibration'] == ['an image'] and options['shape'] == (64, 96)
    kept = deployment.keep_file(setting, tmp_path / 'files', tmp_path)
    assert kept.read_text() == 'xml' and kept.with_suffix('.bin').read_text() == 'weights'


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--images', 'nowhere'], 'nowhere'),
        (['--images', '.', '--minutes', '0'], 'timeout is 0'),
        ([], '--images'),
    ],
)
def test_a_wrong_call_is_said(scenes, arguments, message, capsys):
    assert command.main([*map(str, scenes), *arguments]) == 2
    assert message in capsys.readouterr().err
