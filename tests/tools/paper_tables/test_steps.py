"""Processes and why they failed, records of steps, and a folder for one call at a time."""

import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from segformer_plusplus.errors import SegformerPlusPlusError
from tools.paper_tables import steps
from tools.paper_tables.steps import (
    MARKER,
    Runner,
    Step,
    check_folder,
    claim_folder,
    execute,
    find_reason,
    read_json,
)

from .fakes import ROOT


def script(folder: Path, code: str, name: str = 'one', **options: object) -> Step:
    (folder / f'{name}.py').write_text(code)
    options = {'result': folder / 'result', 'fingerprint': {'code': code}, **options}
    return Step('test', name, (str(folder / f'{name}.py'),), **options)


@pytest.fixture
def runner(tmp_path):
    """Keeps what it says in ``said``."""
    said = []
    runner = Runner(tmp_path, tmp_path, lambda text, *_: said.append(text))
    runner.said = said
    return runner


@pytest.mark.parametrize(
    'code, reason',
    [
        ('import sys; print("error: no data"); sys.exit(2)', 'test: no data'),
        ('raise OSError(28, "No space left")', 'test: exit code 1: OSError: .Errno 28. No space'),
        ('import os; os.kill(os.getpid(), 9)', 'test: ended by SIGKILL .*out of memory'),
        ('raise SystemExit(3)', 'test: exit code 3: it said nothing'),
        ('pass', 'test: .*result holds no result .FileNotFoundError.*, see .*logs/test-one.log'),
    ],
)
def test_why_a_step_failed(runner, tmp_path, code, reason):
    step = script(tmp_path, code, conclude=lambda path: {'text': path.read_text()})
    step.result.write_text('of an earlier run')
    step = Step(**{**step.__dict__, 'stale': step.result})
    assert re.match(reason, runner.finish(step))
    assert runner.record(step) is None
    calls = len(runner.said)
    assert re.match(reason, runner.finish(step))  # said again, but not run again
    assert not any(line.startswith('$') for line in runner.said[calls:])


def test_the_reason_names_the_log(tmp_path):
    log = tmp_path / 'a.log'
    log.write_bytes(b'loading\n\xff\nValueError: x\n')
    assert find_reason(1, log) == f'exit code 1: ValueError: x, see {log}'


def test_a_step_is_done_once_and_again_if_something_changed(runner, tmp_path):
    code = 'import os; print("GPU", os.environ.get("CUDA_VISIBLE_DEVICES")); open("result", "w")'
    step = script(tmp_path, code, conclude=lambda path: {'x': 1})
    assert runner.finish(step) is None
    assert (tmp_path / 'logs/test-one.log').read_text() == 'GPU -1\n'
    record = runner.record(step)
    assert record['result'] == {'x': 1} and record['environment']['versions']['torch']
    assert runner.pending(step) == []
    other = Step(**{**step.__dict__, 'fingerprint': {'code': 'x', 'gone': None}})
    assert runner.changed(other) == ['code'] and runner.pending(other) == [other]
    step.result.unlink()
    assert runner.pending(step) == [step]


