"""Ends commands with one line on stderr for what a user can mend, else with a traceback."""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from ..errors import SegformerPlusPlusError, describe_error
from ..libraries import naming_what_is_missing, quietly

TRACEBACK = '--traceback'
TRACEBACK_VARIABLE = 'SEGFORMER_PLUSPLUS_TRACEBACK'
USER_ERROR = SegformerPlusPlusError.exit_code
INTERRUPTED = 130


def main_guard(main: Callable[..., int]) -> Callable[..., int]:
    """Makes a tool's ``main`` end with one line and exit code 2 when the user can mend the cause.

    What ``describe_error`` knows becomes ``error: ...`` on stderr (a
    ``SegformerPlusPlusError`` may bring another ``exit_code``); everything else is a bug and
    keeps its traceback, which ``--traceback`` or ``SEGFORMER_PLUSPLUS_TRACEBACK=1`` always show.

    Returns:
        A function of the arguments, or of none for ``sys.argv[1:]``, and of what else ``main``
        takes by name (``prog``), that returns the exit code.
    """

    @functools.wraps(main)
    def guarded(argv: Sequence[str] | None = None, **options: str) -> int:
        arguments = sys.argv[1:] if argv is None else list(argv)
        try:
            with quietly(), naming_what_is_missing():
                return main(arguments, **options)
        except (Exception, KeyboardInterrupt) as error:
            stopped = is_interrupt(error)
            message = None if stopped else describe_error(error)
            wanted = TRACEBACK in arguments or os.environ.get(TRACEBACK_VARIABLE) == '1'
            if wanted or (message is None and not stopped):
                raise
            if stopped:
                tqdm.write('interrupted', file=sys.stderr)
                return INTERRUPTED
            # clears a progress bar that the error has left on the line
            tqdm.write(f'error: {message}', file=sys.stderr)
            return getattr(error, 'exit_code', USER_ERROR)

    return guarded


def is_interrupt(error: BaseException | None) -> bool:
    """Says whether an error is, or came of, a Ctrl-C: mmengine makes a SyntaxError of some."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Makes SIGTERM, which schedulers and ``timeout`` send, interrupt as Ctrl-C does.

    A command that writes its results when it is interrupted then loses nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set handlers
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
