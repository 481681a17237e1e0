"""Peers: mmseg, Transformers, OpenVINO and tomesd with our weights, checked for equal logits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...checkpoints.conversion import to_transformers
from ...errors import SegformerPlusPlusError
from ...export.formats import openvino_requests
from ...libraries import require
from ...mit.archs import resolve_arch
from ...mit.cpu import chunked
from ...registration import component_name
from ...segmentation.labels import labels_of
from ...token_merging import TokenMerger
from ...token_merging.bipartite import BipartiteSoftMatching2d, TomesdMatching
from .contenders import Contender, OpenMMLabModel, random_labels, size_of

PEERS = ('mmseg', 'transformers', 'openvino', 'openvino-mmseg', 'tomesd')

_OUR_HEADS = ('SegformerHeadPlusPlus', 'SegformerLinearHead')
_OUR_SEGMENTOR = 'EncoderDecoderPlusPlus'
_OUR_BACKBONE = 'MixVisionTransformerPlusPlus'
_SIZES = ('embed_dims', 'num_heads', 'num_layers')

Part = Callable[..., list[Tensor]]


def check_peers(peers: Sequence[str], model: Mapping[str, Any]) -> None:
    """Checks that the peers can run the model of this config, before anything is built.

    Raises:
        MissingDependencyError: a library is missing.
        SegformerPlusPlusError: a library cannot express the model.
    """
    for peer in peers:
        require(peer.removesuffix('-mmseg'), f'--against {peer}')
    if peers:
        _check_ours(model)
    if 'transformers' in peers:
        transformers_settings(model)


def check_same_logits(
    ours: Contender, peer: Contender, images: Tensor, tolerance: float, name: str = 'the peer'
) -> float:
    """Returns the largest difference of the logits over the largest logit.

    Raises:
        SegformerPlusPlusError: it is above ``tolerance``: these models are not the same.
    """
    with torch.inference_mode(), exact_convolutions():
        one, other = ours.logits(images), peer.logits(images)
    error = float((one - other).abs().max() / other.abs().max())
    if not error <= tolerance:
        raise SegformerPlusPlusError(
            f'the logits of {name} differ by {error:.1e} of the largest one, allowed is '
            f'{tolerance:.0e}: the comparison would be of different models'
        )
    return error


def exact_convolutions() -> Any:
    """Returns a context without TF32 in cuDNN's convolutions.

    Ours and a peer do not run the same products as convolutions: rounded by that much, equal models
    would seem to differ.
    """
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


def mmseg_peer(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of mmseg's own modules that take the weights of ours, unmerged.

    mmseg's head has a norm and a ReLU on every level. For a ``SegformerLinearHead`` its levels have
    to be made linear after it was built, see ``make_levels_linear``.

    Raises:
        SegformerPlusPlusError: the config has parts that are not ours.
    """
    _check_ours(model)
    ours = model['backbone']
    backbone = _without(
        ours, 'arch', 'token_merging', 'tome_cfg', 'frozen_stages', 'in_rows', *_SIZES
    )
    backbone |= dict(_sizes(ours), type='MixVisionTransformer', with_cp=ours.get('with_cp') is True)
    head = dict(_without(model['decode_head'], 'in_rows'), type='SegformerHead')
    head['in_index'] = head.get('in_index') or list(range(len(head['in_channels'])))
    rest = _without(model, 'labels_only')
    return dict(rest, type='EncoderDecoder', backbone=backbone, decode_head=head)


def make_levels_linear(peer: Any, ours: Any) -> None:
    """Gives mmseg's head the levels of our linear one, if ours is linear."""
    for index, conv in enumerate(ours.decode_head.convs):
        if not conv.with_norm:
            width, channels = conv.conv.in_channels, conv.conv.out_channels
            level = ConvModule(width, channels, 1, bias=True, norm_cfg=None, act_cfg=None)
            peer.decode_head.convs[index] = level.to(conv.conv.weight).eval()


class TransformersModel(Contender):
    """Runs ``SegformerForSemanticSegmentation`` with the weights of a segmentor of ours.

    Its attention is PyTorch's fused one where the installed version offers a choice: it is the
    default there, and the faster one. Its norms get the eps of ours; Transformers builds them with
    torch's default of 1e-5, whatever its config says.

    Raises:
        SegformerPlusPlusError: Transformers cannot express the config.
    """

    def __init__(self, config: Mapping[str, Any], ours: Any) -> None:
        library = require('transformers', '--against transformers')
        library.logging.set_verbosity_error()
        settings = library.SegformerConfig(**transformers_settings(config))
        build = library.SegformerForSemanticSegmentation._from_config
        model = build(settings, attn_implementation='sdpa')
        model.load_state_dict(to_transformers(ours.state_dict()), strict=True)
        _copy_norm_settings(model, ours)
        model.to(next(ours.parameters())).eval()
        super().__init__(model, model.segformer)
        self._model: Any = model
        self.decode_head = ours.decode_head
        attention = getattr(model.config, '_attn_implementation', None) or 'eager'
        self.details = {'attention': str(attention)}

    def features(self, images: Tensor) -> Any:
        return self._model.segformer(images, output_hidden_states=True).hidden_states

    def head(self, features: Any) -> Tensor:
        return self._model.decode_head(features)

    def logits(self, images: Tensor) -> Tensor:
        return self._model(pixel_values=images).logits

    def random_targets(self, images: Tensor) -> Tensor:
        return random_labels(images, self._model.config.num_labels)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._model(pixel_values=images, labels=targets).loss


