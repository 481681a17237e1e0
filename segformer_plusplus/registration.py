"""Which name each registry of OpenMMLab knows, before the module that has it is imported.

mmseg and mmpose take seconds to import. So what needs them is registered by a stand-in, which
becomes the class or function itself when it is first built, called or asked for anything.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

_PACKAGE = __name__.rpartition('.')[0]

REGISTERED = {
    'MODELS': {
        'MixVisionTransformerPlusPlus': 'mit',
        'EncoderDecoderPlusPlus': 'segmentation',
        'ExportedGraph': 'inference.exported',
        'ExportedHead': 'inference.exported',
        'ExportedSegmentor': 'inference.exported_segmentor',
        'SegformerHeadPlusPlus': 'segmentation',
        'SegformerLinearHead': 'segmentation',
        'SegformerHeatmapHead': 'pose',
    },
    'WEIGHT_INITIALIZERS': {'StrictPretrained': 'checkpoints.loading'},
    'DATASETS': {
        'CamVidDataset': 'segmentation',
        'JumpBroadcastDataset': 'pose',
        'LeedsSportsDataset': 'pose',
        'LeaveOut': 'loading.leave_out:without_listed',
    },
    'TRANSFORMS': {
        'CheckedLoadImageFromFile': 'loading.images',
        'CheckedLoadAnnotations': 'segmentation',
        'CheckedLoadImage': 'pose',
    },
    'METRICS': {'BoxPCK': 'pose', 'TorsoPCK': 'pose'},
    'RUNNERS': {'StrictRunner': 'training.runner'},
    'HOOKS': {
        'DurableCheckpointHook': 'training.checkpoint_files',
        'PreemptionHook': 'training.preemption',
        'MergeMapHook': 'training.hooks',
        'ProgressBarHook': 'training.hooks',
        'SkippedSamplesHook': 'training.hooks',
        'StepSeedHook': 'training.hooks',
        'StopOnNaN': 'training.hooks',
    },
    'OPTIM_WRAPPERS': {'BFloat16OptimWrapper': 'training.switches'},
}
"""Registry of ``mmengine.registry`` -> name -> module of this package that has it, with what it is
called there if that is another name.

All of it is in mmengine's root registries, which those of every toolbox fall back on. The modules
register with ``force=True``, in the place of the stand-in.
"""


def register() -> None:
    """Put a stand-in into mmengine's registries for whatever is not registered yet."""
    registries = importlib.import_module('mmengine.registry')
    for registry_name, names in REGISTERED.items():
        registry = getattr(registries, registry_name)
        for name, place in names.items():
            if name not in registry.module_dict:
                module, _, attribute = place.partition(':')
                members = {'__module__': f'{_PACKAGE}.{module}', '_name': attribute or name}
                registry.register_module(name=name, module=StandIn(name, (), members))


def component_name(kind: Any) -> str:
    """Returns the bare name of a component, whatever way a config writes its ``type``.

    Args:
        kind: a name ('IoUMetric'), a name with its scope ('mmseg.IoUMetric') or its module
            ('mmseg.evaluation.IoUMetric'), or the class or function itself; None gives ''.
    """
    name = getattr(kind, '__name__', None) or ('' if kind is None else str(kind))
    return str(name).rpartition('.')[2]


def component(kind: Any, registry: Any, scope: str | None = None) -> Any:
    """Returns the class or function that a config's ``type`` stands for; None if nobody knows it.

    Args:
        kind: see ``component_name``.
        registry: one of ``mmengine.registry``.
        scope: the config's ``default_scope``; None is the one that was set last.
    """
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(scope) as found, contextlib.suppress(RuntimeError):
        return found.get(kind)


def component_names(kind: Any, registry: Any, scope: str | None = None) -> list[str]:
    """Returns the bare names of a component and of the classes that it derives from.

    Arguments as of ``component``; one that nobody knows has its own name alone.
    """
    found = component(kind, registry, scope) or kind
    return [component_name(each) for each in getattr(found, '__mro__', [found])]


class StandIn(type):
    """A class that becomes another one, or a function: that of its name in its module."""

    _name: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._resolve()(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls._resolve(), name)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls._resolve())

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls._resolve())

    def _resolve(cls) -> Any:
        return getattr(importlib.import_module(cls.__module__), cls._name)
