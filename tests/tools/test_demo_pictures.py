"""Tables and pictures, and the README's table."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segformer_plusplus import SegformerPlusPlusError
from tools.demos.comparison import draw_comparison
from tools.demos.skeletons import PosedPerson, _caption, draw_skeletons
from tools.demos.table import Row, StrategyTable
from tools.paper_tables.paper import PAPER_TABLES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def table():
    return StrategyTable(
        rows=(
            Row('none', {'miou': 70.5}, 1.0, 900.4),
            Row('hq', {'miou': 70.25}, 1.5, 600.2),
            Row('mine', {'miou': 60.0}, 2, 450),
        ),
        caption='A caption.',
        commands=('python a.py',),
        paper_table='cityscapes_inference',
    )


def test_markdown(table):
    lines = table.to_markdown().splitlines()
    assert lines[0] == (
        '| strategy | mIoU | change | speed-up | ms / image | paper mIoU | paper speed-up |'
    )
    assert lines[2] == '| none | 70.50 | +0.00 | 1.00 | 900 | 82.39 | 1.00 |'
    assert lines[3] == '| hq | 70.25 | -0.25 | 1.50 | 600 | 82.31 | 1.61 |'
    assert lines[4] == '| mine | 60.00 | -10.50 | 2.00 | 450 |  |  |'
    assert lines[-1] == 'A caption.'


def test_markdown_with_two_accuracies():
    rows = (
        Row('none', {'pck_0.1': 90.0, 'pck_0.05': 70.0}, 1.0, 200),
        Row('hq', {'pck_0.1': 89.5, 'pck_0.05': 71.0}, 1.1, 180),
    )
    lines = StrategyTable(rows, 'A caption.', (), 'jbd_training').to_markdown().splitlines()
    assert lines[0].startswith('| strategy | PCK@0.1 | change | PCK@0.05 | change | speed-up |')
    assert lines[0].endswith('| paper PCK@0.1 | paper PCK@0.05 | paper speed-up |')
    assert lines[3] == (
        '| hq | 89.50 | -0.50 | 71.00 | +1.00 | 1.10 | 180 | 95.18 | 90.51 | 1.19 |'
    )


def test_changes_are_those_of_the_numbers_shown():
    rows = (Row('none', {'miou': 70.004}, 1.0, 9), Row('hq', {'miou': 70.0035}, 1.0, 9))
    rows += (Row('fast', {'miou': 69.996}, 1.0, 9), Row('2x2', {'miou': 69.994}, 1.0, 9))
    table = StrategyTable(rows, '', (), 'cityscapes_inference')
    changes = [line.split(' | ')[2] for line in table.to_markdown().splitlines()[2:6]]
    assert changes == ['+0.00', '+0.00', '+0.00', '-0.01']


def test_json_round_trip(table):
    content = json.loads(json.dumps(dict(table.to_json(), environment={'cpu': 'x'})))
    assert StrategyTable.from_json(content) == table


def test_terminal(table):
    console = Console(record=True, width=120, file=open('/dev/null', 'w'))
    console.print(table.to_rich())
    assert '70.25' in console.export_text()


def test_paper_rows_have_one_set_of_columns():
    for rows in PAPER_TABLES.values():
        assert set(rows) >= {'none', 'hq', 'fast', '2x2'}
        assert len({tuple(row) for row in rows.values()}) == 1
        assert rows['none']['speed_up'] == 1.0


@pytest.mark.parametrize('demo', ['segmentation', 'pose'])
def test_readme_shows_the_table_that_the_demo_wrote(demo):
    content = json.loads((ROOT / f'docs/demo/{demo}.json').read_text())
    table = StrategyTable.from_json(content).to_markdown()
    assert table.strip() in (ROOT / 'README.md').read_text()


def test_comparison_picture(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    truth = np.zeros((64, 128), np.uint8)
    truth[0] = 255
    first, second = truth % 2, truth % 2
    second = second.copy()
    second[:32] = 1
    path = tmp_path / 'comparison.png'
    palette = [(10, 20, 30), (200, 0, 0)]
    draw_comparison(path, image, truth, {'none': first, 'hq': second}, ['a', 'b'], palette, 'x')
    picture = np.asarray(Image.open(path).convert('RGB'))
    assert picture.shape[1] > 1000
    for colour in ((10, 20, 30), (200, 0, 0), (255, 40, 40)):
        assert (picture == colour).all(-1).any(), colour
    assert [p.name for p in tmp_path.iterdir()] == ['comparison.png']


def test_comparison_needs_two_predictions_of_one_size(tmp_path):
    image, labels = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
    with pytest.raises(SegformerPlusPlusError, match='at least two'):
        draw_comparison(tmp_path / 'a.png', image, labels, {'none': labels}, [], [])
    with pytest.raises(SegformerPlusPlusError, match=r'hq is \(2, 6\)'):
        wrong = {'none': labels, 'hq': labels[:2]}
        draw_comparison(tmp_path / 'a.png', image, labels, wrong, [], [])


def person(**skeletons):
    image = np.full((80, 60, 3), 90, np.uint8)
    visible = np.array([True, True, False])
    arrays = {name: np.asarray(points, float) for name, points in skeletons.items()}
    return PosedPerson(image, (10, 10, 50, 70), visible, arrays)


def test_picture_of_skeletons(tmp_path):
    truth, wrong = [(20, 20), (40, 60), (0, 0)], [(20, 24), (40, 53), (30, 30)]
    path = tmp_path / 'skeletons.png'
    colours = [(255, 40, 40), (40, 255, 40)]
    one = person(truth=truth, hq=wrong)
    draw_skeletons(path, [one] * 2, [(0, 1), (1, 2)], colours, [(0, 0, 255)] * 3, 'x')
    picture = np.asarray(Image.open(path).convert('RGB'))
    assert (picture == colours[0]).all(-1).any(), 'the limb between annotated keypoints'
    assert not (picture == colours[1]).all(-1).any(), 'a limb to one that is not annotated'
    assert [p.name for p in tmp_path.iterdir()] == ['skeletons.png']
    # the longer side of the box is 60: 4 pixels are within 6, 7 are not
    assert _caption(one, 'hq') == 'hq: 1 of 2 within 10 %'


def test_picture_of_skeletons_needs_the_same_ones_for_all(tmp_path):
    points = [(0, 0)] * 3
    for people in ([], [person(truth=points), person(truth=points, hq=points)]):
        with pytest.raises(SegformerPlusPlusError, match='the same ones'):
            draw_skeletons(tmp_path / 'a.png', people, [], [], [])
