"""SegFormer with token merging, for mmsegmentation, mmpose, and models that are built already.

Importing this package imports nothing else: what has a name here is loaded when it is first asked
for, and what OpenMMLab's registries should know is registered as soon as somebody imports mmengine,
so that ``custom_imports = dict(imports=['segformer_plusplus'])`` in a config is all it takes.
"""

from . import compat as _compat
from .errors import CheckpointError, MissingDependencyError, SegformerPlusPlusError
from .version import __version__

_compat.install()

_EXPORTS = {
    'TOKEN_MERGERS': 'token_merging',
    'MergePlan': 'token_merging',
    'TokenMerger': 'token_merging',
    'apply_cuda_graphs': 'patching',
    'apply_token_merging': 'patching',
    'push_to_hub': 'evaluation.sharing',
    'remove_cuda_graphs': 'patching',
    'remove_token_merging': 'patching',
    'MixVisionTransformerPlusPlus': 'mit',
    'SegformerHeadPlusPlus': 'segmentation',
    'SegformerLinearHead': 'segmentation',
    'EncoderDecoderPlusPlus': 'segmentation',
    'CamVidDataset': 'segmentation',
    'CheckedLoadAnnotations': 'segmentation',
    'SegformerHeatmapHead': 'pose',
    'JumpBroadcastDataset': 'pose',
    'LeedsSportsDataset': 'pose',
    'BoxPCK': 'pose',
    'TorsoPCK': 'pose',
    'CheckedLoadImage': 'pose',
}
"""Every public name of the package, and the room that has it."""

__getattr__ = _compat.lazily(__name__, _EXPORTS)

__all__ = [
    'TOKEN_MERGERS',
    'CheckpointError',
    'MergePlan',
    'MissingDependencyError',
    'MixVisionTransformerPlusPlus',
    'SegformerPlusPlusError',
    'TokenMerger',
    '__version__',
    'apply_cuda_graphs',
    'apply_token_merging',
    'push_to_hub',
    'remove_cuda_graphs',
    'remove_token_merging',
]
