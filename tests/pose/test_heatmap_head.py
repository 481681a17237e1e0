"""The heatmap head against a plain one that concatenates, and inside mmpose's estimator."""

from types import SimpleNamespace

import pytest

pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it

import segformer_plusplus  # noqa: F401  (must precede mmpose)

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmpose.models.utils.tta import flip_heatmaps
from mmpose.registry import MODELS
from mmpose.structures import PoseDataSample
from torch import nn

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.pose import SegformerHeatmapHead

CHANNELS = 8, 16, 40, 64, 24
CODEC = dict(type='MSRAHeatmap', input_size=(48, 64), heatmap_size=(12, 16), sigma=2)


class PlainHead(nn.Module):
    """The head as one would write it down: every level resized, concatenated, convolved."""

    def __init__(self, in_channels, out_channels, channels, norm, corners=False):
        super().__init__()
        self.corners = corners

        def block(width):
            conv = nn.Conv2d(width, channels, 1, bias=norm is None)
            return nn.ModuleDict({'conv': conv, **({'bn': norm()} if norm else {})})

        self.convs = nn.ModuleList(block(n) for n in in_channels)
        self.fusion_conv = block(channels * len(in_channels))
        self.final_layer = nn.Conv2d(channels, out_channels, 1)

    def forward(self, features):
        def apply(block, x):
            x = block['conv'](x)
            return F.relu(block['bn'](x) if 'bn' in block else x)

        size = features[0].shape[2:]
        levels = [apply(block, x) for block, x in zip(self.convs, features, strict=True)]
        levels = [
            F.interpolate(x, size, mode='bilinear', align_corners=self.corners) for x in levels
        ]
        return self.final_layer(apply(self.fusion_conv, torch.cat(levels, dim=1)))


def randomise_norms(module):
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)


def build_pair(stages=4, norm='BN', channels=24, corners=False):
    ours = SegformerHeatmapHead(
        CHANNELS[:stages], 7, channels=channels, norm_cfg=norm and dict(type=norm),
        align_corners=corners,
    )  # fmt: skip
    randomise_norms(ours)
    make_norm = (lambda: nn.BatchNorm2d(channels)) if norm else None
    plain = PlainHead(CHANNELS[:stages], 7, channels, make_norm, corners)
    plain.load_state_dict(ours.state_dict(), strict=True)
    return ours, plain


