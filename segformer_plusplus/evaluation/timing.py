"""Times models against each other, measures their peak memory, and describes the machine."""

import contextlib
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ..errors import LESS_MEMORY, SegformerPlusPlusError, memory_errors
from ..libraries import has_distribution

Call = Callable[[], Any]

_STATUS = Path('/proc/self/status')


@dataclass(frozen=True)
class Timing:
    """Holds the times of one model, one per round, in the order in which they were taken."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Returns the median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Returns the first and the third quartile, in seconds (inclusive method)."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        first, _, third = statistics.quantiles(self.seconds, n=4, method='inclusive')
        return first, third


def measure(
    models: Mapping[str, Call],
    rounds: int,
    warmup: int,
    device: torch.device | str = 'cpu',
    taken: dict[str, list[float]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[str], None] | None = None,
    advice: str = LESS_MEMORY,
) -> dict[str, Timing]:
    """Times several models in turn.

    Every round runs each model once, one after the other, so that a machine that slows down or
    speeds up meanwhile does so for all of them. On CUDA the device is synchronised before the
    clock starts and before it stops.

    Args:
        models: functions by name; each runs its model once.
        rounds: timed rounds, at least 1, after those of the warmup.
        warmup: rounds that are not timed.
        device: where the models run.
        taken: is filled with the seconds of every model as they come, so that an interruption
            loses nothing.
        clock: in seconds; ``time.process_time`` counts the time on the CPU alone.
        before: is called with the name before every run, outside of the clock.
        advice: what the user can do about a model that runs out of memory.

    Raises:
        SegformerPlusPlusError: a wrong number of rounds, or a model ran out of memory.
    """
    if rounds < 1 or warmup < 0:
        raise SegformerPlusPlusError(
            f'rounds must be at least 1 and warmup at least 0, got {rounds} and {warmup}'
        )
    seconds = {} if taken is None else taken
    seconds.update({name: [] for name in models})
    for index in range(-warmup, rounds):
        for name, call in models.items():
            with memory_errors(name, advice):
                if before is not None:
                    before(name)
                synchronize(device)
                start = clock()
                call()
                synchronize(device)
                if index >= 0:
                    seconds[name].append(clock() - start)
    return {name: Timing(tuple(times)) for name, times in seconds.items()}


class Load:
    """Runs a model for several callers at a time, each of whom calls again at once.

    Args:
        workers: run the model once each, for one thread at a time. They share PyTorch's threads;
            who finds none waits for the first that is idle, in turn, as in a server.
        requests: calls in flight.

    Attributes:
        seconds: of every call, with its waiting.
    """

    calls = 4
    """Of every caller."""

    def __init__(self, workers: Sequence[Call], requests: int) -> None:
        self._idle: SimpleQueue[Call] = SimpleQueue()
        for each in workers:
            self._idle.put(each)
        self._requests = requests
        share = partial(torch.set_num_threads, max(1, torch.get_num_threads() // len(workers)))
        self._pool = ThreadPoolExecutor(len(workers), initializer=share)
        self.seconds: list[float] = []

    def __call__(self) -> None:
        """Makes so many calls of every caller."""
        threads = torch.get_num_threads()
        running = {self._start() for _ in range(self._requests)}
        more = self._requests * (self.calls - 1)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                each.result()
            running |= {self._start() for _ in range(min(more, len(done)))}
            more -= min(more, len(done))
        torch.set_num_threads(threads)  # or what is started later would have their share

    def _start(self) -> Future[None]:
        return self._pool.submit(self._one, time.perf_counter())

    def _one(self, start: float) -> None:
        worker = self._idle.get()
        try:
            worker()
        finally:
            self._idle.put(worker)
        self.seconds.append(time.perf_counter() - start)


def peak_memory(call: Call, device: torch.device | str = 'cpu') -> int:
    """Measures the bytes that one call needs at its peak, on top of what was allocated before it.

    The result and the temporary tensors inside operators count, weights and input do not. On the
    CPU it is the maximum of the running sum of what PyTorch's allocator gives and takes during the
    call. The release of memory from before the call, scratch memory that libraries such as oneDNN
    take from the system, and what malloc holds back are not seen.
    """
    device = torch.device(device)
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        baseline = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - baseline
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    del result
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == '[memory]']
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def file_memory(path: str | Path, runtime: str, images: Tensor) -> int | None:
    """Measures the bytes that an exported file needs at its peak, in a process of its own.

    What the process takes with the runtime imported does not count; loading the file and one
    prediction do.

    Args:
        path: of the file.
        runtime: that is to run it, by the name of its module.
        images: as the file takes them; their shape and type count.

    Returns:
        None where the system does not tell (no ``/proc``).

    Raises:
        SegformerPlusPlusError: the process failed.
    """
    if not _STATUS.exists():
        return None
    asked = str(path), runtime, list(images.shape), str(images.dtype), torch.get_num_threads()
    code = f'from {__name__} import _write_file_memory; _write_file_memory(*{asked!r})'
    command = sys.executable, '-c', code
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]
        raise SegformerPlusPlusError(f'{path}: its memory cannot be measured: {reason}')
    return int(done.stdout.split()[-1])


def _write_file_memory(
    path: str, runtime: str, shape: Sequence[int], dtype: str, threads: int
) -> None:
    from ..export.formats import format_of

    torch.set_num_threads(threads)
    images = torch.zeros(*shape, dtype=getattr(torch, dtype.removeprefix('torch.')))
    import_module(runtime)
    before = _own_peak()
    (run,) = format_of(Path(path)).loaders(Path(path))[runtime](1)
    run(images)
    sys.stdout.write(str(_own_peak() - before))


def _own_peak() -> int:
    """Returns the bytes that this program has had at most; ``ru_maxrss`` counts its parent's."""
    lines = _STATUS.read_text(encoding='ascii').splitlines()
    return 1024 * int(next(line for line in lines if line.startswith('VmHWM')).split()[1])


