"""Makes commands of functions, and defines the types of options that several commands share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, Token

from ..errors import SegformerPlusPlusError
from .guard import TRACEBACK, main_guard


def command(
    function: Callable[..., int | None] | None = None, *, bare: Mapping[str, str] | None = None
) -> Any:
    """Turns a function into a command's ``main(argv, prog)``: its parameters become options.

    The options have the names, types and defaults of the signature, and the help is the docstring:
    ``max_drop: float | None = None`` is ``--max-drop FLOAT``, ``progress: On = True`` is
    ``--no-progress``, and a list takes several values.

    Args:
        function: returns the exit code; None is 0. The command has the name of its module.
        bare: values of options that may stand without one, such as ``{'--resume': 'auto'}``.
    """
    if function is None:
        return functools.partial(command, bare=bare)

    def main(argv: Sequence[str], prog: str | None = None) -> int:
        module = function.__module__.rpartition('.')[2]
        name = prog or f'segformer-plusplus {module.replace("_", "-")}'
        _line.set(f'{name} {shlex.join(argv)}')
        arguments = [each for each in argv if each != TRACEBACK]
        return _call(function, _with_values(arguments, bare or {}), name)

    main.__doc__ = function.__doc__
    return main_guard(main)


def command_line() -> str:
    """Returns the line that called the command that runs, to be copied into a shell."""
    return _line.get()


CONFIG_IS_A_PROGRAM = 'A config is a Python program, which is run: use none that you do not trust.'

_DIGITS = 10  # what lists and tensors count to, and far more than anybody waits for
_line: ContextVar[str] = ContextVar('line', default='')


def _call(function: Callable[..., int | None], arguments: Sequence[str], name: str) -> int:
    takes_config = 'config' in inspect.signature(function).parameters
    warning = f'{CONFIG_IS_A_PROGRAM}\n\n' if takes_config else ''
    app = App(
        name=name,
        version_flags=(),
        help_epilogue=f'{warning}{TRACEBACK} shows the whole traceback of an error.\n',
        default_parameter=Parameter(
            negative_iterable=(),
            negative_bool=(),
            consume_multiple=True,
            show_default=_shown,
            allow_repeating=True,  # the last one counts
            validator=check_finite,
        ),
        result_action='return_value',
        suppress_keyboard_interrupt=False,
    )
    app['--help'].show = False
    app.default(function)
    try:
        result = app(arguments, exit_on_error=False, print_error=False, help_on_error=False)
    except CycloptsError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, SegformerPlusPlusError):  # of a dataclass of options, about several
            raise cause from None
        raise SegformerPlusPlusError(f'{str(error).rstrip(".")}; see {name} --help') from error
    return result or 0


def _shown(default: Any) -> str | None:
    """Returns how the help says a default; what is off, or nothing, needs no words."""
    if default is None or default is False or default in ((), []):
        return None
    several = isinstance(default, list | tuple)
    return ' '.join(map(_shown_one, default if several else [default]))


def _shown_one(value: Any) -> str:
    return 'x'.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _with_values(arguments: Sequence[str], bare: Mapping[str, str]) -> list[str]:
    """Inserts the values of options that stand without one."""
    result = []
    for each, following in zip(arguments, [*arguments[1:], '--'], strict=False):
        result.append(each)
        if each in bare and following.startswith('--'):
            result.append(bare[each])
    return result


def each(parse: Callable[[str], Any]) -> Callable[[Any, Sequence[Token]], Any]:
    """Makes a converter of cyclopts that parses one value, or every value of a list.

    Args:
        parse: raises ``ValueError`` for a value that it cannot read.
    """

    def convert(kind: Any, tokens: Sequence[Token]) -> Any:
        values = [parse(token.value) for token in tokens]
        return values if 'list' in str(kind) else values[0]

    return convert


def parse_shape(text: str) -> tuple[int, int]:
    """Reads '1024x2048' as (1024, 2048): height, width."""
    height, _, width = text.partition('x')
    try:
        return parse_positive(height), parse_positive(width)
    except ValueError:
        raise ValueError(f'{text!r} is no shape; write HEIGHTxWIDTH, as 512x1024') from None


def parse_positive(text: str) -> int:
    """Reads a whole number above 0."""
    if not (text.isdecimal() and int(text[:_DIGITS]) > 0):
        raise ValueError(f'{text!r} is no whole number above 0')
    if len(text) >= _DIGITS:
        raise ValueError(f'{text[:_DIGITS]}... is too large: give a number below 10^{_DIGITS - 1}')
    return int(text)


def check_finite(_kind: Any, value: Any) -> None:
    """Refuses numbers that no option means: nan, infinity, and what no machine counts to.

    Raises:
        ValueError: as a value of cyclopts; of a dataclass of options, with the name of the option.
    """
    if dataclasses.is_dataclass(value):
        for name, each in vars(value).items():
            if not _is_finite(each):
                option = f'--{name.replace("_", "-")}'
                raise SegformerPlusPlusError(f'{option} is {each}; give a finite number')
    elif not _is_finite(value):
        raise ValueError('Give a finite number')


def _is_finite(value: Any) -> bool:
    return not isinstance(value, int | float) or -sys.maxsize <= value <= sys.maxsize


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Reads KEY=VALUE words as mmengine does: numbers, True, None, '[a,b]' and '(a,b)'.

    Raises:
        ValueError: a word has no '=', or its value cannot be read, such as 'dict(a=1,b=2)'.
    """
    from mmengine.config import DictAction

    settings = {}
    for word in words:
        key, equals, value = word.partition('=')
        if not equals:
            raise ValueError(f'{word!r} is not KEY=VALUE')
        try:
            settings[key] = DictAction._parse_iterable(value)
        except (AssertionError, RecursionError) as error:  # brackets do not match; 'dict(a=1,b=2)'
            raise ValueError(
                f'{word!r}: the value is no number, word or list; write lists as {key}="[a,b]", '
                f'and what is in a dict as {key}.name=value'
            ) from error
    return settings


