"""Opens the comparer that a config asks for."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from ..errors import SegformerPlusPlusError
from .comparison import MAX_PIXELS, Comparer


def open_comparer(
    cfg: Config,
    checkpoint: str | Path,
    device: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Comparer:
    """Opens the model of a config.

    Args:
        cfg: of a segmentor or of a top-down pose estimator.
        checkpoint: its weights.
        device: None takes CUDA if there is one.
        max_pixels: see :class:`~.comparison.Comparer`.

    Raises:
        SegformerPlusPlusError: another kind of model; see the comparers.
    """
    scope = cfg.get('default_scope')
    if scope == 'mmseg':
        from ..inference import Segmenter
        from .segmentation import SegmentationComparer

        return SegmentationComparer(Segmenter(cfg, checkpoint, device=device), max_pixels)
    if scope == 'mmpose':
        from ..inference import PoseEstimator
        from .pose import PoseComparer

        return PoseComparer(PoseEstimator(cfg, checkpoint, device=device), max_pixels)
    raise SegformerPlusPlusError(
        f'{cfg.filename} has default_scope {scope!r}; expected one of mmseg, mmpose'
    )
