"""Runs steps that can be resumed: what is done is on disk, and runs again only if it changed."""
# doit (MIT) would know which step is up to date, but keeps neither what a step has measured nor
# which part of its fingerprint has changed; the records that reports are made of would stay ours.

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.evaluation.timing import describe_environment
from segformer_plusplus.files import write_json

MARKER = 'reproduction.json'
"""Is in every output folder, and says whether its data are real or drawn."""

Fingerprint = dict[str, Any]
Say = Callable[..., None]

_LOCK = '.lock'
_PATIENCE = 20.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl
_WITHOUT_GPU = {'CUDA_VISIBLE_DEVICES': '-1'}


@dataclass(frozen=True, eq=False)
class Step:
    """Describes one run of a tool.

    Attributes:
        kind: 'data', 'train', 'test', 'benchmark' or 'picture'.
        name: names the record and the log, together with the kind.
        command: the tool, from the root of the repository, with its arguments.
        result: the file or folder that the step leaves.
        conclude: completes the result after the tool has ended, and returns what is recorded of
            it; raises what ``Runner.finish`` catches if there is no result.
        fingerprint: all that decides the result; a part that is None is not known.
        needs: steps whose results this one uses.
        stale: a file or folder of an earlier run that is removed first, so that it is never read.
        device: 'cpu' hides all GPUs from the tool.
        problem: why the step cannot run, with how to mend it.
    """

    kind: str
    name: str
    command: tuple[str, ...] = ()
    result: Path = Path()
    conclude: Callable[[Path], dict[str, Any]] = lambda result: {}
    fingerprint: Fingerprint = field(default_factory=dict)
    needs: tuple[Step, ...] = ()
    stale: Path | None = None
    device: str = 'cpu'
    problem: str | None = None

    @property
    def id(self) -> str:
        """The name of the record and of the log."""
        return f'{self.kind}-{self.name}'

    @property
    def line(self) -> str:
        """The command, to be copied into a shell in the root of the repository."""
        return shlex.join(['python', *self.command])


Execute = Callable[[Step, Path, Path], str | None]
"""Runs a step, given the log and the root of the repository; returns why it failed, or None."""


def execute(step: Step, log: Path, root: Path) -> str | None:
    """Runs a step in a process of its own, which on Linux is killed with this one."""
    parent = os.getpid()
    with log.open('wb') as stream:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=root,
            env=dict(os.environ, **(_WITHOUT_GPU if step.device == 'cpu' else {})),
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509 - it only calls prctl
        )
        try:
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    return find_reason(code, log) if code else None


def _die_with(parent: int) -> None:
    """Asks the kernel, in the child, for SIGKILL when the parent dies."""
    if sys.platform.startswith('linux'):
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # it died before
            os._exit(1)


def find_reason(code: int, log: Path) -> str:
    """Returns why a tool has failed: its 'error:' line, or the last one that it wrote."""
    if code < 0:
        name = signal.Signals(-code).name
        more = ' (the system may have run out of memory)' if -code == signal.SIGKILL else ''
        return f'ended by {name}{more}, see {log}'
    text = log.read_text(encoding='utf-8', errors='replace')
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix('error: ') for line in lines if line.startswith('error: ')]
    if errors:
        return errors[-1]
    last = lines[-1] if lines else 'it said nothing'
    return f'exit code {code}: {last}, see {log}'


