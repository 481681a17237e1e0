"""Encodes frames as H.264 with the sound of a video by PyAV, or as OpenCV can without it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from errno import ENOSPC
from fractions import Fraction
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from mmengine.logging import print_log

from ..errors import MissingDependencyError, SegformerPlusPlusError, first_line
from ..libraries import require

_PLAIN_CODEC = 'mp4v'
_COPIED = ('aac', 'mp3', 'ac3', 'eac3', 'opus')
"""Codecs of sound that an MP4 file holds as they are."""
_LARGEST_SIDE = 16384  # of x264
_RATE = 48000  # of sound that AAC does not have as it is
_SETTINGS = {
    'crf': '18',  # differences that the eye does not see
    # what the conversion from RGB gives; players guess where this is not said
    'x264-params': 'colorprim=bt709:transfer=bt709:colormatrix=smpte170m',
}


class Encoder(Protocol):
    """Writes frames (H, W, 3) uint8 BGR of one size, both sides even, to an MP4 file."""

    def add(self, frame: np.ndarray) -> None:
        """Appends a frame."""

    def close(self, whole: bool) -> None:
        """Ends the file; one that is not whole is given up, and need not play."""


def open_encoder(path: Path, like: Path, rate: Fraction, size: tuple[int, int]) -> Encoder:
    """Opens an encoder of H.264, or of what OpenCV has, which is said once.

    Args:
        path: the file, of MP4.
        like: the video whose sound is taken.
        rate: frames per second.
        size: width and height in pixels.

    Raises:
        SegformerPlusPlusError: OpenCV cannot write the file, or the sides are too long.
        OSError: PyAV cannot.
    """
    if not _has_h264():
        return _OpenCV(path, rate, size)
    if max(size) > _LARGEST_SIDE:
        raise SegformerPlusPlusError(
            f'no video of {size[0]}x{size[1]} pixels can be written: H.264 has sides of at most '
            f'{_LARGEST_SIDE}; leave overlays out with --save-as masks'
        )
    return _H264(path, like, rate, size)


@cache
def _has_h264() -> bool:
    """Says whether PyAV and its x264 are there; warns, once, if not."""
    try:
        if 'libx264' in require('av', 'H.264').codecs_available:
            return True
        reason = 'this PyAV has no x264; its wheels have it (pip install --force-reinstall av)'
    except MissingDependencyError as error:
        reason = str(error)
    _warn(f'videos are MPEG-4 Part 2, which browsers do not play, and without sound: {reason}')
    return False


def _warn(text: str) -> None:
    print_log(text, logger='current', level=logging.WARNING)


class _OpenCV:
    def __init__(self, path: Path, rate: Fraction, size: tuple[int, int]) -> None:
        code = cv2.VideoWriter.fourcc(*_PLAIN_CODEC)
        self._writer = cv2.VideoWriter(str(path), code, float(rate), size)
        if not self._writer.isOpened():
            raise SegformerPlusPlusError(
                f'cannot write videos: this OpenCV has no codec {_PLAIN_CODEC}; install PyAV with '
                "pip install 'segformer-plusplus[video]'"
            )

    def add(self, frame: np.ndarray) -> None:
        self._writer.write(frame)

    def close(self, whole: bool) -> None:
        self._writer.release()


class _H264:
    def __init__(self, path: Path, like: Path, rate: Fraction, size: tuple[int, int]) -> None:
        self._like, self._rate, self._frames = like, rate, 0
        self._sound: _Sound | None = None
        self._open(path, size)
        try:
            self._sound = _Sound(like, self._container)
            self._container.start_encoding()
        except Exception as error:  # noqa: BLE001 - of a damaged or rare sound
            self._silence(error)
            self.close(whole=False)
            self._open(path, size)

    def _open(self, path: Path, size: tuple[int, int]) -> None:
        import av

        options = {'movflags': '+faststart'}  # the index first, as a page plays it
        self._container: Any = av.open(str(path), 'w', format='mp4', options=options)
        self._video = self._container.add_stream('libx264', self._rate, options=_SETTINGS)
        self._video.width, self._video.height = size
        self._video.pix_fmt = 'yuv420p'
        self._video.codec_context.time_base = 1 / self._rate

    def add(self, frame: np.ndarray) -> None:
        import av

        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format='bgr24')
        image.pts, image.time_base = self._frames, 1 / self._rate
        self._container.mux(self._video.encode(image))
        self._frames += 1
        self._write_sound(self._frames / self._rate)

    def close(self, whole: bool) -> None:
        if not whole:
            with suppress(Exception):
                self._container.close()
            return
        self._container.mux(self._video.encode(None))
        self._write_sound(inf)
        self._container.close()

    def _write_sound(self, until: Fraction | float) -> None:
        try:
            if self._sound is not None:
                self._sound.write(until)
        except Exception as error:
            if getattr(error, 'errno', None) == ENOSPC:
                raise
            self._silence(error)

    def _silence(self, error: Exception) -> None:
        after = f' after {float(self._frames / self._rate):.1f} s' if self._frames else ''
        self._sound = None
        reason = getattr(error, 'strerror', None) or first_line(error)
        _warn(f'the sound of the video {self._like} is left out{after}: {reason}')


class _Sound:
    """Carries the sound of a video over: as it is where MP4 holds its codec, else as AAC.

    Args:
        like: the video.
        into: gets a track for each of its tracks.
    """

    def __init__(self, like: Path, into: Any) -> None:
        import av

        self._into = into
        self._source: Any = av.open(str(like))
        frames: Any = self._source.streams.video[0]
        self._start = (frames.start_time or 0) * frames.time_base
        tracks = self._source.streams.audio
        self._tracks = {track.index: _track(track, into) for track in tracks}
        self._packets = self._read() if tracks else iter(())

    def write(self, until: Fraction | float) -> None:
        """Writes sound up to a time in seconds, so that it lies beside the frames."""
        for packet in self._packets:
            at = packet.pts * packet.time_base
            self._into.mux(packet)
            if at > until:
                return

    def _read(self) -> Iterator[Any]:
        for packet in self._source.demux(self._source.streams.audio):
            track = self._tracks[packet.stream.index]
            late = round(self._start / packet.stream.time_base)
            if track.codec_context.is_encoder:
                for frame in packet.decode():
                    frame.pts -= late
                    yield from track.encode(frame)
            elif packet.dts is not None:  # without one it ends the stream
                packet.pts, packet.dts = packet.pts - late, packet.dts - late
                packet.stream = track
                yield packet
        for track in self._tracks.values():
            if track.codec_context.is_encoder:
                yield from track.encode(None)


def _track(sound: Any, into: Any) -> Any:
    import av

    if sound.codec_context is None:
        raise SegformerPlusPlusError('its codec is unknown')
    if sound.codec_context.codec.canonical_name in _COPIED:
        return into.add_stream_from_template(sound)
    rates = av.Codec('aac', 'w').audio_rates or ()
    track = into.add_stream('aac', sound.rate if sound.rate in rates else _RATE)
    track.layout = 'mono' if sound.channels == 1 else 'stereo'
    return track
