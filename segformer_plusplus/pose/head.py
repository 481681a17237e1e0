"""Holds SegFormer's all-MLP heatmap head for top-down pose estimation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule, build_conv_layer
from mmengine.dist import is_distributed
from mmengine.model import revert_sync_batchnorm
from mmpose.models.heads import HeatmapHead
from mmpose.registry import KEYPOINT_CODECS, MODELS
from mmpose.utils.typing import Predictions, SampleList
from torch import Tensor, nn

from ..arguments import (
    CONFIG,
    FLAG,
    INIT_CFG,
    INTERPOLATION,
    NONE,
    SETTINGS,
    blaming,
    checked,
    integer,
    integers,
)
from ..errors import SegformerPlusPlusError
from ..mit.cpu import accept_in_rows
from ..mit.fusion import FusionHead, check_image_norm, fuse_pyramid, pair_levels, select_levels

_BATCH_NORM = {'type': 'BN', 'requires_grad': True}
_RELU = {'type': 'ReLU'}
_LOSS = {'type': 'KeypointMSELoss', 'use_target_weight': True}


@MODELS.register_module(force=True)
class SegformerHeatmapHead(FusionHead, HeatmapHead):
    """Fuses the stages of the backbone as SegFormer does and predicts one heatmap per keypoint.

    SegFormer's decoder (Xie et al. 2021, section 3.2) before a 1x1 convolution to heatmaps, as in
    Segformer++ (Kienzle et al. 2024). Loss, decoding, flip test and output of the heatmaps are
    those of mmpose's ``HeatmapHead``. The state dict has the keys ``convs.i``, ``fusion_conv`` and
    ``final_layer``.

    Args:
        in_channels: channels of the stages that are fused; any number of stages.
        out_channels: number of keypoints.
        channels: width of the fusion.
        in_index: which of the backbone's outputs these are; the first sets the size of the
            heatmaps. By default the first ``len(in_channels)``.
        norm_cfg: norm of the fusion. ``SyncBN`` turns into ``BN`` (with the same keys) when the
            training is not distributed. None: no norm, the convolutions get a bias.
        act_cfg: activation of the fusion.
        interpolate_mode: ``mode`` of ``F.interpolate``, which upsamples the deeper stages.
        align_corners: its ``align_corners``.
        final_layer: arguments of the last convolution, such as ``dict(kernel_size=3, padding=1)``;
            it must keep the size. None: the 1x1 convolution of the paper.
        loss: a loss of mmpose.
        in_rows: the old way to set ``segformer_plusplus.mit.cpu.chunked``.
        decoder: the codec; give the one that makes the targets.
        init_cfg: by default mmcv's for the fusion, a normal distribution (std 0.001) for the last
            convolution.

    Raises:
        SegformerPlusPlusError: an argument is of the wrong kind, cannot be built, or does not go
            with another one. In the first step: the backbone has other stages, or the heatmaps have
            another size than those of the codec or another number than the keypoints of the data.
    """

    @checked(
        in_channels=integers(1),
        out_channels=integer(1),
        channels=integer(1),
        in_index=integers(0) | NONE,
        norm_cfg=CONFIG | NONE,
        act_cfg=CONFIG | NONE,
        interpolate_mode=INTERPOLATION,
        align_corners=FLAG | NONE,
        final_layer=SETTINGS | NONE,
        loss=CONFIG,
        decoder=CONFIG | NONE,
        in_rows=FLAG | NONE,
        init_cfg=INIT_CFG,
    )
    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        channels: int = 256,
        in_index: Sequence[int] | None = None,
        norm_cfg: dict[str, Any] | None = _BATCH_NORM,
        act_cfg: dict[str, Any] | None = _RELU,
        interpolate_mode: str = 'bilinear',
        align_corners: bool = False,
        final_layer: dict[str, Any] | None = None,
        loss: dict[str, Any] = _LOSS,
        decoder: dict[str, Any] | None = None,
        in_rows: bool | None = None,
        init_cfg: Any = None,
    ) -> None:
        accept_in_rows(in_rows)
        widths, self.in_index = pair_levels(in_channels, in_index, 'head')
        last = dict(type='Conv2d', in_channels=channels, out_channels=out_channels, kernel_size=1)
        parts = dict(
            norm_cfg=(norm_cfg, lambda cfg: ConvModule(1, channels, 1, norm_cfg=cfg)),
            act_cfg=(act_cfg, lambda cfg: ConvModule(1, channels, 1, act_cfg=cfg)),
            loss=(loss, MODELS.build),
            decoder=(decoder, KEYPOINT_CODECS.build),
            final_layer=(
                final_layer,
                lambda cfg: _check_keeps_size(build_conv_layer(last | cfg)),
            ),
        )
        with blaming(self, parts):
            super().__init__(
                in_channels=channels,
                out_channels=out_channels,
                deconv_out_channels=None,
                conv_out_channels=None,
                final_layer=dict(final_layer or {}),
                loss=dict(loss),
                decoder=decoder,
                init_cfg=init_cfg,
            )
            _check_keeps_size(self.final_layer)
            settings = dict(kernel_size=1, norm_cfg=norm_cfg, act_cfg=act_cfg)
            self.convs = nn.ModuleList(ConvModule(n, channels, **settings) for n in widths)
            self.fusion_conv = ConvModule(channels * len(widths), channels, **settings)
        self.in_channels = widths
        self.interpolate_mode = interpolate_mode
        self.align_corners = align_corners
        if norm_cfg is not None:
            check_image_norm(self.fusion_conv.norm, norm_cfg)
        if not is_distributed():
            self.convs = revert_sync_batchnorm(self.convs)
            self.fusion_conv = revert_sync_batchnorm(self.fusion_conv)

    @property
    def default_init_cfg(self) -> dict[str, Any]:
        """Covers the last convolution: mmcv's ``ConvModule`` initialises itself."""
        return dict(type='Normal', std=0.001, override=dict(name='final_layer'))

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Computes heatmaps (B, out_channels, H_0, W_0) from features (B, C_i, H_i, W_i)."""
        heatmaps = fuse_pyramid(
            self._select(feats),
            self.convs,
            self.fusion_conv,
            self.final_layer,
            self.interpolate_mode,
            self.align_corners,
        )
        # NumPy, with which mmpose scores and decodes, has no bfloat16
        return heatmaps.float() if heatmaps.dtype == torch.bfloat16 else heatmaps

    def loss(
        self, feats: Sequence[Tensor], batch_data_samples: SampleList, train_cfg: Any = None
    ) -> dict[str, Tensor]:
        """Computes losses and accuracy from features and the samples' target heatmaps."""
        self._check_codec(feats, batch_data_samples)
        height, width = self._select(feats)[0].shape[-2:]
        expected = self.final_layer.out_channels, height, width
        targets = tuple(batch_data_samples[0].gt_fields.heatmaps.shape)
        if targets != expected:
            raise SegformerPlusPlusError(
                f'the target heatmaps (keypoints, height, width) are {targets}, the head gives '
                f'{expected}; set the out_channels of the head, and the heatmap_size and '
                'input_size of the codec in GenerateTarget, to fit'
            )
        return super().loss(tuple(feats), batch_data_samples, train_cfg or {})

    def predict(
        self, feats: Any, batch_data_samples: SampleList, test_cfg: Any = None
    ) -> Predictions:
        """Predicts keypoints (1, K, 2) and scores (1, K) of every sample from features.

        With a flip test, ``feats`` are those of the image and of its mirror image. The keypoints
        are in pixels of the input; the estimator maps them to the image. With
        ``test_cfg['output_heatmaps']`` the heatmaps (K, H_0, W_0) come as well.
        """
        test_cfg = test_cfg or {}
        flipped = test_cfg.get('flip_test', False)
        self._check_codec(feats[0] if flipped else feats, batch_data_samples)
        return super().predict(feats, batch_data_samples, test_cfg)

    def _select(self, feats: Sequence[Tensor]) -> list[Tensor]:
        return select_levels(feats, self.in_channels, self.in_index, 'head')

    def _check_codec(self, feats: Sequence[Tensor], samples: SampleList) -> None:
        """Raises for a codec of another size, which would move every keypoint without a word."""
        height, width = self._select(feats)[0].shape[-2:]
        actual = dict(heatmap_size=(width, height))
        if samples and 'input_size' in samples[0].metainfo:
            actual['input_size'] = tuple(samples[0].metainfo['input_size'])
        for name, size in actual.items():
            codec = getattr(self.decoder, name, None)
            if codec is not None and tuple(codec) != size:
                raise SegformerPlusPlusError(
                    f"the codec's {name} (width, height) is {tuple(codec)}, but here it is {size}; "
                    'set input_size and heatmap_size of the codec, and the input_size of '
                    'TopdownAffine, to fit'
                )


def _check_keeps_size(conv: nn.Conv2d) -> None:
    side = conv.kernel_size[0] + 8  # any side will do: what is lost does not depend on it
    if conv(conv.weight.new_zeros(1, conv.in_channels, side, side)).shape[2:] != (side, side):
        raise SegformerPlusPlusError(
            f'head.final_layer: kernel_size {conv.kernel_size}, stride {conv.stride}, padding '
            f'{conv.padding}, which changes the size of the heatmaps; give stride 1 and a padding '
            'of half the kernel'
        )
