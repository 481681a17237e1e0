"""Any strategy on any tokens: groups, means, numbers, gradients; any arguments; any backbone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, strategies as st
from torch import Tensor

from segformer_plusplus import (
    TOKEN_MERGERS,
    MixVisionTransformerPlusPlus,
    SegformerPlusPlusError,
    TokenMerger,
)
from segformer_plusplus.errors import TokenMergingError
from segformer_plusplus.mit.cpu import chunked
from segformer_plusplus.token_merging import (
    PRESETS,
    MergePlan,
    NeighborMerging1d,
    NeighborMerging2d,
    build_token_merging,
    read_tome_cfg,
)
from segformer_plusplus.token_merging.plans import CellPlan, SlotPlan

from .cases import (
    CLASSES,
    PRECISE,
    cases,
    configs,
    grids,
    mergers,
    random,
    seeds,
    settings_2d,
    strides,
    tokens_on_grids,
)

TINY = dict(embed_dims=8, num_layers=[1, 1, 2, 1], num_heads=[1, 2, 5, 8])


def check_plan(plan: MergePlan, tokens: Tensor) -> None:
    """The contract of a plan, for finite tokens."""
    batch, num_tokens, channels = tokens.shape
    merged, sizes = plan.merge(tokens), plan.sizes()
    assert plan.num_tokens == num_tokens and 1 <= plan.num_merged <= num_tokens
    assert merged.shape == (batch, plan.num_merged, channels)
    assert merged.dtype == tokens.dtype
    assert sizes.shape in {(1, plan.num_merged), (batch, plan.num_merged)}
    assert not sizes.is_floating_point()
    assert (sizes >= 1).all() and (sizes.sum(1) == num_tokens).all()
    assert torch.isfinite(merged).all()

    # the mean of all tokens is that of the merged ones, weighted by what they stand for
    kept = (merged.double() * sizes.unsqueeze(-1)).sum(1) / num_tokens
    slack = rounding(tokens, int(sizes.max()) if batch else 1)
    assert ((kept - tokens.double().mean(1, keepdim=True)[:, 0]).abs() <= slack[:, 0]).all()

    # a merged token lies between the smallest and the largest one
    wide = tokens.double()
    assert (merged <= wide.amax(1, keepdim=True) + slack).all()
    assert (merged >= wide.amin(1, keepdim=True) - slack).all()

    copied = plan.unmerge(merged)
    assert copied.shape == tokens.shape and copied.dtype == tokens.dtype
    # every token gets one of the merged ones, and what is merged again stays
    assert ((plan.merge(copied).double() - merged.double()).abs() <= slack).all()


def rounding(tokens: Tensor, terms: int) -> Tensor:
    """How wrong the mean of so many tokens may be, (B, 1, C); halves are added in float32."""
    info = torch.finfo(tokens.dtype)
    adding = info.eps if tokens.dtype == torch.float64 else torch.finfo(torch.float32).eps
    largest = tokens.double().abs().amax(1, keepdim=True)
    return (2 * info.eps + terms * adding) * largest + info.tiny


@cases(10)
@given(mergers, tokens_on_grids())
def test_groups_and_means(merger, drawn):
    tokens, grid = drawn
    plan = merger.plan(tokens, grid)
    check_plan(plan, tokens)
    assert torch.equal(merger.plan(tokens, grid).sizes(), plan.sizes())


@cases(2)
@given(mergers, tokens_on_grids(dtypes=PRECISE))
def test_any_other_tensor_of_the_grid(merger, drawn):
    """A plan is made from some tokens and applied to others."""
    tokens, grid = drawn
    plan = merger.plan(tokens, grid)
    for channels in (1, 5):
        check_plan(plan, random(0, len(tokens), tokens.shape[1], channels))


@cases(3)
@given(mergers, tokens_on_grids())
def test_gradients(merger, drawn):
    """Merging and copying back keeps the sum of the tokens: its gradient is one everywhere."""
    tokens, grid = drawn
    tokens = tokens.detach().requires_grad_()
    plan = merger.plan(tokens, grid)
    plan.unmerge(plan.merge(tokens)).double().sum().backward()
    epsilon = torch.finfo(tokens.dtype).eps
    assert torch.isfinite(tokens.grad).all()
    # a sum of n ones in half precision, over n
    assert ((tokens.grad.double() - 1).abs() <= max(64 * epsilon, 1e-5)).all()


@cases(2)
@given(
    mergers,
    tokens_on_grids(least_batch=1, contents=('random', 'few values')),
    st.lists(
        st.tuples(st.integers(0, 10**6), st.sampled_from([float('nan'), float('inf'), -1e9])),
        min_size=1,
        max_size=4,
    ),
)
def test_what_is_no_number_stays_in_its_group(merger, drawn, places):
    tokens, grid = drawn
    tokens = tokens.contiguous()
    flat = tokens.view(-1)
    for place, value in places:
        flat[place % len(flat)] = value  # -1e9 is infinite in half precision
    plan = merger.plan(tokens, grid)
    merged, sizes = plan.merge(tokens), plan.sizes()
    assert merged.shape == (len(tokens), plan.num_merged, tokens.shape[2])
    assert (sizes >= 1).all() and (sizes.sum(1) == tokens.shape[1]).all()
    affected = plan.merge((~torch.isfinite(tokens)).double()) > 0
    assert torch.isfinite(merged[~affected]).all()
    assert not torch.isfinite(merged[affected]).any()


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 9),
    st.floats(),
    st.floats(-0.5, 1.5),
    st.text(max_size=3),
    st.lists(st.one_of(st.integers(-1, 5), st.none(), st.floats()), max_size=3),
    st.tuples(st.integers(1, 10**12), st.integers(1, 10**12)),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
)


@cases(8)
@given(
    st.sampled_from(sorted(CLASSES)),
    st.dictionaries(st.sampled_from(['ratio', 'stride', 'seed', 'sride']), anything),
)
def test_any_argument_is_refused_by_name_or_works(kind, arguments):
    config = dict(type=kind, **arguments)
    try:
        merging = build_token_merging([dict(q=config), {}], num_stages=2)
    except TokenMergingError as error:
        message = str(error)
        assert 'stage 1, q' in message and kind in message and '\n' not in message
        wrong = [f'{name}={value!r}' for name, value in arguments.items()]
        assert any(w in message for w in (*wrong, *arguments, 'ratio'))
        return
    tokens = random(1, 2, 35, 3)
    check_plan(merging.stages[0].q.plan(tokens, (5, 7)), tokens)


@cases(1)
@given(mergers, st.lists(st.integers(0, 9), max_size=4), grids)
def test_tokens_that_do_not_lie_on_the_grid(merger, shape, grid):
    assume(len(shape) != 3 or shape[1] != grid[0] * grid[1])
    with pytest.raises(TokenMergingError, match=f'grid of {grid[0]}x{grid[1]}'):
        merger.plan(torch.zeros(shape), grid)


@cases(2)
@given(tokens_on_grids(least_batch=1), st.integers(1, 10), st.randoms(use_true_random=False))
def test_plans_of_any_groups(drawn, wanted, chance):
    """What a strategy of one's own may give to the plans of the package."""
    tokens, grid = drawn
    num_tokens = tokens.shape[1]
    num_merged = min(wanted, num_tokens)
    rows = []
    for _ in range(len(tokens)):
        row = [*range(num_merged)]
        row += [chance.randrange(num_merged) for _ in range(num_tokens - num_merged)]
        chance.shuffle(row)
        rows.append(row)
    check_plan(SlotPlan(torch.tensor(rows), num_merged), tokens)
    check_plan(CellPlan(grid, (wanted, max(1, num_merged // 2)), tokens.device), tokens)


class Bands(TokenMerger):
    """A strategy of one's own, as the README has one: bands of rows or of columns."""

    def __init__(self, width: int = 2, upright: bool = False, matched: bool = False) -> None:
        self.width, self.upright, self.matched = width, upright, matched

    def plan(self, tokens: Tensor, grid: tuple[int, int]) -> MergePlan:
        cell = (self.width, grid[1]) if self.upright else (1, self.width)
        if not self.matched:
            return CellPlan(grid, cell, tokens.device)
        # groups of another size in every image
        num_merged = max(1, tokens.shape[1] // self.width)
        order = tokens.detach().float().sum(-1).argsort(dim=1).argsort(dim=1)
        return SlotPlan(order % num_merged, num_merged)


@pytest.fixture(autouse=True, scope='module')
def bands():
    TOKEN_MERGERS.register_module(module=Bands)
    yield
    TOKEN_MERGERS.module_dict.pop('Bands')


own = st.one_of(
    st.just('Bands'),
    st.just(Bands),
    st.builds(
        dict,
        type=st.sampled_from(['Bands', Bands]),
        width=st.integers(1, 9),
        upright=st.booleans(),
        matched=st.booleans(),
    ),
)
any_strategy = st.one_of(configs, own, configs.map(lambda c: CLASSES[c['type']]).filter(
    lambda cls: cls in (NeighborMerging1d, NeighborMerging2d)
), st.none())  # fmt: skip
stage_configs = (
    st.fixed_dictionaries(
        {},
        optional=dict(
            q=any_strategy,
            kv=any_strategy,
            proportional_attention=st.sampled_from([False, True, 'sampled']),
            share=st.integers(1, 3),
        ),
    )
    .map(lambda stage: stage if stage.get('kv') else {**stage, 'proportional_attention': False})
    .filter(lambda stage: stage.get('kv') or stage.get('q') or stage.get('share', 1) == 1)
)
four_stages = st.lists(stage_configs, min_size=4, max_size=4)
merging_configs = st.one_of(
    st.sampled_from(sorted(PRESETS)),
    four_stages,
    st.builds(
        dict,
        stages=four_stages,
        downsampling=st.builds(
            dict,
            factor=st.integers(2, 3),
            mode=st.sampled_from(['nearest', 'bilinear', 'bicubic', 'area']),
        ),
    ),
)
sizes = st.tuples(st.integers(1, 140), st.integers(1, 140))


def backbone(token_merging, seed=0, **settings) -> MixVisionTransformerPlusPlus:
    torch.manual_seed(seed)
    model = MixVisionTransformerPlusPlus(**TINY, token_merging=token_merging, **settings).eval()
    for name, parameter in model.named_parameters():
        is_norm = name.endswith('weight') and parameter.dim() == 1
        torch.nn.init.normal_(parameter, mean=float(is_norm), std=0.2)
    return model


def forward_or_too_small(model, image):
    """The features, or None where the image is smaller than the model can take, which it says."""
    height, width = image.shape[2:]
    if model.token_merging.downsampling:
        factor = model.token_merging.downsampling.factor
        height, width = (max(1, side // factor) for side in (height, width))
    try:
        features = model(image)
    except SegformerPlusPlusError as error:
        assert f'{height}x{width} is too small' in str(error)
        assert min(height, width) < 29  # what four stages with these strides and reductions need
        return None
    assert min(height, width) >= 29
    assert [f.shape[2:] for f in features] == [
        torch.Size(grid) for grid in model.grids(height, width)
    ]
    return features


@cases(1)
@given(merging_configs, sizes, st.integers(1, 2))
def test_chunked_backbone_is_the_backbone(token_merging, size, batch):
    """Both ways through a block are equal, in a precision in which no matching is a near tie."""
    model, image = backbone(token_merging).double(), random(3, batch, 3, *size)
    features = []
    for enabled in (True, False):
        with torch.inference_mode(), chunked(enabled):
            features.append(forward_or_too_small(model, image))
    if features[0] is not None:
        for actual, expected in zip(*features, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)


@cases(0.6)
@given(merging_configs, sizes, st.booleans(), st.booleans())
def test_backbone_trains(token_merging, size, with_cp, autocast):
    model = backbone(token_merging, with_cp=with_cp, drop_path_rate=0.1).train()
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        features = forward_or_too_small(model, random(4, 2, 3, *size).float())
    if features is not None:
        sum(f.float().square().mean() for f in features).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())


IMAGES = {
    'black': lambda x: x * 0,
    'one colour': lambda x: x * 0 + 1.7,
    'stripes': lambda x: x * 0 + torch.arange(x.shape[3]) % 2,
    'noise': lambda x: x,
    'saturated': lambda x: x.sign() * 255,
    'not contiguous': lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    'channels last': lambda x: x.contiguous(memory_format=torch.channels_last),
}


@cases(0.6)
@given(
    merging_configs,
    sizes,
    st.sampled_from(sorted(IMAGES)),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_backbone_gives_numbers(token_merging, size, image, dtype):
    model = backbone(token_merging).to(dtype)
    with torch.inference_mode():
        features = forward_or_too_small(model, IMAGES[image](random(5, 1, 3, *size)).to(dtype))
    if features is not None:
        assert all(torch.isfinite(f).all() and f.dtype == dtype for f in features)


@cases(0.3)
@given(merging_configs, sizes, st.sampled_from([float('nan'), float('inf')]))
def test_an_image_with_a_broken_pixel_is_no_crash(token_merging, size, value):
    image = random(6, 2, 3, *size).float()
    image[0, 1, size[0] // 2, size[1] // 2] = value
    with torch.inference_mode():
        features = forward_or_too_small(backbone(token_merging), image)
    if features is not None:
        assert all(torch.isfinite(f[1]).all() for f in features)  # the other image of the batch


@cases(0.5)
@given(st.lists(merging_configs, min_size=2, max_size=4))
def test_changing_the_strategy_is_building_with_it(token_mergings):
    model = backbone(token_mergings[0])
    image = random(7, 1, 3, 70, 61).float()
    for token_merging in token_mergings[1:]:
        model.set_token_merging(token_merging)
    with torch.inference_mode():
        features = forward_or_too_small(model, image)
        expected = forward_or_too_small(backbone(token_mergings[-1]), image)
    assert (features is None) == (expected is None)
    for one, other in zip(features or [], expected or [], strict=True):
        assert torch.equal(one, other)


@st.composite
def tome_sides(draw):
    """One side of a stage in the original spelling and in ours."""
    mode = draw(st.sampled_from([None, 'bsm', 'n1d', 'n2d']))
    if mode is None:
        return draw(st.sampled_from([{}, dict(mode=None)])), None
    if mode == 'n1d':
        stride = draw(st.integers(1, 9))
        return dict(mode=mode, s=stride), dict(type='NeighborMerging1d', stride=stride)
    if mode == 'n2d':
        stride = draw(strides)
        return dict(mode=mode, s=stride), dict(type='NeighborMerging2d', stride=stride)
    ratio, stride = draw(settings_2d()).values()
    rows, columns = (stride, stride) if isinstance(stride, int) else stride
    ours = dict(type='BipartiteSoftMatching2d', ratio=ratio, stride=(rows, columns))
    return dict(mode=mode, r=ratio, sy=rows, sx=columns), ours


def prefixed(q: dict, kv: dict) -> dict:
    return {f'{side}_{k}': v for side, d in (('q', q), ('kv', kv)) for k, v in d.items()}


tome_stages = st.tuples(tome_sides(), tome_sides())


@cases(2)
@given(st.lists(tome_stages, min_size=1, max_size=5))
def test_original_spelling_is_ours(stages):
    theirs = [prefixed(q[0], kv[0]) for q, kv in stages]
    ours = [dict(q=q[1], kv=kv[1]) for q, kv in stages]
    number = len(stages)
    actual = build_token_merging(read_tome_cfg(theirs), number)
    assert repr(actual) == repr(build_token_merging(ours, number))


@cases(3)
@given(
    st.lists(tome_stages, min_size=1, max_size=4),
    st.integers(0, 3),
    st.sampled_from([f'{s}_{k}' for s in ('q', 'kv') for k in ('mode', 'r', 'sx', 'sy', 's', 'x')]),
    st.one_of(st.just(...), anything),
)
def test_original_spelling_with_a_mistake(stages, at, key, value):
    """One key of one stage deleted (...), added or changed: an error with its stage, or a model."""
    theirs = [prefixed(q[0], kv[0]) for q, kv in stages]
    at %= len(theirs)
    if value is ...:
        theirs[at].pop(key, None)
    else:
        theirs[at][key] = value
    try:
        merging = build_token_merging(read_tome_cfg(theirs), len(stages))
    except TokenMergingError as error:
        assert f'stage {at + 1}' in str(error) and '\n' not in str(error)
        assert key.split('_')[0] in str(error)
        return
    tokens = random(8, 1, 42, 2)
    for stage in merging.stages:
        for merger in (stage.q, stage.kv):
            if merger is not None:
                check_plan(merger.plan(tokens, (6, 7)), tokens)


@cases(0.5)
@given(seeds, settings_2d(), grids)
def test_seeded_destinations_are_the_same_every_time(seed, arguments, grid):
    merger = CLASSES['TomesdMatching'](**arguments, seed=seed)
    tokens = random(9, 1, grid[0] * grid[1], 4)
    before = torch.random.get_rng_state()
    plans = [merger.plan(tokens, grid) for _ in range(2)]
    assert torch.equal(*(plan.merge(tokens) for plan in plans))
    assert torch.equal(before, torch.random.get_rng_state())  # nobody else's numbers change
