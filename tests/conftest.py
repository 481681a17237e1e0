"""What every test starts from."""

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin
from mmengine.visualization import Visualizer


@pytest.fixture(autouse=True)
def fresh_managers() -> None:
    """mmengine keeps loggers, scopes and visualizers for the life of the process.

    It names loggers by the second: two runs within one would share a closed stream.
    """
    managers: list[type[ManagerMixin]] = [MMLogger, MessageHub, DefaultScope, Visualizer]
    for manager in (*managers, *Visualizer.__subclasses__()):
        manager._instance_dict.clear()
