"""Records the inference of a model as CUDA graphs, which start all of its kernels at once."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..errors import SegformerPlusPlusError, first_line
from ..kernels import is_enabled
from ..kernels.runtime import Held, recording
from ..mit import cpu
from ..token_merging import InputDownsampling, StageMerging, TokenMerger, TokenMerging
from .backbones import find_backbones

KEPT = 4
"""Is how many graphs each part of a model keeps, those that were used last."""

SEEN = 64
"""Is how many kinds of input are remembered without a recording."""

WORTH = 32
"""Is how many replays pay for a recording; who drops it sooner records later the next time."""

MOST_PATIENCE = 2**10

WARMUP = 2
"""Is how often a part runs on the stream that will be recorded, as libraries choose kernels."""

_PLAIN = bool, int, float, str, type(None), torch.dtype, torch.device
_SETTINGS = frozenset({bool, int, float, str, torch.Size, type(None)})

_one_at_a_time = threading.RLock()
"""Is held while a graph is recorded: a process may do so once at a time."""

_log = logging.getLogger(__name__)


def apply_cuda_graphs(model: nn.Module) -> None:
    """Lets a model for inference record its kernels and replay them, in place.

    What has weights beside a SegFormer backbone, such as a head, and the backbone are recorded each
    by itself: the first input of a shape, layout and dtype runs as always, the second one is
    recorded, and all further ones are replayed. Whatever a recording depends on is compared at each
    replay: weights, settings and modes of modules, strategies, precision. Where nothing can be
    recorded, the part runs as always: on a CPU, in training or with gradients, under autocast, with
    hooks, in a graph that is being recorded, compiled or exported, under ``CUDA_LAUNCH_BLOCKING``,
    where it changes itself or its input, and with strategies that wait for the GPU or have more
    than plain settings: attributes that begin with an underscore, objects. Applied again, nothing
    changes. State dict, deep copies and pickles stay as they are. Not for ``nn.DataParallel``.

    Args:
        model: of mmseg, mmpose, Transformers, segmentation_models.pytorch or this package.

    Raises:
        SegformerPlusPlusError: it has no SegFormer backbone, or a part has a forward of its own.
    """
    parts = dict[str, nn.Module]()
    for backbone in find_backbones(model):
        outer = backbone.name.rpartition('.')[0]
        beside = model.get_submodule(outer).named_children() if backbone.name else [('', model)]
        for name, each in beside:
            if next(each.parameters(), None) is not None:
                parts['.'.join(filter(None, [outer, name]))] = each
    for name, part in parts.items():
        if 'forward' in vars(part) and not isinstance(vars(part)['forward'], RecordedForward):
            raise SegformerPlusPlusError(
                f'{name or type(part).__name__} has a forward of its own, put there by something '
                'else: CUDA graphs would not know what it does'
            )
    memory = Memory()
    for part in parts.values():
        # not by __setattr__, which would look for a module
        vars(part).setdefault('forward', RecordedForward(part, memory))


def remove_cuda_graphs(model: nn.Module) -> None:
    """Takes back what ``apply_cuda_graphs`` did, and frees the memory of the recordings."""
    for each in model.modules():
        forward = vars(each).get('forward')
        if isinstance(forward, RecordedForward):
            del vars(each)['forward']
            forward.clear()


class Memory:
    """Is the memory that the recordings of one model share, as they never run at the same time."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pool: Any = None
        self.stream: Any = None  # blocks of one stream are not given to another one
        self._last: Any = None

    def wait(self, device: torch.device) -> None:
        """Lets the current stream wait until another one has left."""
        if self._last is not None:
            torch.cuda.current_stream(device).wait_event(self._last)

    def leave(self, device: torch.device) -> None:
        """Marks where the current stream needs the memory no more."""
        if device.type == 'cuda':
            self._last = torch.cuda.Event()
            self._last.record(torch.cuda.current_stream(device))

    def __reduce__(self) -> Any:
        return Memory, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Memory:
        return memo.setdefault(id(self), Memory())


class Recording(NamedTuple):
    """Holds a graph and the tensors that it reads and writes.

    Attributes:
        replay: starts it.
        inputs: are copied to before.
        outputs: are copied from after.
        held: what caches gave, which the graph reads, and whether they still would.
    """

    replay: Callable[[], None]
    inputs: list[Tensor]
    outputs: list[Tensor]
    held: Held


