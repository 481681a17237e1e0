"""How many kernels of a GPU a model starts, and that it never waits for one: traced without a GPU.

One kernel costs a processor a few microseconds to start, however little it does: a matching of
dozens of small ones would cost more than it saves.
"""

import pytest
import torch
import torch.nn.functional as F
from kernels.counting import Kernels
from mmengine.config import ConfigDict
from mmseg.registry import MODELS

import segformer_plusplus  # noqa: F401  what a config names is registered
from segformer_plusplus.kernels import enabled, runtime
from segformer_plusplus.mit import folding
from segformer_plusplus.token_merging import PRESETS, bipartite


@torch.library.custom_op('segformer_plusplus_tests::fused_attention', mutates_args=())
def fused_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Stands for PyTorch's own, which fake tensors take apart: heads last in memory."""
    return query.transpose(1, 2).contiguous().transpose(1, 2)


@fused_attention.register_fake
def _(query, key, value):
    return torch.empty_like(query.transpose(1, 2).contiguous()).transpose(1, 2)


@pytest.fixture
def gpu(no_gpu, monkeypatch):
    """A GPU that is not there, new enough for the kernels."""
    monkeypatch.setattr(runtime, 'is_capable', lambda device: True)

    def split(grid, cell, device):
        count = (grid[0] // cell[0]) * (grid[1] // cell[1])
        sizes = grid[0] * grid[1] - count, count
        return tuple(torch.empty(size, dtype=torch.long, device=device) for size in sizes)

    def fold(module):
        return module.conv.weight.flatten(1), module.norm.bias

    # both are done once
    monkeypatch.setattr(bipartite, '_split_grid', split)
    monkeypatch.setattr(folding, '_fold', fold)

    def attention(query, key, value, attn_mask=None, dropout_p=0.0):
        assert attn_mask is None or attn_mask.dtype == query.dtype
        return fused_attention(query, key, value)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', attention)
    return no_gpu


def build(preset, dtype, depth=2):
    """A segmentor of ours with ``depth`` blocks a stage."""
    settings = dict(
        type='EncoderDecoderPlusPlus',
        backbone=dict(
            type='MixVisionTransformerPlusPlus', embed_dims=64, num_heads=(1, 2, 5, 8),
            num_layers=(depth,) * 4, token_merging=preset,
        ),
        decode_head=dict(
            type='SegformerHeadPlusPlus', in_channels=[64, 128, 320, 512], channels=256,
            num_classes=19, norm_cfg=dict(type='BN'),
        ),
        test_cfg=dict(mode='whole'),
    )  # fmt: skip
    torch.set_default_dtype(dtype)
    try:
        with torch.device('cuda'):
            return MODELS.build(ConfigDict(settings)).eval()
    finally:
        torch.set_default_dtype(torch.float32)


def traced(gpu, preset, dtype=torch.bfloat16, depth=2, run='predict_labels'):
    """Counts what the second call starts; caches are filled by the first one."""
    with gpu, torch.no_grad():
        model = build(preset, dtype, depth)
        images = torch.empty(1, 3, 256, 512, device='cuda', dtype=dtype)
        function = getattr(model, run)
        function(images)
        with Kernels() as kernels:
            function(images)
    return kernels


def of_a_block(gpu, preset, dtype):
    """Counts what one more block in each stage starts, on average."""
    two, three = (traced(gpu, preset, dtype, depth, 'extract_feat') for depth in (2, 3))
    return (three.total - two.total) / 4


BLOCK = {
    'none': 12, '2x2': 14, 'hq': 17, 'fast': 17, 'weighted': 19, 'weighted-fast': 19,
    'downsampling': 12, 'downsampling-bilinear': 12,
}  # fmt: skip
"""Is the most that a block starts, on average of the four stages."""

LEVELS = 4


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
@pytest.mark.parametrize('preset', PRESETS)
def test_a_block_starts_few_kernels(preset, dtype, gpu):
    assert of_a_block(gpu, preset, dtype) <= BLOCK[preset]


def test_head_and_labels_start_few_kernels(gpu):
    whole, features = (traced(gpu, 'none', run=run) for run in ('predict_labels', 'extract_feat'))
    started = whole.started - features.started
    # products with ReLU and with the part of the fusion, then one for all levels
    assert sum(started.values()) == 2 * LEVELS + 1 + 1, started


def test_unmerging_queries_is_no_pass_of_its_own(gpu):
    assert traced(gpu, 'hq').started['index_select'] == 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
@pytest.mark.parametrize('preset', PRESETS)
def test_no_preset_waits_for_the_gpu(preset, dtype, gpu):
    assert traced(gpu, preset, dtype).waited == []
    with enabled(False):
        assert traced(gpu, preset, dtype).waited == []


def test_who_waits_is_noticed(gpu):
    with gpu, Kernels() as kernels:
        numbers = torch.ones(3, device='cuda')
        numbers.cpu()
        with pytest.raises(Exception, match='nonzero'):
            numbers.nonzero()
        with pytest.raises(Exception, match='_local_scalar_dense'):
            float(numbers.sum())
    assert kernels.waited == ['_to_copy']
