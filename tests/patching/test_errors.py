"""What cannot be patched says why and stays as it was; what else is on a model goes on working."""

import re
import subprocess
import sys

import pytest
import torch
from checkpoints.models import difference
from mmengine.registry import MODELS
from torch import nn

from segformer_plusplus import SegformerPlusPlusError, apply_token_merging, remove_token_merging
from segformer_plusplus.patching import find_backbones

from .models import CASES, HOSTS, every_host, mmseg_backbone, mmseg_segmentor
from .test_reversible import IMAGE, run, traces


@pytest.mark.parametrize('change', [lambda m: apply_token_merging(m, 'hq'), remove_token_merging])
def test_nothing_to_patch_says_what_was_looked_for(change):
    with pytest.raises(SegformerPlusPlusError) as caught:
        change(nn.Sequential(nn.Conv2d(3, 3, 1)))
    message = str(caught.value)
    assert 'this Sequential' in message and 'SegformerModel' in message
    assert 'mmseg.models.backbones.mit' in message and 'segmentation_models_pytorch' in message
    with pytest.raises(SegformerPlusPlusError, match='not for a dict'):
        change({})


@every_host
@pytest.mark.parametrize(
    'strategy, words',
    [
        ('hg', "'hg' is unknown"),
        ([{}] * 3, '3 stages given, the backbone has 4'),
        ([dict(q='Nothing')] + [{}] * 3, "'Nothing' is not registered"),
        ([dict(v='NeighborMerging2d')] + [{}] * 3, "unknown key 'v'"),
        ([dict(kv='NeighborMerging2d', share=2)] + [{}] * 3, 'do not hand plans on'),
    ],
)
def test_a_wrong_strategy_changes_nothing(case, strategy, words):
    model = case.build()
    for applied in (None, 'fast'):
        if applied:
            apply_token_merging(model, applied)
        before = traces(model)
        with pytest.raises(SegformerPlusPlusError, match=words):
            apply_token_merging(model, strategy)
        assert traces(model) == before


def test_a_version_with_other_modules_says_which_to_install(monkeypatch):
    model = CASES['SegformerModel'].build()
    name = type(model).__module__
    monkeypatch.delattr(f'{name}.SegformerMixMLP')
    monkeypatch.delitem(sys.modules, 'segformer_plusplus.patching.transformers', raising=False)
    words = r"installed transformers .*'SegformerMixMLP'.*pip install 'segformer-plusplus\[hf\]'"
    with pytest.raises(SegformerPlusPlusError, match=words):
        apply_token_merging(model, 'hq')


@pytest.mark.parametrize(
    ('host', 'library'),
    zip(
        HOSTS, ('onedl-mmsegmentation', 'transformers', 'segmentation-models-pytorch'), strict=True
    ),
)
def test_the_library_is_named(host, library):
    with pytest.raises(SegformerPlusPlusError, match=f'the blocks of {library} do not hand'):
        apply_token_merging(
            CASES[host].build(), [dict(kv='NeighborMerging2d', share=2), {}, {}, {}]
        )


class Subclass:
    def forward(self, *args):
        return args[0]


def _last_block(model):
    (backbone,) = find_backbones(model)
    return backbone, backbone.blocks[-1][-1]


def _other_class(model):
    backbone, block = _last_block(model)
    part = backbone.attention(block)
    part.__class__ = type('Odd', (Subclass, type(part)), {})


def _own_forward(model):
    backbone, block = _last_block(model)
    getattr(block, backbone.ffn_name).forward = lambda *args: args[0]


def _without_a_reduction(model):
    (backbone,) = find_backbones(model)
    part = backbone.attention(backbone.blocks[2][0])  # by 2, the least there is
    delattr(part, next(name for name in ('sr', 'sequence_reduction') if hasattr(part, name)))


def _other_convolution(model):
    backbone, block = _last_block(model)
    convs = [m for m in getattr(block, backbone.ffn_name).modules() if getattr(m, 'groups', 1) > 1]
    convs[0].padding = (0, 0)


