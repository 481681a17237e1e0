"""Holds what needs mmpose: the head, the dataset, the metric and the image loader.

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
        'SegformerHeatmapHead': 'head',
    },
    needs=('mmpose', 'mmpose.models', 'mmpose.datasets', 'mmpose.evaluation'),
)

__all__ = ['BoxPCK', 'CheckedLoadImage', 'JumpBroadcastDataset', 'SegformerHeatmapHead']
