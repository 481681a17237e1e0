"""Every shipped pose config loads, is what its name says, and builds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from config_rows import (
    FROM_SCRATCH,
    ROOT,
    check_3k,
    check_a_row,
    check_pipelines,
    load,
    step,
    widths,
)

pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it

import segformer_plusplus  # noqa: F401  (must precede mmpose)

# isort: split
import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner
from mmpose.datasets.datasets.utils import parse_pose_metainfo
from mmpose.registry import DATASETS, METRICS, MODELS

FOLDERS = 'jbd', 'coco', 'synthetic', 'lsp'
CONFIGS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob('td-hm_*.py'))
OF_THE_PAPER = [path for path in CONFIGS if path.parent.name not in FROM_SCRATCH]
BUILT = [path for path in CONFIGS if 'lsp-640x480' not in path.name or '_none_' in path.name]
"""The others are as their `none`, but for `token_merging`, as another test says."""
STRATEGIES = 'none', 'hq', 'fast', '2x2'
PRESETS = *STRATEGIES, 'weighted', 'weighted-fast'

JBD = 'jbd/td-hm_mit-{}_{}_1xb16-210e_jbd-640x480.py'
COCO = 'coco/td-hm_mit-{}_{}_1xb16-210e_coco-384x288.py'
SYNTHETIC = 'synthetic/td-hm_mit-{}_{}_1xb2-demo_synthetic-jbd-640x480.py'
LSP = 'lsp/td-hm_mit-b0_{}_1xb{}-3k_lsp-{}.py'
ROWS = [
    *(form.format(arch, s) for form in (JBD, COCO) for arch in ('b0', 'b5') for s in STRATEGIES),
    *(SYNTHETIC.format('b0', s) for s in STRATEGIES),
    *(LSP.format(s, *size) for s in PRESETS for size in ((8, '256x192'), (4, '640x480'))),
]
NAME = re.compile(
    r'td-hm_mit-(?P<arch>b\d)_(?P<strategy>[^_]+)_1xb(?P<batch>\d+)-(?P<schedule>\w+?)'
    r'_(?P<data>jbd|coco|synthetic-jbd|lsp)-(?P<height>\d+)x(?P<width>\d+)'
)
KEYPOINTS = {'jbd': 20, 'coco': 17, 'synthetic-jbd': 20, 'lsp': 14}
SIGMAS = {'synthetic-jbd-640x480': 6, 'lsp-256x192': 2, 'lsp-640x480': 6}

every_config = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
every_row_of_the_paper = pytest.mark.parametrize('path', OF_THE_PAPER, ids=lambda p: p.stem)


@pytest.fixture(autouse=True)
def mmpose_scope():
    init_default_scope('mmpose')


def named(path: Path) -> dict[str, str]:
    match = NAME.fullmatch(path.stem)
    assert match is not None, f'{path.name} does not follow configs/README.md'
    return match.groupdict()


def test_every_row_of_the_tables_has_its_file_and_no_file_is_left_over():
    assert {str(path.relative_to(ROOT)) for path in CONFIGS} == set(ROWS)


def test_every_config_belongs_to_one_of_the_two_tests():
    found = [path for path in ROOT.glob('*/*.py') if path.parent.name != '_base_']
    assert {path.name.split('_')[0] for path in found} == {'segformer', 'td-hm'}


DATASETS_OF = {
    'jbd': 'JumpBroadcastDataset',
    'coco': 'CocoDataset',
    'synthetic-jbd': 'JumpBroadcastDataset',
    'lsp': 'LeedsSportsDataset',
}


@every_config
def test_the_name_is_the_content(path):
    says = named(path)
    cfg = check_a_row(path, says, 'mmpose', DATASETS_OF)
    width, height = int(says['width']), int(says['height'])
    assert tuple(cfg.codec.input_size) == (width, height)
    assert tuple(cfg.codec.heatmap_size) == (width // 4, height // 4)
    if says['schedule'] == '210e':
        assert cfg.train_cfg.max_epochs == 210
    elif says['schedule'] == '3k':
        assert cfg.train_cfg.max_iters == 3000


@every_config
def test_one_codec_and_one_size_throughout(path):
    cfg = load(path)
    assert cfg.codec.to_dict() == dict(
        type='MSRAHeatmap',
        input_size=cfg.codec.input_size,
        heatmap_size=cfg.codec.heatmap_size,
        sigma=SIGMAS.get(path.stem.rpartition('_')[2], 3),
    )
    assert cfg.model.head.decoder == cfg.codec
    assert step(cfg.train_dataloader.dataset.pipeline, 'GenerateTarget').encoder == cfg.codec
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        affine = step(loader.dataset.pipeline, 'TopdownAffine')
        assert tuple(affine.input_size) == tuple(cfg.codec.input_size)


@every_config
def test_keypoints_agree_between_head_and_dataset(path):
    cfg = load(path)
    metainfo = parse_pose_metainfo(DATASETS.get(cfg.train_dataloader.dataset.type).METAINFO)
    assert cfg.model.head.out_channels == metainfo['num_keypoints']
    assert metainfo['num_keypoints'] == KEYPOINTS[named(path)['data']]


@pytest.mark.parametrize('path', BUILT, ids=lambda path: path.stem)
def test_model_builds_and_makes_heatmaps_that_the_codec_reads(path):
    cfg = load(path)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model).eval()
    assert model.head.in_channels == widths(cfg)
    width, height = cfg.codec.input_size
    if cfg.model.backbone.arch == 'b0':
        with torch.inference_mode():
            heatmaps = model(torch.randn(1, 3, height, width), None, mode='tensor')
        assert heatmaps.shape == (1, cfg.model.head.out_channels, height // 4, width // 4)
        keypoints, scores = model.head.decoder.decode(heatmaps[0].numpy())
        assert keypoints.shape == (1, cfg.model.head.out_channels, 2)
        assert np.isfinite(scores).all()
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert sum(len(group['params']) for group in optimizer.param_groups) == len(
        list(model.parameters())
    )


@every_config
def test_pipelines_and_metrics_build(path):
    cfg = load(path)
    check_pipelines(cfg, DATASETS)
    for evaluators in (cfg.val_evaluator, cfg.test_evaluator):
        several = isinstance(evaluators, list | tuple)
        metrics = [METRICS.build(e) for e in (evaluators if several else [evaluators])]
        assert list(metrics[0].thresholds) == ['PCK@0.1', 'PCK@0.05']
        kinds = [type(metric).__name__ for metric in metrics]
        others = {'coco': ['CocoMetric'], 'lsp': ['TorsoPCK']}.get(named(path)['data'], [])
        assert kinds == ['BoxPCK', *others]
        if 'TorsoPCK' in others:
            info = parse_pose_metainfo(DATASETS.get('LeedsSportsDataset').METAINFO)
            assert list(metrics[1].thresholds) == ['tPCK@0.2']
            assert set(metrics[1].torso) < set(info['keypoint_name2id'])


@pytest.mark.parametrize('strategy', STRATEGIES)
def test_synthetic_differs_from_jbd_in_what_its_comments_say(strategy):
    allowed = re.compile(
        r'data_root|train_pipeline|codec\.sigma|train_dataloader\.sampler\.type'
        r'|\w+_dataloader\.(batch_size|num_workers|dataset\.(data_root|pipeline))'
        r'|max_iters|max_epochs|param_scheduler|train_cfg\..*|randomness\..*|custom_hooks'
        r'|default_hooks\.(logger|checkpoint)\..*|log_processor\.by_epoch'
        r'|optim_wrapper\.optimizer\.lr'
        r'|model\.backbone\.(init_cfg.*|drop_path_rate)|model\.head\.(channels|decoder\.sigma)'
    )
    synthetic = leaves(load(ROOT / SYNTHETIC.format('b0', strategy)).to_dict())
    jbd = leaves(load(ROOT / JBD.format('b0', strategy)).to_dict())
    keys = synthetic.keys() | jbd.keys()
    found = {key for key in keys if synthetic.get(key, ...) != jbd.get(key, ...)}
    assert not {key for key in found if not allowed.fullmatch(key)}


def leaves(value: dict, prefix: str = '') -> dict[str, object]:
    """Nested dicts as {'a.b': value}."""
    found: dict[str, object] = {}
    for key, child in value.items():
        nested = isinstance(child, dict)
        found |= leaves(child, f'{prefix}{key}.') if nested else {f'{prefix}{key}': child}
    return found


def rates(cfg: Config, iterations_per_epoch: int) -> list[float]:
    """The learning rate of every iteration, stepped as mmengine's loop does."""
    lr = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedulers = [
        PARAM_SCHEDULERS.build(scheduler, default_args=dict(optimizer=optimizer))
        for scheduler in cfg.param_scheduler
    ]
    result = []
    for _ in range(cfg.train_cfg.max_epochs):
        for _ in range(iterations_per_epoch):
            result.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in schedulers:
            if scheduler.by_epoch:
                scheduler.step()
    return result


