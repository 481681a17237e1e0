"""From a picture to what the models of every library take, and from their output to labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from ..engine.contenders import resize_and_argmax
from ..errors import SegformerPlusPlusError

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # ImageNet's


def to_inputs(model: nn.Module, image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (1, 3, H, W), normalised, on the model's device.

    By the ``data_preprocessor`` of OpenMMLab's models, which gets BGR as from mmcv's loader; with
    the mean and deviation of ImageNet where there is none that makes a batch.
    """
    first = next(model.parameters())
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    inputs = None
    if hasattr(model, 'data_preprocessor'):
        preprocess: Any = model.data_preprocessor
        data = dict(inputs=[pixels.flip(0)], data_samples=[BaseDataElement()])
        inputs = preprocess(data, False)['inputs']
    if not isinstance(inputs, Tensor):  # mmengine's base class only moves images to the device
        mean, std = (torch.tensor(each)[:, None, None] for each in (_MEAN, _STD))
        inputs = ((pixels - mean) / std)[None]
    if inputs.shape[2:] != image.shape[:2]:
        raise SegformerPlusPlusError(
            f"the model's data_preprocessor makes {inputs.shape[2]}x{inputs.shape[3]} of an image "
            f'of {image.shape[0]}x{image.shape[1]}; give an image that it does not pad'
        )
    return inputs.to(first)


def predict_labels(model: nn.Module, inputs: Tensor) -> Tensor | None:
    """(1, 3, H, W), normalised -> labels (H, W); None if the model does not segment.

    The whole image at once, also where a segmentor of mmseg would slide a window over it.
    """
    module: Any = model
    if hasattr(module, 'extract_feat'):
        output = module(inputs, None, mode='tensor')
        segments = hasattr(module, 'decode_head')
    else:
        output = module(inputs)
        output = getattr(output, 'logits', output)
        segments = isinstance(output, Tensor)
    if not segments or output.dim() != 4:
        return None
    size = (inputs.shape[2], inputs.shape[3])
    if output.shape[1] == 1:  # one class: its logit against 0
        output = torch.cat([torch.zeros_like(output), output], dim=1)
    return resize_and_argmax(output, size)[0]
