"""Gradient checkpointing: the same outputs and gradients, of fewer bytes that are kept."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from segformer_plusplus import MixVisionTransformerPlusPlus, SegformerPlusPlusError

SETTINGS = [False, 'conv', 'ffn', True]
TINY = dict(embed_dims=8, num_layers=[2, 1, 2, 1], num_heads=[1, 2, 5, 8])
SHARED = [dict(q=dict(type='NeighborMerging2d', stride=(2, 3)), share=2)] * 4
DROPPING = dict(drop_rate=0.3, attn_drop_rate=0.2, drop_path_rate=0.5)


def run(with_cp, autocast=False, change=None, **settings):
    """Outputs and gradients of one step, and the bytes kept for its backward pass."""
    torch.manual_seed(0)
    model = MixVisionTransformerPlusPlus(**TINY | settings, with_cp=with_cp).train()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    if change is not None:
        change(model)
    image = torch.randn(2, 3, 90, 130)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # alive, so that no other one gets its address
        return tensor

    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            features = model(image)
    size = sum(storage.nbytes() for storage in kept.values())
    sum(feature.float().square().mean() for feature in features).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    return [feature.detach() for feature in features], gradients, size


@pytest.mark.parametrize('autocast', [False, True], ids=['float32', 'autocast'])
@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(token_merging='hq'),
        dict(token_merging='weighted-fast'),
        dict(token_merging=SHARED),
        DROPPING,
        dict(frozen_stages=0),
        dict(DROPPING, frozen_stages=2),
    ],
    ids=['plain', 'hq', 'weighted', 'shared', 'dropping', 'frozen embedding', 'frozen stages'],
)
def test_the_same_numbers_of_fewer_bytes(settings, autocast):
    *expected, most = run(False, autocast, **settings)
    sizes = []
    for with_cp in SETTINGS[1:]:
        *actual, size = run(with_cp, autocast, **settings)
        sizes.append(size / most)
        for one, other in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
            assert (one is None and other is None) or torch.equal(one, other), with_cp
    assert sizes[0] < 0.8 and sizes[1] < 0.6 and sizes[1] < sizes[0] and sizes[2] < 0.4


def test_what_is_kept_of_b0():
    """Of the hidden size three tensors of four bytes, one, or none."""
    sizes = {
        with_cp: run(with_cp, embed_dims=32, num_layers=[2, 2, 2, 2])[2] for with_cp in SETTINGS
    }
    grids = MixVisionTransformerPlusPlus(**TINY).grids(90, 130)
    heads = TINY['num_heads']
    width = [rows * columns * 32 * h for (rows, columns), h in zip(grids, heads, strict=True)]
    token_bytes = 4 * 2 * 2 * sum(width)  # of float32, images, blocks
    hidden = 4 * token_bytes
    assert sizes[False] - sizes['conv'] == 2 * hidden
    # the hidden tensor, and the tokens after the norm with what the norm keeps of each
    assert hidden + token_bytes <= sizes['conv'] - sizes['ffn'] < hidden + 1.1 * token_bytes
    ratios = [sizes[with_cp] / sizes[False] for with_cp in SETTINGS]
    assert ratios == pytest.approx([1, 0.6, 0.36, 0.15], abs=0.05)


def test_hooks_and_adapters_are_checkpointed_too():
    def watch(model):
        for block in model.modules():
            if type(block).__name__ == 'MixFFN':
                block.layers[0].register_forward_hook(lambda *_: None)

    *expected, most = run(False, change=watch)
    for with_cp, share in (('ffn', 0.5), (True, 0.3)):
        *actual, size = run(with_cp, change=watch)
        assert all(map(torch.equal, tree_leaves(actual), tree_leaves(expected)))
        assert size < share * most


@pytest.mark.parametrize('with_cp', SETTINGS[1:])
def test_nothing_is_recomputed_in_inference(with_cp, monkeypatch):
    model = MixVisionTransformerPlusPlus(**TINY, with_cp=with_cp).eval()
    for place in ('backbone', 'ffn'):
        monkeypatch.setattr(f'segformer_plusplus.mit.{place}.checkpoint', None)
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize('with_cp', ['attention', None, 1, ['conv']])
def test_what_is_no_setting(with_cp):
    with pytest.raises(SegformerPlusPlusError, match="with_cp=.* True or False or .*'ffn'"):
        MixVisionTransformerPlusPlus(**TINY, with_cp=with_cp)


@pytest.mark.parametrize('with_cp', SETTINGS[1:])
def test_compiled(with_cp):
    model = MixVisionTransformerPlusPlus(**TINY | dict(num_layers=[1] * 4), with_cp=with_cp)
    model = model.double().train()
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    gradients = []
    torch.compiler.reset()
    for call in (model, torch.compile(model, backend='aot_eager', fullgraph=True)):
        sum(feature.square().sum() for feature in call(image)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        model.zero_grad(set_to_none=True)
    torch.compiler.reset()
    for expected, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected)
