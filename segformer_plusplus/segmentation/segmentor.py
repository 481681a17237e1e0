"""Turns logits into labels, in a segmentor that never resizes all logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from ..kernels.labels import resized_argmax
from ..kernels.runtime import runs_on
from .labels import labels_of

CELLS = 4096
"""Limits the cells whose logits are interpolated at a time, which stay in the cache of a CPU."""


def label_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns ``F.interpolate(logits, size, mode='bilinear').argmax(dim=1)``, on a CPU.

    A pixel lies in a cell between four neighbouring logits. Where all four have their maximum in
    the same class, so has every mean of them, i.e. every pixel of the cell, which is filled; only
    the cells on the borders between classes are interpolated. Differs by rounding alone, where two
    classes have equal logits.

    Args:
        logits: (B, K, h, w) with K > 1.
        size: H and W.

    Returns:
        (B, H, W) int64.
    """
    ratio = _ratio(logits, size)
    if ratio is None:
        return F.interpolate(logits, size, mode='bilinear', align_corners=False).argmax(dim=1)
    corners = F.pad(logits.argmax(dim=1).to(torch.uint8), (1, 1, 1, 1), mode='replicate')
    first = corners[:, :-1, :-1]
    uniform = (
        (first == corners[:, 1:, :-1])
        & (first == corners[:, :-1, 1:])
        & (first == corners[:, 1:, 1:])
    )
    # (B, h + 1, w + 1, ratio, ratio): half a cell sticks out on every side
    cells = first[..., None, None].repeat(1, 1, 1, ratio, ratio)
    _fill_borders(cells, ~uniform, logits)
    batch, rows, columns = first.shape
    labels = cells.transpose(2, 3).reshape(batch, rows * ratio, columns * ratio)
    half = ratio // 2
    return labels[:, half : half + size[0], half : half + size[1]].long()


def _ratio(logits: Tensor, size: tuple[int, int]) -> int | None:
    """Returns the ratio of both sides if it is one even number, else None."""
    ratio = size[0] // logits.shape[2]
    fits = size == (logits.shape[2] * ratio, logits.shape[3] * ratio)
    return ratio if fits and ratio >= 2 and ratio % 2 == 0 and logits.shape[1] <= 256 else None


def _fill_borders(cells: Tensor, border: Tensor, logits: Tensor) -> None:
    """Interpolates the logits in the cells of ``border`` and writes their labels."""
    ratio = cells.shape[-1]
    height, width = logits.shape[2:]
    grid = logits.permute(0, 2, 3, 1).contiguous()
    share = (torch.arange(ratio, device=logits.device) + 0.5) / ratio
    across = share.to(logits.dtype)[:, None]
    down = across[:, None]
    for part in border.nonzero().split(CELLS):
        image, row, column = part.unbind(1)
        top, bottom = (row - 1).clamp(min=0), row.clamp(max=height - 1)
        left, right = (column - 1).clamp(min=0), column.clamp(max=width - 1)
        lines = [
            torch.lerp(grid[image, y, left][:, None], grid[image, y, right][:, None], across)
            for y in (top, bottom)
        ]  # each (n, ratio, K)
        values = torch.lerp(lines[0][:, None], lines[1][:, None], down)
        cells[image, row, column] = values.argmax(dim=-1).to(cells.dtype)


@MODELS.register_module(force=True)
class EncoderDecoderPlusPlus(EncoderDecoder):
    """Is mmseg's ``EncoderDecoder``, but predicts without resizing the logits of all classes.

    For whole images the labels are made from the head's logits, see
    ``segformer_plusplus.segmentation.segmentor.label_map``; the data samples then hold
    ``pred_sem_seg`` and no ``seg_logits``. Where logits at full size are needed anyway (sliding
    windows, flipped or padded images, images that are resized back, one logit), or the head aligns
    corners, this is mmseg's prediction, with both. Labels are integers, also of one logit.

    Args:
        labels_only: False gives mmseg's prediction always, for whoever wants ``seg_logits``, such
            as test-time augmentation.
        kwargs: those of mmseg's segmentor.
    """

    def __init__(self, labels_only: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.labels_only = labels_only

    def predict(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Predicts data samples with ``pred_sem_seg``, labels (1, H, W), of images (B, 3, H, W)."""
        if not self._can_skip_logits(inputs, data_samples):
            return super().predict(inputs, data_samples)
        samples = data_samples or [SegDataSample() for _ in inputs]
        for sample, labels in zip(samples, self.predict_labels(inputs), strict=True):
            sample.set_data({'pred_sem_seg': PixelData(data=labels[None])})
        return samples

    def predict_labels(self, inputs: Tensor) -> Tensor:
        """Predicts labels (B, H, W) of whole images (B, 3, H, W)."""
        logits = self.decode_head(self.extract_feat(inputs))
        return self.labels_of(logits, (inputs.shape[2], inputs.shape[3]))

    def labels_of(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Turns the head's logits (B, K, h, w) into labels (B, H, W), the fastest way there is."""
        if self.align_corners or self.out_channels == 1:
            return labels_of(logits, size, self.decode_head)
        if runs_on(logits):
            return resized_argmax(logits, *size)
        # a GPU would wait for the number of cells on borders, and start a few kernels for each part
        return (label_map if logits.device.type == 'cpu' else labels_of)(logits, size)

    def postprocess_result(self, *args: Any, **kwargs: Any) -> list[SegDataSample]:
        """Is mmseg's, but labels of one logit are integers, too."""
        samples = super().postprocess_result(*args, **kwargs)
        for sample in samples:
            sample.pred_sem_seg.data = sample.pred_sem_seg.data.long()
        return samples

    def _can_skip_logits(self, inputs: Tensor, data_samples: list[SegDataSample] | None) -> bool:
        if (
            not self.labels_only
            or self.test_cfg.get('mode', 'whole') != 'whole'
            or self.align_corners
            or self.out_channels == 1
        ):
            return False
        size = inputs.shape[2], inputs.shape[3]
        return all(_is_plain(sample.metainfo, size) for sample in data_samples or [])


def _is_plain(meta: dict[str, Any], size: tuple[int, int]) -> bool:
    """Tells whether the image was neither flipped nor padded, and is not resized back."""
    padding = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
    shapes = [meta[key] for key in ('ori_shape', 'img_shape', 'pad_shape') if key in meta]
    same_size = all(tuple(shape[:2]) == size for shape in shapes)
    return 'ori_shape' in meta and same_size and not meta.get('flip') and not any(padding)
