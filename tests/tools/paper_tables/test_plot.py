"""The picture: its panels, whether ours and the paper's share them."""

import io

import pytest
from matplotlib.figure import Figure

from tools.paper_tables.plot import Point, draw_points

POINTS = [Point('none', 1.0, 40.0, ours=True), Point('none', 1.0, 82.0, ours=False)]


@pytest.mark.parametrize('apart, columns', [(None, 1), ('other data', 2)])
def test_what_cannot_be_compared_has_panels_of_its_own(monkeypatch, apart, columns):
    figures = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, 'savefig', lambda self, *a, **k: figures.append(self) or savefig(self, *a, **k)
    )
    stream = io.BytesIO()
    draw_points(
        stream, {'mIoU': POINTS, 'AP': POINTS}, 'title', ('us', 'them'), 'speed-up', apart=apart
    )
    assert stream.getvalue().startswith(b'\x89PNG')
    (figure,) = figures
    assert len(figure.axes) == 2 * columns
    shown = [len([c for c in axis.collections if len(c.get_offsets())]) for axis in figure.axes]
    assert shown == [2 // columns] * 2 * columns
    assert ('other data' in figure.get_suptitle()) == (apart is not None)
