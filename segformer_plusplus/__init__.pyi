from .errors import CheckpointError, MissingDependencyError, SegformerPlusPlusError
from .evaluation.sharing import push_to_hub
from .mit import MixVisionTransformerPlusPlus
from .patching import (
    apply_cuda_graphs,
    apply_token_merging,
    remove_cuda_graphs,
    remove_token_merging,
)
from .pose import (
    BoxPCK as BoxPCK,
    CheckedLoadImage as CheckedLoadImage,
    JumpBroadcastDataset as JumpBroadcastDataset,
    LeedsSportsDataset as LeedsSportsDataset,
    SegformerHeatmapHead as SegformerHeatmapHead,
    TorsoPCK as TorsoPCK,
)
from .segmentation import (
    CamVidDataset as CamVidDataset,
    CheckedLoadAnnotations as CheckedLoadAnnotations,
    EncoderDecoderPlusPlus as EncoderDecoderPlusPlus,
    SegformerHeadPlusPlus as SegformerHeadPlusPlus,
    SegformerLinearHead as SegformerLinearHead,
)
from .token_merging import TOKEN_MERGERS, MergePlan, TokenMerger
from .version import __version__

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