def synchronize(device: torch.device | str) -> None:
    """Waits until the device has done its work; the CPU always has."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def describe_environment() -> dict[str, Any]:
    """Returns the versions and the hardware that a reader needs to compare numbers."""
    packages = {
        'torch': ('torch',),
        'mmengine': ('onedl-mmengine', 'mmengine'),
        'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
        'mmseg': ('onedl-mmsegmentation', 'mmsegmentation'),
        'mmpose': ('mmpose',),
        'transformers': ('transformers',),
        'openvino': ('openvino',),
        'onnx': ('onnx',),
        'onnxruntime': ('onnxruntime',),
        'tomesd': ('tomesd',),
    }
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        'python': platform.python_version(),
        'platform': platform.platform(),
        'cpu': _cpu_name(),
        'cpu_count': os.cpu_count(),
        'gpu': gpu,
        'cuda': torch.version.cuda if gpu else None,
        'triton': _version(('triton',)) if gpu else None,
        'float32_matmul_precision': _matmul_precision(),
        'versions': {name: _version(names) for name, names in packages.items()},
        'git_commit': _git_commit(),
    }


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # PyTorch's newer settings were used
        return str(torch.backends.cuda.matmul.fp32_precision)


def _version(distributions: tuple[str, ...]) -> str | None:
    """Returns 'name version' of each that is installed; of OpenMMLab's lines both may be."""
    found = [f'{each} {metadata.version(each)}' for each in distributions if has_distribution(each)]
    return ', '.join(found) or None


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Returns the name of the GPU, or of the processor with the threads that PyTorch uses."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    return f'{_cpu_name()} ({name_threads(torch.get_num_threads())})'


def name_threads(count: int) -> str:
    """Returns '1 thread', '2 threads'."""
    return f'{count} thread{"" if count == 1 else "s"}'


def gpu_clocks() -> str | None:
    """Returns what the driver says of clocks, power and temperature; None without its tool."""
    asked = 'clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu'
    return _output('nvidia-smi', f'--query-gpu={asked}', '--format=csv,noheader')


def _git_commit() -> str | None:
    """Returns the commit of this package's repository, '-dirty' if it was changed."""
    command = 'git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*'
    return _output(*command, folder=Path(__file__).resolve().parent)


def _output(*command: str, folder: Path | None = None) -> str | None:
    """Returns what a command says, None if it is not there or fails."""
    try:
        answer = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