@every_host
@pytest.mark.parametrize(
    'change, words',
    [
        (_other_class, r'is a .*Odd, not '),
        (_own_forward, 'has a forward of its own'),
        (_without_a_reduction, 'has no (sr|sequence_reduction)'),
        (_other_convolution, r"has .*'padding': \(0, 0\)"),
    ],
)
def test_a_version_that_is_not_known_changes_nothing(case, change, words):
    model = case.build()
    change(model)
    before = traces(model)
    with pytest.raises(SegformerPlusPlusError, match=words) as caught:
        apply_token_merging(model, 'hq')
    assert re.search(r'installed is ([a-z-]+ \d|another one than [a-z-]+)', str(caught.value))
    assert traces(model) == before


PARTS = {
    'mmseg': (
        'num_heads sr_ratio batch_first proj_drop dropout_layer attn',
        'dropout_layer layers',
    ),
    'SegformerForSemanticSegmentation': (
        'q_proj k_proj v_proj o_proj config num_attention_heads head_dim attention_dropout scaling '
        'sequence_reduction_ratio',
        'fc1 fc2 activation_fn dropout dwconv',
    ),
    'smp.Segformer': (
        'q kv proj attn_drop proj_drop num_heads dim scale sr_ratio',
        'fc1 fc2 act drop dwconv',
    ),
}
"""What an attention and a Mix-FFN have, whatever their spatial reduction."""


@pytest.mark.parametrize('name', PARTS)
def test_every_part_that_is_not_there_is_named(name):
    model = CASES[name].build()
    backbone, block = _last_block(model)
    modules = backbone.attention(block), getattr(block, backbone.ffn_name)
    for module, parts in zip(modules, PARTS[name], strict=True):
        for part in parts.split():
            value = getattr(module, part)
            delattr(module, part)
            before = traces(model)
            with pytest.raises(SegformerPlusPlusError, match=f'has no {part};'):
                apply_token_merging(model, 'hq')
            assert traces(model) == before
            setattr(module, part, value)
    apply_token_merging(model, 'hq')


def test_no_reduction_needs_no_layers():
    """SMP has identities there for TorchScript's sake."""
    case = CASES['smp.Segformer']
    model, image = case.build(), torch.randn(1, 3, 64, 64)
    expected = case.output(model, image)
    part = model.encoder.block4[0].attn
    del part.sr, part.norm
    apply_token_merging(model, 'none')
    torch.testing.assert_close(case.output(model, image), expected)


def test_two_backbones_are_patched_both_or_not_at_all():
    pair = nn.ModuleList([mmseg_segmentor(), CASES['SegformerForSemanticSegmentation'].build()])
    apply_token_merging(pair, '2x2')
    for backbone in find_backbones(pair):
        assert all(each.merging.q for stage in backbone.attentions() for each in stage)
    remove_token_merging(pair)
    del pair[1].segformer.stages[3].blocks[0].mlp.fc2
    before = traces(pair)
    with pytest.raises(SegformerPlusPlusError, match=r'1\.segformer\.stages\.3\.blocks\.0\.mlp'):
        apply_token_merging(pair, 'hq')
    assert traces(pair) == before


def test_another_scale_is_not_ignored():
    for case, name in ((CASES['smp.Segformer'], 'scale'), (CASES['SegformerModel'], 'scaling')):
        model = case.build()
        backbone, block = _last_block(model)
        setattr(backbone.attention(block), name, 0.5)
        with pytest.raises(SegformerPlusPlusError, match='scales by 0.5'):
            apply_token_merging(model, 'hq')


@pytest.mark.parametrize('by', ['argument', 'config'])
def test_attention_maps_of_transformers_are_refused(by):
    case = CASES['SegformerForSemanticSegmentation']
    model = case.build(attn_implementation='eager')
    arguments = {'output_attentions': True} if by == 'argument' else {}
    model.config.output_attentions = by == 'config'
    with torch.inference_mode():
        expected = model(IMAGE, **arguments).attentions
        apply_token_merging(model, 'none')
        with pytest.raises(SegformerPlusPlusError, match='remove_token_merging'):
            model(IMAGE, **arguments)
        run(case, model) if by == 'argument' else model(IMAGE, output_attentions=False)
        remove_token_merging(model)
        actual = model(IMAGE, **arguments).attentions
    assert len(expected) == 5 and all(map(torch.equal, actual, expected))


