"""One graph of a matching is right for every size, and its counts are those of eager floats."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from export_models import check_close, randomise, segmentor_config
from inference.tiny import build_model
from torch import nn
from torch.export import Dim

from segformer_plusplus import MixVisionTransformerPlusPlus, SegformerPlusPlusError
from segformer_plusplus.export import check_export, export_model
from segformer_plusplus.export.description import describe_export
from segformer_plusplus.export.formats import FORMATS, openvino_core
from segformer_plusplus.export.graph import ExportGraph, trace
from segformer_plusplus.export.options import ExportOptions, _sides, smallest_side
from segformer_plusplus.token_merging import (
    BipartiteSoftMatching1d,
    BipartiteSoftMatching2d,
    TomesdMatching,
)
from segformer_plusplus.token_merging.base import image_to_tokens
from segformer_plusplus.token_merging.bipartite import exact_share


@pytest.mark.parametrize('ratio', [k / 100 for k in range(100)] + 40 * ['three digits'])
def test_whole_numbers_round_as_floats_do(ratio):
    """Or the ratio is refused, and, if it is of two digits, some number of tokens shows why."""
    if ratio == 'three digits':  # here, as all processes of a run have to name the same tests
        ratio = float(f'0.{np.random.default_rng().integers(1000):03d}')
    random = np.random.default_rng().integers(2**21, size=20_000)
    tokens = np.concatenate([np.arange(2**16), random])
    in_floats = (tokens * ratio).astype(np.int64)
    try:
        share = exact_share(ratio)
    except SegformerPlusPlusError:
        digits = round(ratio * 100)
        assert digits / 100 != ratio or (in_floats != tokens * digits // 100).any()
    else:
        products = tokens * share.numerator
        assert products.max() < 2**31, 'OpenVINO computes in 32 bits'
        np.testing.assert_array_equal(products // share.denominator, in_floats)


class _Plan(nn.Module):
    """Has a grid of half the image, as from a patch embedding."""

    def __init__(self, merger):
        super().__init__()
        self.merger = merger

    def forward(self, image):
        image = F.max_pool2d(image, 3, 2, padding=1)
        plan = self.merger.plan(tokens := image_to_tokens(image), tuple(image.shape[2:]))
        return plan.unmerge(plan.merge(tokens)), plan.sizes()


@pytest.mark.parametrize(
    'merger',
    [
        BipartiteSoftMatching2d(0.6, 2),
        BipartiteSoftMatching2d(0.88, 3),
        BipartiteSoftMatching2d(0.37, (2, 5)),
        BipartiteSoftMatching2d(0.01, 2),
        BipartiteSoftMatching2d(0.0, 2),
        BipartiteSoftMatching1d(0.3),
    ],
    ids=repr,
)
def test_a_plan_for_every_grid(merger):
    """The traced module itself refuses a grid for which something that it took for given is not."""
    plan, least = _Plan(merger).eval(), max(2, _sides(merger)[1])
    axes = {axis: 2 * Dim(name, min=least) for axis, name in ((2, 'h'), (3, 'w'))}
    example = torch.randn(2, 5, 2 * least + 2, 2 * least + 6, dtype=torch.float64)
    traced = torch.export.export(plan, (example,), dynamic_shapes=(axes,), strict=False).module()
    # the smallest grids, where branches would differ, and some others
    grids = [*product(range(least, least + 4), repeat=2)]
    grids += np.random.default_rng().integers(least, least + 40, (10, 2)).tolist()
    for height, width in grids:
        image = torch.randn(2, 5, 2 * height, 2 * width, dtype=torch.float64)
        (means, sizes), (expected, counted) = traced(image), plan(image)
        torch.testing.assert_close(means, expected)
        if merger.ratio:
            assert sizes.shape == counted.shape
            assert torch.equal(sizes.sort().values, counted.sort().values)


def matching(ratio, stride):
    return dict(type='BipartiteSoftMatching2d', ratio=ratio, stride=stride)


@pytest.fixture(scope='module')
def model():
    """One stage, with everything that depends on how many tokens there are."""
    config = segmentor_config()
    config['backbone'].update(
        num_stages=1, num_layers=[1], num_heads=[1], patch_sizes=[7], strides=[4], sr_ratios=[8],
        out_indices=[0],
        token_merging=[
            dict(q=matching(0.6, 2), kv=matching(0.8, 3), proportional_attention='sampled')
        ],
    )  # fmt: skip
    config['decode_head'].update(in_channels=[8], in_index=[0])
    return randomise(build_model(config))


@pytest.fixture(scope='module')
def files(model, tmp_path_factory):
    """Traces once and translates to ONNX once, which takes longest, for all formats."""
    least, folder = smallest_side(model.backbone), tmp_path_factory.mktemp('dynamic')
    assert least == 192, 'two cells of three tokens, of which each is 32 pixels'
    options = {
        name: ExportOptions(name, (least, least + 32), dynamic_size=True) for name in FORMATS
    }
    metadata = {name: describe_export(model, each, None) for name, each in options.items()}
    paths = {name: folder / f'a{each.suffix}' for name, each in FORMATS.items()}
    program = trace(ExportGraph(model, options['onnx']).eval())
    for name in ('torch-export', 'onnx'):
        graph = FORMATS[name].convert(program, metadata[name])
        FORMATS[name].write(graph, paths[name], metadata[name])
    graph = openvino_core().read_model(paths['onnx'])
    FORMATS['openvino'].write(graph, paths['openvino'], metadata['openvino'])
    return paths


SMALLEST = {'none': 64, '2x2': 128, 'weighted': 192, 'hq': 256, 'fast': 256, 'weighted-fast': 352}


@pytest.mark.parametrize('preset', SMALLEST)
def test_the_smallest_side_of_a_preset(preset):
    backbone = MixVisionTransformerPlusPlus('b0', token_merging=preset)
    assert smallest_side(backbone) == SMALLEST[preset], 'docs/deployment.md says so'


@pytest.mark.parametrize('name', FORMATS)
def test_every_size_in_every_format(files, model, name):
    path, least = files[name], smallest_side(model.backbone)
    assert {len(check.shapes) for check in check_export(path, model)} == {3}
    sizes = 32 * np.random.default_rng().integers(least // 32, least // 32 + 9, (4, 2))
    sizes[0] = least
    for run in FORMATS[name].runners(path).values():
        for size in sizes.tolist():
            images = torch.randn(1, 3, *size)
            check_close(run(images).numpy(), model, images)


@pytest.mark.parametrize(
    ('merger', 'message'),
    [
        (BipartiteSoftMatching2d(0.7, 2), 'ratio=0.7: no fraction of small whole numbers'),
        (BipartiteSoftMatching2d(0.75, 2), 'every source of some sizes'),
        (BipartiteSoftMatching1d(0.5), 'every source of some sizes'),
        (TomesdMatching(0.6, 2), 'no graph is known to be right for TomesdMatching'),
    ],
    ids=repr,
)
def test_what_no_graph_can_do_is_refused(tmp_path, model, merger, message):
    with pytest.raises(SegformerPlusPlusError, match=f'dynamic_size: .*{message}'):
        export_model(
            model, tmp_path / 'a.onnx', shape=(256, 256), dynamic_size=True,
            token_merging=[dict(kv=merger)],
        )  # fmt: skip
    assert not list(tmp_path.iterdir())
