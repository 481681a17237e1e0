"""What every test starts from."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    # Triton asks for it when it is imported: kernels then run on the CPU, one number at a time
    os.environ.setdefault('TRITON_INTERPRET', '1')

# isort: split
from hub import hub
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin
from mmengine.visualization import Visualizer
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.torch_version import TorchVersion

from segformer_plusplus.token_merging import PRESETS, TOKEN_MERGERS

__all__ = ['hub']

FIRST = ('training', 'test_reproduce.py')
"""Trainings are forked, which autograd refuses once it has threads; the other takes longest."""


def pytest_configure() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, and so would our programs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts some tests before the others."""
    names = [*FIRST, '']
    items.sort(key=lambda item: next(k for k, n in enumerate(names) if n in (*item.path.parts, '')))


@pytest.fixture(autouse=True)
def fresh_managers() -> None:
    """mmengine keeps loggers, scopes and visualizers for the life of the process.

    It names loggers by the second: two runs within one would share a closed stream.
    """
    managers: list[type[ManagerMixin]] = [MMLogger, MessageHub, DefaultScope, Visualizer]
    for manager in (*managers, *Visualizer.__subclasses__()):
        manager._instance_dict.clear()


@pytest.fixture(autouse=True)
def any_order() -> Iterator[None]:
    """What a test leaves to the process changes no other test.

    A training that is to be exact says so for the whole process, where no kernel runs then.
    """
    presets, mergers = list(PRESETS.items()), list(TOKEN_MERGERS.module_dict)
    yield
    torch.use_deterministic_algorithms(False)
    assert list(PRESETS.items()) == presets, 'other tests would have other presets'
    assert list(TOKEN_MERGERS.module_dict) == mergers, 'other tests would have other mergers'


@pytest.fixture
def no_gpu() -> FakeTensorMode:
    """Returns the mode in which tensors can lie on a GPU that is not there: shapes without numbers.

    What mixes devices or types fails in it as on a real one.
    """
    if TorchVersion(torch.__version__) < '2.7':
        pytest.skip('this torch asks for a driver')
    return FakeTensorMode()
