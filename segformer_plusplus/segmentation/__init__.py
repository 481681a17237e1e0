"""Holds what needs mmseg: the segmentor, its heads, the label loader and the CamVid dataset."""

from ..compat import lazily

__getattr__, __all__ = lazily(
    __name__, __file__, needs=('mmseg', 'mmseg.models', 'mmseg.datasets.transforms')
)
