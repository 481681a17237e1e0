"""Models of one library each, in the parts that a benchmark times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SegformerPlusPlusError
from ...inference.labels import resize_and_argmax
from ...inference.opening import SEED
from ...mit.backbone import MixVisionTransformerPlusPlus


class Contender(ABC):
    """One row of the comparison.

    Args:
        module: has the parameters, and is where the comparison wants it, in its precision.
        backbone: the part of it that :meth:`features` runs.

    Attributes:
        segments: whether :meth:`labels` follows the head; False for a pose estimator.
        one_graph: whether ``torch.compile`` has to take it up to the logits as one graph.
        uses_torch: False where PyTorch sees neither its arithmetic nor its memory.
        details: what a reader of the numbers has to know about how it was built.
    """

    segments = True
    one_graph = False
    uses_torch = True

    def __init__(self, module: nn.Module, backbone: nn.Module) -> None:
        self.module = module
        self.backbone = backbone
        self.details: dict[str, str] = {}

    @property
    def arithmetic(self) -> Contender:
        """The contender whose floating point operations are this one's, and can be counted."""
        return self

    @abstractmethod
    def features(self, images: Tensor) -> Any:
        """Normalised images (B, 3, H, W) -> what the backbone hands to the head."""

    @abstractmethod
    def head(self, features: Any) -> Tensor:
        """What :meth:`features` returns -> logits (B, K, h, w), or a pose estimator's output."""

    def labels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits -> labels (B, H, W) of this size, as the library documents it."""
        return resize_and_argmax(logits, size)

    def logits(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> logits, or a pose estimator's output."""
        return self.head(self.features(images))

    def predict(self, images: Tensor) -> Tensor:
        """What is timed: normalised images -> labels (B, H, W), or a pose estimator's output."""
        logits = self.logits(images)
        return self.labels(logits, size_of(images)) if self.segments else logits

    def random_targets(self, images: Tensor) -> Tensor:
        """What :meth:`loss` takes beside these images, the same at every call."""
        raise self._no_training()

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """The library's own loss, a scalar.

        Args:
            images: (B, 3, H, W), normalised.
            targets: labels (B, H, W) int64, or a pose estimator's heatmaps (B, K, h, w).
        """
        raise self._no_training()

    def _no_training(self) -> SegformerPlusPlusError:
        return SegformerPlusPlusError(
            '--training takes semantic segmentors and pose estimators in PyTorch, not '
            f'{type(self.module).__name__}'
        )


class OpenMMLabModel(Contender):
    """A segmentor of mmseg or ours, or a pose estimator.

    Args:
        module: has ``extract_feat``, and a ``decode_head`` or a ``head``.
        one_graph: see the base class; by default where the backbone is ours.

    Raises:
        SegformerPlusPlusError: it has no backbone or no head.
    """

    def __init__(self, module: nn.Module, one_graph: bool | None = None) -> None:
        self.segments = hasattr(module, 'decode_head')
        if not (hasattr(module, 'backbone') and (self.segments or hasattr(module, 'head'))):
            raise SegformerPlusPlusError(
                'a benchmark takes models with a backbone and a decode_head or a head, '
                f'{type(module).__name__} has not both'
            )
        model: Any = module
        super().__init__(module, model.backbone)
        self._model = model
        ours = isinstance(self._model.backbone, MixVisionTransformerPlusPlus)
        self.one_graph = ours if one_graph is None else one_graph

    def features(self, images: Tensor) -> Any:
        return self._model.extract_feat(images)

    def head(self, features: Any) -> Tensor:
        return (self._model.decode_head if self.segments else self._model.head)(features)

    def labels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        if getattr(self._model, 'labels_only', False):
            from ...segmentation import label_map

            return label_map(logits, size)
        metas = [seg_meta(size)] * len(logits)
        return self._model.decode_head.predict_by_feat(logits, metas).argmax(dim=1)

    def random_targets(self, images: Tensor) -> Tensor:
        if self.segments:
            return random_labels(images, self._model.decode_head.num_classes)
        with torch.no_grad():
            return random_heatmaps(self.logits(images).shape, images.device)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        make_samples = seg_data_samples if self.segments else pose_data_samples
        losses = self._model.loss(images, make_samples(targets))
        return self._model.parse_losses(losses)[0]


def stage_calls(contender: Contender, images: Tensor) -> dict[str, Callable[[], Any]]:
    """The parts of ``contender.predict`` by themselves, each on what the one before it made.

    Returns:
        'backbone', 'head', and for a segmentor 'labels', which is what follows the head.
    """
    with torch.inference_mode():
        features = contender.features(images)
        logits = contender.head(features)
        if contender.segments:  # a first call may compile
            contender.labels(logits, size_of(images))
    calls: dict[str, Callable[[], Any]] = {
        'backbone': lambda: contender.features(images),
        'head': lambda: contender.head(features),
    }
    if contender.segments:
        calls['labels'] = lambda: contender.labels(logits, size_of(images))
    return {name: torch.inference_mode()(call) for name, call in calls.items()}


def size_of(images: Tensor) -> tuple[int, int]:
    """Height and width of (B, C, H, W)."""
    return images.shape[2], images.shape[3]


def random_labels(images: Tensor, classes: int) -> Tensor:
    """Labels (B, H, W) int64 of every pixel of images (B, C, H, W)."""
    size = len(images), *images.shape[2:]
    return torch.randint(classes, size, generator=_generator()).to(images.device)


def random_heatmaps(shape: Sequence[int], device: torch.device) -> Tensor:
    """Target heatmaps (B, K, h, w) in [0, 1)."""
    return torch.rand(tuple(shape), generator=_generator()).to(device)


def seg_meta(size: tuple[int, int]) -> dict[str, Any]:
    """What mmseg has to know of an image of this height and width that was not padded."""
    return dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])


def seg_data_samples(labels: Tensor) -> list[Any]:
    """mmseg's samples, one for each of the labels (B, H, W)."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    meta = seg_meta((labels.shape[1], labels.shape[2]))
    samples = [SegDataSample(metainfo=meta) for _ in labels]
    for sample, image_labels in zip(samples, labels, strict=True):
        sample.gt_sem_seg = PixelData(data=image_labels[None])
    return samples


def pose_data_samples(heatmaps: Tensor) -> list[Any]:
    """mmpose's samples, one for each of the heatmaps (B, K, h, w); every keypoint is annotated."""
    from mmengine.structures import InstanceData, PixelData
    from mmpose.structures import PoseDataSample

    samples = []
    for each in heatmaps:
        sample = PoseDataSample()
        sample.gt_fields = PixelData(heatmaps=each)
        sample.gt_instance_labels = InstanceData(keypoint_weights=each.new_ones(1, len(each)))
        samples.append(sample)
    return samples


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)
