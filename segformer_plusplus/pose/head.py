"""The all-MLP heatmap head of SegFormer for top-down pose estimation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import ConvModule
from mmengine.dist import is_distributed
from mmengine.model import revert_sync_batchnorm
from mmpose.models.heads import HeatmapHead
from mmpose.registry import MODELS
from mmpose.utils.typing import InstanceList, SampleList
from torch import Tensor, nn

from ..errors import SegformerPlusPlusError
from ..layers import fuse_pyramid

_BATCH_NORM = {'type': 'BN', 'requires_grad': True}
_RELU = {'type': 'ReLU'}
_LOSS = {'type': 'KeypointMSELoss', 'use_target_weight': True}


@MODELS.register_module()
class SegformerHeatmapHead(HeatmapHead):
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
        interpolate_mode: how deeper stages are brought to the size of the first.
        align_corners: likewise.
        final_layer: arguments of the last convolution, such as ``kernel_size``.
        loss: a loss of mmpose.
        decoder: the codec; give the one that makes the targets.
        init_cfg: by default mmcv's for the fusion, a normal distribution (std 0.001) for the last
            convolution.

    Raises:
        SegformerPlusPlusError: ``in_channels`` and ``in_index`` do not go together. In the first
            step: the backbone has other stages, or the heatmaps have another size than those of
            the codec or another number than the keypoints of the data.
    """

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
        init_cfg: Any = None,
    ) -> None:
        in_channels = list(in_channels)
        self.in_index = list(range(len(in_channels)) if in_index is None else in_index)
        _check_stages(in_channels, self.in_index)
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
        self.in_channels = in_channels
        self.interpolate_mode = interpolate_mode
        self.align_corners = align_corners
        settings = dict(kernel_size=1, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.convs = nn.ModuleList(ConvModule(n, channels, **settings) for n in in_channels)
        self.fusion_conv = ConvModule(channels * len(in_channels), channels, **settings)
        if not is_distributed():
            self.convs = revert_sync_batchnorm(self.convs)
            self.fusion_conv = revert_sync_batchnorm(self.fusion_conv)

    @property
    def default_init_cfg(self) -> dict[str, Any]:
        """mmcv's ``ConvModule`` initialises itself; only the last convolution is left."""
        return dict(type='Normal', std=0.001, override=dict(name='final_layer'))

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Features (B, C_i, H_i, W_i) of the backbone -> heatmaps (B, out_channels, H_0, W_0)."""
        features = self._select(feats)
        fused = fuse_pyramid(
            features, self.convs, self.fusion_conv, self.interpolate_mode, self.align_corners
        )
        return self.final_layer(fused)

    def loss(
        self, feats: Sequence[Tensor], batch_data_samples: SampleList, train_cfg: Any = None
    ) -> dict[str, Tensor]:
        """Features and the samples' target heatmaps -> losses and the accuracy of the batch."""
        height, width = self._select(feats)[0].shape[-2:]
        self._check_codec(height, width)
        expected = self.final_layer.out_channels, height, width
        targets = tuple(batch_data_samples[0].gt_fields.heatmaps.shape)
        if targets != expected:
            raise SegformerPlusPlusError(
                f'the target heatmaps (keypoints, height, width) are {targets}, the head gives '
                f'{expected}; set the out_channels of the head, and the heatmap_size and '
                'input_size of the codec in GenerateTarget, to fit'
            )
        return super().loss(tuple(feats), batch_data_samples, train_cfg or {})

    def decode(self, batch_outputs: Tensor) -> InstanceList:
        """Heatmaps (B, out_channels, H, W) -> keypoints in pixels of the input, and scores."""
        self._check_codec(*batch_outputs.shape[-2:])
        return super().decode(batch_outputs)

    def _select(self, feats: Sequence[Tensor]) -> list[Tensor]:
        if max(self.in_index) >= len(feats):
            raise SegformerPlusPlusError(
                f'the head uses outputs {self.in_index} of the backbone (in_index), which has only '
                f"{len(feats)}; change in_channels and in_index, or the backbone's out_indices"
            )
        features = [feats[index] for index in self.in_index]
        channels = [feature.shape[1] for feature in features]
        if channels != self.in_channels:
            raise SegformerPlusPlusError(
                f'head.in_channels is {self.in_channels}, but the backbone gives {channels}'
            )
        return features

    def _check_codec(self, height: int, width: int) -> None:
        """A codec for heatmaps of another size would move every keypoint without a word."""
        expected = getattr(self.decoder, 'heatmap_size', None)
        if expected is not None and tuple(expected) != (width, height):
            raise SegformerPlusPlusError(
                f"the codec's heatmap_size (width, height) is {tuple(expected)} for an input_size "
                f'of {tuple(self.decoder.input_size)}, but the head gives {(width, height)}; set '
                'heatmap_size to that, or another input_size'
            )


def _check_stages(in_channels: list[int], in_index: list[int]) -> None:
    if not in_channels:
        raise SegformerPlusPlusError('head.in_channels is empty; give one number per stage')
    if len(in_channels) != len(in_index) or min(in_index) < 0:
        raise SegformerPlusPlusError(
            f'head.in_channels {in_channels} and head.in_index {in_index} do not go together; '
            'give one index, 0 or more, for each number of channels'
        )
