"""Measures what a model costs: parameters, FLOPs, ``torch.compile``, a training step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from ...errors import SegformerPlusPlusError, first_line, memory_errors
from ...patching import graphs
from ..timing import synchronize
from .contenders import Contender, size_of
from .peers import exact_convolutions

REPEATS = 5

EQUAL_LABELS = {torch.float32: 0.999, torch.bfloat16: 0.95, torch.float16: 0.95}
"""Share of the pixels whose label must stay. Compiled code rounds to half precision less often than
eager code, which decides where two classes are nearly equal, and which tokens are merged."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""Relative errors that equal models may have."""

STEP_TOLERANCE = {
    torch.float32: {'loss': 1e-4, 'gradient': 1e-2},
    torch.bfloat16: {'loss': 1e-2, 'gradient': 3e-1},
}
"""Those of equal steps. Gradients carry the rounding of the whole model twice."""

_DROPOUT_RATES = ('p', 'drop_prob', 'dropout', 'attention_dropout')
"""What modules of the libraries call the probability of their dropout."""


def count_parameters(model: nn.Module) -> int:
    """Counts the elements of all parameters, without buffers such as running means."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(call: Callable[[], Any]) -> int:
    """Counts the floating point operations of one call, as executed.

    Counts matrix products, convolutions and attention, and nothing else: no norms, activations,
    resizes, gathers or scatters. **One multiply-add counts as two operations.** Many papers,
    mmengine's and fvcore's counters among them, count it as one: halve this number to compare.
    Token merging is counted by what it does: shorter matrix products, and the product of its
    similarity matrix on top.
    """
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    missing = {} if fused in flop_registry else {fused: _attention_flops}  # in older versions
    counter: Any = FlopCounterMode(display=False, custom_mapping=missing)
    # Only the total is asked for. To tell modules apart it would put hooks on their inputs, which
    # fail inside of an autograd.Function.
    counter.mod_tracker = _OneModule()
    with counter:
        call()
    return counter.get_total_flops()


class _OneModule(contextlib.nullcontext):
    """Stands in for the tracker of modules: everything happens in the whole."""

    parents = ('Global',)

    def __exit__(self, *_: Any) -> None:
        """Takes no arguments, too."""


def _attention_flops(
    query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    """Counts two products, query-key and weights-value, from the shapes of the tensors."""
    return sdpa_flop_count(query, key, value)


def matrix_product_rates(
    device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32
) -> dict[str, float]:
    """Measures the GFLOP/s of two ways to multiply matrices, the best of a few repeats each.

    They take different paths on a CPU: ``torch.mm`` goes to the BLAS that PyTorch was built with,
    a 1x1 convolution to oneDNN.

    Returns:
        'mm', of 2048 x 2048 by 2048 x 2048; 'conv1x1', of 1024 to 1024 channels on 64 x 64 in
        channels-last layout. A multiply-add is two operations.
    """
    left, right = (torch.randn(2048, 2048).to(device, dtype) for _ in range(2))
    image = torch.randn(1, 1024, 64, 64).to(memory_format=torch.channels_last).to(device, dtype)
    weight = torch.randn(1024, 1024, 1, 1).to(device, dtype)
    products: dict[str, tuple[float, Callable[[], Tensor]]] = {
        'mm': (2 * 2048**3, lambda: torch.mm(left, right)),
        'conv1x1': (2 * 1024 * 1024 * 64 * 64, lambda: F.conv2d(image, weight)),
    }
    rates = {}
    with torch.inference_mode(), memory_errors('--peak'):
        for name, (operations, product) in products.items():
            product()
            seconds = min(_run_timed(product, device)[1] for _ in range(REPEATS))
            rates[name] = operations / seconds / 1e9
    return rates


def _run_timed(call: Callable[[], Any], device: torch.device | str) -> tuple[Any, float]:
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    return result, time.perf_counter() - start


class CompiledModel(Contender):
    """Runs a contender through ``torch.compile`` in its default mode, for one shape.

    Our models are compiled up to the logits: ``label_map`` looks for the borders between classes,
    and its shapes depend on how many there are. Other models are compiled with resize and argmax,
    which is faster than running these eagerly.
    """

    def __init__(self, eager: Contender, backend: str = 'inductor') -> None:
        super().__init__(eager.module, eager.backbone)
        self.eager = eager
        self.segments = eager.segments
        one_graph = eager.one_graph
        compiled: Any = partial(torch.compile, fullgraph=one_graph, dynamic=False, backend=backend)
        self._features, self._head = compiled(eager.features), compiled(eager.head)
        self._labels = eager.labels if one_graph else compiled(eager.labels)
        self._whole = compiled(eager.logits if one_graph else eager.predict)

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


class GraphedModel(Contender):
    """Replays what a contender does with images of one shape as one CUDA graph.

    The peers too: how long a processor takes to start their kernels says nothing of these.

    Args:
        eager: the contender.
        images: (B, C, H, W) on a CUDA device.
        backbone_only: whether the features are what is asked for.

    Raises:
        SegformerPlusPlusError: it cannot be recorded.
    """

    def __init__(self, eager: Contender, images: Tensor, backbone_only: bool, name: str) -> None:
        super().__init__(eager.module, eager.backbone)
        self.eager, self.segments = eager, eager.segments
        run = eager.features if backbone_only else eager.predict
        self._memory = graphs.Memory()
        with memory_errors(name):
            try:
                self._recording = graphs.record(
                    lambda tensors: tree_leaves(run(tensors[0])), [images], self._memory
                )
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                raise SegformerPlusPlusError(
                    f'{name}: no CUDA graph: {first_line(error)}'
                ) from error

    @property
    def arithmetic(self) -> Contender:
        return self.eager

    def features(self, images: Tensor) -> Any:
        return graphs.play(self._recording, [images], self._memory)

    def head(self, features: Any) -> Tensor:
        raise NotImplementedError('a graph is replayed as a whole')

    def predict(self, images: Tensor) -> Tensor:
        return self.features(images)[0]


def count_kernels(call: Callable[[], Any]) -> int:
    """Counts the kernels, copies and fills that one call starts on a CUDA device."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize()
    events = profiler.profiler.kineto_results.events()
    return sum(
        each.device_type() == torch.autograd.DeviceType.CUDA and not each.is_user_annotation()
        for each in events
    )


