"""Exported files beside presets, and as the model itself: fidelity and test measure them alike."""

import json

import pytest
import torch

pytest.importorskip('onnxscript')
pytest.importorskip('openvino')

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.cli.fidelity import main
from segformer_plusplus.cli.test import main as run_test
from segformer_plusplus.cli.train import main as run_train
from segformer_plusplus.cli.tune import main as run_tune
from segformer_plusplus.evaluation.fidelity import measure_fidelity, open_fidelity
from segformer_plusplus.evaluation.fidelity.base import Source
from segformer_plusplus.export import export_model
from segformer_plusplus.inference import open_model
from segformer_plusplus.inference.exported import ExportedFile

SHAPE = 128, 256


@pytest.fixture(scope='module')
def merged(scenes, tmp_path_factory):
    """The model with HQ, as a file of labels; so that it is of use, HQ changes some of them."""
    path = tmp_path_factory.mktemp('exported') / 'merged.xml'
    model = open_model(*scenes, device='cpu')
    export_model(model, path, format='openvino', shape=SHAPE, token_merging='hq', output='labels')
    return path


def close(values, expected):
    return values == {key: pytest.approx(each, abs=0.2) for key, each in expected.items()}


def test_a_file_among_presets(scenes, merged, tmp_path, capsys):
    argv = [*scenes, '--token-merging', 'hq', merged, '--device', 'cpu', '--rounds', '1']
    argv += ['--no-progress', '--json', tmp_path / 'out.json']
    assert main(list(map(str, argv))) == 0
    content = json.loads((tmp_path / 'out.json').read_text())
    none, hq, file = content['rows']
    assert [none['name'], hq['name'], file['name']] == ['none', 'hq', 'merged.xml']
    assert hq['values']['changed'] > 0 and close(file['values'], hq['values'])
    weights = merged.with_suffix('.bin').stat().st_size
    assert file['megabytes'] == (merged.stat().st_size + weights) / 1e6
    assert file['token_merging']['preset'] == 'hq' and file['precision'] == 'fp32'
    assert 'merged.xml: openvino, fp32' in content['caption']


def test_a_file_as_the_model(scenes, merged):
    """It is the reference, and other files are compared with it; a preset cannot be."""
    (row,) = measure_fidelity(scenes[0], merged, [], device='cpu', progress=False, rounds=1)
    expected = open_fidelity(*scenes, device='cpu', progress=False)
    assert row.name == 'merged.xml' and row.values['changed'] == 0 and row.median_seconds > 0
    assert row.values['mIoU'] == pytest.approx(expected.measure('hq')['mIoU'], abs=0.2)
    fidelity = open_fidelity(scenes[0], merged, device='cpu', progress=False)
    assert fidelity.measure(ExportedFile(str(merged)))['changed'] == 0
    with pytest.raises(SegformerPlusPlusError, match="token_merging='hq': an exported file has"):
        fidelity.measure('hq')


def test_a_file_is_tested_as_its_model(scenes, merged, tmp_path):
    found = []
    for checkpoint, more in ((merged, []), (scenes[1], ['--token-merging', 'hq'])):
        argv = [
            scenes[0],
            checkpoint,
            '--work-dir',
            tmp_path,
            '--metrics-json',
            tmp_path / 'm.json',
        ]
        assert run_test([str(each) for each in (*argv, *more)]) == 0
        found.append(json.loads((tmp_path / 'm.json').read_text()))
    assert close(*found) and found[0]['mIoU'] > 0


def test_a_file_of_poses(jumpers, tmp_path):
    path = tmp_path / 'pose.pt2'
    export_model(open_model(*jumpers, device='cpu'), path, format='torch-export')
    options = dict(device='cpu', progress=False, rounds=1)
    none, file = measure_fidelity(*jumpers, [str(path)], **options)
    assert file.name == 'pose.pt2' and file.values['shift'] < 1e-3
    assert file.values['PCK@0.1'] == none.values['PCK@0.1']


def refused(call, capsys, *argv):
    assert call([str(each) for each in argv]) == 2
    lines = [each for each in capsys.readouterr().err.splitlines() if each.startswith('error: ')]
    assert len(lines) == 1
    return lines[0]


def test_who_changes_models_takes_no_file(scenes, merged, tmp_path, capsys):
    said = 'merged.xml is an exported file'
    budget = ['--max-drop', '1', '--folder', tmp_path / 'tuned']
    assert said in refused(run_tune, capsys, merged, *budget)
    assert said in refused(run_tune, capsys, scenes[0], merged, *budget)
    assert said in refused(run_train, capsys, merged, '--work-dir', tmp_path / 'work')
    for option in ('--load-from', '--resume'):
        argv = [scenes[0], option, merged, '--work-dir', tmp_path / 'work']
        assert said in refused(run_train, capsys, *argv)
    assert not (tmp_path / 'tuned').exists() and not (tmp_path / 'work').exists()


def test_of_another_toolbox(jumpers, merged, capsys):
    assert 'is for mmseg, the config for mmpose' in refused(run_test, capsys, jumpers[0], merged)


def test_a_strategy_beside_a_file(scenes, merged, capsys):
    message = refused(run_test, capsys, scenes[0], merged, '--token-merging', 'hq')
    assert 'has its strategy in its graph' in message
    message = refused(run_test, capsys, scenes[0], merged, '--tta')
    assert '--tta averages logits' in message


def test_inputs_are_what_the_network_gets_all_of_one_size(scenes, monkeypatch):
    fidelity = open_fidelity(*scenes, device='cpu', progress=False)
    prepared = fidelity._prepared(fidelity.model)['inputs']
    first = fidelity._source.data[0]
    larger = dict(first, inputs=first['inputs'].repeat(1, 2, 2)[:, :-3])
    monkeypatch.setattr(fidelity, '_source', Source([first, larger], count=2))
    monkeypatch.setattr(fidelity, '_indices', (0, 1))
    one, other = fidelity.inputs()
    assert torch.equal(one, prepared) and other.shape == one.shape
    assert other.std() == pytest.approx(one.std(), rel=0.5)
