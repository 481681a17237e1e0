"""segformer-plusplus fidelity: table, files and picture agree; mistakes are one line."""

import json
import signal

import pytest
import torch

from segformer_plusplus.cli.fidelity import main
from segformer_plusplus.evaluation.fidelity import base, measure_fidelity
from segformer_plusplus.token_merging import PRESETS

pytest.importorskip('mmseg')

OWN = [dict(q='NeighborMerging2d'), {}, {}, {}]
FILES = '--json', 'out.json', '--markdown', 'out.md', '--plot', 'out.png'


@pytest.fixture
def run(scenes, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '80')

    def call(*arguments):
        capsys.readouterr()
        options = ['--device', 'cpu', '--no-progress', '--rounds', '2', '--limit', '2']
        code = main([*map(str, scenes), *options, *map(str, arguments)])
        out, error = capsys.readouterr()
        return code, out, error

    return call


def cells(text, mark):
    return [
        [cell.strip() for cell in line.split(mark)[1:-1]]
        for line in text.splitlines()
        if line.startswith(mark)
    ]


def test_end_to_end(run, scenes, tmp_path):
    (tmp_path / 'own.json').write_text(json.dumps(OWN))
    code, out, error = run(
        '--token-merging', 'hq', 'own.json', '--json', 'a/out.json', '--markdown', 'out.md',
        '--plot', 'out.png',
    )  # fmt: skip
    assert code == 0, error
    assert all(len(line) <= 80 for line in out.splitlines())
    content = json.loads((tmp_path / 'a/out.json').read_text())
    rows = content['rows']
    assert [row['name'] for row in rows] == ['none', 'hq', 'own']
    assert content['arguments']['limit'] == 2 and content['environment']['versions']['torch']
    assert '2 images; mIoU of 19 classes, mIoU fine of' in content['caption']
    markdown = (tmp_path / 'out.md').read_text()
    assert content['caption'] in markdown and content['command'] in markdown
    assert content['command'].startswith('segformer-plusplus fidelity ')
    header, _, *lines = cells(markdown, '|')
    assert lines == cells(out, '│')
    for line, row in zip(lines, rows, strict=True):
        shown = dict(zip(header, line, strict=True))
        assert shown['preset'] == row['name']
        assert shown['mIoU'] == f'{row["values"]["mIoU"]:.2f}'
        assert shown['mIoU fine'] == f'{row["values"]["mIoU_fine"]:.2f}'
        assert shown['changed %'] == f'{row["values"]["changed"]:.3f}'
        assert shown['speed-up'] == f'{row["speed_up"]:.2f}'
        assert float(shown['ms']) == pytest.approx(1e3 * row['median_seconds'], rel=0.05)
        assert float(shown['change']) == pytest.approx(-row['drop'], abs=0.011)
        assert row['speed_up'] == pytest.approx(rows[0]['median_seconds'] / row['median_seconds'])
    assert (tmp_path / 'out.png').stat().st_size > 1000
    # a row can be made again from what stands there
    again = measure_fidelity(
        *scenes, {'hq': rows[1]['token_merging'], 'own': rows[2]['token_merging']},
        rounds=1, warmup=0, device='cpu', limit=2, progress=False,
    )  # fmt: skip
    assert [row.values for row in again] == [row['values'] for row in rows]


def test_every_preset_by_default(run, tmp_path):
    code, _, error = run('--json', 'out.json')
    assert code == 0, error
    rows = json.loads((tmp_path / 'out.json').read_text())['rows']
    assert [row['name'] for row in rows] == list(PRESETS)


def test_a_preset_that_does_not_fit_is_left_out(run, tmp_path):
    small = ['--limit', '1', '--cfg-options', 'test_dataloader.dataset.pipeline.1.scale=(96,48)']
    code, out, error = run('--json', 'out.json', *small)
    assert code == 0, error
    written = json.loads((tmp_path / 'out.json').read_text())
    unfit = ['downsampling', 'downsampling-bilinear']
    assert [row['name'] for row in written['rows']] == [n for n in PRESETS if n not in unfit]
    assert list(written['left_out']) == unfit
    one_line = ' '.join(out.split())  # where a line breaks depends on the processor's name
    assert 'left out, as the model cannot run it: ' + ', '.join(unfit) + '.' in one_line
    for name in unfit:
        assert 'too small' in written['left_out'][name]
        assert f'WARNING - preset {name!r} is left out: ' in out
    code, _, error = run('--token-merging', 'downsampling', *small)
    assert code == 2 and error.startswith("error: preset 'downsampling': ")


