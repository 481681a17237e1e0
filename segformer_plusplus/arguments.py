"""Checks constructor arguments: an error names the key, its value and what is allowed.

Values come from configs, where a string, a list or None may stand where a number was meant; what
Python or torch say to that, often in the first forward pass, does not name the key.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from .errors import ArgumentError, SegformerPlusPlusError


@dataclass(frozen=True)
class Kind:
    """Says what an argument may be.

    Attributes:
        words: ends the sentence 'is not ...'.
        allows: whether a value is one.
    """

    words: str
    allows: Callable[[Any], bool]

    def __or__(self, other: Kind) -> Kind:
        return Kind(
            f'{self.words} or {other.words}',
            lambda value: self.allows(value) or other.allows(value),
        )


def checked(**kinds: Kind) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates an ``__init__`` so that every given argument must be of its kind.

    Args:
        kinds: argument -> kind; other arguments and defaults are not checked.

    Raises:
        SegformerPlusPlusError: by the constructor, before it does anything.
        ArgumentError: for an argument that it does not take, or lacks.
    """

    def decorate(init: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(init)

        @functools.wraps(init)
        def checking(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                given = signature.bind(self, *args, **kwargs).arguments
            except TypeError as error:
                known = ', '.join(list(signature.parameters)[1:])
                raise ArgumentError(f'{type(self).__name__}: {error}; it takes {known}') from error
            for name, value in {**given, **given.get('kwargs', {})}.items():
                if name in kinds and not kinds[name].allows(value):
                    raise SegformerPlusPlusError(
                        f'{type(self).__name__}: {name}={value!r} is not {kinds[name].words}'
                    )
            init(self, *args, **kwargs)

        return checking

    return decorate


@contextmanager
def blaming(owner: object, parts: Mapping[str, tuple[Any, Callable[[Any], Any]]]) -> Iterator[None]:
    """Says which argument cannot be built on its own, where building fails.

    Nothing is built twice unless it fails.

    Args:
        owner: has the arguments.
        parts: argument -> its value, and what builds a part from it; None is not checked.

    Raises:
        SegformerPlusPlusError: for the first argument that cannot be built. Any other error stays
            as it is.
    """
    try:
        yield
    except SegformerPlusPlusError:
        raise
    except Exception:
        for name, (value, build) in parts.items():
            if value is None:
                continue
            try:
                build(value)
            except Exception as error:  # a part of any library, which may fail in any way
                raise SegformerPlusPlusError(
                    f'{type(owner).__name__}: {name}={value!r} cannot be built: {_reason(error)}'
                ) from error
        raise


def integer(least: int | None = None) -> Kind:
    """Returns the kind of whole numbers, of those from ``least`` on."""
    bound = '' if least is None else f' >= {least}'
    return Kind(f'an integer{bound}', lambda value: _is_integer(value, least))


def integers(least: int | None = None) -> Kind:
    """Returns the kind of lists of one or more such numbers."""
    bound = '' if least is None else f' >= {least}'
    return Kind(
        f'a list of one or more integers{bound}',
        lambda value: _is_list(value) and all(_is_integer(v, least) for v in value),
    )


def one_of(names: Sequence[str]) -> Kind:
    """Returns the kind of which there are these names."""
    return Kind(
        f'one of {list(names)}', lambda value: isinstance(value, str) and value in tuple(names)
    )


def _is_integer(value: Any, least: int | None) -> bool:
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    return whole and (least is None or value >= least)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0


def _is_config(value: Any) -> bool:
    kind = value.get('type') if isinstance(value, dict) else None
    return bool(kind) if isinstance(kind, str) else callable(kind)


def _are_configs(value: Any) -> bool:
    return _is_list(value) and all(map(_is_config, value))


def _is_file(value: Any) -> bool:
    return isinstance(value, str | Path) and value != ''


def _reason(error: Exception) -> str:
    # the text of a KeyError is the repr of its argument
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error).__name__


NONE = Kind('None', lambda value: value is None)
FLAG = Kind('True or False', lambda value: isinstance(value, bool))
NUMBER = Kind('a number', _is_number)
SHARE = Kind('a number in [0, 1]', lambda value: _is_number(value) and 0 <= value <= 1)
SHARE_BELOW_ONE = Kind('a number in [0, 1)', lambda value: _is_number(value) and 0 <= value < 1)
FILE = Kind('a file or an address', _is_file)
SETTINGS = Kind('a dict', lambda value: isinstance(value, dict))
CONFIG = Kind("a dict whose 'type' is a name or a class", _is_config)
CONFIGS = CONFIG | Kind('a list of such', _are_configs)
# an empty one is none, as for mmengine
INIT_CFG = CONFIGS | NONE | Kind('empty', lambda value: value in ({}, []))
INTERPOLATION = one_of(('nearest', 'nearest-exact', 'bilinear', 'bicubic', 'area'))
