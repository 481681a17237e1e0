"""Every shipped segmentation config loads, is what its name says, and builds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from config_rows import (
    FROM_SCRATCH,
    ROOT,
    check_3k,
    check_a_row,
    check_pipelines,
    differences,
    load,
    step,
    widths,
)
from mmengine.config import Config

pytest.importorskip('mmseg')

from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmseg.registry import DATASETS, MODELS
from mmseg.utils import register_all_modules

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference.configs import load_config

FOLDERS = 'cityscapes', 'ade20k', 'synthetic', 'camvid'
CONFIGS = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob('segformer_*.py'))

PAPER_STRATEGIES = 'none', 'hq', 'fast', '2x2', 'downsampling'
STRATEGIES = *PAPER_STRATEGIES, 'downsampling-bilinear'
PRESETS = *STRATEGIES, 'weighted', 'weighted-fast'
ARCHS, SIZES = ('b0', 'b2', 'b5'), ('480x360', '960x720')

CITYSCAPES = 'cityscapes/segformer_mit-{}_{}_1xb4-160k_cityscapes-1024x1024.py'
ADE20K = 'ade20k/segformer_mit-{}_{}_1xb8-160k_ade20k-640x640.py'
SYNTHETIC = 'synthetic/segformer_mit-{}_{}_1xb2-demo_synthetic-cityscapes.py'
CAMVID = 'camvid/segformer_mit-{}_{}_1xb4-3k_camvid-{}.py'
SYNTHETIC_2K = 'synthetic/segformer_mit-{}_{}_1xb4-2k_synthetic-cityscapes-1024x1024.py'
ROWS = (
    [CITYSCAPES.format(arch, name) for arch in ARCHS for name in STRATEGIES]
    + [ADE20K.format('b5', name) for name in PAPER_STRATEGIES]
    + [SYNTHETIC.format('b0', name) for name in STRATEGIES]
    + [SYNTHETIC_2K.format(arch, 'none') for arch in ('b0', 'b2')]
    + [CAMVID.format(arch, name, size) for arch in ARCHS for name in PRESETS for size in SIZES]
)
BUILT = [
    path
    for path in CONFIGS
    if 'camvid' not in path.name or ('480x360' in path.name and re.search('-b0_|_none_', path.name))
]
"""The models of the others are these, but for their `token_merging`, as other tests say."""


NAME = re.compile(
    r'segformer_mit-(?P<arch>b\d)_(?P<strategy>[^_]+)_1xb(?P<batch>\d+)-(?P<schedule>\w+?)'
    r'_(?P<data>cityscapes|ade20k|synthetic-cityscapes|camvid)(?:-(?P<height>\d+)x(?P<width>\d+))?'
)

every_config = pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def mmseg_scope():
    register_all_modules(init_default_scope=False)
    init_default_scope('mmseg')


def named(path: Path) -> dict[str, str]:
    match = NAME.fullmatch(path.stem)
    assert match is not None, f'{path.name} does not follow configs/README.md'
    return match.groupdict()


def depth(path: Path) -> int:
    """How many files are open, one below the other, until there is no further base."""
    bases = Config._get_base_files(str(path))
    return 1 + max((depth(path.parent / base) for base in bases), default=0)


@pytest.mark.parametrize('path', sorted(ROOT.glob('*/*_*.py')), ids=lambda path: path.stem)
def test_a_row_is_read_in_three_files(path):
    assert depth(path) <= 3


@pytest.mark.parametrize(
    ('base', 'row'),
    [(f'segformer_mit-{arch}.py', CITYSCAPES.format(arch, 'none')) for arch in ('b0', 'b2', 'b5')]
    + [
        (f'td-hm_mit-{arch}.py', f'jbd/td-hm_mit-{arch}_none_1xb16-210e_jbd-640x480.py')
        for arch in ('b0', 'b5')
    ],
)
def test_bases_of_an_earlier_version(base, row):
    old, new = (load(ROOT / name).model for name in (f'_base_/models/{base}', row))
    head = 'head' if 'td-hm' in base else 'decode_head'
    assert old.backbone == new.backbone
    assert old[head].in_channels == new[head].in_channels


def test_the_metafile_lists_every_config():
    models = yaml.safe_load((ROOT / 'metafile.yaml').read_text())['Models']
    listed = {model['Config']: model['Name'] for model in models}
    files = [p for p in ROOT.glob('*/*.py') if p.parent.name != '_base_']
    assert listed == {p.relative_to(ROOT.parent).as_posix(): p.stem for p in files}
    assert len(models) == len(files)


def test_bases_of_mmseg_and_of_this_package(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text(
        "_base_ = ['mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py']\n"
        "model = dict(backbone=dict(type='MixVisionTransformerPlusPlus', token_merging='hq'))"
    )
    cfg = load_config(path)
    assert cfg.model.backbone.token_merging == 'hq' and cfg.model.backbone.embed_dims == 32
    path.write_text("_base_ = ['segformer_plusplus::" + CITYSCAPES.format('b5', 'fast') + "']")
    assert load_config(path).model == load(ROOT / CITYSCAPES.format('b5', 'fast')).model


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        (CITYSCAPES.format('b5', 'hqq'), rf'did you mean .*{CITYSCAPES.format("b5", "hq")}\?'),
        ('nothing like it', 'info --configs lists ours'),
    ],
)
def test_a_config_that_is_not_shipped(name, said):
    with pytest.raises(SegformerPlusPlusError, match=said):
        load_config(f'segformer_plusplus::{name}')


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('no_such_package::a/b.py', "no package 'no_such_package' is installed"),
        ('torch::a/b.py', 'was installed without configs'),
        ('here/there.py', 'config not found: here/there.py'),
        ('::a/b.py', "no package '' is installed"),
    ],
)
def test_a_config_of_nobody(name, said):
    with pytest.raises(SegformerPlusPlusError, match=said):
        load_config(name)


def test_every_row_of_the_tables_has_its_file_and_no_file_is_left_over():
    assert {str(path.relative_to(ROOT)) for path in CONFIGS} == set(ROWS)


DATASETS_OF = {
    'cityscapes': 'CityscapesDataset',
    'ade20k': 'ADE20KDataset',
    'synthetic-cityscapes': 'CityscapesDataset',
    'camvid': 'CamVidDataset',
}


@every_config
def test_the_name_is_the_content(path):
    says = named(path)
    cfg = check_a_row(path, says, 'mmseg', DATASETS_OF)
    crop = tuple(step(cfg.train_dataloader.dataset.pipeline, 'RandomCrop').crop_size)
    assert crop == tuple(cfg.model.data_preprocessor.size) == tuple(cfg.crop_size)
    if says['data'] == 'camvid':  # its name has the size of the image, width x height
        assert crop == (352, 352)
        size = int(says['height']), int(says['width'])
        assert tuple(step(cfg.train_dataloader.dataset.pipeline, 'RandomResize').scale) == size
        for loader in (cfg.val_dataloader, cfg.test_dataloader):
            assert tuple(step(loader.dataset.pipeline, 'Resize').scale) == size
    elif says['height']:
        assert crop == (int(says['height']), int(says['width']))
    if says['schedule'].endswith('k'):
        assert cfg.train_cfg.max_iters == int(says['schedule'][:-1]) * 1000


@every_config
def test_classes_agree_between_head_labels_and_dataset(path):
    cfg = load(path)
    classes = len(DATASETS.get(cfg.train_dataloader.dataset.type).METAINFO['classes'])
    assert cfg.model.decode_head.num_classes == classes
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        labels = step(loader.dataset.pipeline, 'CheckedLoadAnnotations')
        assert labels.num_classes == classes
        assert labels.get('reduce_zero_label', False) == (classes == 150)


@pytest.mark.parametrize('path', BUILT, ids=lambda path: path.stem)
def test_model_and_optimizer_build(path):
    cfg = load(path)
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    assert model.decode_head.in_channels == widths(cfg)

    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = {id(group['params'][0]): group for group in optimizer.param_groups}
    decay = cfg.optim_wrapper.optimizer.weight_decay
    # the paper's head learns ten times as fast as its pretrained backbone
    head_rate = 1 if path.parent.name in FROM_SCRATCH else 10
    for name, parameter in model.named_parameters():
        group = groups[id(parameter)]
        in_head = name.startswith('decode_head')
        rate = cfg.optim_wrapper.optimizer.lr * (head_rate if in_head else 1)
        assert group['lr'] == pytest.approx(rate), name
        if not in_head:
            assert group['weight_decay'] == (0 if 'norm' in name else decay), name


@every_config
def test_pipelines_build(path):
    check_pipelines(load(path), DATASETS)


@every_config
def test_schedule(path):
    """Linear warm-up, then polynomial to 0 exactly when training ends."""
    cfg = load(path)
    last = cfg.train_cfg.max_iters
    warmup, poly = cfg.param_scheduler
    assert (warmup.type, warmup.begin, warmup.start_factor) == ('LinearLR', 0, 1e-6)
    assert (poly.type, poly.begin, poly.end) == ('PolyLR', warmup.end, last)
    assert (poly.eta_min, poly.power) == (0, 1)
    assert not warmup.by_epoch and not poly.by_epoch
    if 'synthetic' in path.parts:
        assert cfg.train_cfg.val_interval > last  # the demo tests what comes out
    else:
        assert last % cfg.train_cfg.val_interval == 0
    assert last % cfg.default_hooks.checkpoint.interval == 0

    optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    for scheduler in (warmup, poly):
        PARAM_SCHEDULERS.build(scheduler, default_args=dict(optimizer=optimizer))
    assert optimizer.param_groups[0]['lr'] == pytest.approx(1e-6)


@pytest.mark.parametrize(
    'path', [p for p in CONFIGS if p.parent.name not in FROM_SCRATCH], ids=lambda p: p.stem
)
def test_the_papers_schedule(path):
    cfg = load(path)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 6e-5, 0.01)
    assert cfg.param_scheduler[0].end == 1500
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == 160_000


@pytest.mark.parametrize('path', sorted((ROOT / 'camvid').glob('*.py')), ids=lambda p: p.stem)
def test_camvid_is_trained_from_scratch_and_tested_whole(path):
    cfg = load(path)
    check_3k(cfg)
    assert cfg.model.test_cfg.to_dict() == dict(mode='whole')
    small = path.with_name(path.name.replace('960x720', '480x360'))
    size = r'((train|test)_pipeline|\w+_dataloader\.dataset\.pipeline)\.\d\.(scale|ratio_range)\.\d'
    found = differences(cfg, load(small))
    assert bool(found) == (path != small)
    assert not {key for key in found if not re.fullmatch(size, key)}
    prefix = [cfg[f'{split}_dataloader'].dataset.data_prefix for split in ('train', 'val', 'test')]
    assert [one.img_path for one in prefix] == ['train', 'val', 'val']
    assert all(one.seg_map_path == f'{one.img_path}annot' for one in prefix)


@pytest.mark.parametrize('path', sorted((ROOT / 'cityscapes').glob('*.py')), ids=lambda p: p.stem)
def test_cityscapes_is_tested_in_sliding_windows(path):
    cfg = load(path)
    assert cfg.model.test_cfg.to_dict() == dict(
        mode='slide', crop_size=(1024, 1024), stride=(768, 768)
    )


@pytest.mark.parametrize(
    ('synthetic', 'arch', 'strategy'),
    [(SYNTHETIC, 'b0', strategy) for strategy in STRATEGIES]
    + [(SYNTHETIC_2K, arch, 'none') for arch in ('b0', 'b2')],
)
def test_synthetic_differs_from_cityscapes_in_root_size_and_schedule_only(
    synthetic, arch, strategy
):
    allowed = re.compile(
        # data
        r'data_root|\w+_dataloader\.(dataset\.data_root|batch_size|num_workers)'
        # size
        r'|crop_size\.\d|image_scale\.\d|model\.data_preprocessor\.size\.\d|model\.test_cfg\..*'
        r'|((train|test)_pipeline|\w+_dataloader\.dataset\.pipeline)\.\d+'
        r'\.(scale|crop_size|ratio_range)\.\d'
        # schedule, from scratch
        r'|max_iters|custom_hooks.*|randomness\.seed|train_cfg\.(max_iters|val_interval)'
        r'|optim_wrapper\.(optimizer\.lr|paramwise_cfg\.custom_keys\.head\.lr_mult)'
        r'|optim_wrapper\.clip_grad\.max_norm'
        r'|param_scheduler\.\d\.(begin|end)|default_hooks\.(logger|checkpoint)\.interval'
        r'|model\.backbone\.init_cfg.*'
    )
    drawn = load(ROOT / synthetic.format(arch, strategy))
    found = differences(drawn, load(ROOT / CITYSCAPES.format(arch, strategy)))
    assert not {key for key in found if not allowed.fullmatch(key)}
