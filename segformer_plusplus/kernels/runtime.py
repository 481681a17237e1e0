"""Decides where the kernels run, and makes operators of them that fall back on PyTorch's own.

A kernel runs on tensors of a CUDA device of compute capability 8.0 or later, where Triton is
installed, outside of training, of deterministic algorithms and of graphs that are exported. The
first time that one runs on a device it is compared with PyTorch; a kernel that fails, or that
differs, is said once and not taken again.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack
from torch.autograd import forward_ad
from torch.utils._pytree import tree_leaves

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheel of it for this platform
    triton = tl = None

OLDEST_TRITON = 3, 2
OLDEST_CAPABILITY = 8, 0
"""Is that of an A100, the first GPUs that multiply bfloat16."""

HALF = torch.float16, torch.bfloat16
FLOATS = torch.float32, *HALF

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
"""Says whether kernels run in Triton's interpreter, which multiplies the bits of bfloat16."""

_log = logging.getLogger(__name__)

jit: Any = (lambda function: function) if triton is None else triton.jit


class Switch:
    """Is on or off for the whole process.

    Attributes:
        on: what it was last set to, at first True.
    """

    def __init__(self) -> None:
        self.on = True

    def set(self, on: bool) -> ExitStack:
        """Sets it; in a ``with`` statement, until its end."""
        undo = ExitStack()
        undo.callback(setattr, self, 'on', self.on)
        self.on = on
        return undo


_enabled = Switch()


def enabled(wanted: bool) -> ExitStack:
    """Turns the kernels on or off; in a ``with`` statement, until its end.

    With them off, PyTorch's own operators run. The switch holds for the whole process.
    """
    return _enabled.set(wanted)


def is_enabled() -> bool:
    """Returns what ``enabled`` was last set to, by default True."""
    return _enabled.on


P = ParamSpec('P')
R = TypeVar('R')

Held = list[tuple[Any, Callable[[], bool] | None]]
"""Holds what caches gave, and what tells whether they would give it again."""

_held: ContextVar[Held | None] = ContextVar('held', default=None)


@contextmanager
def recording() -> Iterator[Held]:
    """Collects what caches hand out while a CUDA graph is recorded, which has to keep it alive."""
    held: Held = []
    token = _held.set(held)
    try:
        yield held
    finally:
        _held.reset(token)


def hold(value: R, still: Callable[[], bool] | None = None) -> R:
    """Returns a value of a cache; a graph that is being recorded keeps it.

    Args:
        value: is kept alive.
        still: tells later whether the value may be used; None is always.
    """
    held = _held.get()
    if held is not None:
        held.append((value, still))
    return value


def runs_on(*tensors: Tensor, dtypes: tuple[torch.dtype, ...] = FLOATS) -> bool:
    """Tells whether kernels take these tensors: none of a graph to export, or that needs gradients.

    Args:
        tensors: of one device and one dtype.
        dtypes: those that the kernel knows.
    """
    first = tensors[0]
    return (
        first.device.type == 'cuda'
        and _enabled.on
        and all((each.device, each.dtype) == (first.device, first.dtype) for each in tensors)
        and first.dtype in dtypes
        and not (torch.is_grad_enabled() and any(each.requires_grad for each in tensors))
        and not torch.is_autocast_enabled('cuda')
        and not torch.are_deterministic_algorithms_enabled()
        and not _is_exporting()
        and not torch.jit.is_tracing()
        and (torch.compiler.is_compiling() or not _is_transformed())
        and is_capable(first.device)
    )


def _is_transformed() -> bool:
    """Tells whether functorch or forward-mode derivatives, which no kernel has, are at work."""
    return peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def _is_exporting() -> bool:
    if hasattr(torch.compiler, 'is_exporting'):  # of torch 2.7 on
        return torch.compiler.is_exporting()
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


@torch.compiler.assume_constant_result
def is_capable(device: torch.device) -> bool:
    """Tells whether Triton and this GPU are new enough."""
    return _is_capable(device.index)


@functools.lru_cache
def _is_capable(index: int | None) -> bool:
    if triton is None or _triton_version() < OLDEST_TRITON or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(index) >= OLDEST_CAPABILITY


def _triton_version() -> tuple[int, ...]:
    return tuple(int(part) for part in triton.__version__.split('.')[:2])


