"""Contenders through ``torch.compile``: what compiling takes, and whether the labels stay."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...errors import SegformerPlusPlusError, memory_errors
from ..timing import synchronize
from .contenders import Contender, size_of

EQUAL_LABELS = {torch.float32: 0.999, torch.bfloat16: 0.95, torch.float16: 0.95}
"""Share of the pixels whose label must stay. Compiled code rounds to half precision less often than
eager code, which decides where two classes are nearly equal, and which tokens are merged."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""Relative errors that equal models may have."""


class CompiledModel(Contender):
    """A contender through ``torch.compile`` in its default mode, for one shape.

    What has to be one graph is compiled up to the logits: our labels look for the borders between
    classes, whose number no graph knows. Elsewhere resize and argmax are compiled as well, which is
    faster than running them eagerly.

    Args:
        eager: what is compiled.
        backend: of ``torch.compile``.
    """

    def __init__(self, eager: Contender, backend: str = 'inductor') -> None:
        super().__init__(eager.module, eager.backbone)
        self.eager = eager
        self.segments = eager.segments

        def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
            return torch.compile(
                function, fullgraph=eager.one_graph, dynamic=False, backend=backend
            )

        self._features, self._head = compiled(eager.features), compiled(eager.head)
        self._labels = eager.labels if eager.one_graph else compiled(eager.labels)
        self._whole = compiled(eager.logits if eager.one_graph else eager.predict)

    @property
    def arithmetic(self) -> Contender:
        return self.eager

    def features(self, images: Tensor) -> Any:
        return self._features(images)

    def head(self, features: Any) -> Tensor:
        return self._head(features)

    def labels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return self._labels(logits, size)

    def predict(self, images: Tensor) -> Tensor:
        result = self._whole(images)
        if self.eager.one_graph and self.segments:
            return self.eager.labels(result, size_of(images))
        return result


def compile_contender(
    eager: Contender, images: Tensor, backend: str, backbone_only: bool, name: str
) -> tuple[CompiledModel, dict[str, float]]:
    """Compile for images of this shape, and compare with the eager results.

    Args:
        eager: a contender in PyTorch.
        images: (B, 3, H, W).
        backend: of ``torch.compile``.
        backbone_only: compile and compare the features, not what follows them.
        name: for messages.

    Returns:
        The compiled contender, and 'seconds' (of the first call, which compiles, with nothing in
        the cache on disk) with 'equal_labels' (share of the pixels), or 'relative_error' where
        there are no labels.

    Raises:
        SegformerPlusPlusError: it cannot be compiled, or the results differ.
    """
    compiled = CompiledModel(eager, backend)
    with (
        trace_errors(name), memory_errors(name), _fresh_cache(backend), torch.inference_mode()
    ):  # fmt: skip
        synchronize(images.device)
        start = time.perf_counter()
        result = (compiled.features if backbone_only else compiled.predict)(images)
        synchronize(images.device)
        seconds = time.perf_counter() - start
        expected = (eager.features if backbone_only else eager.predict)(images)
    return compiled, {'seconds': seconds, **_compare(result, expected, images.dtype, name)}


@contextlib.contextmanager
def trace_errors(name: str) -> Iterator[None]:
    """Turns what ``torch.compile`` raises about a model into one line."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = ' '.join(lines[:3]) or type(error).__name__
        raise SegformerPlusPlusError(f'{name}: torch.compile failed: {reason}') from error


def _fresh_cache(backend: str) -> contextlib.AbstractContextManager[Any]:
    """A context in which Inductor finds nothing that it compiled before."""
    if backend != 'inductor':
        return contextlib.nullcontext()
    from torch._inductor import utils

    old_name = 'fresh_inductor_cache'
    return getattr(utils, 'fresh_cache' if hasattr(utils, 'fresh_cache') else old_name)()


def _compare(result: Any, expected: Any, dtype: torch.dtype, name: str) -> dict[str, float]:
    if isinstance(result, Tensor) and not result.is_floating_point():
        share = float((result == expected).float().mean())
        if not share >= EQUAL_LABELS[dtype]:
            raise SegformerPlusPlusError(
                f'{name}: compiled, only {share:.2%} of the pixels keep their label, at least '
                f'{EQUAL_LABELS[dtype]:.1%} must'
            )
        return {'equal_labels': share}
    pairs = (
        [(result, expected)] if isinstance(result, Tensor) else zip(result, expected, strict=True)
    )
    error = max(float((one - other).abs().max() / other.abs().max()) for one, other in pairs)
    if not error <= TOLERANCE[dtype]:
        raise SegformerPlusPlusError(
            f'{name}: compiled, its results differ by {error:.1e} of the largest one, allowed is '
            f'{TOLERANCE[dtype]:.0e}'
        )
    return {'relative_error': error}