@every_row_of_the_paper
def test_the_papers_schedule(path):
    cfg = load(path)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 5e-4, 0.01)
    rate = rates(cfg, iterations_per_epoch=60)
    assert len(rate) == 60 * 210
    np.testing.assert_allclose(rate[0], 0.001 * 5e-4)
    np.testing.assert_allclose(rate[:500], np.linspace(5e-7, 5e-4, 500), rtol=1e-2)
    np.testing.assert_allclose(rate[500 : 60 * 170], 5e-4)
    np.testing.assert_allclose(rate[60 * 170 : 60 * 200], 5e-5)
    np.testing.assert_allclose(rate[60 * 200 :], 5e-6)


@pytest.mark.parametrize('path', sorted((ROOT / 'lsp').glob('*.py')), ids=lambda p: p.stem)
def test_lsp_is_trained_from_scratch(path):
    cfg = load(path)
    check_3k(cfg)
    head = cfg.model.head
    assert (cfg.model.backbone.drop_path_rate, head.channels, head.out_channels) == (0, 64, 14)
    assert cfg.model.test_cfg.flip_test
    assert cfg.default_hooks.visualization.type == 'PoseVisualizationHook'
    for split in ('train', 'val'):
        dataset = cfg[f'{split}_dataloader'].dataset
        files = dataset.ann_file, dataset.data_prefix.img
        assert files == (f'annotations/{split}.json', f'images/{split}/')
    assert cfg.test_dataloader == cfg.val_dataloader and cfg.val_dataloader.dataset.test_mode


