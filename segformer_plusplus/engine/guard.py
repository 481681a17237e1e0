"""One line on stderr for what a user can mend, a traceback for what only we can."""

import argparse
import contextlib
import functools
import inspect
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from .. import errors
from ..errors import SegformerPlusPlusError

TRACEBACK_VARIABLE = 'SEGFORMER_PLUSPLUS_TRACEBACK'
USER_ERROR = SegformerPlusPlusError.exit_code

# mmengine's registries wrap what a constructor raises: "class `Name` in some/module.py: message".
_REGISTRY_PREFIX = re.compile(r'^(?:(?:class|func|function) `[^`]*` in \S+: )+')
# The last line of a traceback: "package.module.Name: message".
_TRACEBACK_LINE = re.compile(r'^(?P<type>[A-Za-z_][\w.]*): (?P<message>.+)$')


def add_traceback_argument(parser: argparse.ArgumentParser) -> None:
    """Adds ``--traceback``, which :func:`main_guard` obeys."""
    parser.add_argument(
        '--traceback', action='store_true', help='show the whole traceback of an error'
    )


def main_guard(main: Callable[..., int]) -> Callable[..., int]:
    """Lets a tool's ``main`` end with one line and exit code 2 when the user can mend the cause.

    A :class:`SegformerPlusPlusError` may have another code, see ``exit_code``.

    The result takes the arguments, or none for ``sys.argv[1:]``, and what else ``main`` takes by
    name (a command: ``prog``), and returns the exit code. What
    :func:`describe_error` knows becomes ``error: ...`` on stderr; everything else is a bug and
    keeps its traceback. ``--traceback`` or ``SEGFORMER_PLUSPLUS_TRACEBACK=1`` shows it always.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None, **options: str) -> int:
        arguments = sys.argv[1:] if argv is None else list(argv)
        try:
            return main(arguments, **options)
        except Exception as error:
            message = describe_error(error)
            wanted = '--traceback' in arguments or os.environ.get(TRACEBACK_VARIABLE) == '1'
            if message is None or wanted:
                raise
            # clears a progress bar that the error has left on the line
            tqdm.write(f'error: {message}', file=sys.stderr)
            return getattr(error, 'exit_code', USER_ERROR)

    return guarded


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, which schedulers and ``timeout`` send, interrupts as Ctrl-C does.

    A command that writes what it has when it is interrupted then loses nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are none of its business
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def describe_error(error: BaseException) -> str | None:
    """One line for an error that the user can mend, None for one that is ours.

    That is a :class:`SegformerPlusPlusError`, a missing or unreadable file, a name that no
    registry knows, an argument that a class in the config does not take, or a wrapper of these.
    """
    for link in _wrapped(error):
        message = _describe(link)
        if message is not None:
            return ' '.join(_REGISTRY_PREFIX.sub('', message).split())
    return None


def _wrapped(error: BaseException) -> Iterator[BaseException]:
    """The error and what it wraps, the outermost first.

    An implicit context is followed only where the outer message repeats the inner one: any other
    failure inside an error handler is a bug of its own.
    """
    current: BaseException | None = error
    while current is not None:
        yield current
        context = current.__context__
        if current.__cause__ is not None:
            current = current.__cause__
        elif context is not None and str(context) and str(context) in str(current):
            current = context
        else:
            current = None


def _describe(error: BaseException) -> str | None:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if 'Original Traceback' in text:
        return _describe_worker_error(text)
    if isinstance(error, SegformerPlusPlusError):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f'{error.strerror}: {error.filename}' if error.filename else error.strerror
    if isinstance(error, ValueError) and 'need at least one array to concatenate' in text:
        return (
            'a dataset is empty: no file in its data_prefix has its img_suffix, or nobody in its '
            'ann_file has a box and keypoints'
        )
    if isinstance(error, KeyError) and re.search(r'is not in the \S+ registry', text):
        name = text.split('. Please check')[0]
        return f'{name}; check its spelling, or name its module in custom_imports of the config'
    if isinstance(error, TypeError) and _raised_by_registry(error):
        return f'the config does not fit its class: {text}'
    return None


def _describe_worker_error(text: str) -> str | None:
    """Finds the message in what a data loader worker sent: its whole traceback as one string."""
    match = _TRACEBACK_LINE.match(text.rstrip().splitlines()[-1])
    if match is None:
        return None
    name = match['type'].rpartition('.')[2]
    known = getattr(errors, name, None)
    if inspect.isclass(known) and issubclass(known, SegformerPlusPlusError):
        return match['message']
    return match['message'] if name in ('FileNotFoundError', 'PermissionError') else None


def _raised_by_registry(error: BaseException) -> bool:
    """Whether the call in mmengine's ``build_from_cfg`` itself failed: arguments did not bind."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].name == 'build_from_cfg'
