"""mmseg's segmentor that goes from low-resolution logits to labels directly."""

from __future__ import annotations

from typing import Any

from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from .labels import label_map


@MODELS.register_module()
class EncoderDecoderPlusPlus(EncoderDecoder):
    """mmseg's ``EncoderDecoder`` whose prediction does not resize the logits of all classes.

    For whole images the labels are made from the head's logits, see
    :func:`~segformer_plusplus.segmentation.labels.label_map`; the data samples then hold
    ``pred_sem_seg`` and no ``seg_logits``. Where logits at full size are needed anyway (sliding
    windows, flipped or padded images, images that are resized back, one class), or the head aligns
    corners, this is mmseg's prediction, with both.

    Args:
        labels_only: False for mmseg's prediction always, for those who want ``seg_logits``, such
            as test-time augmentation.
        kwargs: those of mmseg's segmentor.
    """

    def __init__(self, labels_only: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.labels_only = labels_only

    def predict(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Images (B, 3, H, W) -> data samples with ``pred_sem_seg``, (1, H, W) labels."""
        if not self._can_skip_logits(inputs, data_samples):
            return super().predict(inputs, data_samples)
        samples = data_samples or [SegDataSample() for _ in inputs]
        for sample, labels in zip(samples, self.predict_labels(inputs), strict=True):
            sample.set_data({'pred_sem_seg': PixelData(data=labels[None])})
        return samples

    def predict_labels(self, inputs: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> labels (B, H, W), by the whole image."""
        logits = self.decode_head(self.extract_feat(inputs))
        return label_map(logits, (inputs.shape[2], inputs.shape[3]))

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
    """Whether the image was neither flipped nor padded, and is not resized back."""
    padding = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
    shapes = [meta[key] for key in ('ori_shape', 'img_shape', 'pad_shape') if key in meta]
    same_size = all(tuple(shape[:2]) == size for shape in shapes)
    return 'ori_shape' in meta and same_size and not meta.get('flip') and not any(padding)
