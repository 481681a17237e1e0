"""Image loading that names the file it cannot read, for every OpenMMLab toolbox."""

from __future__ import annotations

from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS

from .errors import SegformerPlusPlusError


@TRANSFORMS.register_module()
class CheckedLoadImageFromFile(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that fails on a damaged file, and says which.

    The default decoder is Pillow: OpenCV fills what is missing of a truncated image with grey and
    goes on. Arguments as in mmcv.

    Raises:
        SegformerPlusPlusError: the file is missing, is no image, or ends too early.
    """

    def __init__(self, imdecode_backend: str = 'pillow', **kwargs: Any) -> None:
        super().__init__(imdecode_backend=imdecode_backend, **kwargs)

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Read ``results['img_path']`` into ``results['img']``, (H, W, 3) uint8 BGR."""
        try:
            return super().transform(results)
        except (OSError, SyntaxError, ValueError, AssertionError) as error:
            raise unreadable('image', results['img_path'], error) from error


def unreadable(kind: str, path: str, error: BaseException) -> SegformerPlusPlusError:
    """The error for a file that cannot be decoded; ``kind`` is 'image' or 'label map'."""
    reason = ' '.join(str(error).split()) or type(error).__name__
    return SegformerPlusPlusError(f'{kind} {path} cannot be read: {reason}')
