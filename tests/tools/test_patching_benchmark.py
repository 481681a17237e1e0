"""The benchmark of token merging on live models, on tiny images."""

import json
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
ROWS = ['untouched', 'none', 'hq', 'fast', '2x2']


@pytest.fixture(scope='module')
def tool():
    from tools.benchmarks import patching

    return patching


@pytest.fixture(autouse=True)
def keep_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    'library, package',
    [('mmseg', 'mmseg'), ('transformers', 'transformers'), ('smp', 'segmentation_models_pytorch')],
)
def test_every_library_is_timed(tool, tmp_path, capsys, library, package):
    pytest.importorskip(package)
    out = tmp_path / 'out.json'
    argv = ['--libraries', library, '--sizes', '64', '96', '--threads', '1', '--clock', 'cpu']
    assert tool.main([*argv, '--rounds', '2', '--json', str(out)]) == 0
    content = json.loads(out.read_text())
    assert content['clock'] == 'cpu' and content['threads'] == 1 and content['rounds'] == 2
    assert content['environment']['cpu']
    assert [run['shape'] for run in content['runs']] == [[64, 64], [96, 96]]
    for run in content['runs']:
        assert run['library'] == library
        assert [result['name'] for result in run['results']] == ROWS
        for result in run['results']:
            assert len(result['seconds']) == 2 and min(result['seconds']) > 0
            speed_up = run['results'][0]['median_seconds'] / result['median_seconds']
            assert result['speed_up'] == pytest.approx(speed_up)
    assert '64x64' in capsys.readouterr().out


@pytest.mark.parametrize('argv', [['--sizes', '16'], ['--threads', '0'], ['--rounds', '0']])
def test_wrong_arguments(tool, capsys, argv):
    assert tool.main([*argv, '--libraries', 'smp']) == 2
    assert argv[0] in capsys.readouterr().err
