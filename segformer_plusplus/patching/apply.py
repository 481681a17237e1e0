"""The two functions that switch token merging on and off on a model that is already built."""

from __future__ import annotations

from torch import nn

from ..token_merging import TokenMergingConfig, build_token_merging
from .backbones import find_backbones


def apply_token_merging(model: nn.Module, token_merging: TokenMergingConfig) -> None:
    """Let the backbone of a model merge tokens, in place.

    The parameters stay the same tensors under the same names, so that checkpoints, optimizers and
    DDP see no difference. Applied again, the last strategy holds. With 'none' nothing is merged
    and outputs are those of the model before, to rounding.

    Args:
        model: has a SegFormer backbone of mmsegmentation, Transformers, segmentation_models.pytorch
            or this package anywhere inside; all of them are changed.
        token_merging: whatever the backbone's ``token_merging`` takes: a preset such as 'hq', or
            one dict per stage. Under 'downsampling' a model whose head does not resize to the
            input returns a smaller result, as with the backbone of this package.

    Raises:
        SegformerPlusPlusError: no such backbone, one that is not as it is known here, or a strategy
            that is unknown or does not fit. The model is then as it was.
    """
    # every backbone is checked before the first one changes
    backbones = find_backbones(model)
    plans = [build_token_merging(token_merging, len(backbone.blocks)) for backbone in backbones]
    for backbone, merging in zip(backbones, plans, strict=True):
        backbone.check(merging)
    for backbone, merging in zip(backbones, plans, strict=True):
        backbone.apply(merging)


def remove_token_merging(model: nn.Module) -> None:
    """Take back what :func:`apply_token_merging` did: outputs are bit for bit those of before.

    A model on which it was not called stays as it is. A backbone of this package gets the strategy
    back that it had before.

    Raises:
        SegformerPlusPlusError: the model has no backbone that could have been changed.
    """
    for backbone in find_backbones(model):
        backbone.remove()
