"""What needs mmpose. Importing it registers the head, the dataset, the metric and the loader there.

Human pose is estimated top-down: a box around the person is cut out, and a heatmap is predicted
for every keypoint.
"""

from ..compat import import_toolbox

for _module in ('mmpose', 'mmpose.models', 'mmpose.datasets', 'mmpose.evaluation'):
    import_toolbox(_module, asked_for='segformer_plusplus.pose')

from .head import SegformerHeatmapHead  # noqa: E402
from .jbd import JumpBroadcastDataset  # noqa: E402
from .metrics import BoxPCK  # noqa: E402
from .transforms import CheckedLoadImage  # noqa: E402

__all__ = ['BoxPCK', 'CheckedLoadImage', 'JumpBroadcastDataset', 'SegformerHeatmapHead']