def cdiv(number: int, by: int) -> int:
    """Divides and rounds up."""
    return -(-number // by)


def power(number: int, least: int = 16) -> int:
    """Returns the next power of two, at least ``least``: a size that Triton takes for a block."""
    return max(least, 1 << (number - 1).bit_length())


_LIBRARY = torch.library.Library('segformer_plusplus', 'FRAGMENT')

OPERATORS: dict[str, Operator[..., Any]] = {}
"""Holds those that are imported, by name."""


class Operator(Generic[P, R]):
    """Is an operator ``segformer_plusplus::name`` of PyTorch.

    On a CPU, under fake tensors, and on a GPU where its kernel failed, it is ``reference``.

    Args:
        launch: runs kernels on tensors of a CUDA device; gives the operator its name and docstring.
        schema: of the operator, '(Tensor tokens, int height) -> Tensor'.
        reference: the same in PyTorch.
        example: makes arguments for (device, dtype) to try the kernel on.
        agrees: tells whether results of kernel and reference on the example are equal enough.
        launches: how many kernels of the GPU one call starts, at most.
    """

    __name__: str

    def __init__(
        self,
        launch: Callable[P, R],
        schema: str,
        reference: Callable[P, R],
        example: Callable[[torch.device, torch.dtype], tuple[Any, ...]],
        agrees: Callable[[R, R], bool],
        launches: int,
    ) -> None:
        functools.update_wrapper(self, launch)
        self.launch: Callable[..., R] = launch
        self.reference: Callable[..., R] = reference
        self.example, self.agrees, self.launches = example, agrees, launches
        OPERATORS[launch.__name__] = self
        self._works: dict[tuple[torch.device, torch.dtype], bool] = {}
        # not torch.library.custom_op, whose calls take three times as long
        name = f'segformer_plusplus::{launch.__name__}'
        library: Any = _LIBRARY
        library.define(f'{launch.__name__}{schema}')
        library.impl(launch.__name__, reference, 'CPU')
        library.impl(launch.__name__, self._run, 'CUDA')
        torch.library.register_fake(name, reference, lib=library)
        self._operator: Any = getattr(torch.ops.segformer_plusplus, launch.__name__).default

    def __call__(self, *arguments: P.args, **keywords: P.kwargs) -> R:
        return self._operator(*arguments, **keywords)

    def _run(self, *arguments: Any) -> Any:
        first = next(each for each in tree_leaves(arguments) if isinstance(each, Tensor))
        with torch.cuda.device(first.device):  # where Triton launches
            return self._run_on((first.device, first.dtype), arguments)

    def _run_on(self, key: tuple[torch.device, torch.dtype], arguments: tuple[Any, ...]) -> Any:
        capturing = torch.cuda.is_current_stream_capturing()
        if key not in self._works and not capturing:
            self._works[key] = self._is_right(*key)
        # in a capture it is too late to try: what was never tried is not recorded
        if not self._works.get(key, False):
            return self.reference(*arguments)
        try:
            return self.launch(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if capturing:
                raise
            result = self.reference(*arguments)  # raises where the arguments are at fault
            self._give_up(key, f'{type(error).__name__}: {error}')
            return result

    def _is_right(self, device: torch.device, dtype: torch.dtype) -> bool:
        arguments = self.example(device, dtype)
        try:
            found = self.launch(*arguments)
            right = self.agrees(found, self.reference(*arguments))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - of a compiler, a driver, a missing gcc
            self._give_up((device, dtype), f'{type(error).__name__}: {error}')
            return False
        if not right:
            self._give_up((device, dtype), 'its result differs from that of PyTorch')
        return right

    def _give_up(self, key: tuple[torch.device, torch.dtype], reason: str) -> None:
        self._works[key] = False
        _log.warning(
            'the kernel %s does not run on %s in %s, PyTorch does its work: %s',
            self.__name__,
            torch.cuda.get_device_name(key[0]) if key[0].type == 'cuda' else key[0],
            str(key[1]).removeprefix('torch.'),
            next(iter(reason.splitlines()), ''),
        )


def operator(
    schema: str,
    reference: Callable[P, R],
    example: Callable[[torch.device, torch.dtype], tuple[Any, ...]],
    agrees: Callable[[R, R], bool],
    launches: int,
) -> Callable[[Callable[P, R]], Operator[P, R]]:
    """Makes an ``Operator`` of the decorated function; the arguments are those of it."""
    return lambda launch: Operator(launch, schema, reference, example, agrees, launches)
