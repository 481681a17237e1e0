"""segformer-plusplus tune, from a checkpoint to a config that tools/test.py runs."""

import contextlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from mmengine.config import Config

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.cli import tune as command
from segformer_plusplus.evaluation.fidelity import open_fidelity
from segformer_plusplus.evaluation.tuning import Budget, Point, Space, TuneResult, tune
from segformer_plusplus.evaluation.tuning.selection import Evaluator
from segformer_plusplus.evaluation.tuning.writing import describe_setting, write_config
from segformer_plusplus.token_merging import PRESETS, TOKEN_MERGERS, build_token_merging

TOOLS = Path(__file__).resolve().parents[3] / 'tools'
FILES = {'front.json', 'front.png', 'study.json'}
OWN = "space = [dict(type='NeighborMerging2d', stride=[2, 4], sides=['kv'], stages=[1])]\n"
TUNED = ['--max-drop', '100']


def written(folder):
    """What a call leaves; some versions of filelock take the file of their lock away."""
    return {path.name for path in folder.iterdir()} - {'.lock'}


def quick(scenes, folder):
    """Config, checkpoint and quick options; the space has three settings."""
    (folder / 'space.py').write_text(OWN)
    return [*map(str, scenes), '--out', str(folder / 'out'), '--space', str(folder / 'space.py'),
            '--rounds', '1', '--images', '1']  # fmt: skip


@pytest.fixture
def arguments(large_scenes, tmp_path):
    return quick(large_scenes, tmp_path)


@pytest.fixture(scope='module')
def tuned(large_scenes, tmp_path_factory):
    """A folder with a winner, and what was printed on 80 columns."""
    folder, printed = tmp_path_factory.mktemp('tuned'), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv('COLUMNS', '80')
        assert command.main([*quick(large_scenes, folder), *TUNED]) == 0
    return folder / 'out', printed.getvalue().splitlines()


@pytest.fixture
def out(tuned, tmp_path):
    """A copy of that folder, where ``arguments`` go on."""
    return shutil.copytree(tuned[0], tmp_path / 'out')


def test_from_a_checkpoint_to_a_config(tuned, large_scenes):
    out, printed = tuned
    assert written(out) == FILES | {'large_tuned.py'}
    front = json.loads((out / 'front.json').read_text())
    assert front['measure'] == 'mIoU'
    assert front['images'] == dict(searched=1, check=1)
    cfg = Config.fromfile(out / 'large_tuned.py')
    built = build_token_merging(Config(dict(x=cfg.model.backbone.token_merging)).to_dict()['x'])
    assert repr(built) == repr(build_token_merging(front['winner']['token_merging']))
    last = [f'front: {out}/front.json', f'plot: {out}/front.png', f'config: {out}/large_tuned.py',
            f'try it: segformer-plusplus test {out}/large_tuned.py {large_scenes[1]}']  # fmt: skip
    assert printed[-4:] == last
    assert max(map(len, printed[:-4])) <= 80


def test_the_config_of_an_earlier_call_stays(arguments, out, capsys, monkeypatch):
    earlier = out / 'large_tuned.py'
    text, front = earlier.read_text(), (out / 'front.json').read_text()
    assert command.main([*arguments, '--min-speedup', '1000']) == command.UNMET
    assert earlier.read_text() == text
    printed = capsys.readouterr().out
    assert f'earlier config: {earlier}' in printed
    printed = ' '.join(printed.split())
    assert 'no setting meets the budget; the nearest is trial' in printed
    assert 'the earlier config is of an earlier search' in printed
    assert json.loads((out / 'front.json').read_text())['winner'] is None
    # nor does an interruption take what tells of it
    (out / 'front.json').write_text(front)
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, 'time_together', stop)
        assert command.main([*arguments, *TUNED]) == command.INTERRUPTED
    assert earlier.read_text() == text
    assert (out / 'front.json').read_text() == front
    earlier.unlink()
    capsys.readouterr()
    assert command.main([*arguments, '--min-speedup', '1000']) == command.UNMET
    assert written(out) == FILES
    assert 'earlier config' not in capsys.readouterr().out


def stop(*_, **__):
    raise KeyboardInterrupt


