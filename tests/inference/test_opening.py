"""One opener for models of every config: with a checkpoint, or seeded weights; ready to predict."""

from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.config import Config

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.inference import open_model
from segformer_plusplus.inference.opening import _dataset_meta
from segformer_plusplus.loading.datasets import test_dataset as find_test_dataset

ROOT = Path(__file__).parents[2] / 'configs'
CONFIGS = sorted(ROOT.glob('[!_]*/segformer*.py'))
B0 = {'model.backbone.arch': 'b0', 'model.decode_head.in_channels': [32, 64, 160, 256]}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_segmentation_config_opens_and_predicts(path):
    model = open_model(path, random_weights=True, device='cpu', cfg_options=B0)
    assert not model.training and model.cfg.model.backbone.arch == 'b0'
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    if model.test_cfg.mode == 'slide':  # really
        model.test_cfg.update(crop_size=(64, 64), stride=(48, 48))
    with torch.inference_mode():
        (sample,) = model.test_step(dict(inputs=[image]))
    labels = sample.pred_sem_seg.data
    names = model.dataset_meta['classes']
    assert labels.shape == (1, 64, 96) and labels.max() < len(names)
    assert len(names) == model.decode_head.num_classes == len(model.dataset_meta['palette'])


def test_own_keypoints_replace_those_of_the_class():
    """As in mmpose itself: CocoDataset's own ``from_file`` would make 17 of them."""
    own = dict(dataset_name='own', keypoint_info={0: dict(name='tip', id=0)})
    dataset = dict(type='CocoDataset', metainfo=own)
    cfg = Config(dict(default_scope='mmpose', test_dataloader=dict(dataset=dataset)))
    assert _dataset_meta(cfg, {}) == own
    del cfg.test_dataloader.dataset.metainfo
    assert _dataset_meta(cfg, {}).keys() == {'from_file'}


@pytest.mark.parametrize('wrapper', ['RepeatDataset', 'ConcatDataset', 'LeaveOut'])
def test_the_pipeline_and_names_in_a_wrapper(segmentation, wrapper):
    cfg = Config.fromfile(segmentation[0])
    inner = cfg.test_dataloader.dataset
    parts = dict(datasets=[inner, inner]) if wrapper == 'ConcatDataset' else dict(dataset=inner)
    cfg.test_dataloader.dataset = dict(type=wrapper, **parts)
    assert find_test_dataset(cfg) == inner
    model = open_model(cfg, segmentation[1], device='cpu')
    assert model.dataset_meta['classes'] == inner.metainfo.classes
    combined = Config(dict(test_dataloader=dict(dataset=dict(
        type='CombinedDataset', pipeline=[dict(type='LoadImage')], datasets=[dict(pipeline=[])]
    ))))  # fmt: skip
    assert find_test_dataset(combined).type == 'CombinedDataset'
    assert find_test_dataset(None) == {} == find_test_dataset(Config({}))


def test_random_weights_are_asked_for_and_seeded(segmentation):
    config, checkpoint = segmentation
    with pytest.raises(SegformerPlusPlusError, match='no checkpoint'):
        open_model(config)
    one, other = (open_model(config, random_weights=True, dtype=torch.float64) for _ in range(2))
    loaded = open_model(config, checkpoint, random_weights=True)
    expected = torch.load(checkpoint, weights_only=True)['state_dict']
    for key, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
        assert torch.equal(loaded.state_dict()[key].cpu(), expected[key])
    assert one.backbone.layers[0][0].projection.weight.dtype == torch.float64


def test_a_config_is_copied(segmentation):
    config = Config.fromfile(str(segmentation[0]))
    model = open_model(config, segmentation[1], cfg_options={'model.labels_only': False})
    assert not model.labels_only and 'labels_only' not in config.model
    with pytest.raises(SegformerPlusPlusError, match="did you mean 'model'"):
        open_model(config, segmentation[1], cfg_options={'modle.labels_only': False})


@pytest.mark.parametrize(
    'content, message',
    [
        (dict(default_scope='mmseg'), 'the config has no model'),
        (dict(default_scope='mmpose', model=dict()), "default_scope 'mmpose', .* of 'mmseg'"),
        (dict(model=dict()), 'default_scope None'),
    ],
)
def test_configs_that_are_refused(content, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        open_model(Config(content), random_weights=True, scope='mmseg')
