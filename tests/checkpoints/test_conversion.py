"""Weights of other libraries give what those libraries compute, and come back bit by bit."""

import pytest
import torch

from segformer_plusplus import CheckpointError, MixVisionTransformerPlusPlus
from segformer_plusplus.checkpoints import (
    convert,
    describe,
    from_nvlabs,
    from_smp,
    from_transformers,
    load_checkpoint_strictly,
    loading,
    recognise,
    to_mmseg,
    to_nvlabs,
    to_transformers,
)
from segformer_plusplus.checkpoints.conversion import convert_to
from segformer_plusplus.checkpoints.formats import NVLABS, TRANSFORMERS
from segformer_plusplus.checkpoints.settings import check_complete

from .models import (
    CLASSES,
    DECODER,
    DEPTHS,
    HEADS,
    WIDTHS,
    Segmentor,
    difference,
    from_transformers_library,
    images,
    nvlabs_reference,
    randomise,
    same,
)

EXACT, OTHER_EPS = 1e-5, 1e-4
# without it there is another head, of which nothing is known
UNNOTICED = ['decode_head.fusion_conv.conv.weight']


def check_logits(state, expected, eps, tolerance):
    ours = Segmentor(eps=eps).eval()
    ours.load_state_dict(state, strict=True)
    with torch.inference_mode():
        assert difference(ours(images()), expected) < tolerance


@pytest.mark.parametrize('written', ['safetensors', 'shards', 'bin', 'folder of bin'])
def test_files_of_transformers(tmp_path, written):
    model = from_transformers_library()
    source = tmp_path / 'weights'
    model.save_pretrained(source, max_shard_size='20KB' if written == 'shards' else '5GB')
    if 'bin' in written:
        safetensors = pytest.importorskip('safetensors.torch')
        file = source / 'model.safetensors'
        torch.save(safetensors.load_file(file), source / 'pytorch_model.bin')
        file.unlink()
        source = source / 'pytorch_model.bin' if written == 'bin' else source
    if written == 'shards':
        assert len(list(source.glob('model-*.safetensors'))) > 2
    ours = Segmentor(eps=1e-5).eval()
    load_checkpoint_strictly(ours, source)
    with torch.inference_mode():
        assert difference(ours(images()), model(images()).logits) < EXACT


@pytest.mark.parametrize('theirs, tolerance', [(1e-5, OTHER_EPS), (1e-6, EXACT)])
def test_the_other_eps_is_all_that_differs(theirs, tolerance):
    """The eps that Transformers has, 1e-5, is the reason for what remains under mmseg's 1e-6."""
    model = from_transformers_library()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            assert module.eps == 1e-5
            module.eps = theirs
    with torch.inference_mode():
        expected = model(images()).logits
    check_logits(from_transformers(model.state_dict()), expected, 1e-6, tolerance)


@pytest.mark.parametrize(
    'kind, prefix',
    [
        ('SegformerModel', None),
        ('SegformerForImageClassification', None),
        ('SegformerForImageClassification', 'segformer'),
        ('SegformerForSemanticSegmentation', 'segformer.'),
        ('SegformerForSemanticSegmentation', 'backbone'),
    ],
)
def test_backbone_of_transformers(tmp_path, kind, prefix):
    model = from_transformers_library(kind)
    model.save_pretrained(tmp_path)
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path), prefix=prefix)
    ours = MixVisionTransformerPlusPlus(
        embed_dims=8, num_heads=HEADS, num_layers=DEPTHS, norm_cfg=dict(type='LN', eps=1e-5),
        init_cfg=init_cfg,
    ).eval()  # fmt: skip
    ours.init_weights()
    with torch.inference_mode():
        expected = model(images(), output_hidden_states=True).hidden_states
        for one, other in zip(ours(images()), expected, strict=True):
            assert difference(one, other) < EXACT


def test_out_to_transformers():
    ours = randomise(Segmentor(eps=1e-5))
    state = to_transformers(ours.state_dict())
    model = from_transformers_library(seed=1)
    model.load_state_dict(state, strict=True)
    with torch.inference_mode():
        assert difference(model(images()).logits, ours(images())) < EXACT
    files = to_transformers(ours.state_dict(), file_names=True)
    for names in (state, files):
        same(from_transformers(names), ours.state_dict())
    same(to_transformers(files), state)


