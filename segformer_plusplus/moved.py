"""Forwards old names of modules for scripts of 0.1, with a warning, or says where to look."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_PACKAGE = __name__.rpartition('.')[0]

MOVED: dict[str, tuple[str, ...]] = {
    'backbones': ('mit',),
    'backbones.mit': ('mit.backbone',),
    'checkpoints.safe_globals': ('safe_globals',),
    'commands': ('cli',),
    'datasets': (),
    'datasets.keypoints': ('pose.keypoints',),
    'datasets.leave_out': ('loading.leave_out',),
    'engine': ('training', 'evaluation.timing', 'evaluation.benchmark.costs'),
    'engine.benchmarking': ('evaluation.timing', 'errors'),
    'engine.cli': ('inference.configs', 'inference.opening', 'cli.options', 'files'),
    'engine.guard': ('cli.guard', 'errors'),
    'engine.models': ('inference.opening',),
    'fidelity': ('evaluation.fidelity',),
    'fidelity.data': ('evaluation.fidelity.opening', 'evaluation.fidelity.base'),
    'fidelity.report': ('evaluation.results', 'evaluation.plots'),
    'fidelity.strategies': ('evaluation.fidelity.measuring',),
    'hooks': ('training.hooks', 'training.checkpoint_files', 'training.preemption'),
    'inference.models': ('inference.opening', 'inference.configs'),
    'layers': ('mit.backbone', 'mit.attention', 'mit.ffn', 'mit.fusion'),
    'layers.cpu': ('mit.cpu',),
    'layers.merged_attention': ('mit.attention',),
    'layers.mix_ffn': ('mit.ffn',),
    'randomness': ('training.randomness',),
    'reporting': (),
    'reproduction': (),
    'saving': ('training.checkpoint_files',),
    'token_merging.presets': ('token_merging.config',),
    'token_merging.spec': ('token_merging.config',),
    'token_merging.windows': ('token_merging.neighbor',),
    'transforms': ('loading.images',),
    'tuning': ('evaluation.tuning',),
    'tuning.call': ('evaluation.tuning',),
    'tuning.points': ('evaluation.tuning',),
    'visualization': ('inference', 'inference.merge_maps', 'inference.drawing'),
    'webdemo': ('demo', 'demo.comparison'),
}
"""Old module -> modules that have its names now. Its submodules are looked for below the first."""

OUTSIDE = {
    'datasets': 'tools/dataset_generators, tools/dataset_converters and tools/dataset_checks',
    'reporting': 'tools/paper_tables',
    'reproduction': 'tools/paper_tables',
}
"""Old packages that are no longer in the wheel -> where a checkout has their content."""


def find_moved(name: str) -> ModuleSpec | None:
    """Returns the spec of a module of this package under an old name; None for any other name."""
    old = name.removeprefix(f'{_PACKAGE}.')
    head, _, rest = old.partition('.')
    if old in MOVED:
        new = MOVED[old]
    elif rest and MOVED.get(head):
        new = (f'{MOVED[head][0]}.{rest}',)
        if not _exists(f'{_PACKAGE}.{new[0]}'):
            return None
    elif head in OUTSIDE:
        raise ModuleNotFoundError(_outside(name, head), name=name)
    else:
        return None
    return ModuleSpec(name, _Forwarding(old, new), is_package=True)


def _exists(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # what it would be in is no package
        return False


def _outside(name: str, head: str) -> str:
    return f'{name} is no longer in the package; a checkout has it in {OUTSIDE[head]}'


class _Forwarding(Loader):
    """Makes the module ``old`` that has the names of the modules ``new``, all below the package."""

    def __init__(self, old: str, new: Sequence[str]) -> None:
        self._old, self._new = old, new

    def create_module(self, spec: ModuleSpec) -> None:
        """Leaves it to Python."""

    def exec_module(self, module: ModuleType) -> None:
        if self._new:
            here = ' and '.join(f'{_PACKAGE}.{new}' for new in self._new)
            warnings.warn(f'{module.__name__} is {here} now', FutureWarning, stacklevel=2)
        module.__dict__['__getattr__'] = self._find

    def _find(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        for new in self._new:
            found = importlib.import_module(f'{_PACKAGE}.{new}')
            if hasattr(found, name):
                return getattr(found, name)
        asked = f'{_PACKAGE}.{self._old}.{name}'
        if self._old in OUTSIDE:
            raise ImportError(_outside(asked, self._old))
        raise AttributeError(f'{asked} is gone; looked for it in {", ".join(self._new)}')
