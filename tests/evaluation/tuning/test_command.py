"""segformer-plusplus tune, from a checkpoint to a config that tools/test.py runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from segformer_plusplus.cli import tune as command
from segformer_plusplus.evaluation.tuning import Point, Space, tune
from segformer_plusplus.evaluation.tuning.selection import Evaluator
from segformer_plusplus.evaluation.tuning.writing import describe_setting
from segformer_plusplus.token_merging import PRESETS, build_token_merging

TOOLS = Path(__file__).resolve().parents[3] / 'tools'
FILES = {'front.json', 'front.png', 'study.json', '.lock'}
OWN = "space = [dict(type='NeighborMerging2d', stride=[2, 4], sides=['kv'], stages=[1])]\n"


@pytest.fixture()
def arguments(large_scenes, tmp_path):
    """Config, checkpoint and quick options; the space has three settings."""
    (tmp_path / 'space.py').write_text(OWN)
    return [*map(str, large_scenes), '--out', str(tmp_path / 'out'), '--space',
            str(tmp_path / 'space.py'), '--rounds', '1', '--images', '1']  # fmt: skip


def run(tool, *arguments):
    return subprocess.run(
        [sys.executable, str(TOOLS / tool), *map(str, arguments)], capture_output=True, text=True
    )


def test_from_a_checkpoint_to_a_tested_config(arguments, tmp_path, capsys):
    done = run('tune.py', *arguments, '--max-drop', '100')
    assert done.returncode == 0, done.stderr
    out = tmp_path / 'out'
    assert {path.name for path in out.iterdir()} == FILES | {'large_tuned.py'}
    front = json.loads((out / 'front.json').read_text())
    assert front['measure'] == 'mIoU'
    assert front['images'] == dict(searched=1, check=1)
    assert 'try it: segformer-plusplus test ' in done.stdout
    metrics = tmp_path / 'metrics.json'
    tested = run('test.py', out / 'large_tuned.py', arguments[1], '--metrics-json', metrics,
                 '--work-dir', tmp_path / 'work')  # fmt: skip
    assert tested.returncode == 0, tested.stderr
    # what the toolbox measures on all images is what the tuner measures on them
    shutil.rmtree(out)
    assert command.main([*arguments[:-1], '3', '--max-drop', '100']) == 0
    assert 'Not checked' in capsys.readouterr().out
    trials = json.loads((out / 'front.json').read_text())['trials']
    same = [t for t in trials if repr(build_token_merging(t['token_merging']))
            == repr(build_token_merging(front['winner']['token_merging']))]  # fmt: skip
    assert json.loads(metrics.read_text())['mIoU'] == pytest.approx(
        same[0]['values']['mIoU'], abs=0.01
    )


def test_a_budget_that_nothing_meets(arguments, tmp_path, capsys):
    assert command.main([*arguments, '--min-speedup', '1000']) == command.UNMET
    printed = ' '.join(capsys.readouterr().out.split())
    assert 'no setting meets the budget; the nearest is trial' in printed
    assert {path.name for path in (tmp_path / 'out').iterdir()} == FILES


def test_the_config_of_an_earlier_call_stays(arguments, tmp_path, capsys, monkeypatch):
    earlier = tmp_path / 'out' / 'large_tuned.py'
    assert command.main([*arguments, '--max-drop', '100']) == 0
    text, front = earlier.read_text(), (tmp_path / 'out' / 'front.json').read_text()
    assert command.main([*arguments, '--min-speedup', '1000']) == command.UNMET
    assert earlier.read_text() == text
    printed = capsys.readouterr().out
    assert f'earlier config: {earlier}' in printed
    assert 'the earlier config is of an earlier search' in ' '.join(printed.split())
    assert json.loads((tmp_path / 'out' / 'front.json').read_text())['winner'] is None
    # nor does an interruption take what tells of it
    (tmp_path / 'out' / 'front.json').write_text(front)
    monkeypatch.setattr(Evaluator, 'time_together', stop)
    assert command.main([*arguments, '--max-drop', '100']) == command.INTERRUPTED
    assert earlier.read_text() == text
    assert (tmp_path / 'out' / 'front.json').read_text() == front


def stop(*_, **__):
    raise KeyboardInterrupt


def test_ctrl_c_before_the_search(arguments, capsys, monkeypatch):
    monkeypatch.setattr(Evaluator, '__init__', stop)
    assert command.main([*arguments, '--max-drop', '100']) == command.INTERRUPTED
    assert 'interrupted; the same command goes on from here' in capsys.readouterr().out


def test_every_setting_of_the_default_space_can_be_told():
    """Apart from each other, and proportional attention from other attention."""
    space = Space()
    for site, options in space.sites.items():
        told = {
            describe_setting(
                Point(1, space.build({**dict.fromkeys(space.sites, 0), site: index}), 0.0, 1.0)
            )
            for index in range(len(options))
        }
        assert len(told) == len(options)
    proportional = [
        (index, each['stride'])
        for index, each in enumerate(space.sites['stage 2 kv'])
        if each is not None and each.get('proportional_attention') and each['ratio'] == 0.6
    ]
    index, stride = proportional[0]
    built = space.build({**dict.fromkeys(space.sites, 0), 'stage 2 kv': index})
    told = describe_setting(Point(1, built, 0.0, 1.0))
    assert told == f'- | kv BSM2d s{stride} r0.6 proportional | - | -'


def test_it_fits_into_eighty_columns(arguments, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    command.main([*arguments, '--max-drop', '100'])
    lines = capsys.readouterr().out.splitlines()
    paths = ('front: ', 'plot: ', 'config: ', 'try it: ')
    assert max(len(line) for line in lines if not line.startswith(paths)) <= 80
    assert [line.split(':')[0] for line in lines[-4:]] == [each.split(':')[0] for each in paths]


def test_images_without_labels(large_scenes, tmp_path):
    images = next(large_scenes[0].parent.glob('data/leftImg8bit/val'))
    # up to the presets that halve the image, which are faster for sure
    settings = dict(max_drop=100.0, trials=len(PRESETS), rounds=1)
    result = tune(*large_scenes, folder=images, out=tmp_path / 'out', **settings)
    assert result.by == 'changed' and result.winner is not None


GREEDY = """
import torch
from segformer_plusplus import TOKEN_MERGERS, TokenMerger
from segformer_plusplus.token_merging.plans import CellPlan