def test_backbone_out():
    ours = randomise(Segmentor(linear=False)).state_dict()
    backbone = {k.removeprefix('backbone.'): v for k, v in ours.items() if 'backbone.' in k}
    for to, back in ((to_transformers, from_transformers), (to_nvlabs, from_nvlabs)):
        state = to(ours, backbone_only=True)
        same(to(backbone), state)
        same(back(state), backbone)


@pytest.mark.parametrize('target', [TRANSFORMERS, NVLABS])
def test_a_counter_that_has_no_place_is_left_out_alone(target):
    state, counter = Segmentor().state_dict(), 'decode_head.convs.0.bn.num_batches_tracked'
    found = convert_to({counter: torch.tensor(3), **state}, target)
    assert found.left_out == (counter,) and found.converted == len(state)
    same(found.state, convert_to(state, target).state)


def _heatmap(state):
    renamed = {k.replace('conv_seg', 'final_layer'): v for k, v in state.items()}
    return {k.replace('decode_head', 'head'): v for k, v in renamed.items()}


NO_PLACE = {
    'mmseg': (lambda: Segmentor(linear=False), 'SegformerHead, with.*SegformerLinearHead'),
    'relu': (lambda: Segmentor(linear=False, norm_cfg=None), 'SegformerHead, with.*LinearHead'),
    'three levels': (lambda: Segmentor(in_channels=WIDTHS[:3]), 'fuses 3 of the 4'),
    'bias': (lambda: MixVisionTransformerPlusPlus(arch='b0', qkv_bias=False), 'qkv_bias=False'),
}


@pytest.mark.parametrize('convert_out', [to_transformers, to_nvlabs])
def test_heads_and_settings_that_have_no_place(convert_out):
    for build, words in NO_PLACE.values():
        with pytest.raises(CheckpointError, match=words):
            convert_out(build().state_dict())
    state = Segmentor().state_dict()
    with pytest.raises(CheckpointError, match='none of SegFormer'):
        convert_out({k: v for k, v in state.items() if 'fusion_conv' not in k})
    with pytest.raises(CheckpointError, match='heatmap head for poses'):
        convert_out(_heatmap(state))


def test_nvlabs(tmp_path):
    state, model = nvlabs_reference()
    with torch.inference_mode():
        expected = model(images()).logits
    result = convert(state)
    assert result.source == 'nvlabs'
    assert result.left_out == ('decode_head.conv_seg.weight', 'decode_head.conv_seg.bias')
    assert result.converted == len(state) - 2
    # the norms after patch embedding and spatial reduction have 1e-5 there, all others 1e-6
    check_logits(result.state, expected, 1e-6, OTHER_EPS)
    path = tmp_path / 'segformer.pth'
    torch.save(dict(meta=dict(), state_dict={f'module.{k}': v for k, v in state.items()}), path)
    ours = Segmentor().eval()
    load_checkpoint_strictly(ours, path)
    same(ours.state_dict(), result.state)
    back = {k: v for k, v in state.items() if 'conv_seg' not in k}
    same(to_nvlabs(result.state), back)
    same(from_nvlabs(back), result.state)