class Runner:
    """Runs steps and keeps their records in ``folder/steps``, their output in ``folder/logs``.

    Args:
        folder: the output folder.
        root: of the repository.
        say: shows a line of progress.
        execute: runs one step.
    """

    def __init__(self, folder: Path, root: Path, say: Say, execute: Execute = execute) -> None:
        self.folder = folder
        self.root = root
        self._say = say
        self._execute = execute
        self._failed: dict[str, str] = {}

    def record(self, step: Step) -> dict[str, Any] | None:
        """Returns what was recorded of a step; None if it is not done, or something changed."""
        record = self._read(step)
        if record is None or not step.fingerprint or self.changed(step):
            return None
        return record if step.result.exists() else None

    def changed(self, step: Step) -> list[str]:
        """Returns the known parts of the fingerprint that differ from those of the last run."""
        record = self._read(step)
        if record is None:
            return []
        known = {key: value for key, value in step.fingerprint.items() if value is not None}
        return [key for key, value in known.items() if record['fingerprint'].get(key) != value]

    def pending(self, step: Step) -> list[Step]:
        """Returns what still has to run, in order, for a step to be done: the step is the last."""
        if self.record(step) is not None:
            return []
        before = {each.id: each for need in step.needs for each in self.pending(need)}
        return [*before.values(), step]

    def finish(self, step: Step) -> str | None:
        """Runs whatever is pending for a step; returns why the step could not be done, or None."""
        pending = self.pending(step)
        problems = list(dict.fromkeys(each.problem for each in pending if each.problem))
        if problems:
            return self._give_up(step, 'missing', '; '.join(problems))
        for each in pending:
            if each.id not in self._failed:
                reason = self._run(each)
                if reason is None:
                    continue
                self._failed[each.id] = f'{each.kind}: {reason}'
            return self._give_up(step, 'failed', self._failed[each.id])
        self._say(f'{step.id}: done')
        return None

    def _give_up(self, step: Step, what: str, reason: str) -> str:
        self._say(f'{step.id}: {what}: {reason}', 'red')
        return reason

    def _run(self, step: Step) -> str | None:
        if changed := self.changed(step):
            self._say(f'{step.id}: changed: {", ".join(changed)}')
        log = self.folder / 'logs' / f'{step.id}.log'
        self._say(f'$ {step.line}  # output in {log}', 'bold')
        if step.stale is not None and step.stale.is_dir():
            shutil.rmtree(step.stale)
        elif step.stale is not None:
            step.stale.unlink(missing_ok=True)
        for path in (log, step.result):
            path.parent.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        reason = self._execute(step, log, self.root)
        if reason is not None:
            return reason
        seconds = round(time.monotonic() - start, 1)
        try:
            content = step.conclude(step.result)
        except SegformerPlusPlusError as error:
            return str(error)
        except (OSError, ValueError, LookupError, TypeError) as error:
            return f'{step.result} holds no result ({type(error).__name__}: {error}), see {log}'
        record = {
            'step': step.id,
            'command': step.line,
            'seconds': seconds,
            'finished': time.strftime('%Y-%m-%d %H:%M:%S %z'),
            'device': step.device,
            'environment': describe_environment(),
            'fingerprint': step.fingerprint,
            'result': content,
        }
        write_json(self._path(step), record)
        return None

    def _path(self, step: Step) -> Path:
        return self.folder / 'steps' / f'{step.id}.json'

    def _read(self, step: Step) -> dict[str, Any] | None:
        record = read_json(self._path(step))
        return record if record and isinstance(record.get('fingerprint'), dict) else None


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file; None if there is none, or the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def check_folder(folder: Path, data: str) -> None:
    """Checks that an output folder is ours or may become ours.

    Args:
        folder: may be missing.
        data: 'real' or 'synthetic'; the two are never mixed in one folder.

    Raises:
        SegformerPlusPlusError: the folder holds something else, or results on other data.
    """
    if folder.exists() and not folder.is_dir():
        raise SegformerPlusPlusError(f'--out {folder} is no folder')
    marker = read_json(folder / MARKER)
    if marker is None:
        # a call that was killed at once has left hidden files and a broken marker at most
        if any(not path.name.startswith(('.', MARKER)) for path in folder.glob('*')):
            raise SegformerPlusPlusError(
                f'--out {folder} holds files but no {MARKER}, so it is not ours to write to; '
                'name another folder, or move this one away'
            )
    elif marker.get('data') != data:
        raise SegformerPlusPlusError(
            f'--out {folder} holds results on {marker.get("data")} data, asked for is {data}; '
            'name another folder'
        )


@contextlib.contextmanager
def claim_folder(folder: Path, data: str) -> Iterator[None]:
    """Checks, makes and locks an output folder, for one call at a time.

    Raises:
        SegformerPlusPlusError: as ``check_folder``; it cannot be written; or it is in use.
    """
    check_folder(folder, data)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / _LOCK, timeout=_PATIENCE):
            write_json(folder / MARKER, {'data': data})
            yield
    except Timeout as error:
        raise SegformerPlusPlusError(
            f'--out {folder} is in use by another call; wait for it, or name another folder'
        ) from error
    except OSError as error:
        place = error.filename or f'to --out {folder}'
        raise SegformerPlusPlusError(f'cannot write {place}: {error.strerror or error}') from error
