"""What needs mmseg. Importing it registers the segmentor, the head and the label loader there."""

from ..compat import import_toolbox

for _module in ('mmseg', 'mmseg.models', 'mmseg.datasets.transforms'):
    import_toolbox(_module, asked_for='segformer_plusplus.segmentation')

from .head import SegformerHeadPlusPlus  # noqa: E402
from .labels import label_map  # noqa: E402
from .linear_head import SegformerLinearHead  # noqa: E402
from .segmentor import EncoderDecoderPlusPlus  # noqa: E402
from .transforms import CheckedLoadAnnotations  # noqa: E402

__all__ = [
    'CheckedLoadAnnotations',
    'EncoderDecoderPlusPlus',
    'SegformerHeadPlusPlus',
    'SegformerLinearHead',
    'label_map',
]
