"""Merge maps against what ratios, strides and plain means say."""

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from patching.models import BOTH, CASES, HOSTS, EveryThirdRow, mmpose_estimator, own_segmentor
from PIL import Image
from torch import nn

from segformer_plusplus import MergePlan, SegformerPlusPlusError, TokenMerger, apply_token_merging
from segformer_plusplus.inference.drawing import draw, draw_groups
from segformer_plusplus.inference.merge_maps import group_ids, merge_map, record_plans
from segformer_plusplus.token_merging import (
    PRESETS,
    BipartiteSoftMatching1d,
    BipartiteSoftMatching2d,
    IdentityPlan,
    NeighborMerging1d,
    NeighborMerging2d,
    TomesdMatching,
)

STRATEGIES = [
    BipartiteSoftMatching2d(0.6),
    BipartiteSoftMatching1d(0.3),
    TomesdMatching(0.5),
    NeighborMerging2d((2, 3)),
    NeighborMerging1d(3),
    EveryThirdRow(),
]


def picture(height=128, width=160, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize('strategy', STRATEGIES, ids=repr)
@pytest.mark.parametrize('batch', [1, 3])
def test_groups_are_those_that_the_plan_averages(strategy, batch):
    tokens = torch.randn(batch, 7 * 10, 4, dtype=torch.float64)
    plan = strategy.plan(tokens, (7, 10))
    ids = group_ids(plan, batch, tokens.device)
    assert ids.shape == (batch, 70)
    merged = plan.merge(tokens)
    for image in range(batch):
        assert set(ids[image].tolist()) == set(range(plan.num_merged))
        for group in range(plan.num_merged):
            mean = tokens[image, ids[image] == group].mean(dim=0)
            torch.testing.assert_close(merged[image, group], mean, rtol=1e-6, atol=1e-6)


class Mixing(MergePlan):
    """Pairs are merged; a place gets three quarters of its own and a quarter of the first one."""

    def __init__(self, num_tokens):
        super().__init__(num_tokens, num_tokens // 2)

    def merge(self, tokens):
        return (tokens[:, ::2] + tokens[:, 1::2]) / 2

    def unmerge(self, tokens):
        return (0.75 * tokens + 0.25 * tokens[:, :1]).repeat_interleave(2, dim=1)

    def sizes(self):
        return torch.full((1, self.num_merged), 2)


@pytest.mark.parametrize('num_tokens', [8, 1400])
def test_groups_of_a_plan_that_mixes_when_it_copies_back(num_tokens):
    ids = group_ids(Mixing(num_tokens), 2, torch.device('cpu'))
    assert ids.tolist() == [[i // 2 for i in range(num_tokens)]] * 2


@pytest.mark.parametrize('preset', ['hq', 'fast', '2x2'])
def test_shares_are_those_of_ratios_and_strides(preset):
    height, width = 256, 320
    maps = merge_map(own_segmentor(token_merging=preset), picture(height, width))
    assert [(m.stage, m.block) for m in maps.maps if m.role == 'q'] == [
        (1, 1), (2, 1), (2, 2), (3, 1), (4, 1)
    ]  # fmt: skip
    ratio = {'hq': (0.6, 0.8), 'fast': (0.9, 0.9)}
    for each in maps.maps:
        side = 4 * 2 ** (each.stage - 1)
        rows, columns = height // side, width // side
        if each.role == 'kv':
            reduction = (8, 4, 2, 1)[each.stage - 1]
            rows, columns = rows // reduction, columns // reduction
        left = rows * columns
        if preset == '2x2' and each.role == 'q':
            left = -(-rows // 2) * -(-columns // 2)
        elif preset != '2x2' and each.role == ('kv' if each.stage < 3 else 'q'):
            left -= int(rows * columns * ratio[preset][each.stage > 2])
        assert each.groups.shape == (rows, columns)
        assert each.num_merged == left == len(np.unique(each.groups))
        assert each.share_merged == pytest.approx(1 - left / (rows * columns))


@pytest.mark.parametrize('name', HOSTS + ['own', 'smp.Unet'])
def test_what_changed_is_the_difference_of_two_predictions(name):
    case = CASES[name]
    model, image = case.build(), picture(seed=3)
    mean = np.array([123.675, 116.28, 103.53])
    inputs = torch.tensor((image - mean) / [58.395, 57.12, 57.375]).permute(2, 0, 1).float()[None]

    def predict():
        with torch.inference_mode():
            logits = nn.functional.interpolate(
                case.output(model, inputs), image.shape[:2], mode='bilinear', align_corners=False
            )
        return logits.argmax(dim=1)[0].numpy()

    model.eval()
    apply_token_merging(model, 'none')
    plain = predict()
    apply_token_merging(model, 'fast')
    merged = predict()
    model.train()
    # mmseg's model has no mean and deviation of its own here
    maps = merge_map(model, image, inputs)
    assert model.training and all(module.training for module in model.modules())
    assert np.array_equal(maps.labels, merged) and np.array_equal(maps.labels_unmerged, plain)
    assert np.array_equal(maps.changed, merged != plain) and maps.changed.any()
    assert maps.share_changed == pytest.approx((merged != plain).mean())
    model.eval()
    assert np.array_equal(predict(), merged)  # its strategies are back


@pytest.mark.parametrize('name', HOSTS + ['own'])
def test_none_merges_and_changes_nothing(name):
    model = CASES[name].build()
    apply_token_merging(model, 'none')
    maps = merge_map(model, picture())
    assert len(maps.maps) == 2 * len([m for m in maps.maps if m.role == 'q'])
    for each in maps.maps:
        assert each.share_merged == 0
        assert np.array_equal(each.groups.reshape(-1), np.arange(each.num_tokens))
    assert maps.share_changed == 0 and not maps.changed.any()
    assert draw(maps).size[0] > 500


@pytest.mark.parametrize('name', HOSTS + ['own'])
def test_any_strategy(name):
    model = CASES[name].build()
    apply_token_merging(model, BOTH)
    maps = merge_map(model, picture())
    assert [m.role for stage in (1, 2, 3, 4) for m in maps.of_stage(stage)] == [
        'q', 'kv', 'kv', 'q', 'kv', 'q'
    ]  # fmt: skip
    rows = np.indices((8, 10))[0] // 2
    assert np.array_equal(maps.of_stage(3)[0].groups, rows * 10 + np.arange(10))
    apply_token_merging(model, 'downsampling')
    maps = merge_map(model, picture())
    assert maps.of_stage(1)[0].groups.shape == (16, 20) and maps.changed.shape == (128, 160)
    assert merge_map(model, picture()).of_stage(1)[0].groups.shape == (16, 20)


def test_a_model_that_does_not_segment_has_maps_alone():
    models = [CASES['SegformerModel'].build(), CASES['SegformerForImageClassification'].build()]
    for model in [*models, mmpose_estimator()]:
        apply_token_merging(model, '2x2')
        maps = merge_map(model, picture(), torch.randn(1, 3, 128, 160))
        assert maps.labels is None and maps.changed is None and maps.share_changed is None
        assert maps.of_stage(1)[0].share_merged == 0.75
        draw(maps)


def test_the_models_own_preprocessing():
    model, image = own_segmentor(token_merging='hq'), picture()
    settings = dict(mean=[100.0, 90, 80], std=[50.0, 60, 70], bgr_to_rgb=True)
    model.data_preprocessor = MODELS.build(dict(type='mmseg.SegDataPreProcessor', **settings))
    scaled = (image - np.array(settings['mean'])) / settings['std']
    inputs = torch.tensor(scaled).permute(2, 0, 1).float()[None]
    actual, expected = merge_map(model, image), merge_map(model, image, inputs)
    assert np.array_equal(actual.labels, expected.labels)
    settings['test_cfg'] = dict(size_divisor=96)
    model.data_preprocessor = MODELS.build(dict(type='mmseg.SegDataPreProcessor', **settings))
    with pytest.raises(SegformerPlusPlusError, match='makes 192x192 of an image of 128x160'):
        merge_map(model, image)


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_images_of_other_channels(channels):
    model = own_segmentor(token_merging='hq', in_channels=channels)
    scale = dict(mean=[100.0], std=[50.0]) if channels == 1 else {}
    model.data_preprocessor = MODELS.build(
        dict(type='mmseg.SegDataPreProcessor', bgr_to_rgb=True, **scale)
    )
    image = np.random.default_rng(0).integers(0, 256, (128, 160, channels), dtype=np.uint8)
    inputs = torch.from_numpy(image).permute(2, 0, 1).float()[None]
    inputs = (inputs - 100) / 50 if scale else inputs
    with torch.inference_mode():
        logits = nn.functional.interpolate(
            model(inputs, None, mode='tensor'), (128, 160), mode='bilinear', align_corners=False
        )
    for given in [image, image[..., 0]] if channels == 1 else [image]:
        maps = merge_map(model, given)
        assert np.array_equal(maps.labels, logits.argmax(1)[0].numpy())
        shown = image[..., :3] if channels > 3 else image[..., :1].repeat(3, axis=2)
        assert np.array_equal(maps.image, shown)
    draw(maps)
    with pytest.raises(SegformerPlusPlusError, match=f'in_channels is {channels}; load what'):
        merge_map(model, picture())
    if channels == 4:
        other = CASES['smp.Segformer'].build()
        apply_token_merging(other, 'hq')
        with pytest.raises(SegformerPlusPlusError, match='4 channels, and the model has no'):
            merge_map(other, image)


def test_recording_changes_no_number_and_leaves_no_trace():
    model, image = own_segmentor(token_merging='hq').double(), torch.randn(2, 3, 96, 96).double()
    strategies = [block.attn.merging for _, blocks, _ in model.backbone.layers for block in blocks]
    with torch.no_grad():
        expected = model(image)
        with record_plans(model) as records:
            assert torch.equal(model(image), expected)
        assert [r.batch for r in records] == [2] * 10
        model(image)
    assert len(records) == 10
    assert sum(isinstance(record.plan, IdentityPlan) for record in records) == 5
    after = [block.attn.merging for _, blocks, _ in model.backbone.layers for block in blocks]
    assert all(map(lambda a, b: a is b, after, strategies))


def test_a_shared_plan_is_that_of_every_block_that_uses_it():
    """Two blocks share in the second stage of three; the last one has its own."""
    hq = [stage | dict(share=2) for stage in PRESETS['hq']['stages']]
    model, image = own_segmentor(token_merging=hq, num_layers=[1, 3, 1, 1]), picture()
    maps = merge_map(model, image)
    first, second, third = (maps.of_stage(2, block) for block in (1, 2, 3))
    assert [(m.block, m.role) for m in (*first, *second, *third)] == [
        (1, 'kv'), (2, 'kv'), (3, 'kv')
    ]  # fmt: skip
    assert np.array_equal(first[0].groups, second[0].groups)
    assert not np.array_equal(second[0].groups, third[0].groups)
    assert maps.of_stage(2)[0].block == 3
    with torch.no_grad(), record_plans(model) as records:
        model(torch.randn(1, 3, 128, 160))
    places = [(r.stage, r.block, r.role) for r in records]
    assert len(places) == len(set(places)) == 2 * 6


class Failing(TokenMerger):
    def plan(self, tokens, grid):
        raise RuntimeError('no plan')


def test_an_error_leaves_the_model_as_it_was():
    model = own_segmentor(token_merging=[dict(q=Failing()), {}, {}, {}]).train()
    merging = model.backbone.token_merging
    with pytest.raises(RuntimeError, match='no plan'):
        merge_map(model, picture())
    assert model.training and model.backbone.layers[0][1][0].attn.merging is merging.stages[0]


def test_errors():
    model = own_segmentor(token_merging='hq')
    with pytest.raises(SegformerPlusPlusError, match='uint8'):
        merge_map(model, picture().astype(float))
    with pytest.raises(SegformerPlusPlusError, match='inputs: expected'):
        merge_map(model, picture(), torch.zeros(1, 3, 64, 64))
    with pytest.raises(SegformerPlusPlusError, match='call apply_token_merging first'):
        merge_map(CASES['mmseg'].build(), picture())
    with pytest.raises(SegformerPlusPlusError, match='has 2 backbones'):
        merge_map(nn.ModuleList([model, own_segmentor()]), picture())
    maps = merge_map(model, picture())
    with pytest.raises(SegformerPlusPlusError, match='no block 3 in stage 1, it has 1'):
        draw(maps, block=3)


def test_groups_are_drawn_with_borders():
    image = picture(12, 16)
    drawn = draw_groups(image, np.array([[4, 4], [4, 9]]))
    inside = np.zeros((12, 16), dtype=bool)
    inside[6:, 8:] = True
    colours = np.where(inside[..., None], image[inside].mean(0), image[~inside].mean(0)).round()
    border = (drawn != colours).any(axis=2)
    assert border[6, 8:].all() and border[6:, 8].all()
    assert border.sum() == 8 + 6 - 1  # towards the top and the left neighbour alone


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    maps = merge_map(own_segmentor(token_merging='hq'), picture())
    path = tmp_path / 'map.png'
    drawn = draw(maps, path, palette=[(0, 0, 0)] * 5, title='any $_$ \udcff')  # of any file
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(drawn))
    monkeypatch.setattr(Image.Image, 'save', failing_save)
    with pytest.raises(OSError, match='disk full'):
        draw(maps, path)
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(drawn))


def failing_save(self, fp, **kwargs):
    raise OSError('disk full')
