"""The README's code runs."""

import re
from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules

from segformer_plusplus import MixVisionTransformerPlusPlus
from segformer_plusplus.inference import record_plans

README = (Path(__file__).parents[1] / 'README.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', README, flags=re.DOTALL)


def block(word: str) -> str:
    (found,) = (code for code in BLOCKS if word in code)
    return found


def test_every_block_is_tested():
    assert len(BLOCKS) == 3


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


def test_one_line():
    transformers = pytest.importorskip('transformers')
    sizes = dict(hidden_sizes=[8, 16, 40, 64], depths=[1] * 4, decoder_hidden_size=16)
    config = transformers.SegformerConfig(num_attention_heads=[1, 2, 5, 8], **sizes)
    names = dict(model=transformers.SegformerForSemanticSegmentation(config).eval())
    exec(block('apply_token_merging(model'), names)
    with record_plans(names['model']) as records:
        names['model'](torch.randn(1, 3, 96, 96))
    assert any(record.role == 'kv' and record.plan.num_merged < 9 for record in records)


def test_strategies_per_stage():
    names: dict = {}
    exec(block('token_merging = ['), names)
    MixVisionTransformerPlusPlus(arch='b0', token_merging=names['token_merging'])


def test_it_is_short():
    """Somebody with ten minutes reads it; the rest is in docs/."""
    assert len(README.splitlines()) <= 150