def test_nvlabs_backbone_of_imagenet(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(loading, 'print_log', lambda message, **kwargs: said.append(message))
    whole, _ = nvlabs_reference()
    state = {k.removeprefix('backbone.'): v for k, v in whole.items() if k.startswith('backbone')}
    path = tmp_path / 'mit_b0.pth'
    torch.save(state | {'head.weight': torch.ones(1000, 64), 'head.bias': torch.ones(1000)}, path)
    ours = MixVisionTransformerPlusPlus(
        embed_dims=8, num_heads=HEADS, num_layers=DEPTHS,
        init_cfg=dict(type='Pretrained', checkpoint=str(path)),
    )  # fmt: skip
    ours.init_weights()
    (message,) = said
    assert 'mit_b0.pth has the names of nvlabs' in message
    assert message.endswith(f'{len(state)} keys converted, 2 left out: head.weight, head.bias')
    expected = from_nvlabs(whole)
    same(ours.state_dict(), {k: expected[f'backbone.{k}'] for k in ours.state_dict()})
    same(to_nvlabs(ours.state_dict()), state)


@pytest.mark.parametrize('depth', [5, 4])
def test_smp(tmp_path, depth):
    smp = pytest.importorskip('segmentation_models_pytorch')
    model = randomise(
        smp.Segformer(
            'mit_b0',
            depth,
            encoder_weights=None,
            decoder_segmentation_channels=DECODER,
            classes=CLASSES,
            aux_params=dict(classes=2),
        )
    )
    with torch.inference_mode():
        features = model.decoder(model.encoder(images()))
        expected = model.segmentation_head[0](features)
    widths = [32, 64, 160, 256]
    ours = Segmentor(widths=widths, depths=[2, 2, 2, 2], in_channels=widths[: depth - 1]).eval()
    torch.save(model.state_dict(), tmp_path / 'smp.pt')
    model.save_pretrained(tmp_path / 'folder')
    for source in (tmp_path / 'smp.pt', tmp_path / 'folder'):
        load_checkpoint_strictly(ours, source)
        with torch.inference_mode():
            assert difference(ours(images()), expected) < OTHER_EPS
    result = convert(model.state_dict())
    assert result.source == 'smp' and len(result.left_out) == 2
    same(from_smp(model.state_dict()), ours.state_dict())


@pytest.mark.parametrize('linear', [False, True])
def test_mmsegs_names_stay(linear):
    state = Segmentor(linear).state_dict()
    assert recognise(state) == 'mmseg'
    same(to_mmseg(state), state)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_and_cast_on_load(tmp_path, dtype):
    state = to_nvlabs(randomise(Segmentor()).state_dict())
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    assert describe(to_mmseg(state))['dtype'] == str(dtype).removeprefix('torch.')
    same(to_nvlabs(to_mmseg(state)), state)
    path = tmp_path / 'half.pth'
    torch.save(state, path)
    ours = Segmentor()
    load_checkpoint_strictly(ours, path)
    expected = to_mmseg(state)
    for key, value in ours.state_dict().items():
        assert value.dtype in (torch.float32, torch.int64)
        assert torch.equal(value, expected[key].to(value.dtype))


@pytest.mark.parametrize(
    'key, prefix',
    [('model', 'module.'), ('state_dict', '_orig_mod.'), ('model_state_dict', 'module._orig_mod.')],
)
def test_wrappers(tmp_path, key, prefix):
    expected = randomise(Segmentor()).state_dict()
    state = {prefix + k: v for k, v in to_nvlabs(expected).items()}
    torch.save({key: state, 'epoch': 3}, tmp_path / 'a.pth')
    ours = Segmentor()
    load_checkpoint_strictly(ours, tmp_path / 'a.pth')
    same(ours.state_dict(), expected)


def without(state, end):
    assert any(k.endswith(end) for k in state)
    return {k: v for k, v in state.items() if not k.endswith(end)}


def reshaped(state, end, *shape):
    assert any(k.endswith(end) for k in state)
    return {k: torch.zeros(shape) if k.endswith(end) else v for k, v in state.items()}


@pytest.mark.parametrize(
    'change, words',
    [
        (lambda s: without(s, 'block1.0.attn.q.bias'), ['no backbone.block1.0.attn.q.bias']),
        (lambda s: without(s, 'block1.0.attn.kv.weight'), ['no backbone.block1.0.attn.kv.weight']),
        (lambda s: without(s, 'block2.0.norm1.bias'), ['1 keys missing', '1.1.0.norm1.bias']),
        (lambda s: without(s, 'linear_pred.weight'), ['decode_head.conv_seg.weight']),
        (lambda s: without(s, 'patch_embed3.proj.weight'), ['layers.2.0.projection.weight']),
        (lambda s: {k: v for k, v in s.items() if 'block2.0' not in k}, ['layers.1.1.0.']),
        (lambda s: s | {'backbone.extra': torch.ones(1)}, ['1 keys that', 'backbone.extra']),
        (lambda s: s | {'backbone.patch_embed0.proj.weight': torch.ones(1)}, ['not have', '-1']),
        (lambda s: s | {'backbone.block4.0.attn.sr.bias': torch.ones(1)}, ['not have', 'attn.sr']),
        (lambda s: reshaped(s, 'block1.0.attn.q.weight', 4, 8), ['do not go together', '(4, 8)']),
        (lambda s: reshaped(s, 'block1.0.attn.q.weight', 8, 7), ['do not go together', '(8, 7)']),
        (lambda s: reshaped(s, 'block1.0.attn.q.weight'), ['do not go together', '()']),
        (lambda s: reshaped(s, 'block1.0.mlp.fc2.weight', 8, 32, 1, 1), ['(8, 32, 1, 1)']),
        (lambda s: reshaped(s, 'linear_fuse.conv.weight', 24, 90, 1, 1), ['(24, 90, 1, 1)']),
        (lambda s: reshaped(s, 'linear_fuse.conv.weight', 24, 72, 1, 1), ['(24, 96, 1, 1)']),
        (lambda s: reshaped(s, 'linear_fuse.conv.weight'), ['fusion_conv.conv.weight', 'shape ()']),
        (lambda s: reshaped(s, 'linear_fuse.conv.weight', 0, 96, 1, 1), ['(0, 96, 1, 1)']),
        (lambda s: reshaped(s, 'block3.0.norm1.bias', 41), ['(41,) in the file and (40,)']),
        (lambda s: reshaped(s, 'patch_embed1.proj.weight', 8), ['(8,)']),
        (lambda s: s | to_transformers(to_mmseg(s)), ['mix', 'NVlabs', 'Transformers']),
        (lambda s: s | to_mmseg(s), ['mix', 'NVlabs', 'mmseg']),
        (
            lambda s: s | {'decoder.mlp_stage.0.linear.bias': torch.ones(24)},
            ['names of segmentation_models.pytorch', 'mixture'],
        ),
        (
            lambda s: s | {'backbone.layers.0.0.norm.weight': torch.ones(24)},
            ['names of mmseg', 'mixture'],
        ),
    ],
)  # fmt: skip
def test_every_key_is_accounted_for(tmp_path, change, words):
    ours = randomise(Segmentor())
    state = change(to_nvlabs(ours.state_dict()))
    with pytest.raises(CheckpointError) as error:
        convert(state)
    for word in words:
        assert word in str(error.value)
    torch.save(state, tmp_path / 'changed.pth')
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    with pytest.raises(CheckpointError, match='checkpoint .*changed.pth') as error:
        load_checkpoint_strictly(ours, tmp_path / 'changed.pth')
    assert '\n' not in str(error.value)
    same(ours.state_dict(), before)


def test_keys_with_and_without_the_prefix_are_a_mixture():
    backbone = to_nvlabs(Segmentor().backbone.state_dict())
    for key in ('norm1.weight', 'patch_embed2.proj.bias'):
        with pytest.raises(CheckpointError, match=f'1 keys that it does not have: backbone.{key}'):
            convert(backbone | {f'backbone.{key}': backbone[key]})


def test_every_missing_key_is_noticed():
    state = to_nvlabs(randomise(Segmentor()).state_dict())
    for key in state:
        if not key.endswith('num_batches_tracked'):
            with pytest.raises(CheckpointError):
                convert({k: v for k, v in state.items() if k != key})


@pytest.mark.parametrize('head', [dict(linear=True), dict(linear=False), dict(norm_cfg=None)])
def test_every_missing_key_of_ours_is_noticed(head):
    state = Segmentor(**{'linear': False, **head}).state_dict()
    check_complete(state, describe(state))
    strange = state | {'decode_head.convs.0.conv.x': torch.ones(1)}
    with pytest.raises(CheckpointError, match='1 keys SegFormer does not have: .*conv.x'):
        check_complete(strange, describe(strange))
    for key in state:
        if not key.endswith('num_batches_tracked') and key not in UNNOTICED:
            part = {k: v for k, v in state.items() if k != key}
            with pytest.raises(CheckpointError):
                check_complete(part, describe(part))
            with pytest.raises(CheckpointError):
                to_nvlabs(part)


@pytest.mark.parametrize('linear', [True, False])
def test_a_head_of_another_backbone_is_noticed(linear):
    state = Segmentor(linear=linear).state_dict()
    key, width = 'decode_head.convs.1.conv.weight', WIDTHS[1]
    other = reshaped(state, key, DECODER, width + 3, 1, 1)
    with pytest.raises(CheckpointError) as error:
        check_complete(other, describe(other))
    found, right = ((DECODER, channels, 1, 1) for channels in (width + 3, width))
    assert f'{key} is {found} in the file and {right} in SegFormer' in str(error.value)


@pytest.mark.parametrize(
    'keys', [['conv1.weight', 'layer1.0.conv1.weight'], ['class_embed.weight', 'norm1.weight']]
)
def test_another_network(tmp_path, keys):
    state = {key: torch.ones(1) for key in keys}
    assert recognise(state) is None
    with pytest.raises(CheckpointError, match='no known format.*looked for.*patch_embed1'):
        convert(state)
    torch.save(state, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=rf'no known format: its keys are {keys[0]}'):
        load_checkpoint_strictly(Segmentor(), tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match='the names of smp: its keys are'):
        from_smp(state)
    with pytest.raises(CheckpointError, match='they are those of mmseg'):
        from_nvlabs(Segmentor().state_dict())


def test_heads_that_do_not_fit_are_explained(tmp_path):
    linear, mmseg = (tmp_path / name for name in ('linear.pth', 'mmseg.pth'))
    torch.save(to_nvlabs(Segmentor().state_dict()), linear)
    torch.save(Segmentor(linear=False).state_dict(), mmseg)
    with pytest.raises(CheckpointError, match="type='SegformerLinearHead', channels=24"):
        load_checkpoint_strictly(Segmentor(linear=False), linear)
    with pytest.raises(CheckpointError, match="type='SegformerHeadPlusPlus'"):
        load_checkpoint_strictly(Segmentor(), mmseg)
    torch.save(_heatmap(Segmentor(linear=False).state_dict()), mmseg)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint_strictly(Segmentor(linear=False), mmseg)
    assert 'init_cfg' not in str(error.value)
    torch.save(to_nvlabs(Segmentor().backbone.state_dict()), linear)
    with pytest.raises(CheckpointError, match='init_cfg of the backbone'):
        load_checkpoint_strictly(Segmentor(), linear)
    with pytest.raises(CheckpointError, match="prefix='decode_head'; its keys are patch_embed1"):
        load_checkpoint_strictly(Segmentor().decode_head, linear, prefix='decode_head')


def test_describe():
    about = describe(Segmentor(linear=False).state_dict())
    assert about == dict(
        arch=None, embed_dims=None, num_heads=None, num_layers=DEPTHS, in_channels=WIDTHS,
        patch_sizes=[7, 3, 3, 3], sr_ratios=[8, 4, 2, 1], mlp_ratios=[4, 4, 4, 4],
        image_channels=3, qkv_bias=True, dtype='float32', head='mmseg', head_in_channels=WIDTHS,
        decoder_channels=DECODER, num_classes=CLASSES,
    )  # fmt: skip
    with pytest.raises(CheckpointError, match='no backbone of SegFormer'):
        describe({'fc.weight': torch.ones(1)})


@pytest.mark.parametrize('arch', ['b0', 'b1', 'b2', 'b3', 'b4', 'b5'])
def test_describe_arch(arch):
    with torch.device('meta'):
        model = MixVisionTransformerPlusPlus(arch=arch, in_channels=4)
    about = describe(model.state_dict())
    assert about['arch'] == arch and about['image_channels'] == 4 and about['head'] is None
    assert about['embed_dims'] == (32 if arch == 'b0' else 64)
    assert about['num_heads'] == [1, 2, 5, 8]


def test_describe_pose():
    pose = pytest.importorskip('segformer_plusplus.pose.head')
    head = pose.SegformerHeatmapHead(in_channels=WIDTHS, out_channels=17, channels=DECODER)
    state = Segmentor().backbone.state_dict()
    about = describe(state | {f'head.{k}': v for k, v in head.state_dict().items()})
    found = [about[name] for name in ('head', 'num_classes', 'decoder_channels')]
    assert found == ['heatmap', 17, DECODER]