def test_an_attention_mask_is_refused():
    model = CASES['SegformerModel'].build()
    apply_token_merging(model, 'none')
    with pytest.raises(SegformerPlusPlusError, match='attention_mask'):
        model(IMAGE, attention_mask=torch.ones(1, 1))


class LowRank(nn.Linear):
    """An adapter in the place of a linear layer, the way that LoRA's are."""

    def forward(self, x):
        return super().forward(x) * (1 + x[..., :1].sigmoid())


LINEAR = {
    'SegformerForSemanticSegmentation': ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'fc1', 'fc2'],
    'smp.Segformer': ['attn.q', 'attn.kv', 'attn.proj', 'mlp.fc1', 'mlp.fc2'],
}


@pytest.mark.parametrize('name', [*LINEAR])
@pytest.mark.parametrize(
    'kind, when', [('adapter', 'before'), ('hook', 'after'), ('parametrised', 'before')]
)
def test_what_replaces_a_linear_layer_is_called(name, kind, when):
    case = CASES[name]
    for end in LINEAR[name]:
        plain, model = case.build(), case.build()
        if when == 'after':
            apply_token_merging(model, 'none')
        for each in (plain, model):
            (layer,) = [m for k, m in each.named_modules() if k.endswith(f'.{end}')][:1]
            if kind == 'adapter':
                layer.__class__ = LowRank
            elif kind == 'hook':
                layer.register_forward_hook(lambda _module, _inputs, output: 2 * output)
            else:
                nn.utils.parametrizations.weight_norm(layer)
                layer.parametrizations.weight.original0.data.mul_(3)
        if when == 'before':
            apply_token_merging(model, 'none')
        assert difference(run(case, model), run(case, plain)) < 1e-5
        assert difference(run(case, model), run(case, case.build())) > 1e-4


@every_host
def test_hooks_on_the_parts_of_a_block_fire_as_before(case):
    model, seen = case.build(), []
    backbone, block = _last_block(model)
    for part in (backbone.attention(block), getattr(block, backbone.ffn_name)):
        part.register_forward_hook(lambda module, *_: seen.append(module))
    run(case, model)
    apply_token_merging(model, 'hq')
    run(case, model)
    assert len(seen) == 4 and seen[:2] == seen[2:]


def test_looking_for_a_library_does_not_import_it():
    code = (
        'import sys\n'
        'from segformer_plusplus import MixVisionTransformerPlusPlus, apply_token_merging\n'
        'before = set(sys.modules)\n'
        "apply_token_merging(MixVisionTransformerPlusPlus(arch='b0'), 'hq')\n"
        "print('new:', *sorted(set(sys.modules) - before))\n"
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout.splitlines()[-1] == 'new:'


def test_a_backbone_of_three_stages():
    changes = dict(num_heads=[1, 2, 5], num_layers=[1, 1, 1], num_stages=3)
    changes |= dict(patch_sizes=[7, 3, 3], strides=[4, 2, 2], sr_ratios=[8, 4, 2])
    settings = mmseg_backbone(**changes, out_indices=(0, 1, 2))
    backbone = MODELS.build(settings).eval()
    with pytest.raises(SegformerPlusPlusError, match='4 stages given, the backbone has 3'):
        apply_token_merging(backbone, 'hq')
    apply_token_merging(backbone, [dict(q='NeighborMerging2d')] * 3)
    assert len(backbone(torch.randn(1, 3, 64, 64))) == 3


def test_a_library_whose_classes_have_other_names(monkeypatch):
    model = CASES['SegformerModel'].build()
    before = traces(model)
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, 'segformer_plusplus.patching.transformers', raising=False)
        patch.delattr(sys.modules[type(model).__module__], 'SegformerMixMLP')
        with pytest.raises(SegformerPlusPlusError, match="cannot import name 'SegformerMixMLP'"):
            apply_token_merging(model, 'hq')
    assert traces(model) == before
    apply_token_merging(model, 'hq')
