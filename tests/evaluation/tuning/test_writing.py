"""The files: a config that inherits the user's, all points as JSON, the picture."""

import ast
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
import torch
from inference.saved import change, contents, save_model
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.registry import MODELS

from evaluation.tuning.fakes import FakeFidelity, search
from segformer_plusplus import apply_token_merging
from segformer_plusplus.evaluation.tuning import Budget, Point, Rejection, Space
from segformer_plusplus.evaluation.tuning.writing import (
    WIDTH,
    draw_front,
    has_plain_backbone,
    with_own_backbone,
    write_config,
    write_front,
)
from segformer_plusplus.inference.configs import load_config
from segformer_plusplus.inference.opening import open_model
from segformer_plusplus.mit.backbone import MixVisionTransformerPlusPlus
from segformer_plusplus.registration import component
from segformer_plusplus.token_merging import PRESETS, build_token_merging

SETTING = [
    dict(kv=dict(type='BipartiteSoftMatching2d', stride=2, ratio=0.6), proportional_attention=True),
    dict(
        q=dict(type='NeighborMerging2d', stride=[2, 4]),
        kv=dict(type='BipartiteSoftMatching2d', stride=4, ratio=0.9),
    ),
    {},
    dict(q=dict(type='NeighborMerging2d', stride=2)),
]
OTHER = [{}, {}, dict(q='NeighborMerging2d'), {}]


@pytest.fixture(scope='module')
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp('study')
    return search(folder, FakeFidelity(refuse=0.89), max_drop=0.5, space=Space())


def with_winner(result, token_merging):
    point = Point(3, token_merging, 0.1, 1.5)
    return replace(result, points=[point], winner=point, check=None, rejected=[])


def written(tmp_path, result, backbone, **options):
    (tmp_path / 'configs').mkdir()
    base = tmp_path / 'configs' / 'mine.py'
    base.write_text(f"default_scope = 'mmseg'\nmodel = dict(backbone={backbone!r})\nother = 3\n")
    path = tmp_path / 'out' / 'mine_tuned.py'
    write_config(path, base, Config.fromfile(base), result, **options)
    return path


@pytest.mark.parametrize('setting', [SETTING, 'hq', 'downsampling'])
@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='MixVisionTransformerPlusPlus'),
        dict(type='MixVisionTransformerPlusPlus', token_merging='fast'),
        dict(type='MixVisionTransformerPlusPlus', token_merging=OTHER),
        dict(
            type='MixVisionTransformerPlusPlus',
            token_merging=dict(stages=OTHER, downsampling=dict(factor=4, mode='area')),
        ),
        dict(type='MixVisionTransformerPlusPlus', tome_cfg='bsm_hq'),
        dict(type='MixVisionTransformer'),
        dict(type='mmseg.MixVisionTransformer'),
    ],
)
def test_the_config_merges_as_the_winner_does(setting, backbone, result, tmp_path):
    path = written(tmp_path, with_winner(result, setting), backbone)
    cfg = Config.fromfile(path)
    assert cfg.other == 3
    assert cfg.model.backbone.type == 'MixVisionTransformerPlusPlus'
    assert cfg.model.backbone.get('tome_cfg') is None
    merging = Config(dict(x=cfg.model.backbone.token_merging)).to_dict()['x']
    assert repr(build_token_merging(merging)) == repr(build_token_merging(setting))
    plain = not backbone['type'].endswith('PlusPlus')
    assert ('custom_imports' in cfg) == plain
    assert not plain or cfg.custom_imports.imports == ['segformer_plusplus']


@pytest.mark.parametrize(
    'module, name',
    [
        ('segformer_plusplus', 'MixVisionTransformerPlusPlus'),
        ('mmseg.models', 'MixVisionTransformer'),
    ],
)
def test_a_config_of_classes_is_written_whole(module, name, result, tmp_path):
    """A config of names cannot inherit from it."""
    (tmp_path / 'base.py').write_text("other = dict(a=3)\ndefault_scope = 'mmseg'\n")
    base = tmp_path / 'mine.py'
    base.write_text(
        f'from mmengine.config import read_base\nfrom {module} import {name}\n'
        'with read_base():\n    from .base import *\n'
        f"model = dict(backbone=dict(type={name}, in_channels=3, token_merging='fast'))\n"
    )
    path = tmp_path / 'out' / 'mine_tuned.py'
    cfg = load_config(base)
    write_config(path, base, cfg, with_winner(result, SETTING))
    read = load_config(path)
    assert read.other.a == 3 and read.default_scope == 'mmseg'
    backbone = read.model.backbone
    assert component(backbone.type, MODELS) is MixVisionTransformerPlusPlus
    assert backbone.in_channels == 3
    merging = Config(dict(x=backbone.token_merging)).to_dict()['x']
    assert repr(build_token_merging(merging)) == repr(build_token_merging(SETTING))


