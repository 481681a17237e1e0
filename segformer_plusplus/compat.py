"""Registers our classes and mends OpenMMLab as its packages are imported.

Only this file knows about OpenMMLab's two lines and about an mmcv without compiled ops. mmcv of the
maintained line, and mmcv-lite, come without ``mmcv._ext``; mmpose, and older mmseg, import
``mmcv.ops`` all the same, though no SegFormer uses any of it. The original line's mmengine calls
``torch.load`` as torch before 2.6 wanted it; it needs NumPy 1.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from .libraries import has_distribution, naming_what_is_missing, require
from .moved import find_moved
from .registration import register

_PACKAGE = __name__.rpartition('.')[0]


def lazily(
    package: str, file: str, needs: Sequence[str] = ()
) -> tuple[Callable[[str], Any], list[str]]:
    """Returns ``__getattr__`` and ``__all__`` of a package whose names are imported when asked for.

    The names stand in its ``__init__.pyi``, where type checkers and editors find them, too.

    Args:
        package: name of the package.
        file: its ``__init__.py``.
        needs: modules of other libraries that all of the names need.
    """
    names: dict[str, str] = {}
    exported: list[str] = []
    for line in ast.parse(Path(file).with_suffix('.pyi').read_text(encoding='utf-8')).body:
        if isinstance(line, ast.ImportFrom) and line.module:
            names.update(dict.fromkeys((alias.name for alias in line.names), line.module))
        elif isinstance(line, ast.Assign):
            exported = ast.literal_eval(line.value)

    def find(name: str) -> Any:
        if name in names:
            for module in needs:
                require(module, f'{package}.{name}')
            with naming_what_is_missing(f'{package}.{name}'):
                return getattr(importlib.import_module(f'.{names[name]}', package), name)
        if not name.startswith('_'):
            with contextlib.suppress(ModuleNotFoundError):
                return importlib.import_module(f'.{name}', package)
        raise AttributeError(f'module {package!r} has no attribute {name!r}')

    return find, exported


@dataclass(frozen=True)
class _Duty:
    """Says what to do when a module is imported.

    Args:
        after: called after the import.
        around: context in which the module is imported.
    """

    after: Callable[[], None] | None = None
    around: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


def install() -> None:
    """Installs the finder that does the duties, and does those for modules that are imported."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    for name, duty in _DUTIES.items():
        if name in sys.modules and duty.after is not None:
            duty.after()
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds modules where Python does, and has the duties done as they are imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.startswith(f'{_PACKAGE}.'):
            return find_moved(name)
        if name not in _DUTIES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _DutifulLoader(spec.loader, _DUTIES[name])
        return spec


class _DutifulLoader(Loader):
    """Loads a module by another loader and does the duty around and after it."""

    def __init__(self, loader: Loader, duty: _Duty) -> None:
        self._loader = loader
        self._duty = duty

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        with self._duty.around():
            self._loader.exec_module(module)
        if self._duty.after is not None:
            self._duty.after()


def let_mmengine_find_configs() -> None:
    """Lets ``_base_ = ['mmseg::...']`` and ``['segformer_plusplus::...']`` work on both lines.

    mmengine looks the package of a config up by the name of its distribution, which is another one
    on the maintained line; it takes the name of a module as well, in whose folder it looks. That is
    how ours is found: the original line looks for an editable distribution in site-packages.
    """
    known = sys.modules['mmengine.config.utils'].MODULE2PACKAGE
    known[_PACKAGE] = __name__
    for module in ('mmseg', 'mmdet'):
        if not has_distribution(known[module]) and find_spec(module) is not None:
            known[module] = module


def _keep_the_scope_of_our_configs() -> None:
    """Lets a base that comes from this package be one of the toolbox of its ``default_scope``.

    mmengine takes the package of a base for the scope of all that is in it; ours is no toolbox.
    """
    config = sys.modules['mmengine.config.config'].Config
    original = config._get_cfg_path

    @functools.wraps(original)
    def get_cfg_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
        path, scope = original(cfg_path, filename)
        return path, None if scope == _PACKAGE else scope

    config._get_cfg_path = staticmethod(get_cfg_path)