def pyramid(stages=4, size=(16, 12), batch=2, dtype=torch.float32):
    grids = [(-(-size[0] // 2**i), -(-size[1] // 2**i)) for i in range(stages)]
    return [torch.randn(batch, c, *g, dtype=dtype) for c, g in zip(CHANNELS, grids, strict=False)]


def relative_error(actual, expected):
    assert actual.shape == expected.shape
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize('training', [False, True])
def test_aligned_corners(training):
    ours, plain = (model.train(training) for model in build_pair(corners=True))
    features = pyramid(size=(13, 18))
    with torch.set_grad_enabled(training):
        actual, expected = ours(features), plain(features)
    assert relative_error(actual, expected) < 1e-5
    with torch.no_grad():
        assert relative_error(build_pair()[1](features), expected) > 1e-2


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('norm', ['BN', 'SyncBN', None])
@pytest.mark.parametrize('stages', [1, 2, 3, 4, 5])
@pytest.mark.parametrize('size', [(16, 12), (19, 26)], ids=str)
def test_equal_to_concat_and_convolution(training, norm, stages, size):
    ours, plain = (head.train(training) for head in build_pair(stages, norm))
    features = pyramid(stages, size)
    assert relative_error(ours(features), plain(features)) < 1e-5
    expected = dict(plain.named_buffers())
    for name, buffer in ours.named_buffers():  # live norms
        torch.testing.assert_close(buffer, expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_gradients_equal_concat_and_convolution():
    ours, plain = (head.double().train() for head in build_pair())
    features = pyramid(size=(13, 18), dtype=torch.float64)
    inputs = []
    for head in (ours, plain):
        leaves = [f.clone().requires_grad_() for f in features]
        head(leaves).square().mean().backward()
        inputs.append(leaves)
    for a, b in zip(*inputs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    expected = dict(plain.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad)


def test_the_papers_keys_load_strictly():
    head = SegformerHeatmapHead([64, 128, 320, 512], 20, norm_cfg=dict(type='SyncBN'))
    norm = dict(weight=256, bias=256, running_mean=256, running_var=256)
    shapes = {'final_layer.weight': (20, 256, 1, 1), 'final_layer.bias': (20,)}
    for index, width in enumerate((64, 128, 320, 512)):
        shapes[f'convs.{index}.conv.weight'] = (256, width, 1, 1)
        shapes |= {f'convs.{index}.bn.{name}': (n,) for name, n in norm.items()}
        shapes[f'convs.{index}.bn.num_batches_tracked'] = ()
    shapes['fusion_conv.conv.weight'] = (256, 1024, 1, 1)
    shapes |= {f'fusion_conv.bn.{name}': (n,) for name, n in norm.items()}
    shapes['fusion_conv.bn.num_batches_tracked'] = ()
    state = {
        key: torch.tensor(3) if key.endswith('tracked') else torch.rand(shape)
        for key, shape in shapes.items()
    }
    head.load_state_dict(dict(state), strict=True)
    for key, value in head.state_dict().items():
        torch.testing.assert_close(value, state[key])


def test_sync_norm_becomes_a_plain_one_where_nothing_is_distributed(monkeypatch):
    def synchronised():
        head = SegformerHeatmapHead([8, 16], 3, norm_cfg=dict(type='SyncBN'))
        layers = (m for m in head.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        return [isinstance(layer, nn.SyncBatchNorm) for layer in layers]

    assert synchronised() == [False] * 3
    monkeypatch.setattr('segformer_plusplus.pose.head.is_distributed', lambda: True)
    assert synchronised() == [True] * 3


def test_initial_weights_predict_almost_nothing():
    head = SegformerHeatmapHead(CHANNELS[:4], 7)
    head.init_weights()
    assert 5e-4 < head.final_layer.weight.std().item() < 2e-3
    assert head.final_layer.bias.abs().max() == 0
    for conv in (*head.convs, head.fusion_conv):
        kaiming = (2 / conv.conv.out_channels) ** 0.5  # mmcv's, by the fan out
        assert conv.conv.weight.std().item() == pytest.approx(kaiming, rel=0.1)


def test_any_outputs_of_the_backbone():
    head = SegformerHeatmapHead([16, 64], 7, in_index=[1, 3]).eval()
    features = pyramid()
    assert head(features).shape == (2, 7, *features[1].shape[2:])


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(in_channels=[]), r'in_channels=\[\] is not a list of one or more'),
        (dict(in_channels=[8, 16], in_index=[0]), r'\[8, 16\] and head.in_index \[0\]'),
        (dict(in_channels=[8], in_index=[-1]), r'in_index=\[-1\] is not a list'),
    ],
)
def test_stages_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        SegformerHeatmapHead(out_channels=7, **settings)


def test_another_backbone_is_refused():
    with pytest.raises(SegformerPlusPlusError, match=r'which has only 2.*out_indices'):
        SegformerHeatmapHead(CHANNELS[:3], 7)(pyramid(2))
    with pytest.raises(SegformerPlusPlusError, match=r'\[8, 17\], but the backbone gives \[8, 16'):
        SegformerHeatmapHead([8, 17], 7)(pyramid(2))


# Inside mmpose -----------------------------------------------------------------------------------


def build_estimator(codec=None, keypoints=5, **test_cfg):
    init_default_scope('mmpose')
    model = MODELS.build(
        dict(
            type='TopdownPoseEstimator',
            data_preprocessor=dict(type='PoseDataPreprocessor'),
            backbone=dict(type='MixVisionTransformerPlusPlus', arch='b0', token_merging='hq'),
            head=dict(
                type='SegformerHeatmapHead',
                in_channels=[32, 64, 160, 256],
                out_channels=keypoints,
                channels=16,
                decoder=dict(CODEC, **(codec or {})),
            ),
            test_cfg=test_cfg,
        )
    )
    randomise_norms(model.head)
    nn.init.normal_(model.head.final_layer.weight)
    return model.eval()


def samples(count=2, keypoints=5, heatmap_size=(12, 16)):
    result = []
    for _ in range(count):
        sample = PoseDataSample(
            metainfo=dict(
                input_center=np.array([24.0, 32.0]),
                input_scale=np.array([48.0, 64.0]),
                input_size=(48, 64),
                flip_indices=[0, 2, 1, 4, 3],
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=np.array([[0.0, 0, 48, 64]]), bbox_scores=np.ones(1)
        )
        sample.gt_instance_labels = InstanceData(keypoint_weights=torch.ones(1, keypoints))
        heatmaps = torch.rand(keypoints, *heatmap_size[::-1])
        sample.gt_fields = PixelData(heatmaps=heatmaps)
        result.append(sample)
    return result


def test_flip_test_and_heatmaps():
    model = build_estimator(
        flip_test=True, flip_mode='heatmap', shift_heatmap=True, output_heatmaps=True
    )
    images, batch = torch.randn(2, 3, 64, 48), samples()
    with torch.no_grad():
        predictions = model(images, batch, mode='predict')
        straight = model(images, None, mode='tensor')
        mirrored = model(images.flip(-1), None, mode='tensor')
    back = flip_heatmaps(mirrored, flip_indices=[0, 2, 1, 4, 3], shift_heatmap=True)
    expected = (straight + back) / 2
    for index, sample in enumerate(predictions):
        torch.testing.assert_close(sample.pred_fields.heatmaps, expected[index])
        assert sample.pred_instances.keypoints.shape == (1, 5, 2)
        assert sample.pred_instances.keypoint_scores.shape == (1, 5)
        score = expected[index].flatten(1).max(dim=1).values.numpy()
        np.testing.assert_allclose(sample.pred_instances.keypoint_scores[0], score, rtol=1e-5)


@pytest.mark.parametrize('train_cfg', [None, {}, dict(compute_acc=False)])
def test_the_accuracy_may_be_left_out(train_cfg):
    ours, _ = build_pair(channels=24)
    given = samples(keypoints=ours.final_layer.out_channels)
    accuracy = {} if train_cfg else {'acc_pose'}
    assert set(ours.loss(pyramid(), given, train_cfg)) == {'loss_kpt', *accuracy}


@pytest.mark.parametrize('amp', [False, True], ids=['float32', 'bfloat16'])
def test_loss_trains_backbone_and_head(amp):
    model = build_estimator(dict(input_size=(64, 64), heatmap_size=(16, 16))).train()
    batch = samples(heatmap_size=(16, 16))
    for sample in batch:
        sample.set_metainfo(dict(input_size=(64, 64)))
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        # oneDNN's convolution in bfloat16 on AMX returns what lies in memory where the reduced grid
        # is one column wide and a remainder is left, as that of images of 48 to 63 pixels
        losses = model(torch.randn(2, 3, 64, 64), batch, mode='loss')
    assert set(losses) == {'loss_kpt', 'acc_pose'}
    losses['loss_kpt'].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize('test_cfg', [{}, dict(flip_test=False), dict(flip_test=True)], ids=str)
@pytest.mark.parametrize('mode', ['loss', 'predict'])
@pytest.mark.parametrize(
    'codec, message',
    [
        (dict(heatmap_size=(24, 32)), r'heatmap_size .* is \(24, 32\), but here it is \(12, 16\)'),
        (dict(input_size=(24, 32)), r'input_size .* is \(24, 32\), but here it is \(48, 64\)'),
    ],
)
def test_a_codec_of_another_size_is_refused(mode, codec, message, test_cfg):
    model = build_estimator(codec=codec, **test_cfg).train(mode == 'loss')
    with pytest.raises(SegformerPlusPlusError, match=message):
        model(torch.randn(2, 3, 64, 48), samples(), mode=mode)


@pytest.mark.parametrize('fault', [dict(keypoints=4), dict(heatmap_size=(6, 8))], ids=str)
def test_targets_that_do_not_fit_are_refused(fault):
    model = build_estimator().train()
    with pytest.raises(SegformerPlusPlusError, match=r'the head gives \(5, 16, 12\)'):
        model(torch.randn(2, 3, 64, 48), samples(**fault), mode='loss')


def test_a_codec_without_sizes_is_left_alone():
    head = SegformerHeatmapHead([8], 7)
    head.decoder = SimpleNamespace()
    head._check_codec(pyramid(1), samples())


@pytest.mark.parametrize('final_layer', [dict(kernel_size=3), dict(stride=2), dict(padding=1)])
def test_a_last_layer_that_changes_the_size_is_refused(final_layer):
    with pytest.raises(SegformerPlusPlusError, match='changes the size of the heatmaps'):
        SegformerHeatmapHead([8], 7, final_layer=final_layer)


def test_a_last_layer_that_cannot_be_built_is_named():
    with pytest.raises(SegformerPlusPlusError, match=r"final_layer=.* cannot be built: .*'dilate'"):
        SegformerHeatmapHead([8], 7, final_layer=dict(kernel_size=1, dilate=2))


def test_a_wider_last_layer():
    head = SegformerHeatmapHead([8], 7, final_layer=dict(kernel_size=3, padding=1)).eval()
    with torch.no_grad():
        assert head(pyramid(1)).shape == (2, 7, 16, 12)
