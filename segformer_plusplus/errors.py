"""Errors meant for people: one line that names the thing, its value and what is allowed."""

import contextlib
import inspect
import re
import traceback
from collections.abc import Iterator

# mmengine's registries wrap what a constructor raises: "class `Name` in some/module.py: message".
_REGISTRY_PREFIX = re.compile(r'^(?:(?:class|func|function) `[^`]*` in \S+: )+')
# The last line of a traceback: "package.module.Name: message".
_TRACEBACK_LINE = re.compile(r'^(?P<type>[A-Za-z_][\w.]*): (?P<message>.+)$')

CHECK_NAME = 'check its spelling, or name its module in custom_imports of the config'
LESS_MEMORY = 'try a smaller --shape or --batch-size, or --dtype bfloat16'


class SegformerPlusPlusError(ValueError):
    """Base of every error this package raises on purpose. Takes one message, on one line."""

    exit_code = 2
    """With which a tool ends."""


class TokenMergingError(SegformerPlusPlusError):
    """A token merging strategy, preset or argument that cannot be used."""


class ArgumentError(SegformerPlusPlusError, TypeError):
    """A constructor was given an argument that it does not take, or lacks one."""


class CheckpointError(SegformerPlusPlusError):
    """A checkpoint that cannot be read, or that does not fit the model."""


class MissingDependencyError(SegformerPlusPlusError, ImportError):
    """Something was asked for whose toolbox is not installed or cannot be imported."""


class DivergedError(SegformerPlusPlusError):
    """The loss or a weight of a training is NaN or infinite."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, or its kind if it says nothing."""
    return next(iter(str(error).splitlines()), '') or type(error).__name__


def describe_error(error: BaseException) -> str | None:
    """One line for an error that the user can mend, None for one that is ours.

    That is a ``SegformerPlusPlusError``, a missing or unreadable file, a name that no
    registry knows, an argument or a value that a class in the config does not take, or a wrapper
    of these.
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
    if _is_out_of_memory(error):
        return f'out of memory; {LESS_MEMORY}'
    if isinstance(error, OSError) and error.strerror:
        return f'{error.strerror}: {error.filename}' if error.filename else error.strerror
    if isinstance(error, ValueError) and 'need at least one array to concatenate' in text:
        return (
            'a dataset is empty: no file in its data_prefix has its img_suffix, or nobody in its '
            'ann_file has a box and keypoints'
        )
    if isinstance(error, KeyError) and re.search(r'is not in the .+ registry', text):
        name = text.split('. Please check')[0]
        return f'{name}; {CHECK_NAME}'
    if isinstance(error, TypeError) and _raised_by_registry(error):
        return f'the config does not fit its class: {text}'
    refusing = _class_that_refuses(error) if isinstance(error, ValueError) else None
    return f'the config does not fit {refusing}: {text}' if refusing else None


def _describe_worker_error(text: str) -> str | None:
    """Finds the message in what a data loader worker sent: its whole traceback as one string."""
    match = _TRACEBACK_LINE.match(text.rstrip().splitlines()[-1])
    if match is None:
        return None
    name = match['type'].rpartition('.')[2]
    known = globals().get(name)
    if inspect.isclass(known) and issubclass(known, SegformerPlusPlusError):
        return match['message']
    return match['message'] if name in ('FileNotFoundError', 'PermissionError') else None


def _raised_by_registry(error: BaseException) -> bool:
    """Whether the call in mmengine's ``build_from_cfg`` itself failed: arguments did not bind."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    # of a class that the class of the config calls
    if re.search(r'__init__\(\) (missing|got an unexpected keyword)', str(error)):
        return any(frame.name == 'build_from_cfg' for frame in frames)
    # ... or that of the stand-in that was registered
    standing_in = last is not None and last.filename.endswith('registration.py')
    return last is not None and (last.name == 'build_from_cfg' or standing_in)


def _class_that_refuses(error: BaseException) -> str | None:
    """Returns the name of the class that mmengine built and that refuses a value of its config."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [frame.f_code.co_name for frame in frames]
    building = [index for index, name in enumerate(names) if name == 'build_from_cfg']
    inner = names[building[-1] + 1 :] if building else []
    if set(inner) != {'__init__'}:
        return None
    refusing = frames[-len(inner)].f_locals.get('self')
    return None if refusing is None else type(refusing).__name__


@contextlib.contextmanager
def memory_errors(name: str, advice: str = LESS_MEMORY) -> Iterator[None]:
    """Turns PyTorch's out-of-memory errors, of CUDA and of the CPU, into one line.

    Args:
        name: of what needed the memory.
        advice: what the user can do.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        raise SegformerPlusPlusError(f'{name}: out of memory; {advice}') from error


def _is_out_of_memory(error: BaseException) -> bool:
    # torch.OutOfMemoryError has another module and name in other versions
    cuda = type(error).__name__ == 'OutOfMemoryError'
    return cuda or "DefaultCPUAllocator: can't allocate memory" in str(error)
