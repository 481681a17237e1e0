"""Holds what needs mmpose: the head, the datasets, the metrics and the image loader.

Human pose is estimated top-down: a box around the person is cut out, and a heatmap is predicted
for every keypoint.
"""

from ..compat import lazily

__getattr__, __all__ = lazily(
    __name__, __file__, needs=('mmpose', 'mmpose.models', 'mmpose.datasets', 'mmpose.evaluation')
)
