"""Constructor arguments of the wrong kind: refused at build time, by name, with what is allowed."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import ConfigDict
from torch import nn

from segformer_plusplus import MixVisionTransformerPlusPlus, SegformerPlusPlusError
from segformer_plusplus.arguments import (
    CONFIG,
    CONFIGS,
    FILE,
    FLAG,
    INIT_CFG,
    INTERPOLATION,
    NONE,
    SHARE,
    SHARE_BELOW_ONE,
    blaming,
    checked,
    integer,
    integers,
)
from segformer_plusplus.mit import cpu

NAN = float('nan')


@pytest.mark.parametrize(
    'kind, right, wrong',
    [
        (integer(1), [1, 7, np.int64(3)], [0, -1, 1.0, True, '1', None, [1], NAN]),
        (integer(), [-5, 0], [0.0, False]),
        (integers(1), [[1], (2, 3), [np.int32(1)]], [[], [0], [1, True], '12', 1, {1: 1}, [None]]),
        (integer(0) | integers(0) | NONE, [0, [0, 3], None], [-1, [], [-1], 'x']),
        (SHARE, [0, 1, 0.5, np.float32(0.1)], [-0.1, 1.1, NAN, True, '0', None]),
        (SHARE_BELOW_ONE, [0, 0.999], [1, 1.0, NAN]),
        (FLAG, [True, False], [0, 1, 'False', None]),
        (FILE, ['a.pth', Path('a.pth')], ['', 3, None]),
        (INTERPOLATION, ['nearest', 'bilinear'], ['trilinear', '', None, ['nearest']]),
        (
            CONFIG,
            [dict(type='LN'), dict(type=nn.ReLU, inplace=True), ConfigDict(type='LN')],
            [{}, dict(type=''), dict(type=3), dict(x=1), 'LN', None, [dict(type='LN')]],
        ),
        (CONFIGS, [dict(type='A'), [dict(type='A'), dict(type='B')]], [[], {}, [dict(x=1)], None]),
        (INIT_CFG, [None, {}, [], dict(type='A'), [dict(type='A')]], [0, '', [1], dict(a=1)]),
    ],
)
def test_kinds(kind, right, wrong):
    assert [value for value in right if not kind.allows(value)] == []
    assert [value for value in wrong if kind.allows(value)] == []


class Owner:
    @checked(size=integer(1), other=FLAG | NONE)
    def __init__(self, size, free='anything', **kwargs):
        self.given = size, free, kwargs


def test_checked_looks_at_what_is_given_however_it_is_given():
    assert Owner(3, None, more='x').given == (3, None, {'more': 'x'})
    assert Owner(size=3, other=True).given == (3, 'anything', {'other': True})
    for arguments in (dict(size=0), dict(size='3')):
        with pytest.raises(
            SegformerPlusPlusError, match=r'^Owner: size=.* is not an integer >= 1$'
        ):
            Owner(**arguments)
    with pytest.raises(SegformerPlusPlusError, match='Owner: other=1 is not True or False or None'):
        Owner(3, other=1)
    with pytest.raises(SegformerPlusPlusError, match='size=None'):
        Owner(None)
    with pytest.raises(TypeError, match="Owner: .*'size'; it takes size, free, kwargs"):
        Owner()
    assert list(inspect.signature(Owner).parameters) == ['size', 'free', 'kwargs']


def refuse(value):
    raise KeyError(f'no {value}\nand more')


def test_blaming_names_the_part_and_builds_nothing_twice():
    built = []
    parts = dict(good=(1, built.append), none=(None, refuse), bad=('x', refuse))
    with blaming(Owner(1), parts):
        pass
    assert built == []
    with pytest.raises(SegformerPlusPlusError) as error, blaming(Owner(1), parts):
        refuse('x')
    assert str(error.value) == "Owner: bad='x' cannot be built: no x"
    # what is about none of the parts, or is ours already, stays as it is
    with pytest.raises(ZeroDivisionError), blaming(Owner(1), dict(good=(1, built.append))):
        raise ZeroDivisionError
    with pytest.raises(SegformerPlusPlusError, match='ours'), blaming(Owner(1), parts):
        raise SegformerPlusPlusError('ours')


def classes():
    segmentation = pytest.importorskip('segformer_plusplus.segmentation')
    pose = pytest.importorskip('segformer_plusplus.pose')
    widths = dict(in_channels=[8, 16])
    decode = dict(widths, channels=8, num_classes=3)
    return [
        (MixVisionTransformerPlusPlus, dict(arch='b0')),
        (segmentation.SegformerHeadPlusPlus, decode),
        (segmentation.SegformerLinearHead, decode),
        (pose.SegformerHeatmapHead, dict(widths, out_channels=3)),
    ]


def test_every_argument_of_backbone_and_heads_is_looked_at():
    """None of their arguments may be an object: it is refused by name, or it has no kind."""
    looked_at_elsewhere = {'arch', 'token_merging', 'tome_cfg', 'input_transform'}
    for cls, settings in classes():
        parameters = set()
        for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
            parameters |= set(inspect.signature(base.__init__).parameters)
            if 'kwargs' not in inspect.signature(base.__init__).parameters:
                break
        for name in parameters - {'self', 'args', 'kwargs'} - looked_at_elsewhere:
            with pytest.raises(SegformerPlusPlusError, match=f'^{cls.__name__}: {name}=<object '):
                cls(**{**settings, name: object()})


def test_the_defaults_may_be_given():
    for cls, settings in classes():
        parameters = inspect.signature(cls).parameters.values()
        defaults = {
            each.name: each.default for each in parameters if each.default is not each.empty
        }
        cls(**{**defaults, **settings})


@pytest.mark.parametrize('in_rows', [False, True])
def test_in_rows_of_an_old_config_sets_the_switch(in_rows):
    for cls, settings in classes():
        with cpu.chunked(not in_rows):
            with pytest.warns(FutureWarning, match=rf'in_rows={in_rows} is .*cpu\.chunked'):
                cls(**settings, in_rows=in_rows)
            assert cpu.is_chunked() == in_rows


def test_parts_that_cannot_be_built_are_named():
    wrong = dict(type='NoSuchThing')
    for cls, settings in classes():
        keys = ['norm_cfg', 'act_cfg']
        if cls is not MixVisionTransformerPlusPlus:
            keys += (
                ['loss', 'decoder'] if 'out_channels' in settings else ['loss_decode', 'sampler']
            )
        for key in keys:
            with pytest.raises(SegformerPlusPlusError) as error:
                cls(**settings, **{key: wrong})
            assert str(error.value).startswith(f'{cls.__name__}: {key}={wrong} cannot be built')


def test_parts_that_can_be_built_are_not_blamed(monkeypatch):
    def fails(*args, **kwargs):
        raise ZeroDivisionError

    act = dict(act_cfg=dict(type='ReLU'))
    norm = dict(norm_cfg=dict(type='GN', num_groups=4))
    decode = dict(loss_decode=dict(type='CrossEntropyLoss'), sampler=dict(type='OHEMPixelSampler'))
    size = dict(input_size=(32, 32), heatmap_size=(8, 8))
    heatmaps = dict(
        loss=dict(type='KeypointMSELoss'),
        decoder=dict(type='MSRAHeatmap', sigma=2, **size),
        final_layer=dict(kernel_size=3, padding=1),
        channels=8,
    )
    (backbone, arch), linear, mlp, (head, widths) = classes()
    for cls, settings in [
        (backbone, arch | act | dict(norm_cfg=dict(type='LN'))),
        *((each, own | act | norm | decode) for each, own in (linear, mlp)),
        (head, widths | act | norm | heatmaps),
    ]:
        cls(**settings)
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            if cls is backbone:
                patch.setattr('segformer_plusplus.mit.backbone.OverlapPatchEmbed', fails)
            else:
                patch.setattr(cls.__bases__[0], '__init__', fails)
            cls(**settings)


def test_a_norm_for_the_other_layout_is_named():
    (backbone, *heads) = classes()
    with pytest.raises(SegformerPlusPlusError, match='norm_cfg.*norm of images'):
        backbone[0](**backbone[1], norm_cfg=dict(type='BN'))
    for head, settings in heads:
        with pytest.raises(SegformerPlusPlusError, match='norm_cfg.*norm of tokens'):
            head(**settings, norm_cfg=dict(type='LN'))


def test_the_smallest_side_is_the_smallest():
    """Against trying every side, for random patches and strides."""
    random = np.random.default_rng()
    for _ in range(50):
        settings = {
            name: random.integers(1, most, 3).tolist()
            for name, most in dict(patch_sizes=9, strides=5, sr_ratios=6).items()
        }
        model = MixVisionTransformerPlusPlus(
            embed_dims=1, num_stages=3, num_layers=[0] * 3, num_heads=[1] * 3, out_indices=2,
            **settings,
        )  # fmt: skip

        def fits(side, model=model):
            grids = model.grids(side, side)
            return all(grid[0] >= least for grid, least in zip(grids, model.sr_ratios, strict=True))

        smallest = next(side for side in range(1, 10**5) if fits(side))
        assert model._smallest_side() == smallest, settings


LEAST = dict(
    backbone=dict(
        in_channels=1, embed_dims=1, num_stages=1, num_layers=[0], num_heads=[1], patch_sizes=[1],
        strides=[1], sr_ratios=[1], out_indices=[0], mlp_ratio=1,
    ),
    decode_head=dict(
        in_channels=[1], channels=1, num_classes=1, out_channels=1, dropout_ratio=0,
    ),
    heatmap_head=dict(in_channels=[1], out_channels=1, channels=1, in_index=[0]),
)  # fmt: skip


def test_numbers_below_the_least_are_refused_and_the_least_is_not():
    (backbone, *decode_heads, heatmap_head) = [cls for cls, _ in classes()]
    cases = dict(backbone=[backbone], decode_head=decode_heads, heatmap_head=[heatmap_head])
    for kind, members in cases.items():
        for cls in members:
            cls(**LEAST[kind])
            for name, least in LEAST[kind].items():
                wrong = [least[0] - 1] if isinstance(least, list) else least - 1
                with pytest.raises(SegformerPlusPlusError, match=f'^{cls.__name__}: {name}='):
                    cls(**{**LEAST[kind], name: wrong})
