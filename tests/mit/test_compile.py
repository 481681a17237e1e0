"""The backbone is traced in one graph, whatever merges, and gives the same features."""

import pytest
import torch

from segformer_plusplus import MixVisionTransformerPlusPlus, SegformerPlusPlusError
from segformer_plusplus.mit import cpu
from segformer_plusplus.token_merging import PRESETS
from segformer_plusplus.training.switches import compile_backbone

TINY = dict(
    embed_dims=8,
    num_layers=[1, 1, 1, 1],
    num_heads=[1, 2, 3, 4],
    token_merging='none',
)
BOTH = [dict(q='NeighborMerging1d', kv=dict(type='BipartiteSoftMatching1d', ratio=0.3))] * 4
HQ = PRESETS['hq']['stages']
MATCHING = [HQ[0], {}, HQ[2], {}]
SHARED = [dict(q=dict(type='NeighborMerging2d', stride=(2, 3)), share=2)] * 4


def build(strategy):
    settings = dict(TINY, token_merging=strategy)
    return MixVisionTransformerPlusPlus(**settings).double()  # no match tips over by rounding


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    'strategy', ['hq', 'weighted-fast', 'downsampling-bilinear', BOTH, SHARED], ids=str
)
def test_inference(strategy):
    model = build(strategy).eval()
    image = torch.randn(2, 3, 97, 131, dtype=torch.float64)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    with torch.no_grad():
        for actual, expected in zip(compiled(image), model(image), strict=True):
            torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('strategy', ['hq', '2x2', 'weighted'])
def test_training(strategy):
    model = build(strategy).train()
    image = torch.randn(1, 3, 96, 64, dtype=torch.float64)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    grads = []
    for run in (model, compiled):
        sum(feature.square().sum() for feature in run(image)).backward()
        grads.append([p.grad for p in model.parameters()])
        model.zero_grad(set_to_none=True)
    for expected, actual in zip(*grads, strict=True):
        torch.testing.assert_close(actual, expected)


# one matching of keys and one of queries: each is traced for many seconds
@pytest.mark.parametrize('strategy', [pytest.param(MATCHING, id='matching'), '2x2'])
def test_several_sizes(strategy):
    model = build(strategy).eval()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in [(128, 160), (192, 96), (256, 224)][: 2 if strategy is MATCHING else 3]:
            image = torch.randn(1, 3, *size, dtype=torch.float64)
            for actual, expected in zip(compiled(image), model(image), strict=True):
                torch.testing.assert_close(actual, expected)
    # what a ratio leaves of the tokens is a number of its own for every size; torch 2.6 traces once
    # more than later ones, never once per size
    most = 1 if torch.__version__ >= (2, 7) else 2
    assert len(graphs) <= most or strategy is MATCHING


@pytest.mark.parametrize('training', [False, True])
def test_blocks_of_a_stage_share_what_is_compiled(training):
    """Two graphs per stage, of however many blocks, with a drop path of their own each."""
    settings = dict(TINY, num_layers=[3, 4, 4, 3], drop_path_rate=0.3, token_merging='hq')
    model = MixVisionTransformerPlusPlus(**settings).double().train(training)
    image = torch.randn(2, 3, 97, 131, dtype=torch.float64, requires_grad=training)
    graphs, results = [], []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    with torch.set_grad_enabled(training), cpu.chunked(False):
        for _ in range(2):
            torch.manual_seed(0)
            results.append(model(image))
            compile_backbone(
                torch.nn.ModuleDict(dict(backbone=model)),
                dict(blocks=True, backend=count, fullgraph=True, dynamic=False),
            )
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)
    assert len(graphs) == 2 * 4


def test_blocks_are_those_of_our_backbone():
    model = torch.nn.ModuleDict(dict(backbone=torch.nn.Linear(1, 1)))
    with pytest.raises(SegformerPlusPlusError, match='compile.blocks=True is for'):
        compile_backbone(model, dict(blocks=True))
