"""Building the models that a benchmark compares, and what of them is timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from ..backbones.archs import resolve_arch
from ..checkpoints import load_checkpoint_strictly
from ..errors import SegformerPlusPlusError
from .benchmarking import Call

SEED = 0
"""Of the random weights."""

OURS = {'EncoderDecoderPlusPlus', 'SegformerHeadPlusPlus', 'MixVisionTransformerPlusPlus'}


def build_model(
    model: Mapping[str, Any],
    scope: str = 'mmseg',
    checkpoint: str | None = None,
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The model in eval mode, with the checkpoint's weights or seeded random ones.

    Args:
        model: its config; its ``init_cfg`` are left out, so that nothing is downloaded.
        scope: the registry that its types are looked up in.
        checkpoint: loaded strictly.
        device: where it runs.
        dtype: of its parameters.
    """
    init_default_scope(scope)
    torch.manual_seed(SEED)
    built = revert_sync_batchnorm(MODELS.build(dict(_without_init_cfg(model), _scope_=scope)))
    if checkpoint:
        load_checkpoint_strictly(built, checkpoint)
    else:
        built.init_weights()
    return built.to(device=device, dtype=dtype).eval()


def share_weights(models: Mapping[str, nn.Module]) -> None:
    """Give all models that have the same parameters those of the first."""
    first, *others = models.values()
    state = first.state_dict()
    shapes = {key: value.shape for key, value in state.items()}
    for model in others:
        if {key: value.shape for key, value in model.state_dict().items()} == shapes:
            model.load_state_dict(state, strict=True)


def make_call(model: Any, inputs: Tensor, backbone_only: bool = False) -> Call:
    """What is timed.

    A segmentor: from the normalised images to the label map, by ``predict_labels`` or as mmseg
    does: ``encode_decode``, which resizes the logits to the size of the images, and the argmax
    over the classes. Any other model: its ``mode='tensor'``, from the normalised images to the
    head's output.
    """

    @torch.inference_mode()
    def call() -> Any:
        if backbone_only:
            return model.backbone(inputs)
        if getattr(model, 'labels_only', False):
            return model.predict_labels(inputs)
        if hasattr(model, 'encode_decode'):
            return model.encode_decode(inputs, _metas(inputs)).argmax(dim=1)
        return model(inputs, None, mode='tensor')

    return call


def stage_calls(model: Any, inputs: Tensor) -> dict[str, Call]:
    """The parts of :func:`make_call` by themselves, each on what the one before it made.

    Returns:
        'backbone', 'head', and for a segmentor 'labels', which is what follows the head.
    """
    with torch.inference_mode():
        features = model.backbone(inputs)
    segments = hasattr(model, 'decode_head')
    head = model.decode_head if segments else model.head
    calls = {'backbone': lambda: model.backbone(inputs), 'head': lambda: head(features)}
    if segments:
        with torch.inference_mode():
            logits = head(features)
        calls['labels'] = lambda: _labels(model, logits, inputs)
    return {name: torch.inference_mode()(call) for name, call in calls.items()}


def mmseg_peer(model: Mapping[str, Any]) -> dict[str, Any]:
    """The config of mmseg's own modules for a segmentor of ours: same weights, nothing merged.

    Raises:
        SegformerPlusPlusError: the config has parts that are not ours.
    """
    parts = {model['type'], model['backbone']['type'], (model.get('decode_head') or {}).get('type')}
    if parts != OURS:
        raise SegformerPlusPlusError(
            f'a peer from mmseg needs a model of {sorted(OURS)}, this one is of '
            f'{sorted(map(str, parts))}'
        )
    sizes = ('embed_dims', 'num_heads', 'num_layers')
    given = {name: model['backbone'].get(name) for name in sizes}
    backbone = _without(
        model['backbone'], 'arch', 'token_merging', 'tome_cfg', 'in_rows', *sizes
    )
    backbone |= resolve_arch(model['backbone'].get('arch'), **given)
    backbone['type'] = 'MixVisionTransformer'
    head = dict(_without(model['decode_head'], 'in_rows'), type='SegformerHead')
    return dict(
        _without(model, 'labels_only'), type='EncoderDecoder', backbone=backbone, decode_head=head
    )


def check_same_logits(ours: Any, peer: Any, inputs: Tensor, tolerance: float) -> float:
    """The largest difference of the head's logits over the largest logit.

    Raises:
        SegformerPlusPlusError: it is above ``tolerance``: these models are not the same.
    """
    with torch.inference_mode():
        one, other = (model.decode_head(model.extract_feat(inputs)) for model in (ours, peer))
    error = float((one - other).abs().max() / other.abs().max())
    if not error <= tolerance:
        raise SegformerPlusPlusError(
            f'the logits of the peer differ by {error:.1e} of the largest one, allowed is '
            f'{tolerance:.0e}: the comparison would be of different models'
        )
    return error


def _without(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in names}


def _labels(model: Any, logits: Tensor, inputs: Tensor) -> Tensor:
    if getattr(model, 'labels_only', False):
        from ..segmentation import label_map

        return label_map(logits, (inputs.shape[2], inputs.shape[3]))
    return model.decode_head.predict_by_feat(logits, _metas(inputs)).argmax(dim=1)


def _metas(inputs: Tensor) -> list[dict[str, Any]]:
    shape = tuple(inputs.shape[-2:])
    meta = dict(img_shape=shape, ori_shape=shape, pad_shape=shape, padding_size=[0, 0, 0, 0])
    return [meta] * len(inputs)


def _without_init_cfg(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {k: _without_init_cfg(v) for k, v in config.items() if k != 'init_cfg'}
    if isinstance(config, list | tuple):
        return [_without_init_cfg(item) for item in config]
    return config