class Toy(BaseModel):
    """The smallest model that a Runner trains."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, *_args, **_kwargs):
        return dict(loss=self.weight.sum())


def test_the_rate_falls_in_a_real_training(tmp_path):
    cfg = load(ROOT / JBD.format('b0', 'none'))
    seen = {}

    class Watch(Hook):
        def before_train_iter(self, runner, *_args, **_kwargs):
            seen[runner.epoch] = runner.optim_wrapper.get_lr()['lr'][0]

    scheduler = cfg.param_scheduler[1]  # the warm-up counts iterations: 500 are the whole of this
    runner = Runner(
        Toy(),
        str(tmp_path),
        train_dataloader=dict(
            dataset=[0], sampler=dict(type='DefaultSampler', shuffle=False), batch_size=1
        ),
        train_cfg=dict(by_epoch=True, max_epochs=cfg.train_cfg.max_epochs),
        optim_wrapper=cfg.optim_wrapper,
        param_scheduler=[scheduler],
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=[Watch()],
        default_scope='mmpose',
    )
    runner.train()
    expected = {0: 5e-4, 169: 5e-4, 170: 5e-5, 199: 5e-5, 200: 5e-6, 209: 5e-6}
    assert {epoch: seen[epoch] for epoch in expected} == pytest.approx(expected)


def test_the_original_repositorys_schedule_can_be_had():
    """What the schedule's comment says: with its end at epoch 70 the rate never falls."""
    cfg = load(ROOT / JBD.format('b0', 'none'))
    text = (ROOT / '_base_/schedules/schedule_210e.py').read_text()
    (option,) = re.findall(r'--cfg-options ([\w.]+=\d+)', text)
    key, _, value = option.partition('=')
    cfg.merge_from_dict({key: int(value)})
    np.testing.assert_allclose(rates(cfg, iterations_per_epoch=60)[500:], 5e-4)


@every_row_of_the_paper
def test_training_and_testing_as_in_the_paper(path):
    cfg = load(path)
    assert cfg.model.test_cfg.to_dict() == dict(
        flip_test=True, flip_mode='heatmap', shift_heatmap=True
    )
    assert cfg.default_hooks.checkpoint.save_best == 'PCK@0.1'
    kinds = [transform.type for transform in cfg.train_pipeline]
    assert {'RandomFlip', 'RandomHalfBody', 'RandomBBoxTransform'} < set(kinds)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert not loader.dataset.get('bbox_file'), 'boxes of the ground truth'
