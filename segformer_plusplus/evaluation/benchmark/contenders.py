"""Contenders of a benchmark: models of any library, split into the parts that are timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import SegformerPlusPlusError
from ...inference.opening import SEED
from ...mit.backbone import MixVisionTransformerPlusPlus
from ...segmentation.labels import labels_of


class Contender(ABC):
    """One row of the comparison.

    Attributes:
        module: holds the parameters, on the device and in the precision of the comparison.
        backbone: the part that ``features`` runs.
        decode_head: mmseg's, which says how logits become labels; None for that of another library.
        segments: whether ``labels`` follows the head; False for a pose estimator.
        one_graph: whether ``torch.compile`` has to take it up to the logits as one graph.
        uses_torch: False where PyTorch sees neither its arithmetic nor its memory.
        details: what a reader of the numbers has to know about how it was built.
    """

    decode_head: Any = None
    segments = True
    one_graph = False
    uses_torch = True

    def __init__(self, module: nn.Module, backbone: nn.Module) -> None:
        self.module = module
        self.backbone = backbone
        self.details: dict[str, str] = {}

    @property
    def arithmetic(self) -> Contender:
        """Returns a stand-in in PyTorch whose operations can be counted; itself, if it is one."""
        return self

    @abstractmethod
    def features(self, images: Tensor) -> Any:
        """Runs the backbone on normalised images (B, 3, H, W)."""

    @abstractmethod
    def head(self, features: Any) -> Tensor:
        """Turns features into logits (B, K, h, w), or a pose estimator's output."""

    def labels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Turns logits into labels (B, H, W) as the library documents it."""
        return labels_of(logits, size, self.decode_head)

    def logits(self, images: Tensor) -> Tensor:
        """Runs backbone and head."""
        return self.head(self.features(images))

    def predict(self, images: Tensor) -> Tensor:
        """Runs what is timed: from images to labels, or to a pose estimator's output."""
        logits = self.logits(images)
        return self.labels(logits, size_of(images)) if self.segments else logits

    def workers(self, images: Tensor, calls: int) -> list[Callable[[], Any]]:
        """Returns ``predict`` for so many calls at a time, each by one thread at a time."""
        return [partial(self.predict, images)] * calls

    def random_targets(self, images: Tensor) -> Tensor:
        """Returns targets for ``loss``, the same at every call."""
        raise self._no_training()

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Computes the library's own loss, a scalar.

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
    """Runs a segmentor or a pose estimator of ours, mmseg or mmpose.

    Args:
        module: has ``extract_feat``, and a ``decode_head`` or a ``head``.
        one_graph: see ``Contender``; None asks for it where the backbone is ours.

    Raises:
        SegformerPlusPlusError: the module lacks a backbone or a head.
    """

    def __init__(self, module: nn.Module, one_graph: bool | None = None) -> None:
        self.segments = hasattr(module, 'decode_head')
        if not (hasattr(module, 'backbone') and (self.segments or hasattr(module, 'head'))):
            raise SegformerPlusPlusError(
                'a benchmark takes models with a backbone and a decode_head or a head, '
                f'{type(module).__name__} lacks one of them'
            )
        model: Any = module
        super().__init__(module, model.backbone)
        self._model = model
        self.decode_head = getattr(model, 'decode_head', None)
        ours = isinstance(self.backbone, MixVisionTransformerPlusPlus)
        self.one_graph = ours if one_graph is None else one_graph

    def features(self, images: Tensor) -> Any:
        return self._model.extract_feat(images)

    def head(self, features: Any) -> Tensor:
        return (self.decode_head if self.segments else self._model.head)(features)

    def labels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        if getattr(self._model, 'labels_only', False):
            return self._model.labels_of(logits, size)
        return super().labels(logits, size)

    def random_targets(self, images: Tensor) -> Tensor:
        if self.segments:
            return random_labels(images, self.decode_head.out_channels)
        with torch.no_grad():
            shape = self.logits(images).shape
        return torch.rand(shape, generator=_generator()).to(images.device)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        samples = _seg_samples(targets) if self.segments else _pose_samples(targets)
        return self._model.parse_losses(self._model.loss(images, samples))[0]


def stage_calls(contender: Contender, images: Tensor) -> dict[str, Callable[[], Any]]:
    """Returns the parts of ``predict`` as calls, each on what the part before it made.

    The parts are 'backbone', 'head', and for a segmentor 'labels', and 'noisy labels' of random
    logits, which have borders everywhere.
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
        noise = torch.randn(logits.shape, generator=_generator()).to(logits)
        if logits.is_contiguous(memory_format=torch.channels_last):
            noise = noise.contiguous(memory_format=torch.channels_last)
        calls['labels'] = lambda: contender.labels(logits, size_of(images))
        calls['noisy labels'] = lambda: contender.labels(noise, size_of(images))
    return {name: torch.inference_mode()(call) for name, call in calls.items()}


def size_of(images: Tensor) -> tuple[int, int]:
    """Returns height and width of (B, C, H, W)."""
    return images.shape[2], images.shape[3]


def random_labels(images: Tensor, logits: int) -> Tensor:
    """Returns labels (B, H, W) int64 for images (B, C, H, W), the same at every call."""
    size = len(images), *images.shape[2:]
    # one logit is of two labels
    return torch.randint(max(logits, 2), size, generator=_generator()).to(images.device)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def _seg_meta(size: tuple[int, int]) -> dict[str, Any]:
    """Returns what mmseg has to know of an image that was not padded."""
    return dict(img_shape=size, ori_shape=size, pad_shape=size, padding_size=[0, 0, 0, 0])


def _seg_samples(labels: Tensor) -> Sequence[Any]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    meta = _seg_meta((labels.shape[1], labels.shape[2]))
    samples = [SegDataSample(metainfo=meta) for _ in labels]
    for sample, image_labels in zip(samples, labels, strict=True):
        sample.gt_sem_seg = PixelData(data=image_labels[None])
    return samples


def _pose_samples(heatmaps: Tensor) -> Sequence[Any]:
    """Returns mmpose's samples, in which every keypoint is annotated."""
    from mmengine.structures import InstanceData, PixelData
    from mmpose.structures import PoseDataSample

    samples = [PoseDataSample() for _ in heatmaps]
    for sample, each in zip(samples, heatmaps, strict=True):
        sample.gt_fields = PixelData(heatmaps=each)
        sample.gt_instance_labels = InstanceData(keypoint_weights=each.new_ones(1, len(each)))
    return samples
