"""Writes a video of painted frames, completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import mmcv
import numpy as np

from ..errors import SegformerPlusPlusError

_CODEC = 'mp4v'
_FPS = 25.0  # for a video that does not tell


class VideoFile:
    """Writes an MP4 file with the frame rate of another video.

    Args:
        path: ends in .mp4; an older file is replaced at the end.
        like: the other video.

    Raises:
        SegformerPlusPlusError: OpenCV cannot write the file, or some frames are missing at the end.
    """

    def __init__(self, path: Path, like: Path) -> None:
        self.path = path
        self._fps = mmcv.VideoReader(str(like)).fps or _FPS
        self._beside = path.with_name(f'.{os.getpid()}-{path.name}')
        self._writer: cv2.VideoWriter | None = None
        self._frames = 0

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._writer is not None:
                self._writer.release()
                if kind is None:
                    self._check()
                    self._beside.replace(self.path)
        finally:
            self._beside.unlink(missing_ok=True)

    def add(self, frame: np.ndarray) -> None:
        """Appends a frame (H, W, 3) uint8 BGR, which has the size of the first one."""
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
        # OpenCV says nothing when the disk is full
        found = len(mmcv.VideoReader(str(self._beside)))
        if found != self._frames:
            raise SegformerPlusPlusError(
                f'cannot write the video {self.path}: {max(found, 0)} of {self._frames} frames are '
                'in the file; is the disk full?'
            )
