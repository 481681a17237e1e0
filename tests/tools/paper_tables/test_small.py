"""The options that make a shipped config small mean the same size throughout."""

import pytest
from mmengine.config import Config

from segformer_plusplus.inference.configs import check_codec_sizes
from tools.paper_tables import plan
from tools.paper_tables.plan import Planner, Settings, read_config
from tools.paper_tables.small import small_options
from tools.paper_tables.tables import PAPER, TABLES

from .fakes import ROOT


def small(name: str, row: str, iterations: int) -> dict:
    path = ROOT / TABLES[name].config_of(row)
    return read_config(path, small_options(read_config(path), iterations))


@pytest.mark.parametrize('name', PAPER)
def test_everything_is_small(name):
    for row in TABLES[name].rows:
        cfg = small(name, row, 2)
        assert cfg['model']['backbone']['arch'] == 'b0'
        assert cfg['model']['backbone']['token_merging'] == row
        assert cfg['model']['backbone']['init_cfg'] is None
        assert cfg['train_dataloader']['batch_size'] == 2
        used = 'model', 'train_dataloader', 'val_dataloader', 'test_dataloader'
        text = str([cfg[key] for key in used])
        for size in ('1024', '(640, 640)', '(480, 640)', '(288, 384)', '(120, 160)', '(72, 96)'):
            assert size not in text
        check_codec_sizes(Config(cfg))


@pytest.mark.parametrize(
    'iterations, epochs, people', [(1, 1, 2), (2, 1, 4), (8, 1, 16), (9, 2, 16)]
)
def test_iterations_of_poses_are_whole_epochs(iterations, epochs, people):
    cfg = small('jbd', 'hq', iterations)
    assert cfg['train_cfg']['max_epochs'] == epochs
    assert cfg['train_dataloader']['dataset']['indices'] == people


@pytest.mark.parametrize('iterations', [1, 2, 100])
def test_the_schedule_of_scenes_fits_its_length(iterations):
    cfg = small('ade20k', 'hq', iterations)
    warm_up, decay = cfg['param_scheduler']
    assert cfg['train_cfg']['max_iters'] == iterations
    assert 0 < warm_up['end'] == decay['begin'] < decay['end']


def test_other_code_draws_into_another_folder(tmp_path, monkeypatch):
    settings, table = Settings('synthetic', out=tmp_path, device='cpu'), TABLES['coco']
    before = Planner(settings).data_folder(table)
    assert before.parent == tmp_path / 'data' and before.name.startswith('coco-')
    monkeypatch.setattr(plan, 'hash_file', lambda path: 'x')
    assert Planner(settings).data_folder(table) != before
