"""The picture of a benchmark."""

import numpy as np
import pytest
from PIL import Image

from segformer_plusplus import SegformerPlusPlusError
from segformer_plusplus.evaluation import plots as benchmark_plot
from segformer_plusplus.evaluation.plots import check_plot_path, draw_benchmark


def run(size, batch_size=1, **more):
    results = [
        dict(name=name, median_seconds=s, quartiles_seconds=(0.9 * s, 1.2 * s), **more)
        for name, s in {'mmseg': 2e-6 * size**2, 'none': 1e-6 * size**2}.items()
    ]
    return dict(shape=(size, size), batch_size=batch_size, threads=1, results=results)


@pytest.fixture
def axes(monkeypatch):
    """All axes that were drawn into."""
    drawn = []
    for name in ('_draw_bars', '_draw_lines'):
        function = getattr(benchmark_plot, name)

        def spy(axis, *args, function=function):
            function(axis, *args)
            drawn.append(axis)

        monkeypatch.setattr(benchmark_plot, name, spy)
    return drawn


def test_bars_of_stages(tmp_path, axes):
    stages = dict(backbone=0.01, head=0.002, labels=0.001)
    draw_benchmark(tmp_path / 'new' / 'a.png', [run(128, stages=stages)], 'A title')
    (axis,) = axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ['mmseg', 'none']
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([10, 10, 2, 2, 1, 1])
    assert axis.get_legend() is not None
    image = np.asarray(Image.open(tmp_path / 'new' / 'a.png').convert('L'))
    assert image.min() < 100 and [path.name for path in (tmp_path / 'new').iterdir()] == ['a.png']


def test_bars_without_stages(tmp_path, axes):
    draw_benchmark(tmp_path / 'a.svg', [run(128)])
    (axis,) = axes
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([32.768, 16.384])
    assert (tmp_path / 'a.svg').read_text().startswith('<?xml')


def test_lines_over_sizes_one_panel_a_batch_size(tmp_path, axes):
    runs = [run(512), run(128), run(256), run(128, 4), run(256, 4), dict(run(64), results=[])]
    draw_benchmark(tmp_path / 'a.png', runs)
    assert [axis.get_title() for axis in axes] == ['batch 1, 1 thread', 'batch 4, 1 thread']
    lines = {line.get_label(): line for line in axes[0].get_lines()}
    assert list(lines) == ['mmseg', 'none']
    assert list(lines['none'].get_xdata()) == [128**2, 256**2, 512**2]
    assert list(lines['none'].get_ydata()) == pytest.approx([16.384, 65.536, 262.144])
    assert axes[0].get_xscale() == axes[0].get_yscale() == 'log'
    assert [label.get_text() for label in axes[0].get_xticklabels()] == [
        '128x128', '256x256', '512x512',
    ]  # fmt: skip


@pytest.mark.parametrize('name', ['a.doc', 'a'])
def test_an_unknown_suffix_is_refused(name):
    with pytest.raises(SegformerPlusPlusError, match=f'{name}: a plot cannot.*\\.png'):
        check_plot_path(name)


def test_nothing_to_draw(tmp_path):
    with pytest.raises(SegformerPlusPlusError, match='no run has results'):
        draw_benchmark(tmp_path / 'a.png', [dict(run(64), results=[])])
