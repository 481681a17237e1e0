"""The README's code runs."""

import re
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules

from segformer_plusplus import TOKEN_MERGERS, MixVisionTransformerPlusPlus

README = (Path(__file__).parents[1] / 'README.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', README, flags=re.DOTALL)


def block(word: str) -> str:
    (found,) = (code for code in BLOCKS if word in code)
    return found


def test_every_block_is_tested():
    assert len(BLOCKS) == 6


def test_five_lines_in_an_mmseg_config(tmp_path):
    shipped = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'segformer'
    if not shipped.is_dir():
        pytest.skip('this mmseg comes without its configs')
    name = 'segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py'
    code = block('./segformer_mit-b0')
    assert f"'./{name}'" in code
    config = tmp_path / 'mine.py'
    config.write_text(code.replace(f"'./{name}'", repr(str(shipped / name))))
    cfg = Config.fromfile(config)
    cfg.model.backbone.init_cfg = None
    register_all_modules()
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    assert isinstance(model.backbone, MixVisionTransformerPlusPlus)
    assert model.backbone.token_merging.stages[0].kv.ratio == 0.6
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 19, 16, 16)


def test_from_python():
    names: dict = {}
    exec(block("set_token_merging('fast')"), names)
    assert names['backbone'].token_merging.stages[0].kv.ratio == 0.9


def test_strategies_per_stage():
    names: dict = {}
    exec(block('token_merging = ['), names)
    MixVisionTransformerPlusPlus(arch='b0', token_merging=names['token_merging'])


def test_a_strategy_of_ones_own():
    names: dict = {}
    try:
        exec(block('class Columns'), names)
        stages = [dict(q=dict(type='Columns', width=2)), {}, {}, {}]
        model = MixVisionTransformerPlusPlus(arch='b0', token_merging=stages)
        assert model(torch.randn(1, 3, 64, 96))[0].shape == (1, 32, 16, 24)
    finally:
        TOKEN_MERGERS.module_dict.pop('Columns', None)


def test_pose_config_and_inference(tmp_path):
    pytest.importorskip('xtcocotools')  # mmpose is left out where nothing compiles it
    dataset = """
pipeline = [dict(type='CheckedLoadImage'), dict(type='GetBBoxCenterScale'),
            dict(type='TopdownAffine', input_size=codec['input_size']),
            dict(type='PackPoseInputs')]
test_dataloader = dict(dataset=dict(type='CocoDataset', pipeline=pipeline))
train_dataloader = test_dataloader
default_scope = 'mmpose'
"""
    config = tmp_path / 'mine.py'
    config.write_text(block('SegformerHeatmapHead') + dataset)
    names = dict(
        config=str(config),
        checkpoint=None,
        image=np.zeros((200, 100, 3), np.uint8),
        boxes=np.array([[10.0, 10, 90, 190]] * 2),
    )
    exec(block('inference_topdown'), names)
    assert [keypoints.shape for keypoints in names['keypoints']] == [(1, 17, 2)] * 2
    assert names['model'].backbone.token_merging.stages[0].q is not None
    assert Config.fromfile(config).val_evaluator.thresholds == (0.1, 0.05)