def _shown_as(name: str) -> dict[str, Any]:
    # the cyclopts of Python 3.10 shows the type instead
    return {'metavar': name} if hasattr(Parameter(), 'metavar') else {}


Shape = Annotated[
    tuple[int, int], Parameter(converter=each(parse_shape), n_tokens=1, **_shown_as('HxW'))
]
"""Height and width of images, as '512x1024'."""

Shapes = Annotated[
    list[tuple[int, int]],
    Parameter(converter=each(parse_shape), n_tokens=-1, **_shown_as('HxW')),
]
"""Several shapes."""

Positive = Annotated[int, Parameter(converter=each(parse_positive), **_shown_as('N'))]
"""A whole number above 0."""

Positives = Annotated[
    list[int], Parameter(converter=each(parse_positive), n_tokens=-1, **_shown_as('N'))
]
"""Several whole numbers above 0."""

CfgOptions = Annotated[
    dict[str, Any] | None,
    Parameter(
        converter=lambda kind, tokens: parse_settings([token.value for token in tokens]),
        accepts_keys=False,
        n_tokens=-1,
        **_shown_as('KEY=VALUE...'),
        help='settings to change in the config, for example train_dataloader.batch_size=4 '
        'optim_wrapper.optimizer.lr=1e-4; lists as key="[a,b]"',
    ),
]
"""Dotted keys of a config and their new values."""

Launcher = Annotated[
    Literal['none', 'pytorch', 'slurm', 'mpi'],
    Parameter(help='How the processes were started.'),
]

LocalRank = Annotated[int, Parameter(name=['--local-rank', '--local_rank'], show=False)]
"""Is passed by torch.distributed.launch, in one spelling or the other."""

On = Annotated[bool, Parameter(negative_bool='no-', show_default=False)]
"""On unless ``--no-...`` is given; a plain ``bool = False`` is off unless it is given."""

Flat = Parameter(name='*')
"""Marks a parameter whose fields are options by themselves."""


def set_local_rank(local_rank: int) -> None:
    """Hands ``--local-rank`` on to mmengine, unless the launcher has set ``LOCAL_RANK``."""
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