def let_mmengine_read_its_checkpoints() -> None:
    """Lets the original line's mmengine read the files that its Runner writes.

    Up to 0.10.7 it leaves ``weights_only`` to torch, which turned it on in 2.6. Then the numbers
    and HistoryBuffers in a checkpoint's message hub are refused, so that its Runner cannot resume
    and ``init_model`` of mmseg and mmpose cannot load. While it reads a file from the disk, these
    types are admitted; ``weights_only`` stays on, and nothing else that a file may hold is run.
    Does nothing where mmengine sees to it itself.
    """
    digits = importlib.import_module('mmengine.utils').digit_version
    if not digits(importlib.import_module('mmengine').__version__) < digits('0.10.8'):
        return
    module = importlib.import_module('mmengine.runner.checkpoint')
    original = module.load_from_local

    @functools.wraps(original)
    def load_from_local(filename: str, map_location: Any = None) -> Any:
        with _only_reading(filename):
            return original(filename, map_location)

    module.CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)


def keep_mmengine_from_running_code() -> None:
    """Lets mmengine read checkpoints, as those of an ``init_cfg``, but not run what they hold.

    The maintained line tries ``weights_only=True`` and then runs the code of a file that needs it;
    either line runs that of a download, which torch.hub leaves to the caller.
    """
    module = importlib.import_module('mmengine.runner.checkpoint')
    for name in ('_safe_torch_load', 'load_url'):
        if hasattr(module, name):
            setattr(module, name, _safely(getattr(module, name)))


def _see_to_checkpoints() -> None:
    let_mmengine_read_its_checkpoints()
    keep_mmengine_from_running_code()


def _safely(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def only_read(source: Any, *arguments: Any, **settings: Any) -> Any:
        with _only_reading(source):
            return load(source, *arguments, **settings, weights_only=True)

    return only_read


@contextlib.contextmanager
def _only_reading(source: Any) -> Iterator[None]:
    """Admits what mmengine writes, and refuses what asks for more in our words."""
    from .refusals import refused, why_refused
    from .safe_globals import mmengine_globals

    try:
        with mmengine_globals():
            yield
    except Exception as error:
        reason = why_refused(source, error)
        if reason is None:
            raise
        raise refused(source, reason) from error


@contextlib.contextmanager
def _standing_in_for_ops() -> Iterator[None]:
    """Lets ``import mmcv.ops`` succeed where mmcv has no compiled ops.

    The stand-in is taken away again, since mmengine looks for ``mmcv._ext`` to tell a full mmcv
    from a lite one.
    """
    if find_spec('mmcv._ext') is not None:
        yield
        return
    sys.modules['mmcv._ext'] = _OpsWithoutCode('mmcv._ext')
    try:
        yield
    finally:
        del sys.modules['mmcv._ext']


class _OpsWithoutCode(ModuleType):
    """Stands in for ``mmcv._ext``; every op exists and raises when it is called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*_args: Any, **_kwargs: Any) -> NoReturn:
            raise ImportError(
                f'mmcv.ops needs the compiled op {name!r}, but this mmcv was installed without '
                'compiled ops; install an mmcv wheel built for your torch, or build it from source'
            )

        return missing


def _keep_debugging_off_stdout() -> None:
    """Keeps messages of level DEBUG for no logger off stdout, where results go.

    The maintained line says there that it 'could not import OneDL', which nobody asked for.
    """
    module: Any = sys.modules['mmengine.logging']
    original = module.print_log

    @functools.wraps(original)
    def print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
        if logger is not None or level >= logging.INFO:
            original(msg, logger, level)

    module.print_log = print_log


def _keep_a_torn_grammar_from_yapf() -> None:
    """Lets YAPF, by which mmengine formats configs, make its grammar anew where its cache is torn.

    The first process to import it writes the cache, under its name before it is whole: the others
    of a distributed training then end in an EOFError, and so does everyone after a writer that was
    killed.
    """
    module: Any = sys.modules[_YAPF]
    original = module.load_grammar

    @functools.wraps(original)
    def load_grammar(*arguments: Any, **settings: Any) -> Any:
        try:
            return original(*arguments, **settings)
        except Exception:  # noqa: BLE001 - half a pickle fails in many ways
            return original(*arguments, **settings, force=True)

    module.load_grammar = load_grammar


_YAPF = 'yapf_third_party._ylib2to3.pgen2.driver'
_DUTIES = {
    'mmengine.logging': _Duty(after=_keep_debugging_off_stdout),
    'mmengine.registry': _Duty(after=register),
    'mmengine.config.utils': _Duty(after=let_mmengine_find_configs),
    'mmengine.config.config': _Duty(after=_keep_the_scope_of_our_configs),
    'mmengine.runner.checkpoint': _Duty(after=_see_to_checkpoints),
    'mmcv.ops': _Duty(around=_standing_in_for_ops),
    _YAPF: _Duty(after=_keep_a_torn_grammar_from_yapf),
}
"""Module -> what to do when it is imported."""