@TOKEN_MERGERS.register_module(force=True)
class Greedy(TokenMerger):
    def __init__(self, width):
        self.width = width

    def plan(self, tokens, grid):
        if self.width == 3 and grid != (32, 32):
            torch.empty(1 << 60)
        return CellPlan(grid, (1, self.width), tokens.device)
"""


def test_a_strategy_of_ones_own_that_takes_too_much_memory(
    large_scenes, tmp_path, monkeypatch, capsys
):
    (tmp_path / 'greedy_merging.py').write_text(GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    space = tmp_path / 'space.py'
    space.write_text(
        "custom_imports = dict(imports=['greedy_merging'])\n"
        "space = [dict(type='Greedy', width=[2, 3], sides=['kv'], stages=[1])]\n"
    )
    arguments = [*map(str, large_scenes), '--out', str(tmp_path), '--space', str(space)]
    assert command.main([*arguments, '--rounds', '1', '--max-drop', '100']) == 0
    front = json.loads((tmp_path / 'front.json').read_text())
    assert [failed['token_merging'][0] for failed in front['failed']] == [
        dict(kv=dict(type='Greedy', width=3))
    ]
    assert 'out of memory' in front['failed'][0]['reason']
    # the presets, and the other width
    assert len(front['trials']) == len(PRESETS) + 1
    assert '1 trial could not be measured: ' in capsys.readouterr().out
    cfg = Config.fromfile(tmp_path / 'large_tuned.py')
    assert cfg.custom_imports.imports == ['segformer_plusplus', 'greedy_merging']


def test_poses(jumpers, tmp_path):
    result = tune(*jumpers, max_drop=100.0, out=tmp_path, trials=len(PRESETS), rounds=1)
    assert result.by == 'PCK@0.05' and {'shift', 'PCK@0.1'} < set(result.baseline)
    for point in result.points:
        assert point.drop == pytest.approx(result.baseline['PCK@0.05'] - point.values['PCK@0.05'])
    # so small that nothing need be faster
    assert (result.winner is None) == ('config' not in result.files)


def test_another_checkpoint_is_refused(arguments, tmp_path, capsys):
    import torch

    assert command.main([*arguments, '--max-drop', '100', '--trials', '2']) in (0, command.UNMET)
    content = torch.load(arguments[1], weights_only=True)
    content['meta'] = dict(epoch=2)
    arguments[1] = str(tmp_path / 'other.pth')
    torch.save(content, arguments[1])
    assert command.main([*arguments, '--max-drop', '100', '--trials', '2']) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'holds a search with another checkpoint; name another folder' in error


@pytest.mark.parametrize(
    ('change', 'named'),
    [
        (['--max-drop', '1', '--min-speedup', '2'], 'give either --max-drop or --min-speedup'),
        ([], 'give either --max-drop or --min-speedup'),
        (['--max-drop', '1', '--by', 'accuracy'], '--by accuracy: choose from mIoU'),
        (['--max-drop', '1', '--trials', '0'], 'trials is 0; give a whole number above 0'),
        (['--max-drop', '1', '--device', 'abacus'], 'Choose from: "cpu", "cuda"'),
        (['--min-speedup', '0.9'], '--min-speedup is 0.9; give a number above 1'),
        (['--max-drop', '1', '--timeout', '-1'], 'timeout is -1.0'),
        (['--max-drop', '1', '--space', 'nowhere.py'], 'config not found: nowhere.py'),
        (['--max-drop', '1', '--by', 'shift'], '--by shift: these images are measured by mIoU'),
        (['--max-drop', '1', '--folder', 'nowhere'], 'nowhere'),
        (['--max-drop', '1', '--images', '4'], 'images=4: give a number from 1 to 3'),
    ],
)
def test_calls_that_are_refused_in_one_line(change, named, arguments, capsys):
    assert command.main([*arguments, *change]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith('error: ') and named in lines[-1]


def test_an_empty_folder(arguments, tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    empty = str(tmp_path / 'empty')
    assert command.main([*arguments, '--max-drop', '1', '--folder', empty]) == 2
    assert 'empty' in capsys.readouterr().err.splitlines()[-1]