@dataclass
class _Entry:
    """Holds a recording.

    Attributes:
        state: of the module when it was made.
        recording: what is replayed.
        result: leaves and structure of what the module returns.
        replays: how often.
    """

    state: _State
    recording: Recording
    result: Any
    replays: int = 0

    def is_of(self, module: nn.Module) -> bool:
        """Tells whether the module is what it was."""
        still = all(each is None or each() for _, each in self.recording.held)
        return still and self.state == _state_of(module)


class RecordedForward:
    """Takes the place of a module's forward.

    Args:
        module: whose class has the forward that is recorded.
        memory: of all parts of the model.

    Attributes:
        calls_class: says to those that exchange the module's class that this calls its forward.
    """

    calls_class = True

    def __init__(self, module: nn.Module, memory: Memory) -> None:
        self.module = module
        self._memory = memory
        self._entries: OrderedDict[Any, _Entry] = OrderedDict()
        self._seen: OrderedDict[Any, int] = OrderedDict()
        self._failed: OrderedDict[Any, None] = OrderedDict()
        self._said: set[str] = set()
        self._patience = 1
        self._merging: list[nn.Module] = []

    def __reduce__(self) -> Any:
        return RecordedForward, (self.module, self._memory)

    def __deepcopy__(self, memo: dict[int, Any]) -> RecordedForward:
        return RecordedForward(deepcopy(self.module, memo), deepcopy(self._memory, memo))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        flat, structure = tree_flatten((arguments, named))
        tensors = [each for each in flat if isinstance(each, Tensor)]
        kind = _kind(flat, structure) if self._is_possible(tensors) else None
        if kind is None:
            if self._entries and (self.module.training or not _has_graphs(_device_of(tensors))):
                self.clear()
            return self._plain(*arguments, **named)
        with self._memory.lock:
            key = kind, _strategies(self._merging)
            entry = self._entries.get(key)
            if entry is not None:
                result = self._replay(entry, tensors)
                # compared while the GPU works; what it read is alive, however the model changed
                if entry.is_of(self.module):
                    self._entries.move_to_end(key)
                    return result
                self.clear()
            return self._run(kind, flat, structure)

    def _run(self, kind: Any, flat: list[Any], structure: Any) -> Any:
        """Runs what could not be replayed, and records it if it comes again."""
        arguments, named = tree_unflatten(flat, structure)
        tensors = [each for each in flat if isinstance(each, Tensor)]
        state = _state_of(self.module)
        self._merging = [] if state is None else state.merging
        key = kind, _strategies(self._merging)
        if state is None or key[1] is None or key in self._failed:
            return self._plain(*arguments, **named)
        count = self._seen.get(key, 0)
        if count >= self._patience:
            del self._seen[key]
            entry = self._record(flat, structure, state)
            if entry is not None:
                self._entries[key] = entry
                if len(self._entries) > KEPT:
                    self._drop([next(iter(self._entries))])
                return self._replay(entry, tensors)
            _remember(self._failed, key, None, SEEN)
            return self._plain(*arguments, **named)
        before = [_version_of(each) for each in tensors]
        result = self._plain(*arguments, **named)
        if [_version_of(each) for each in tensors] != before or state != _state_of(self.module):
            self._say('it changes itself or its input when it runs')
            _remember(self._failed, key, None, SEEN)
        else:
            _remember(self._seen, key, count + 1, SEEN)
        return result

    def _drop(self, keys: list[Any]) -> None:
        dropped = [self._entries.pop(key) for key in keys]
        if any(entry.replays < WORTH for entry in dropped):
            self._patience = min(2 * self._patience, MOST_PATIENCE)

    def clear(self) -> None:
        """Drops all recordings, when no stream uses them any more."""
        with self._memory.lock:
            for entry in self._entries.values():
                if entry.recording.inputs[0].is_cuda:
                    torch.cuda.synchronize(entry.recording.inputs[0].device)
            self._drop(list(self._entries))

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            _log.warning('%s runs without a CUDA graph: %s', type(self.module).__name__, reason)

    def _plain(self, *arguments: Any, **named: Any) -> Any:
        forward = type(self.module).forward
        if not self._entries:
            return forward(self.module, *arguments, **named)
        try:
            return forward(self.module, *arguments, **named)
        except torch.OutOfMemoryError:
            self.clear()
        return forward(self.module, *arguments, **named)

    def _is_possible(self, tensors: list[Tensor]) -> bool:
        if not tensors or torch.is_grad_enabled() or self.module.training:
            return False
        device = tensors[0].device
        return (
            _has_graphs(device)
            and all(each.device == device for each in tensors)
            and not torch.is_autocast_enabled(device.type)
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            # what counts or fakes operators wants to see them
            and not torch._C._len_torch_dispatch_stack()
            and not _is_capturing()
            and os.environ.get('CUDA_LAUNCH_BLOCKING', '0') in ('', '0')
        )

    def _record(self, flat: list[Any], structure: Any, state: _State) -> _Entry | None:
        results: list[Any] = []
        run = partial(self._run_on, flat, structure, results)
        try:
            found = record(run, [each for each in flat if isinstance(each, Tensor)], self._memory)
        except Exception as error:  # noqa: BLE001 - of CUDA, a library, a user's strategy
            self._say(first_line(error))
            return None
        # weights that are replaced are read once more, before that is noticed
        tensors = (each for each in state.objects if isinstance(each, Tensor))
        found.held.extend((each.untyped_storage(), None) for each in tensors)
        return _Entry(state, found, tuple(results))

    def _run_on(
        self, flat: list[Any], structure: Any, results: list[Any], inputs: list[Tensor]
    ) -> list[Tensor]:
        """Runs the module on other tensors; fills ``results``, and returns the tensors of it."""
        given = iter(inputs)
        filled = [next(given) if isinstance(each, Tensor) else each for each in flat]
        arguments, named = tree_unflatten(filled, structure)
        results[:] = tree_flatten(type(self.module).forward(self.module, *arguments, **named))
        if not all(isinstance(each, Tensor) or _is_plain(each) for each in results[0]):
            raise TypeError('it returns something that is no tensor')
        return [each for each in results[0] if isinstance(each, Tensor)]

    def _replay(self, entry: _Entry, tensors: list[Tensor]) -> Any:
        entry.replays += 1
        copies = iter(play(entry.recording, tensors, self._memory))
        flat, structure = entry.result
        return tree_unflatten(
            [next(copies) if isinstance(each, Tensor) else each for each in flat], structure
        )


