"""Writes a video of painted frames, completely or not at all; tells one that is cut off."""

from __future__ import annotations

import struct
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np

from ..errors import SegformerPlusPlusError
from ..files import written_beside
from .encoding import Encoder, open_encoder

_FPS = 25.0  # for a video that does not tell, or tells nonsense
_LEAST_FPS, _MOST_FPS = 0.1, 1000.0


class VideoFile:
    """Writes an MP4 file with the frame rate and the sound of another video.

    Args:
        path: ends in .mp4; an older file is replaced at the end.
        like: the other video.

    Raises:
        SegformerPlusPlusError: OpenCV cannot write the file, or some frames are missing at the end.
    """

    def __init__(self, path: Path, like: Path) -> None:
        self.path = path
        self._like = like
        fps = mmcv.VideoReader(str(like)).fps
        fps = fps if _LEAST_FPS <= fps <= _MOST_FPS else _FPS
        self._rate = Fraction(fps).limit_denominator(1001)  # 30000/1001 and its like are exact
        self._stack = ExitStack()
        self._beside: Path | None = None
        self._encoder: Encoder | None = None
        self._frames = 0

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, frame: np.ndarray) -> None:
        """Appends a frame (H, W, 3) uint8 BGR, which has the size of the first one."""
        # codecs have even sides only, and OpenCV would cut off a row
        odd = frame.shape[0] % 2, frame.shape[1] % 2
        frame = cv2.copyMakeBorder(frame, 0, odd[0], 0, odd[1], cv2.BORDER_REPLICATE)
        if self._encoder is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._beside = self._stack.enter_context(written_beside(self.path))
            size = frame.shape[1], frame.shape[0]
            self._encoder = open_encoder(self._beside, self._like, self._rate, size)
            self._stack.push(self._finish)
        self._encoder.add(frame)
        self._frames += 1

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._encoder is not None
        self._encoder.close(whole=kind is None)
        if kind is None:
            self._check()

    def _check(self) -> None:
        # OpenCV says nothing when the disk is full
        found = mmcv.VideoReader(str(self._beside)).frame_cnt
        if found != self._frames:
            raise SegformerPlusPlusError(
                f'cannot write the video {self.path}: {max(found, 0)} of {self._frames} frames are '
                'in the file; is the disk full?'
            )


def is_cut_off(path: Path) -> bool:
    """Tells whether a file is shorter than its container says: AVI, MP4, MOV or Matroska."""
    size = path.stat().st_size
    with path.open('rb') as stream:
        start = stream.read(128)
        if start[:4] == b'RIFF':
            length = int.from_bytes(start[4:8], 'little')
            return length != 0xFFFFFFFF and 8 + length > size
        if start[:4] == b'\x1a\x45\xdf\xa3':  # a header, then one segment with all the rest
            return _matroska_end(start, _matroska_end(start, 4) + 4) > size
        at = 0
        while start[4:8] == b'ftyp' and at + 8 <= size:
            stream.seek(at)
            length, _, longer = struct.unpack('>I4sQ', stream.read(16).ljust(16, b'\0'))
            length = longer if length == 1 else length
            if length < 8:  # 0: to the end, wherever that is
                return False
            at += length
        return at > size


def _matroska_end(data: bytes, at: int) -> int:
    """Returns where an element ends whose size is written at a place; 0 if that is unknown."""
    width = 9 - data[at].bit_length() if at < len(data) else 0
    field = int.from_bytes(data[at : at + width], 'big')
    length, unknown = field % (1 << 7 * width), (1 << 7 * width) - 1
    return 0 if length == unknown else at + width + length
