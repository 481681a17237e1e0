"""Loading for pose estimation."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmpose.registry import TRANSFORMS

from ..transforms import CheckedLoadImageFromFile


@TRANSFORMS.register_module()
class CheckedLoadImage(CheckedLoadImageFromFile):
    """mmpose's ``LoadImage`` that fails on a damaged file, and says which.

    As there, an image that is given as an array in ``results['img']`` (BGR) is taken as it is,
    which ``inference_topdown`` and the inferencers need.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Read ``results['img_path']``, unless there is an ``img``; (H, W, 3) uint8 BGR."""
        if 'img' not in results:
            return super().transform(results)
        image: np.ndarray = results['img']
        results.setdefault('img_path', None)
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results