def _remember(kept: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)


def _device_of(tensors: list[Tensor]) -> torch.device:
    return tensors[0].device if tensors else torch.device('cpu')


def _version_of(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # those of inference mode have none


def _kind(flat: list[Any], structure: Any) -> Any:
    """Returns what inputs have in common that one recording is for; None if there is none."""
    key: list[Any] = []
    for each in flat:
        if isinstance(each, Tensor):
            if type(each) not in (Tensor, nn.Parameter):
                return None
            key.append((each.shape, each.stride(), each.dtype, each.device))
        elif _is_plain(each):
            key.append((type(each), each))
        else:
            return None
    # by its words: up to torch 2.6 a TreeSpec has no hash
    return tuple(key), repr(structure), *_switches()


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN)


def _switches() -> tuple[Any, ...]:
    """Returns what of the process decides which kernels run."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    try:
        precision: Any = torch.get_float32_matmul_precision()
    except RuntimeError:  # PyTorch's newer settings were used
        newer: Any = torch.backends
        precision = cuda.matmul.fp32_precision, newer.fp32_precision
    return (
        is_enabled(),
        cpu.is_chunked(),
        torch.are_deterministic_algorithms_enabled(),
        precision,
        getattr(getattr(cudnn, 'conv', None), 'fp32_precision', None),
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
        cudnn.enabled,
        cudnn.benchmark,
        cudnn.deterministic,
    )


def _strategies(modules: list[nn.Module]) -> tuple[Any, ...] | None:
    """Returns a key that two strategies share if they merge alike; None of one that hides state."""
    settings = {id(each): each for module in modules for each in _merging_of(module)}
    try:
        key = tuple(map(_key_of, settings.values()))
        hash(key)
    except TypeError:
        return None
    return key


def _merging_of(module: nn.Module) -> list[Any]:
    own = module.__dict__
    return [own[name] for name in ('merging', 'token_merging') if name in own]


def _key_of(settings: Any) -> Any:
    """Returns class and values of settings, however deep.

    Raises:
        TypeError: a strategy has more than settings, such as one that records what it did.
    """
    if isinstance(settings, tuple | list):
        return tuple(map(_key_of, settings))
    if isinstance(settings, _PLAIN):
        return settings
    if not isinstance(settings, TokenMerger | StageMerging | TokenMerging | InputDownsampling):
        raise TypeError(f'a {type(settings).__name__} may be anything')
    values = vars(settings).items()
    if any(name.startswith('_') for name, _ in values):
        raise TypeError(f'{type(settings).__name__} hides something')
    return type(settings), tuple((name, _key_of(value)) for name, value in values)


@dataclass(eq=False)
class _State:
    """Holds what a recording depends on, to be compared with what it is at a replay.

    Attributes:
        objects: modules, their classes, parameters and buffers, to be the same.
        values: modes, addresses and versions of tensors, to be equal.
        merging: modules that hold strategies.
    """

    objects: list[Any] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    merging: list[nn.Module] = field(default_factory=list)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _State)
            and self.values == other.values
            and len(self.objects) == len(other.objects)
            and all(one is two for one, two in zip(self.objects, other.objects, strict=True))
        )


def _state_of(module: nn.Module) -> _State | None:
    """Returns the state of a module; None where a replay would leave out what watches it."""
    if every._global_forward_hooks or every._global_forward_pre_hooks:
        return None
    state = _State()
    objects, values = state.objects, state.values
    waiting = [module]
    try:
        while waiting:
            each = waiting.pop()
            own = each.__dict__
            if each is not module:  # whose own hooks are called outside of its forward
                if 'forward' in own or each._forward_hooks or each._forward_pre_hooks:
                    return None
            if each.training:
                return None
            objects += each, type(each)
            for value in own.values():
                kind = type(value)
                if kind in _SETTINGS or (kind is tuple and _SETTINGS.issuperset(map(type, value))):
                    values.append(value)
                elif kind is Tensor:
                    objects.append(value)
            for tensors in (each._parameters, each._buffers):
                for tensor in tensors.values():
                    if tensor is not None:
                        objects.append(tensor)
                        values += tensor.data_ptr(), tensor._version
            if 'merging' in own or 'token_merging' in own:
                state.merging.append(each)
            waiting.extend(child for child in each._modules.values() if child is not None)
    except RuntimeError:  # a tensor of inference mode has no version, one of a subclass no address
        return None
    return state


def _has_graphs(device: torch.device) -> bool:
    return device.type == 'cuda'


def _is_capturing() -> bool:
    return torch.cuda.is_current_stream_capturing()


def record(
    run: Callable[[list[Tensor]], list[Tensor]], tensors: list[Tensor], memory: Memory
) -> Recording:
    """Records what a function does with tensors of one CUDA device.

    Raises:
        Exception: as PyTorch says it where something cannot be recorded, or memory runs out.
    """
    device = tensors[0].device
    # a tensor of inference mode could not be copied to outside of it
    with (
        _one_at_a_time,
        torch.inference_mode(False),
        torch.no_grad(),
        torch.cuda.device(device),
        recording() as held,
    ):
        inputs = [each.clone() for each in tensors]
        current = torch.cuda.current_stream()
        if memory.stream is None:
            memory.stream, memory.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        memory.stream.wait_stream(current)
        with torch.cuda.stream(memory.stream):
            for _ in range(WARMUP - 1):
                run(inputs)
            with _refusing_to_wait():
                run(inputs)
        current.wait_stream(memory.stream)
        torch.cuda.synchronize()
        # what cuBLAS works in belongs to the graph's memory, too, not to others after it
        torch._C._cuda_clearCublasWorkspaces()
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads, such as those that load images, may go on
            with torch.cuda.graph(
                graph, memory.pool, memory.stream, capture_error_mode='thread_local'
            ):
                outputs = run(inputs)
        except BaseException:
            # older versions leave the capture's stream and memory in place
            torch.cuda.set_stream(current)
            with suppress(Exception):
                torch._C._cuda_endAllocateToPool(device.index or 0, memory.pool)
            memory.stream = memory.pool = None
            raise
        finally:
            torch._C._cuda_clearCublasWorkspaces()
        return Recording(graph.replay, inputs, outputs, held)


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Raises for what waits for the GPU, while no capture can be harmed by it.

    By a warning, which harms no other thread that waits meanwhile.
    """
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
    if any('synchronizing CUDA operation' in str(each.message) for each in said):
        raise RuntimeError('it waits for the GPU')


def play(recording: Recording, tensors: list[Tensor], memory: Memory) -> list[Tensor]:
    """Replays a recording on other tensors, and returns copies of its outputs."""
    with torch.no_grad():
        memory.wait(tensors[0].device)
        for static, given in zip(recording.inputs, tensors, strict=True):
            static.copy_(given)
        recording.replay()
        # the next replay writes to the same memory
        copies = [each.clone() for each in recording.outputs]
        memory.leave(tensors[0].device)
    return copies
