"""Opens the comparer that a config asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..errors import SegformerPlusPlusError
from ..export.formats import is_exported
from ..inference.exported import exported_config
from ..inference.pretrained import own_weights
from .comparison import MAX_PIXELS, Comparer


def open_comparer(
    cfg: Config,
    checkpoint: str | Path,
    device: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Comparer:
    """Opens the model of a config, or exported files.

    Args:
        cfg: of a segmentor or of a top-down pose estimator.
        checkpoint: its weights, or the model exported to a file; beside a file, another one that is
            compared with it.
        device: None takes CUDA if there is one.
        max_pixels: see ``comparison.Comparer``.

    Raises:
        SegformerPlusPlusError: another kind of model, see the comparers; or files that cannot be
            compared.
    """
    predictor, comparer, file_comparer = _parts(cfg)
    first = own_weights(cfg) or str(checkpoint)
    if not is_exported(first):
        return comparer(predictor(cfg, checkpoint, device=device), max_pixels)
    configs = {first: cfg}
    if str(checkpoint) != first:
        configs[str(checkpoint)] = _second(cfg, first, str(checkpoint))
    # names of a folder each are told apart by the whole path
    alike = len({Path(each).name for each in configs}) < len(configs)
    opened = {
        path if alike else Path(path).name: predictor(each, path, device=device)
        for path, each in configs.items()
    }
    names = {str(getattr(each, 'classes', None) or each.keypoint_names) for each in opened.values()}
    if len(names) > 1:
        raise SegformerPlusPlusError(f'{" and ".join(opened)} have not the same classes')
    return file_comparer(opened, max_pixels)


def _parts(cfg: Config) -> tuple[Any, Any, Any]:
    """Returns the predictor of a toolbox, and the comparers of its models and of its files."""
    scope = cfg.get('default_scope')
    if scope == 'mmseg':
        from ..inference import Segmenter
        from .segmentation import SegmentationComparer, SegmentationFileComparer

        return Segmenter, SegmentationComparer, SegmentationFileComparer
    if scope == 'mmpose':
        from ..inference import PoseEstimator
        from .pose import PoseComparer, PoseFileComparer

        return PoseEstimator, PoseComparer, PoseFileComparer
    raise SegformerPlusPlusError(
        f'{cfg.filename} has default_scope {scope!r}; expected one of mmseg, mmpose'
    )


def _second(cfg: Config, first: str, path: str) -> Config:
    if not is_exported(path):
        raise SegformerPlusPlusError(
            f'{path} is no exported file: beside {first}, give another one, or none'
        )
    other = exported_config(path)
    if other.default_scope != cfg.default_scope:
        raise SegformerPlusPlusError(
            f'{first} is for {cfg.default_scope}, {path} for {other.default_scope}'
        )
    return other
