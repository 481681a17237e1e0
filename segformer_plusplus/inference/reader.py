"""Reads images by one rule, that of a config's loader: files, bytes, arrays, images of Pillow's."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from PIL import Image

from ..errors import SegformerPlusPlusError, describe_error
from ..loading.datasets import test_dataset
from ..loading.images import CheckedLoadImageFromFile, check_whole, open_image, reading
from ..registration import component_name
from .configs import is_loader

_FILE_LOADERS = (
    *('mmcv.LoadImageFromFile', 'mmseg.LoadImageFromNDArray', 'mmpose.LoadImage'),
    *('segformer_plusplus.CheckedLoadImageFromFile', 'segformer_plusplus.CheckedLoadImage'),
)
_ROWS = 256  # that are converted at a time


class Reader:
    """Reads images as the test pipeline of a config reads them: the one rule for every input.

    A loader of OpenMMLab's for image files gets the checks of
    ``..loading.images.CheckedLoadImageFromFile``, which is also what reads without a config;
    any other step that is named so is called as it is.

    Args:
        config: its test pipeline has the loader; None reads as without one.
        pipeline: the steps in the place of the config's.

    Attributes:
        loading: arguments of ``CheckedLoadImageFromFile``; None where another step is called.

    Raises:
        SegformerPlusPlusError: its loader cannot be built.
    """

    def __init__(self, config: Config | None = None, pipeline: Sequence[Any] = ()) -> None:
        every = pipeline or test_dataset(config).get('pipeline') or ()
        steps = [s for s in every if is_loader(s) and not is_loader(s, 'Annotation')]
        try:
            with DefaultScope.overwrite_default_scope(config and config.get('default_scope')):
                built = Compose(steps)
        except Exception as error:  # whatever a loader raises that lacks its library
            names = ', '.join(component_name(step['type']) for step in steps)
            reason = describe_error(error) or error
            raise SegformerPlusPlusError(f'the loader {names} cannot be built: {reason}') from error
        first = built.transforms[0] if steps else CheckedLoadImageFromFile()
        kind, kept = type(first), ('to_float32', 'color_type', 'imdecode_backend')
        plain = f'{kind.__module__.partition(".")[0]}.{kind.__name__}' in _FILE_LOADERS
        of_files = isinstance(first, LoadImageFromFile)
        options = {name: getattr(first, name) for name in kept} if of_files else {}
        self._loader = CheckedLoadImageFromFile(**options)
        self._own = None if plain and len(steps) < 2 else built
        self.loading = options if self._own is None else None

    @property
    def dropped(self) -> set[str]:
        """Holds what was dropped of images so far, such as their transparency; may be cleared."""
        return self._loader.said

    def file(self, path: str | Path, any_size: bool = False) -> np.ndarray:
        """Reads an image, (H, W, 3) uint8 BGR unless the config says otherwise.

        Raises:
            SegformerPlusPlusError: no image, a damaged one, one of numbers that are no colours, or
                (unless ``any_size``) one with more pixels than Pillow takes for an attack.
        """
        loader = self._loader
        if self._own is not None:
            with reading('image', path):
                results = self._own({'img_path': str(path), 'seg_fields': []})
                if results is None:
                    raise ValueError('its loader gives nothing')
            image: np.ndarray = results['img']
            return image
        if any_size and loader.imdecode_backend == 'pillow':
            return self._large(Path(path), path)
        with reading('image', path):
            content = fileio.get(str(path))
        return self.content(content, str(path), any_size)

    def content(self, content: bytes, name: str, any_size: bool = False) -> np.ndarray:
        """Reads the bytes of an image file as the file is read.

        Raises:
            SegformerPlusPlusError: see ``file``; or the config has a loader of its own.
        """
        loader = self._loader
        if self._own is not None:
            raise SegformerPlusPlusError(
                f'{name}: the loader of this config reads files, not their bytes; give a path'
            )
        if any_size and loader.imdecode_backend == 'pillow':
            return self._large(BytesIO(content), name)
        with reading('image', name):
            if loader.imdecode_backend == 'cv2' and not any_size:
                check_whole(content)
            return loader.decode(content, name)

    def _large(self, source: Path | BytesIO, name: str | Path) -> np.ndarray:
        """Fills an array strip by strip: other ways hold the image in memory several times."""
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with reading('image', name), open_image(source) as opened:
                picture = self._loader.upright(opened, str(name))
                width, height = picture.size
                first = self._loader.as_array(picture.crop((0, 0, width, 1)))
                pixels = np.empty((height, *first.shape[1:]), first.dtype)
                for top in range(0, height, _ROWS):
                    bottom = min(top + _ROWS, height)
                    strip = picture.crop((0, top, width, bottom))
                    pixels[top:bottom] = self._loader.as_array(strip)
                return pixels
        finally:
            Image.MAX_IMAGE_PIXELS = limit

    def picture(self, picture: Image.Image, name: str) -> np.ndarray:
        """Reads an image of Pillow's as a file is read, also turned as its EXIF data say.

        Raises:
            SegformerPlusPlusError: see ``file``.
        """
        loader = self._loader
        with reading('image', name):
            upright = loader.upright(picture, name)
            if loader.imdecode_backend != 'cv2' or picture.mode in ('I', 'F', 'I;16B'):
                return np.ascontiguousarray(loader.as_array(upright))
            stream = BytesIO()  # OpenCV has rules of its own for transparency and palettes
            fits = picture.mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16')
            (upright if fits else upright.convert('RGB')).save(stream, 'PNG', compress_level=0)
            return loader.decode(stream.getvalue(), name)

    def array(self, array: np.ndarray, name: str) -> np.ndarray:
        """Checks an array: uint8 (H, W, 3) BGR or (H, W), unless the config reads other ones.

        Raises:
            SegformerPlusPlusError: it is another one.
        """
        kind = self._loader.color_type
        if kind == 'unchanged' or self._own is not None:
            usable = array.dtype.kind in 'uif' and array.ndim in (2, 3)
        else:
            usable = array.dtype == np.uint8 and (array.ndim == 2 or array.shape[2:] == (3,))
        if not usable or not array.size:
            raise SegformerPlusPlusError(
                f'{name} is {array.dtype} of shape {array.shape}; expected uint8 (H, W, 3) in '
                "OpenCV's order BGR, or (H, W)"
            )
        if self._own is None and kind.startswith('color') and array.ndim == 2:
            array = array[..., None].repeat(3, axis=2)
        if self._own is None and kind.startswith('grayscale') and array.ndim == 3:
            return self.picture(Image.fromarray(np.ascontiguousarray(array[..., ::-1])), name)
        return array.astype(np.float32) if self._loader.to_float32 else array


def visible(image: np.ndarray) -> np.ndarray:
    """Returns what of an image can be shown, (H, W, 3) uint8: three channels, or one in grey.

    Args:
        image: (H, W) or (H, W, C), as a config reads it; numbers other than 0 to 255 are spread.
    """
    image = np.atleast_3d(image)
    image = image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, axis=2)
    if image.dtype == np.uint8:
        return image
    low, high = float(image.min()), float(image.max())
    if low < 0 or not 1 < high <= 255:
        image = (image - low) * (255 / max(high - low, 1e-9))
    return np.rint(image).astype(np.uint8)
