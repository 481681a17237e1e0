"""Holds what needs mmpose: the head, the datasets, the metrics and the image loader.

Human pose is estimated top-down: a box around the person is cut out, and a heatmap is predicted
for every keypoint.
"""

from ..compat import lazily

__getattr__ = lazily(
    __name__,
    {
        'BoxPCK': 'metrics',
        'CheckedLoadImage': 'data',
        'JumpBroadcastDataset': 'data',
        'LeedsSportsDataset': 'data',
        'SegformerHeatmapHead': 'head',
        'TorsoPCK': 'metrics',
    },
    needs=('mmpose', 'mmpose.models', 'mmpose.datasets', 'mmpose.evaluation'),
)

__all__ = [
    'BoxPCK',
    'CheckedLoadImage',
    'JumpBroadcastDataset',
    'LeedsSportsDataset',
    'SegformerHeatmapHead',
    'TorsoPCK',
]
