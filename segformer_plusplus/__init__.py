"""SegFormer with token merging for mmsegmentation and mmpose.

Importing this package registers everything whose toolbox is installed, so that
``custom_imports = dict(imports=['segformer_plusplus'])`` in a config is all it takes.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any
from warnings import warn

from . import compat
from .errors import CheckpointError, MissingDependencyError, SegformerPlusPlusError
from .version import __version__

compat.require_foundation()
compat.make_mmcv_ops_importable()

from . import hooks, transforms  # noqa: E402
from .backbones import MixVisionTransformerPlusPlus  # noqa: E402
from .datasets import leave_out as _leave_out  # noqa: E402, F401  (registers LeaveOut)
from .patching import apply_token_merging, remove_token_merging  # noqa: E402
from .token_merging import TOKEN_MERGERS, MergePlan, TokenMerger  # noqa: E402

_TOOLBOX_PARTS = {
    'SegformerHeadPlusPlus': 'segmentation',
    'SegformerLinearHead': 'segmentation',
    'EncoderDecoderPlusPlus': 'segmentation',
    'CheckedLoadAnnotations': 'segmentation',
    'SegformerHeatmapHead': 'pose',
    'JumpBroadcastDataset': 'pose',
    'BoxPCK': 'pose',
    'CheckedLoadImage': 'pose',
}
"""What can be asked of this package only with a toolbox, and the module that has it."""

for _toolbox, _module in {'mmseg': 'segmentation', 'mmpose': 'pose'}.items():
    if find_spec(_toolbox) is not None:
        try:
            import_module(f'.{_module}', __name__)
        except MissingDependencyError as error:
            # a broken toolbox must not take the rest away; asking for its parts raises this
            warn(str(error), stacklevel=2)


def __getattr__(name: str) -> Any:
    if name in _TOOLBOX_PARTS:
        return getattr(import_module(f'.{_TOOLBOX_PARTS[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = [
    'TOKEN_MERGERS',
    'CheckpointError',
    'MergePlan',
    'MissingDependencyError',
    'MixVisionTransformerPlusPlus',
    'SegformerPlusPlusError',
    'TokenMerger',
    '__version__',
    'apply_token_merging',
    'hooks',
    'remove_token_merging',
    'transforms',
]