def test_ctrl_c_before_the_search(arguments, capsys, monkeypatch):
    monkeypatch.setattr(Evaluator, '__init__', stop)
    assert command.main([*arguments, *TUNED]) == command.INTERRUPTED
    assert 'interrupted; the same command goes on from here' in capsys.readouterr().out


def test_a_config_with_proportional_attention_is_tested(large_scenes, tmp_path):
    """tools/test.py finds what was measured, which is not what it would be without."""
    config, checkpoint = large_scenes
    kv = dict(type='BipartiteSoftMatching2d', stride=2, ratio=0.7)
    setting = [dict(kv=kv, proportional_attention=True)] * 2 + [{}, {}]
    fidelity = open_fidelity(config, checkpoint, progress=False)
    values = fidelity.measure(setting)
    assert fidelity.measure([dict(kv=kv)] * 2 + [{}, {}])['changed'] != values['changed']
    winner = Point(1, setting, 0.1, 1.5)
    result = TuneResult(
        Budget(max_drop=1.0), 'mIoU', values, (512, 1024), 'a', 'b', 1, 0, [winner], winner=winner
    )
    written, metrics = tmp_path / 'tuned.py', tmp_path / 'metrics.json'
    write_config(written, config, Config.fromfile(str(config)), result)
    assert 'proportional_attention=True' in written.read_text()
    line = [sys.executable, TOOLS / 'test.py', written, checkpoint, '--metrics-json', metrics,
            '--work-dir', tmp_path / 'work']  # fmt: skip
    tested = subprocess.run(line, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stderr
    found = json.loads(metrics.read_text())['mIoU']
    assert found == pytest.approx(values['mIoU'], abs=0.006)


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
    assert told == f'- | kv BSM2d s{stride} r0.6 sampled | - | -'


def test_images_without_labels_that_change(large_scenes, tmp_path):
    images = shutil.copytree(large_scenes[0].parent / 'data/leftImg8bit/val', tmp_path / 'val')
    # up to the presets that halve the image, which are faster for sure
    settings = dict(
        max_drop=100.0, trials=len(PRESETS), rounds=1, folder=images, out=tmp_path / 'out'
    )
    result = tune(*large_scenes, **settings)
    assert result.by == 'changed' and result.winner is not None
    # under the same names: the drops that are known are those of other images
    os.utime(next(images.rglob('*.png')), (1, 1))
    with pytest.raises(SegformerPlusPlusError, match='with another state of the images; name'):
        tune(*large_scenes, **settings)


def test_another_state_checkpoint_or_version_is_refused(
    arguments, out, large_scenes, tmp_path, capsys, monkeypatch
):
    def refused(*arguments):
        assert command.main([*arguments, *TUNED]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    picture = next((large_scenes[0].parent / 'data/leftImg8bit/val').rglob('*.png'))
    times = picture.stat().st_atime_ns, picture.stat().st_mtime_ns
    try:
        os.utime(picture, (1, 1))
        assert 'with another state of the images; name' in refused(*arguments)
    finally:
        os.utime(picture, ns=times)
    content = torch.load(arguments[1], weights_only=True)
    other = str(tmp_path / 'other.pth')
    torch.save({**content, 'meta': dict(epoch=2)}, other)
    named = refused(arguments[0], other, *arguments[2:])
    assert 'holds a search with another checkpoint; name another folder' in named
    monkeypatch.setattr('segformer_plusplus.evaluation.tuning.run.__version__', '99')
    named = refused(*arguments)
    assert 'with another version of this package (' in named and ', not 99)' in named


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


@patch.dict(TOKEN_MERGERS.module_dict)
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
    assert command.main([*arguments, '--rounds', '1', '--images', '1', *TUNED]) == 0
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
        (['--max-drop', '1', '--folder', 'empty'], 'empty'),
        (['--max-drop', '1', '--images', '4'], 'images=4: give a number from 1 to 3'),
    ],
)
def test_calls_that_are_refused_in_one_line(
    change, named, arguments, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    assert command.main([*arguments, *change]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith('error: ') and named in lines[-1]


def test_the_script_is_the_same_command(arguments, capsys, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['tune.py', *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOLS / 'tune.py'), run_name='__main__')
    assert end.value.code == 2
    assert 'give either --max-drop or --min-speedup' in capsys.readouterr().err