def test_what_a_step_needs_runs_before_and_only_if_the_step_has_to_run(runner, tmp_path):
    first = script(tmp_path, 'open("first", "w")', 'first', result=tmp_path / 'first')
    options = dict(result=tmp_path / 'second', needs=(first, first))
    second = script(tmp_path, 'open("first"); open("second", "w")', 'second', **options)
    assert [step.name for step in runner.pending(second)] == ['first', 'second']
    assert runner.finish(second) is None
    first.result.unlink()
    assert runner.pending(second) == []
    problem = Step(**{**first.__dict__, 'name': 'third', 'problem': 'no data', 'needs': (second,)})
    assert runner.finish(Step('test', 'last', needs=(problem,), problem='no weights')) == (
        'no data; no weights'
    )


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='asks the kernel of Linux')
def test_what_was_started_ends_with_a_killed_call(tmp_path):
    code = (
        'import sys; from pathlib import Path\n'
        'from tools.paper_tables.steps import Step, execute\n'
        'folder = Path(sys.argv[1])\n'
        '(folder / "sleep.py").write_text("import os, time; from pathlib import Path; '
        "Path('pid').write_text(str(os.getpid())); time.sleep(100)\")\n"
        'execute(Step("test", "a", ("sleep.py",)), folder / "log", folder)\n'
    )
    call = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], cwd=ROOT)
    pid = wait_for(lambda: (tmp_path / 'pid').is_file() and (tmp_path / 'pid').read_text())
    call.send_signal(signal.SIGKILL)
    call.wait()
    assert wait_for(lambda: not is_running(int(pid)))


def test_an_interrupted_call_ends_what_it_started(tmp_path, monkeypatch):
    def interrupt(process, *_):
        monkeypatch.undo()
        started.append(process)
        raise KeyboardInterrupt

    started = []
    monkeypatch.setattr(subprocess.Popen, 'wait', interrupt)
    with pytest.raises(KeyboardInterrupt):
        execute(script(tmp_path, 'import time; time.sleep(100)'), tmp_path / 'log', tmp_path)
    assert started[0].returncode == -signal.SIGKILL


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = condition()
        if answer:
            return answer
        time.sleep(0.1)
    raise AssertionError('waited in vain')


def is_running(pid: int) -> bool:
    """A zombie has ended."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


# The folder --------------------------------------------------------------------------------------


def test_a_new_folder_becomes_ours_and_stays_so(tmp_path):
    folder = tmp_path / 'a/b'
    for _ in range(2):
        with claim_folder(folder, 'real'):
            assert read_json(folder / MARKER) == {'data': 'real'}
    with pytest.raises(SegformerPlusPlusError, match='holds results on real data'):
        check_folder(folder, 'synthetic')


@pytest.mark.parametrize('name', ['.lock', f'.12-{MARKER}', MARKER])
def test_a_folder_killed_before_its_marker_is_taken_over(tmp_path, name):
    (tmp_path / name).touch()
    with claim_folder(tmp_path, 'real'):
        pass


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('x')
    with pytest.raises(SegformerPlusPlusError, match='holds files but no reproduction.json'):
        with claim_folder(tmp_path, 'real'):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()
    for folder in (tmp_path / 'file', tmp_path / 'file/out'):
        with pytest.raises(SegformerPlusPlusError, match='no folder|cannot write'):
            with claim_folder(folder, 'real'):
                pass


def test_a_full_disk_is_one_line_and_leaves_the_old_record(runner, tmp_path):
    """A limit on the size of files stands in for a full disk."""
    step = script(tmp_path, 'open("result", "w")')
    assert runner.finish(step) is None
    record = runner.record(step)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(SegformerPlusPlusError, match=f'cannot write .*{tmp_path}.*too large'):
        with claim_folder(tmp_path / 'out', 'real'):
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
            try:
                runner.finish(Step(**{**step.__dict__, 'fingerprint': {'new': 'x' * 1000}}))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert runner.record(step) == record
    assert [path.name for path in (tmp_path / 'steps').iterdir()] == ['test-one.json']


def test_a_folder_in_use(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, '_PATIENCE', 0.3)
    with FileLock(tmp_path / '.lock'):
        with pytest.raises(SegformerPlusPlusError, match='in use by another call'):
            with claim_folder(tmp_path, 'real'):
                pass
    with claim_folder(tmp_path, 'real'):
        pass


@pytest.mark.parametrize('content', [b'', b'{"status"', b'[1]', b'\xff\xfe'])
def test_a_damaged_record_is_no_record(tmp_path, content):
    (tmp_path / 'row.json').write_bytes(content)
    assert read_json(tmp_path / 'row.json') is None
