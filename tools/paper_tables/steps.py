"""Runs of the ordinary tools: their commands, their output in a log, why one has failed."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segformer_plusplus.errors import SegformerPlusPlusError

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl
_WITHOUT_GPU = {'CUDA_VISIBLE_DEVICES': '-1'}


@dataclass(frozen=True)
class Step:
    """One run of a tool.

    Attributes:
        kind: 'data', 'train', 'test' or 'benchmark'.
        command: the tool, from the root of the repository, with its arguments.
        log: file for its output.
        result: what it leaves; an old one is taken away first, so that it is never read.
        device: 'cpu' hides all GPUs from it.
    """

    kind: str
    command: tuple[str, ...]
    log: Path
    result: Path | None = None
    device: str = 'cpu'

    @property
    def line(self) -> str:
        """The command, to be copied into a shell in the root of the repository."""
        return shlex.join(['python', *self.command])


@dataclass(frozen=True)
class Outcome:
    """How a step has ended.

    Attributes:
        seconds: how long it took.
        reason: why it failed; None if it did not.
    """

    seconds: float
    reason: str | None = None


Runner = Callable[[Step], Outcome]


class SubprocessRunner:
    """Runs every step in a process of its own.

    Args:
        root: of the repository.
        lock: inherited by what is started, see ``Store.claim``.
    """

    def __init__(self, root: Path, lock: int) -> None:
        self.root = root
        self.lock = lock

    def __call__(self, step: Step) -> Outcome:
        """Run a step to its end; killed with this process, where the system can do that."""
        start = time.monotonic()
        environment = dict(os.environ, **(_WITHOUT_GPU if step.device == 'cpu' else {}))
        prepare(step)
        parent = os.getpid()
        with step.log.open('wb') as log:
            process = subprocess.Popen(
                [sys.executable, *step.command],
                cwd=self.root,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                pass_fds=[self.lock],
                preexec_fn=lambda: _die_with(parent),
            )
            try:
                code = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
        seconds = time.monotonic() - start
        return Outcome(seconds, find_reason(code, step.log) if code else None)


def prepare(step: Step) -> None:
    """Make room for what a step writes.

    Raises:
        SegformerPlusPlusError: the folder cannot be written.
    """
    try:
        step.log.parent.mkdir(parents=True, exist_ok=True)
        step.log.touch()
        if step.result is not None:
            step.result.parent.mkdir(parents=True, exist_ok=True)
            step.result.unlink(missing_ok=True)
    except OSError as error:
        raise SegformerPlusPlusError(
            f'cannot write {error.filename or step.log}: {error.strerror or error}'
        ) from error


def find_reason(code: int, log: Path) -> str:
    """Why a tool has failed: its 'error:' line, or the last one that it wrote."""
    if code < 0:
        name = signal.Signals(-code).name
        more = ' (the system may have run out of memory)' if -code == signal.SIGKILL else ''
        return f'ended by {name}{more}, see {log}'
    lines = [line.strip() for line in log.read_text(errors='replace').splitlines() if line.strip()]
    errors = [line.removeprefix('error: ') for line in lines if line.startswith('error: ')]
    if errors:
        return errors[-1]
    last = lines[-1] if lines else 'it said nothing'
    return f'exit code {code}: {last}, see {log}'


def find_trained(folder: Path, length: int) -> Path | None:
    """The weights that a training is tested by: the best ones if it looked for them, or the last.

    Args:
        folder: work dir of a training.
        length: iterations or epochs; a training that stopped before has made no weights yet.
    """
    last = _last(folder)
    if last is None or _number_of(last) != length:
        return None
    best = sorted(folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    return best[-1] if best else last


def _checkpoints(folder: Path) -> list[Path]:
    return [*folder.glob('iter_*.pth'), *folder.glob('epoch_*.pth')]


def _last(folder: Path) -> Path | None:
    """Of the whole ones: what was cut short lacks the directory at the end of a zip file."""
    whole = [path for path in _checkpoints(folder) if zipfile.is_zipfile(path)]
    return max(whole, key=_number_of, default=None)


def _number_of(path: Path) -> int:
    """Iterations or epochs, from the name of a checkpoint; -1 for one of another making."""
    number = path.stem.rpartition('_')[2]
    return int(number) if number.isdecimal() else -1


def _die_with(parent: int) -> None:
    """In the child: ask the kernel for SIGKILL when the parent dies (Linux)."""
    if sys.platform.startswith('linux'):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it died before
            os._exit(1)
