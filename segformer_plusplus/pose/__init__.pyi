from .data import CheckedLoadImage, JumpBroadcastDataset, LeedsSportsDataset
from .head import SegformerHeatmapHead
from .metrics import BoxPCK, TorsoPCK

__all__ = [
    'BoxPCK',
    'CheckedLoadImage',
    'JumpBroadcastDataset',
    'LeedsSportsDataset',
    'SegformerHeatmapHead',
    'TorsoPCK',
]