def transformers_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of ``SegformerConfig`` for a config of ours.

    Raises:
        SegformerPlusPlusError: Transformers' SegFormer cannot express it.
    """
    _check_ours(model)
    backbone, head = model['backbone'], model['decode_head']
    if component_name(head['type']) != 'SegformerLinearHead':
        raise _inexpressible(
            f'decode_head.type={component_name(head["type"])!r}, with a norm and a ReLU on every '
            'level; compare a model of linear levels: '
            '--cfg-options model.decode_head.type=SegformerLinearHead'
        )
    sizes = _sizes(backbone)
    stages = backbone.get('num_stages', 4)
    levels = list(range(stages))
    fixed: dict[str, tuple[Any, Any]] = {
        'backbone.qkv_bias': (backbone.get('qkv_bias', True), True),
        'backbone.act_cfg.type': (_kind(backbone, 'act_cfg', 'GELU'), 'GELU'),
        'backbone.norm_cfg.type': (_kind(backbone, 'norm_cfg', 'LN'), 'LN'),
        'backbone.out_indices': (list(backbone.get('out_indices', levels)), levels),
        'decode_head.in_index': (list(head.get('in_index') or levels), levels),
        'decode_head.align_corners': (head.get('align_corners', False), False),
        'decode_head.interpolate_mode': (head.get('interpolate_mode', 'bilinear'), 'bilinear'),
        'decode_head.act_cfg.type': (_kind(head, 'act_cfg', 'ReLU'), 'ReLU'),
        'neck': (model.get('neck'), None),
    }
    for name, (value, wanted) in fixed.items():
        if value != wanted:
            raise _inexpressible(f'{name}={value!r}, only {wanted!r}')
    return dict(
        num_channels=backbone.get('in_channels', 3),
        num_encoder_blocks=stages,
        depths=list(sizes['num_layers']),
        hidden_sizes=[sizes['embed_dims'] * heads for heads in sizes['num_heads']],
        num_attention_heads=list(sizes['num_heads']),
        patch_sizes=list(backbone.get('patch_sizes', (7, 3, 3, 3))),
        strides=list(backbone.get('strides', (4, 2, 2, 2))),
        sr_ratios=list(backbone.get('sr_ratios', (8, 4, 2, 1))),
        mlp_ratios=[backbone.get('mlp_ratio', 4)] * stages,
        hidden_dropout_prob=backbone.get('drop_rate', 0.0),
        attention_probs_dropout_prob=backbone.get('attn_drop_rate', 0.0),
        drop_path_rate=backbone.get('drop_path_rate', 0.0),
        classifier_dropout_prob=head.get('dropout_ratio', 0.1),
        decoder_hidden_size=head['channels'],
        num_labels=head.get('out_channels') or head['num_classes'],
        semantic_loss_ignore_index=head.get('ignore_index', 255),
    )


def _copy_norm_settings(peer: Any, ours: Any) -> None:
    eps = {norm.eps for norm in ours.backbone.modules() if isinstance(norm, nn.LayerNorm)}
    if len(eps) != 1:
        raise _inexpressible(f'norms of several eps {sorted(eps)}')
    for norm in peer.modules():
        if isinstance(norm, nn.LayerNorm):
            norm.eps = min(eps)
    fusion = ours.decode_head.fusion_conv
    if not isinstance(fusion.norm, _BatchNorm):
        raise _inexpressible(f'decode_head.norm_cfg of {type(fusion.norm).__name__}, only BN')
    for name in ('eps', 'momentum'):
        setattr(peer.decode_head.batch_norm, name, getattr(fusion.norm, name))


def _inexpressible(what: str) -> SegformerPlusPlusError:
    return SegformerPlusPlusError(f'--against transformers: its SegFormer cannot have {what}')


class OpenVinoModel(Contender):
    """Runs a segmentor in OpenVINO, from images to labels in one graph of fixed shape.

    Compiled for latency in float32, with as many threads as PyTorch has, anew when shape or threads
    change. Images go in and results come out without a copy: a result lives until the next call.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
        SegformerPlusPlusError: the segmentor is not on the CPU, or not in float32.
    """

    uses_torch = False

    def __init__(self, segmentor: nn.Module, source: str) -> None:
        first = next(segmentor.parameters())
        check_openvino(first.device.type, first.dtype)
        plain = copy.deepcopy(segmentor)
        self._source = OpenMMLabModel(plain)
        self.decode_head = self._source.decode_head
        super().__init__(plain, self._source.backbone)
        self.details = {'source': source, 'precision': 'f32', 'hint': 'LATENCY'}
        self._parts: dict[str, tuple[Any, Part]] = {}

    @property
    def arithmetic(self) -> Contender:
        return self._source

    def features(self, images: Tensor) -> list[Tensor]:
        return self._part('features', self._source.features, images)

    def head(self, features: Sequence[Tensor]) -> Tensor:
        return self._part('head', lambda *levels: self._source.head(levels), *features)[0]

    def labels(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return self._part('labels', lambda each: labels_of(each, size, self.decode_head), logits)[0]

    def logits(self, images: Tensor) -> Tensor:
        return self._part('logits', self._source.logits, images)[0]

    def predict(self, images: Tensor) -> Tensor:
        def whole(images: Tensor) -> Tensor:
            return labels_of(self._source.logits(images), size_of(images), self.decode_head)

        return self._part('whole', whole, images)[0]

    def _part(self, name: str, function: Callable[..., Any], *inputs: Tensor) -> list[Tensor]:
        key = [each.shape for each in inputs], torch.get_num_threads()
        known, part = self._parts.get(name, (None, None))
        if part is None or known != key:
            part = _to_openvino(self.module, function, inputs)
            self._parts[name] = key, part
        return part(*inputs)


def check_openvino(device: str, dtype: torch.dtype) -> None:
    """Raises unless OpenVINO is compared on the CPU in float32."""
    if device != 'cpu' or dtype != torch.float32:
        raise SegformerPlusPlusError(
            f'--against openvino works with --device cpu --dtype float32, not with {device} and '
            f'{str(dtype).removeprefix("torch.")}'
        )


class _Traced(nn.Module):
    """Makes a module of a function and the module that its weights belong to."""

    def __init__(self, owner: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.owner = owner
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        result = self.function(*inputs)
        return tuple(result) if isinstance(result, list) else result


def _to_openvino(owner: nn.Module, function: Callable[..., Any], inputs: Sequence[Tensor]) -> Part:
    """Compiles a function for inputs of these shapes; the result takes and returns tensors."""
    library = require('openvino', '--against openvino')
    traced = _Traced(owner, function).eval()
    shapes = [list(each.shape) for each in inputs]
    with torch.inference_mode(), chunked(False), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the tracer's, about sizes that are fixed here
        converted = library.convert_model(traced, example_input=tuple(inputs), input=shapes)
    (request,) = openvino_requests(converted)

    def run(*inputs: Tensor) -> list[Tensor]:
        arrays = [each.numpy() for each in inputs]
        results = request.infer(arrays, share_inputs=True, share_outputs=True)
        return [torch.from_numpy(each) for each in results.values()]

    return run


def tomesd_peer(ours: nn.Module) -> OpenMMLabModel | None:
    """Returns our model with the 2D matching of the tomesd library's own functions.

    The weights are shared with ``ours``. None where the model has no such matching.
    """

    def with_tomesd(merger: TokenMerger | None) -> TokenMerger | None:
        if isinstance(merger, BipartiteSoftMatching2d):
            return TomesdMatching(merger.ratio, merger.stride, seed=None)
        return merger

    backbone: Any = ours.backbone
    merging = backbone.token_merging
    stages = tuple(
        replace(stage, q=with_tomesd(stage.q), kv=with_tomesd(stage.kv)) for stage in merging.stages
    )
    if not any(isinstance(each, TomesdMatching) for s in stages for each in (s.q, s.kv)):
        return None
    # the modules are new, the parameters and buffers the same tensors
    shared = {id(tensor): tensor for tensor in (*ours.parameters(), *ours.buffers())}
    peer = copy.deepcopy(ours, shared)
    backbone = peer.backbone
    backbone.set_token_merging(replace(merging, stages=stages))
    return OpenMMLabModel(peer, one_graph=False)


def _check_ours(model: Mapping[str, Any]) -> None:
    models = model, model['backbone'], model.get('decode_head') or {}
    parts = [component_name(each.get('type')) for each in models]
    if parts[:2] != [_OUR_SEGMENTOR, _OUR_BACKBONE] or parts[2] not in _OUR_HEADS:
        raise SegformerPlusPlusError(
            f'--against needs a model of {_OUR_SEGMENTOR}, {_OUR_BACKBONE} and '
            f'{" or ".join(_OUR_HEADS)}, this one is of {", ".join(parts)}'
        )


def _kind(settings: Mapping[str, Any], name: str, default: str) -> str:
    """Returns the name of a layer, as configs spell it; a class has PyTorch's own."""
    kind = component_name((settings.get(name) or {}).get('type', default))
    return 'LN' if kind == 'LayerNorm' else kind


def _sizes(backbone: Mapping[str, Any]) -> dict[str, Any]:
    return resolve_arch(backbone.get('arch'), **{name: backbone.get(name) for name in _SIZES})


def _without(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in names}