def test_nothing_that_is_wrong_loads_the_model(run, tmp_path, monkeypatch):
    monkeypatch.setattr('segformer_plusplus.inference.opening._build', pytest.fail)
    (tmp_path / 'a.txt').touch()
    for arguments, message in [
        (['--token-merging', 'hd'], "preset 'hd' is unknown"),
        (['--token-merging', 'gone.json'], 'gone.json cannot be read'),
        (['--plot', 'out.doc'], "'doc'"),
        (['--json', '.'], '. is a folder; name a file'),
        (['--markdown', 'a.txt/out.md'], 'a.txt is no folder'),
        (['--fine-classes', 'poles'], "'poles' is no class"),
        (['--images', 'nowhere'], 'input not found: nowhere'),
        (['--limit', '9'], 'limit=9: give a number from 1 to 3'),
        (['--cfg-options', 'test_dataloder.a=1'], 'test_dataloder'),
    ]:
        code, out, error = run(*arguments)
        assert code == 2 and error.startswith('error: ') and error.count('\n') == 1
        assert message in error and '┃' not in out


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is CUDA')
def test_without_cuda(run):
    code, _, error = run('--device', 'cuda')
    assert code == 2 and error.startswith('error: --device cuda: ')


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def terminate(*args, **kwargs):
    """How schedulers, and ``timeout``, end a program."""
    signal.raise_signal(signal.SIGTERM)


def run_out_of_memory(*args, **kwargs):
    raise torch.OutOfMemoryError('CUDA out of memory')


@pytest.fixture
def measuring_fast(monkeypatch):
    """Makes the model do something else while 'fast' is measured."""
    measure = base.Fidelity.measure

    def do(action):
        def measured(self, token_merging):
            with monkeypatch.context() as patch:
                if token_merging == 'fast':
                    patch.setattr(self.model.backbone, 'forward', action)
                return measure(self, token_merging)

        monkeypatch.setattr(base.Fidelity, 'measure', measured)

    return do


@pytest.mark.parametrize('end', [interrupt, terminate])
def test_an_interruption_keeps_what_was_measured(run, tmp_path, measuring_fast, end):
    measuring_fast(end)
    before = signal.getsignal(signal.SIGTERM)
    code, out, _ = run('--token-merging', 'hq', 'fast', '2x2', *FILES)
    assert code == 130 and 'interrupted' in out
    assert signal.getsignal(signal.SIGTERM) is before
    rows = json.loads((tmp_path / 'out.json').read_text())['rows']
    assert [bool(row['values']) for row in rows] == [True, True, False, False]
    assert all(row['median_seconds'] > 0 for row in rows)  # they were timed before
    assert cells((tmp_path / 'out.md').read_text(), '|')[4][1:5] == ['-'] * 4
    assert (tmp_path / 'out.png').exists()


def test_an_interruption_while_the_model_is_loaded(run, monkeypatch):
    monkeypatch.setattr('segformer_plusplus.inference.opening._build', interrupt)
    code, out, error = run('--token-merging', 'hq')
    assert (code, out, error) == (130, 'interrupted\n', '')


def test_an_interruption_of_the_timing(run, tmp_path, monkeypatch):
    def interrupted(self, variants, rounds, warmup, taken):
        taken['none'] = [0.5]
        raise KeyboardInterrupt

    monkeypatch.setattr(base.Fidelity, 'time', interrupted)
    code, _, _ = run('--token-merging', 'hq', '--json', 'out.json', '--plot', 'out.png')
    assert code == 130
    (row,) = json.loads((tmp_path / 'out.json').read_text())['rows']
    assert row['median_seconds'] == 0.5 and row['values'] == {} and row['drop'] is None
    assert not (tmp_path / 'out.png').exists()


def test_a_strategy_and_a_file_that_fail_leave_the_rest(run, tmp_path, measuring_fast, monkeypatch):
    measuring_fast(run_out_of_memory)
    code, _, error = run('--token-merging', 'hq', 'fast', '2x2', '--json', 'out.json')
    assert code == 2 and "error: preset 'fast': fast: out of memory" in error
    content = json.loads((tmp_path / 'out.json').read_text())
    assert [bool(row['values']) for row in content['rows']] == [True, True, False, True]
    assert [bool(row['error']) for row in content['rows']] == [False, False, True, False]
    assert content['rows'][2]['error'].startswith('fast: out of memory')
    assert content['caption'].endswith('failed while images were predicted: fast.')

    def fails(path, content):
        raise OSError(28, 'No space left on device', path)

    monkeypatch.setattr('segformer_plusplus.cli.fidelity.write_json', fails)
    code, _, error = run('--token-merging', 'hq', *FILES)
    assert code == 2 and error == 'error: No space left on device: out.json\n'
    assert (tmp_path / 'out.md').exists() and (tmp_path / 'out.png').exists()
