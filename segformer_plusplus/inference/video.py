"""A video of painted frames, which has its name only when it is whole."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

import cv2
import mmcv
import numpy as np

from ..errors import SegformerPlusPlusError

_CODEC = 'mp4v'
_FPS = 25.0  # of a video that does not say


class VideoFile:
    """An MP4 file with the frame rate of another video.

    Args:
        path: ends in .mp4.
        like: the other video.

    Raises:
        SegformerPlusPlusError: OpenCV cannot write it, or, at the end, it has not all frames; an
            older file stays.
    """

    def __init__(self, path: Path, like: Path) -> None:
        self.path = path
        self._fps = mmcv.VideoReader(str(like)).fps or _FPS
        self._beside = path.with_name(f'.{os.getpid()}-{path.name}')
        self._writer: cv2.VideoWriter | None = None
        self._frames = 0

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._writer is not None:
                self._writer.release()
                if kind is None:
                    self._check()
                    self._beside.replace(self.path)
        finally:
            self._beside.unlink(missing_ok=True)

    def add(self, frame: np.ndarray) -> None:
        """A frame (H, W, 3) uint8 BGR, of the size of the first."""
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            size = frame.shape[1], frame.shape[0]
            code = cv2.VideoWriter.fourcc(*_CODEC)
            self._writer = cv2.VideoWriter(str(self._beside), code, self._fps, size)
            if not self._writer.isOpened():
                raise SegformerPlusPlusError(
                    f'cannot write the video {self.path}: no permission, or this OpenCV has no '
                    f'codec {_CODEC}'
                )
        self._writer.write(np.ascontiguousarray(frame))
        self._frames += 1

    def _check(self) -> None:
        """OpenCV says nothing when the disk is full: what was written is counted."""
        found = len(mmcv.VideoReader(str(self._beside)))
        if found != self._frames:
            raise SegformerPlusPlusError(
                f'cannot write the video {self.path}: {max(found, 0)} of {self._frames} frames are '
                'in the file; is the disk full?'
            )
