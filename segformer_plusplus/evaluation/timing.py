"""Timing models against each other, their peak memory, and a record of where it was done."""

import contextlib
import gc
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ..errors import LESS_MEMORY, SegformerPlusPlusError, memory_errors

Call = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Wall-clock times of one model, in the order in which they were taken.

    Attributes:
        seconds: one time per round.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile, in seconds (inclusive method)."""
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
        models: name -> function that runs the model once.
        rounds: timed rounds, at least 1.
        warmup: rounds before those, not timed.
        device: where the models run.
        taken: filled with the seconds of every model as they come, for those who want what was
            measured before an interruption.
        clock: in seconds; ``time.process_time`` counts the time on the CPU alone.
        before: called with the name before every run, outside of the clock; for models that are
            one and are switched.
        advice: what the user can do about a model that runs out of memory.

    Returns:
        name -> its times, in the order of ``models``.

    Raises:
        SegformerPlusPlusError: a wrong number of rounds, or a model ran out of memory.
    """
    if rounds < 1 or warmup < 0:
        raise SegformerPlusPlusError(
            f'rounds must be at least 1 and warmup at least 0, got {rounds} and {warmup}'
        )
    before = before or (lambda name: None)
    for _ in range(warmup):
        for name, call in models.items():
            with memory_errors(name, advice):
                before(name)
                call()
    seconds = {} if taken is None else taken
    seconds.update({name: [] for name in models})
    for _ in range(rounds):
        for name, call in models.items():
            with memory_errors(name, advice):
                before(name)
                synchronize(device)
                start = clock()
                call()
                synchronize(device)
                seconds[name].append(clock() - start)
    return {name: Timing(tuple(times)) for name, times in seconds.items()}


def peak_memory(call: Call, device: torch.device | str = 'cpu') -> int:
    """Bytes that one call needs at its peak, on top of what was allocated before it.

    What is alive before the call (weights, the input) is not included; all that the call
    allocates is, its result and the temporary tensors inside operators too.

    On CUDA: ``max_memory_allocated`` during the call less ``memory_allocated`` before it. On the
    CPU: PyTorch's profiler records every allocation and release of PyTorch's allocator during the
    call; the result is the maximum of their running sum. Not seen are the release of memory from
    before the call, scratch memory that libraries such as oneDNN take from the system by
    themselves, and what malloc holds back.
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


def synchronize(device: torch.device | str) -> None:
    """Waits until the device has done what it was given; the CPU always has."""
    if torch.device(device).type == 'cuda':
        torch.cuda.synchronize(device)


def describe_environment() -> dict[str, Any]:
    """Versions and hardware that a reader needs to compare numbers."""
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
        'cpu': cpu_name(),
        'cpu_count': os.cpu_count(),
        'gpu': gpu,
        'cuda': torch.version.cuda if gpu else None,
        'float32_matmul_precision': torch.get_float32_matmul_precision(),
        'versions': {name: _version(names) for name, names in packages.items()},
        'git_commit': git_commit(),
    }


def _version(distributions: tuple[str, ...]) -> str | None:
    """'name version' of the first of these distributions that is installed."""
    for distribution in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f'{distribution} {metadata.version(distribution)}'
    return None


def cpu_name() -> str:
    """The processor's model name, as far as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    return platform.processor() or platform.machine()


def device_name(device: torch.device) -> str:
    """Of the processor, with the threads that PyTorch uses, or of the GPU."""
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f'{cpu_name()} ({threads} thread{"" if threads == 1 else "s"})'


def git_commit() -> str | None:
    """The commit of the repository that this package stands in, '-dirty' if it was changed."""
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
    folder = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
