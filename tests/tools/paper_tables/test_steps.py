"""Processes: their end, their reasons, and what a kill leaves in the folder of a training."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tools.paper_tables import Step, SubprocessRunner
from tools.paper_tables.steps import find_reason, find_trained

from .fakes import ROOT, write_checkpoint


@pytest.fixture
def runner(tmp_path):
    descriptor = os.open(tmp_path / '.lock', os.O_RDWR | os.O_CREAT)
    yield SubprocessRunner(tmp_path, descriptor)
    os.close(descriptor)


def script(folder: Path, code: str, **options: object) -> Step:
    (folder / 'script.py').write_text(code)
    return Step('test', ('script.py',), folder / 'logs/script.log', **options)


def test_a_step_that_ends_well(runner, tmp_path):
    step = script(tmp_path, 'import os; print("GPU", os.environ["CUDA_VISIBLE_DEVICES"])')
    assert runner(step).reason is None
    assert step.log.read_text() == 'GPU -1\n'


@pytest.mark.parametrize(
    'code, reason',
    [
        ('import sys; print("error: no data"); sys.exit(2)', 'no data'),
        ('raise OSError(28, "No space left")', 'exit code 1: OSError: .Errno 28. No space left'),
        ('import os; os.kill(os.getpid(), 9)', 'ended by SIGKILL .*out of memory'),
        ('raise SystemExit(3)', 'exit code 3: it said nothing'),
    ],
)
def test_why_a_step_failed(runner, tmp_path, code, reason):
    assert re.match(reason, runner(script(tmp_path, code)).reason)


def test_an_old_result_is_not_taken_for_a_new_one(runner, tmp_path):
    result = tmp_path / 'test/metrics.json'
    result.parent.mkdir()
    result.write_text('{"mIoU": 99}')
    assert runner(script(tmp_path, 'pass', result=result)).reason is None
    assert not result.exists()


def test_the_reason_names_the_log(tmp_path):
    log = tmp_path / 'a.log'
    log.write_bytes(b'loading\n\xff\nValueError: x\n')
    assert find_reason(1, log) == f'exit code 1: ValueError: x, see {log}'


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='asks the kernel of Linux')
def test_what_was_started_ends_with_a_killed_call(tmp_path):
    code = (
        'import os, sys; from pathlib import Path\n'
        'from tools.paper_tables import Step, SubprocessRunner\n'
        'folder = Path(sys.argv[1])\n'
        '(folder / "sleep.py").write_text("import os, time; from pathlib import Path; '
        "Path('pid').write_text(str(os.getpid())); time.sleep(100)\")\n"
        'lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)\n'
        'SubprocessRunner(folder, lock)(Step("test", ("sleep.py",), folder / "log"))\n'
    )
    call = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], cwd=ROOT)
    pid = wait_for(lambda: (tmp_path / 'pid').is_file() and (tmp_path / 'pid').read_text())
    call.send_signal(signal.SIGKILL)
    call.wait()
    assert wait_for(lambda: not is_running(int(pid)))


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path):
    write_checkpoint(tmp_path / 'iter_20.pth')
    write_checkpoint(tmp_path / 'iter_100.pth')
    whole = (tmp_path / 'iter_100.pth').read_bytes()
    (tmp_path / 'iter_200.pth').write_bytes(whole[: len(whole) // 2])
    assert find_trained(tmp_path, 100) == tmp_path / 'iter_100.pth'
    assert find_trained(tmp_path, 200) is None


def test_the_best_weights_are_tested_if_training_looked_for_them(tmp_path):
    write_checkpoint(tmp_path / 'epoch_9.pth')
    write_checkpoint(tmp_path / 'best_PCK@0.1_epoch_7.pth')
    assert find_trained(tmp_path, 9).name == 'best_PCK@0.1_epoch_7.pth'


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