def compile_contender(
    eager: Contender, images: Tensor, backend: str, backbone_only: bool, name: str
) -> tuple[CompiledModel, dict[str, float]]:
    """Compiles a contender for images (B, 3, H, W), and compares it with the eager results.

    Returns:
        The compiled contender, and 'seconds' (of the first call, which compiles, with nothing in
        the cache on disk) with 'equal_labels' (share of the pixels), or 'relative_error' where
        there are no labels.

    Raises:
        SegformerPlusPlusError: it cannot be compiled, or the results differ.
    """
    with trace_errors(name):
        compiled = CompiledModel(eager, backend)
    return compiled, first_call(compiled, eager, images, backend, backbone_only, name)


def first_call(
    compiled: Contender,
    eager: Contender,
    images: Tensor,
    backend: str,
    backbone_only: bool,
    name: str,
) -> dict[str, float]:
    """Compiles by a first call, and compares; see ``compile_contender``."""
    with (
        trace_errors(name), memory_errors(name), _fresh_cache(backend), torch.inference_mode()
    ):  # fmt: skip
        run, run_eagerly = (
            each.features if backbone_only else each.predict for each in (compiled, eager)
        )
        result, seconds = _run_timed(lambda: run(images), images.device)
        expected = run_eagerly(images)
    return {'seconds': seconds, **_compare(result, expected, images.dtype, name)}


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
    """Returns a context in which Inductor finds nothing that it compiled before."""
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


class TrainingStep:
    """Runs forward in training mode, the library's own loss, backward and AdamW.

    The learning rate is 0: a step costs the same, and all models keep equal weights however many
    steps each of them does.

    Args:
        contender: is set to training mode.
        images: (B, 3, H, W), normalised, float32.
        targets: of ``.Contender.random_targets``.
        dtype: of the forward pass; below float32 it runs under autocast on float32 weights, as
            training in mixed precision does.
    """

    def __init__(
        self,
        contender: Contender,
        images: Tensor,
        targets: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.contender = contender
        self.dtype = dtype
        self._images, self.targets = images, targets
        contender.module.train()
        parameters = [p for p in contender.module.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.01)
        self._loss: Tensor | None = None

    def __call__(self) -> None:
        """Runs one step."""
        for part in self.parts().values():
            part()

    def parts(self) -> dict[str, Callable[[], Any]]:
        """Returns 'forward', 'backward' and 'step', which make a step in this order."""
        return {'forward': self._forward, 'backward': self._backward, 'step': self._step}

    def loss(self) -> Tensor:
        """Computes the loss of a forward pass."""
        device = self._images.device.type
        mixed = self.dtype != torch.float32
        with torch.autocast(device, dtype=self.dtype if mixed else None, enabled=mixed):
            return self.contender.loss(self._images, self.targets)

    def _forward(self) -> None:
        self._loss = self.loss()

    def _backward(self) -> None:
        if self._loss is None:
            raise RuntimeError('backward comes after forward')
        self._loss.backward()
        self._loss = None

    def _step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


def check_same_step(ours: TrainingStep, peer: TrainingStep, name: str) -> dict[str, float]:
    """Compares two steps without any dropout.

    Returns:
        Relative differences: 'loss', and 'gradient' (largest difference over the largest entry) of
        the weights of the first convolution, which every later part of the model has a share in:
        random weights make the loss nearly that of a guess, whatever the model.

    Raises:
        SegformerPlusPlusError: one of them is above ``STEP_TOLERANCE``: these are different steps.
    """
    with exact_convolutions():
        (one, one_gradient), (other, other_gradient) = map(_loss_and_gradient, (ours, peer))
    difference = (one_gradient - other_gradient).abs().max() / other_gradient.abs().max()
    errors = {'loss': abs(one - other) / abs(other), 'gradient': float(difference)}
    for what, error in errors.items():
        tolerance = STEP_TOLERANCE[peer.dtype][what]
        if not error <= tolerance:
            raise SegformerPlusPlusError(
                f'the {what} of a training step of {name} differs from ours by {error:.1e} (loss '
                f'{other:.6g} and {one:.6g}), allowed is {tolerance:.0e}; the comparison would be '
                'of different steps'
            )
    return errors


def _loss_and_gradient(step: TrainingStep) -> tuple[float, Tensor]:
    first = next(step.contender.backbone.parameters())
    with without_dropout(step.contender.module):
        loss = step.loss()
    return float(loss.detach()), torch.autograd.grad(loss, first)[0]


@contextlib.contextmanager
def without_dropout(module: nn.Module) -> Iterator[None]:
    """Sets every dropout and drop path of a module to 0, and back again."""
    rates = [
        (each, name, getattr(each, name))
        for each in module.modules()
        for name in _DROPOUT_RATES
        if isinstance(getattr(each, name, None), float)
    ]
    for each, name, _ in rates:
        setattr(each, name, 0.0)
    try:
        yield
    finally:
        for each, name, rate in rates:
            setattr(each, name, rate)
