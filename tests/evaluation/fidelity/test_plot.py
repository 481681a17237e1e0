"""The picture: its front, its labels, and what cannot be drawn."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.evaluation.fidelity.measuring import FidelityRow
from segformer_plusplus.evaluation.fidelity.report import FidelityReport, draw_fidelity, find_front
from segformer_plusplus.evaluation.plots import LabelledPoint, label_points


@pytest.mark.parametrize('higher', [True, False])
@pytest.mark.parametrize('seed', range(3))
def test_the_front_by_brute_force(seed, higher):
    random = np.random.default_rng(seed)
    points = {str(k): tuple(random.integers(0, 6, 2)) for k in range(12)}
    front = find_front(points, higher)
    sign = 1 if higher else -1

    def beats(one, other):
        (x, y), (u, v) = points[one], points[other]
        better = x >= u and sign * y >= sign * v
        return better and (x > u or sign * y > sign * v)

    expected = {points[a] for a in points if not any(beats(b, a) for b in points)}
    assert {points[name] for name in front} == expected
    assert [points[name][0] for name in front] == sorted({x for x, _ in expected})


@pytest.mark.parametrize('spread', [1.0, 0.05])
def test_labels_cover_neither_each_other_nor_points(spread):
    random = np.random.default_rng(1)
    points = [
        LabelledPoint(1 + spread * x, 70 + spread * y, f'strategy-{k}')
        for k, (x, y) in enumerate(random.random((8, 2)))
    ]
    points.append(LabelledPoint(3, 72, 'far'))
    figure = Figure(figsize=(7.5, 4.6), layout='constrained')
    axis = figure.subplots()
    axis.scatter([p.x for p in points], [p.y for p in points])
    axis.margins(0.2)
    label_points(axis, points)
    figure.draw_without_rendering()
    assert sorted(text.get_text() for text in axis.texts) == sorted(p.label for p in points)
    boxes = [Text.get_window_extent(text) for text in axis.texts]  # without their leaders
    places = axis.transData.transform([(p.x, p.y) for p in points])
    if spread == 1.0:
        assert not any(box.contains(*place) for box in boxes for place in places)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def report(rows):
    return FidelityReport(tuple(rows), 'mIoU', 'caption')


def row(name, values, speed_up):
    return FidelityRow(name, name, values, None, 1.0, (1.0, 1.0), speed_up)


@pytest.mark.parametrize('suffix', ['png', 'svg', 'pdf'])
def test_it_is_drawn(tmp_path, suffix):
    path = tmp_path / 'new' / f'plot.{suffix}'
    rows = [row('none', {'mIoU': 70.0, 'mIoU_fine': 50.0, 'changed': 0.0}, 1.0),
            row('hq', {'mIoU': 69.0, 'mIoU_fine': 49.0, 'changed': 2.0}, 1.5),
            row('fast', {}, 2.0), row('2x2', {'mIoU': 69.0, 'changed': 2.0}, None)]  # fmt: skip
    draw_fidelity(path, report(rows), 'title')
    assert path.stat().st_size > 1000
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_every_measure_has_its_panel(tmp_path, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, 'savefig', lambda self, *a, **k: figures.append(self) or save(self, *a, **k)
    )
    rows = [row('none', {'mIoU': 70.0, 'changed': 0.0}, 1.0),
            row('a', {'mIoU': 69.9, 'changed': 0.01}, 1.5),
            row('b', {'mIoU': 40.0, 'changed': 30.0}, 4.0)]  # fmt: skip
    draw_fidelity(tmp_path / 'plot.png', report(rows))
    accuracy, changes = figures[0].axes
    assert accuracy.get_ylabel() == 'mIoU in %'
    # small and large changes are apart, and no change is at the top
    places = [changes.transData.transform((1, value))[1] for value in (0.0, 0.01, 30.0)]
    height = changes.bbox.height
    assert places[0] - places[1] > 0.1 * height and places[1] - places[2] > 0.3 * height


def test_nothing_to_draw(tmp_path):
    with pytest.raises(SegformerPlusPlusError, match='no strategy was both timed and tested'):
        draw_fidelity(tmp_path / 'a.png', report([row('none', {'mIoU': 1.0}, None)]))
    with pytest.raises(SegformerPlusPlusError, match="'doc'"):
        draw_fidelity(tmp_path / 'a.doc', report([]))