@pytest.mark.parametrize('saved', [None, dict(stages=OTHER), 'fast'])
@pytest.mark.parametrize('setting', [SETTING, 'hq'])
def test_of_a_model_by_its_name_it_is_written_whole(hub, result, tmp_path, saved, setting):
    """It holds the name with the commit, whatever becomes of the cache."""
    pytest.importorskip('transformers')
    model = save_model(tmp_path / 'saved')
    if saved is not None:
        change(tmp_path / 'saved' / 'config.json', token_merging=saved)
    commit = hub.add('someone/model', contents(tmp_path / 'saved'))
    path = tmp_path / 'model_tuned.py'
    write_config(path, 'someone/model', load_config('someone/model'), with_winner(result, setting))
    shutil.rmtree(hub.home / 'hub')
    assert load_config(path).pretrained_model.weights == f'someone/model@{commit}'
    opened = open_model(path, device='cpu')
    assert repr(opened.backbone.token_merging) == repr(build_token_merging(setting))
    apply_token_merging(opened, 'none')
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(opened(image, None, mode='tensor'), model(image).logits)


def test_the_config_can_be_read(result, tmp_path):
    options = {'test_dataloader.dataset.data_root': 'elsewhere'}
    text = written(
        tmp_path, with_winner(result, SETTING), dict(type='MixVisionTransformerPlusPlus'),
        imports=['own_merging'], cfg_options=options,
    ).read_text()  # fmt: skip
    ast.parse(text)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "_base_ = '../configs/mine.py'" in text
    assert "'own_merging'" in text
    assert '# Measured with --cfg-options test_dataloader.dataset.data_root=elsewhere' in text
    assert 'a drop of mIoU of at most 0.5 points' in text and 'speed-up 1.50' in text


def test_the_front_as_json(result, tmp_path):
    write_front(tmp_path / 'front.json', result, dict(config='mine.py'))
    content = json.loads((tmp_path / 'front.json').read_text())
    assert [p['number'] for p in content['front']] == [p.number for p in result.front]
    assert len(content['trials']) + len(content['failed']) == 20
    assert content['failed'][0]['reason'] == 'candidate: out of memory'
    assert content['winner']['number'] == result.winner.number
    assert content['check']['images'] == content['images']['check'] == 4
    spelt = {p['preset']: p['token_merging'] for p in content['trials']}
    assert spelt['hq'] == PRESETS['hq']
    for point, read in zip(result.points, content['trials'], strict=True):
        setting = build_token_merging(read['token_merging'])
        assert repr(setting) == repr(build_token_merging(point.token_merging))


@pytest.mark.parametrize('scope', ['mmseg', 'mmpose'])
@pytest.mark.parametrize('name', ['MixVisionTransformer', 'mmseg.MixVisionTransformer', 'ours'])
def test_mmsegs_backbone_by_any_name(scope, name):
    """It is measured as the written config runs it."""
    name = 'MixVisionTransformerPlusPlus' if name == 'ours' else name
    cfg = Config(dict(default_scope=scope, model=dict(backbone=dict(type=name, in_channels=3))))
    plain = name.startswith('mmseg.') or (scope == 'mmseg' and not name.endswith('PlusPlus'))
    assert has_plain_backbone(cfg) == plain
    measured = with_own_backbone(cfg)
    assert measured.model.backbone.type == ('MixVisionTransformerPlusPlus' if plain else name)
    assert measured.model.backbone.in_channels == 3 and cfg.model.backbone.type == name


def test_a_legend_names_what_failed_once(result, tmp_path, monkeypatch):
    rejected = [Rejection(point, None, 'because') for point in result.points[:3]]
    drawn = replace(result, rejected=rejected)
    figures, save = [], Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, 'savefig', keep)
    draw_front(tmp_path / 'front.png', drawn)
    assert figures[0].axes[0].get_legend_handles_labels()[1].count('failed the check') == 1


@pytest.mark.parametrize('points', ['all', 'one', 'none'])
@pytest.mark.parametrize('budget', [Budget(max_drop=0.1), Budget(min_speedup=2.0)])
def test_the_picture(points, budget, result, tmp_path):
    kept = result.points if points == 'all' else result.points[:1] if points == 'one' else []
    drawn = replace(result, budget=budget, points=kept, winner=None, check=None, rejected=[])
    draw_front(tmp_path / 'front.png', drawn, 'title')
    picture = cv2.imread(str(tmp_path / 'front.png'))
    assert picture is not None and picture.shape[1] > 600
    assert [path.name for path in Path(tmp_path).iterdir()] == ['front.png']
