"""Tables of results and their plots: cells, JSON, Markdown, terminal, front, benchmark."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from PIL import Image
from rich.console import Console

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.evaluation.benchmark.report import (
    break_even_lines,
    check_lines,
    result_table,
    run_title,
    stage_table,
)
from segformer_plusplus.evaluation.fidelity import measure_fidelity
from segformer_plusplus.evaluation.plots import (
    Panel,
    Point,
    Series,
    check_plot_path,
    draw_benchmark,
    draw_panels,
    draw_table,
)
from segformer_plusplus.evaluation.results import (
    MEMORY,
    MILLISECONDS,
    SPEED_UP,
    SPREAD,
    Column,
    ResultsTable,
    Row,
    find_front,
    measure_columns,
    spread,
)
from segformer_plusplus.evaluation.timing import Timing

BASE = Timing((0.2, 0.2, 0.2))
ROWS = [
    Row.timed('none', BASE, BASE, values={'mIoU': 70.006, 'changed': 0.0}),
    Row.timed(
        'hq',
        Timing((0.08, 0.05, 0.06)),
        BASE,
        values={'mIoU': 70.004, 'changed': 0.1234},
        peak_memory_bytes=3 * 2**20,
        token_merging={'stages': [{}]},
        more={'gflops': 7.5},
    ),
    Row('fast', error='out of memory'),
]
TABLE = ResultsTable(
    ROWS,
    [*measure_columns(ROWS, 'mIoU'), MILLISECONDS, SPEED_UP],
    caption='A caption.',
    command='do it',
    more={'left_out': {}},
)


def test_a_row_of_times():
    assert ROWS[1].median_seconds == 0.06
    assert ROWS[1].quartiles_seconds == pytest.approx((0.055, 0.07))
    assert ROWS[1].speed_up == pytest.approx(0.2 / 0.06)
    assert Row.timed('a', None, BASE) == Row('a') and Row.timed('a', BASE, None).speed_up is None


def test_markdown():
    assert TABLE.to_markdown().splitlines() == [
        '| preset | mIoU | change | changed % | ms | speed-up |',
        '| --- | ---: | ---: | ---: | ---: | ---: |',
        '| none | 70.01 | +0.00 | 0.000 | 200 | 1.00 |',
        '| hq | 70.00 | -0.01 | 0.123 | 60.0 | 3.33 |',
        '| fast | - | - | - | - | - |',
        '',
        'A caption.',
        '',
        '    do it',
    ]


def test_a_column_of_ones_own_and_one_that_is_empty():
    own = Column('GFLOP', lambda row, _: row.more.get('gflops'), digits=1)
    less = Column('less', lambda row, base: None if row is base else 'yes')
    gone = Column('gone', lambda row, _: None, drop_if_empty=True)
    table = replace(TABLE, columns=[own, gone, MEMORY, SPREAD, less], head='model')
    assert table.header == ['model', 'GFLOP', 'MiB', 'ms (quartiles)', 'less']
    assert table.cells == [
        ['none', '-', '-', '200 (200-200)', '-'],
        ['hq', '7.5', '3', '60.0 (55.0-70.0)', 'yes'],
        ['fast', '-', '-', '-', 'yes'],
    ]


def test_the_terminal_says_the_same_in_80_columns(capsys):
    Console(width=80).print(replace(TABLE, title='Title').to_rich())
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == 'Title' and max(map(len, lines)) <= 80
    cells = [[c.strip() for c in line.split('│')[1:-1]] for line in lines if line.startswith('│')]
    assert cells == TABLE.cells


def test_the_terminal_cuts_no_name_and_no_number(capsys):
    names = [f'PCK@0.{digits}' for digits in ('1', '05', '25', '123', '987')]
    row = Row.timed('none', BASE, BASE, values=dict.fromkeys(names, 12.3456))
    table = ResultsTable([row], [c for name in names for c in measure_columns([row], name)])
    Console(width=80).print(table.to_rich())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split(mark)[1:-1] for mark in '┃│' for line in lines if line.startswith(mark)]
    whole = [''.join(part.strip() for part in parts) for parts in zip(*rows, strict=True)]
    assert whole[1:] == [
        f'{label}{cell}' for label, cell in zip(table.header[1:], table.cells[0][1:], strict=True)
    ]


def test_json_and_back():
    content = json.loads(json.dumps(TABLE.to_json()))
    assert content['caption'] == 'A caption.' and content['left_out'] == {}
    assert content['rows'][1]['gflops'] == 7.5
    again = [Row.from_json(row) for row in content['rows']]
    assert replace(TABLE, rows=again).cells == TABLE.cells and again[1].more == {'gflops': 7.5}
    old = {'strategy': 'hq', 'token_merging': 'hq', 'values': {}, 'drop': None}
    assert Row.from_json(old) == Row('hq', 'hq')


@pytest.mark.parametrize(
    ('median', 'text'),
    [(0.4021, '402 (395-410)'), (0.0402, '40.2 (39.5-41.0)'), (0.00402, '4.02 (3.95-4.10)')],
)
def test_spread(median, text):
    assert spread(median, (median * 0.9825, median * 1.02)) == text


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


@pytest.fixture
def figures(monkeypatch):
    """All figures that were saved."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, 'savefig', lambda self, *a, **k: saved.append(self) or save(self, *a, **k)
    )
    return saved


def test_names_cover_neither_each_other_nor_points(tmp_path, figures):
    random = np.random.default_rng(1)
    points = [
        Point(1 + x, 70 + y, f'strategy-{k}') for k, (x, y) in enumerate(random.random((8, 2)))
    ]
    draw_panels(tmp_path / 'a.png', [Panel('mIoU', [Series(points)])])
    (axis,) = figures[0].axes
    figures[0].draw_without_rendering()
    texts = [text for text in axis.texts if not isinstance(text, Annotation) and text.get_text()]
    assert sorted(text.get_text() for text in texts) == sorted(p.name for p in points)
    boxes = [Text.get_window_extent(text) for text in texts]
    places = axis.transData.transform([(p.x, p.y) for p in points])
    assert not any(box.contains(*place) for box in boxes for place in places)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize('suffix', ['png', 'pdf'])
def test_a_table_is_drawn(tmp_path, suffix, figures):
    rows = [Row('none', values={'mIoU': 70.0, 'changed': 0.0}, speed_up=1.0),
            Row('a', values={'mIoU': 69.9, 'changed': 0.01}, speed_up=1.5),
            Row('b', values={'mIoU': 40.0, 'changed': 30.0}, speed_up=4.0),
            Row('fast', speed_up=2.0), Row('2x2', values={'mIoU': 1.0})]  # fmt: skip
    draw_table(tmp_path / 'new' / f'plot.{suffix}', replace(TABLE, rows=rows), 'title')
    (path,) = (tmp_path / 'new').iterdir()
    assert path.stat().st_size > 1000
    accuracy, changes = figures[0].axes
    assert accuracy.get_ylabel() == 'mIoU in %'
    # small and large changes are apart, and no change is at the top
    places = [changes.transData.transform((1, value))[1] for value in (0.0, 0.01, 30.0)]
    height = changes.bbox.height
    assert places[0] - places[1] > 0.1 * height and places[1] - places[2] > 0.3 * height


def test_beyond_the_limit_nothing_is_shown(tmp_path, figures):
    series = Series([Point(1, 0, 'a'), Point(2, 1, 'b', 0.1, 0.2), Point(3, 50, 'c')], line='-')
    panel = Panel('drop', [series], less_is_better=True, y_limit=2.0, limits={'y': 1.5})
    draw_panels(tmp_path / 'a.png', [panel])
    (axis,) = figures[0].axes
    bottom, top = axis.get_ylim()
    assert 2 < bottom < 3 and -1 < top < 0
    left, right = axis.get_xlim()
    assert 0.9 < left < 1 and 2 < right < 2.1
    assert sorted(text.get_text() for text in axis.texts if text.get_text()) == ['a', 'b']


def test_nothing_to_draw(tmp_path):
    with pytest.raises(SegformerPlusPlusError, match='no preset was both timed and tested'):
        draw_table(tmp_path / 'a.png', replace(TABLE, rows=[Row('none', values={'mIoU': 1.0})]))
    with pytest.raises(SegformerPlusPlusError, match='no run has results'):
        draw_benchmark(tmp_path / 'a.png', [run(64, {})])
    for draw in (check_plot_path, lambda path: draw_table(path, TABLE)):
        for name in ('a.doc', 'a'):
            with pytest.raises(SegformerPlusPlusError, match=f'{name}: a plot cannot.*\\.png'):
                draw(name)


def result(name, ms, **more):
    seconds = ms / 1e3
    return dict(
        name=name, median_seconds=seconds, quartiles_seconds=(0.9 * seconds, 1.2 * seconds),
        speed_up=1.0, parameters=3_700_000, gflops=12.34, peak_memory_bytes=2**20, **more,
    )  # fmt: skip


def run(size, times, batch_size=1, **more):
    results = [result(name, ms, **more) for name, ms in times.items()]
    return dict(shape=(size, 2 * size), batch_size=batch_size, threads=2, results=results)


@pytest.mark.parametrize('stages', [{}, dict(backbone=0.01, head=0.002, labels=0.001)])
def test_bars_of_one_shape(tmp_path, figures, stages):
    one = run(128, {'mmseg': 32, 'none': 16}, **(dict(stages=stages) if stages else {}))
    draw_benchmark(tmp_path / 'new' / 'a.png', [one], 'A title')
    (axis,) = figures[0].axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ['mmseg', 'none']
    widths = [10, 10, 2, 2, 1, 1] if stages else [32, 16]
    assert [bar.get_width() for bar in axis.patches] == pytest.approx(widths)
    assert [text.get_text() for text in axis.texts] == ['32', '16']
    assert (axis.get_legend() is not None) == bool(stages)
    image = np.asarray(Image.open(tmp_path / 'new' / 'a.png').convert('L'))
    assert image.min() < 100 and [path.name for path in (tmp_path / 'new').iterdir()] == ['a.png']


def test_lines_over_sizes_one_panel_a_batch_size(tmp_path, figures):
    def timed(size, batch_size=1):
        return run(size, {'mmseg': size**2 / 1e3, 'none': size**2 / 2e3}, batch_size)

    runs = [timed(512), timed(128), timed(256), timed(128, 4), timed(256, 4), run(64, {})]
    draw_benchmark(tmp_path / 'a.svg', runs)
    axes = figures[0].axes
    assert [axis.get_title() for axis in axes] == ['batch 1, 2 threads', 'batch 4, 2 threads']
    lines = {line.get_label(): line for line in axes[0].get_lines()}
    assert list(lines) == ['mmseg', 'none']
    sizes = np.array([128, 256, 512])
    assert list(lines['none'].get_xdata()) == list(2 * sizes**2)
    assert list(lines['none'].get_ydata()) == pytest.approx(list(sizes**2 / 2e3))
    assert axes[0].get_xscale() == axes[0].get_yscale() == 'log'
    shapes = [label.get_text() for label in axes[0].get_xticklabels()]
    assert shapes == ['128x256', '256x512', '512x1024']
    assert (tmp_path / 'a.svg').read_text().startswith('<?xml')


def test_from_which_size_on_a_preset_pays():
    runs = [
        run(512, {'none': 10, 'a': 9, 'b': 9, 'c': 11, 'd': 11}),
        run(256, {'none': 10, 'a': 9, 'b': 11, 'c': 9, 'd': 11}),
        run(1024, {'none': 10, 'a': 9, 'b': 9, 'c': 9, 'd': 11}),
    ]
    lines = list(break_even_lines(runs, ['none', 'a', 'b', 'c', 'd', 'absent']))
    assert [line.partition(' is faster than ')[2] for line in lines] == [
        'none at all of these sizes, from 256x512',
        'none from 512x1024 on',
        'none from 1024x2048 on',
        'none at none of these sizes',
    ]
    assert lines[0].startswith('batch 1, 2 threads: a ')
    assert list(break_even_lines(runs[:1], ['none', 'a'])) == []
    # compiled models are compared among themselves
    times = {'none': 10, 'a': 11, 'none, compiled': 9, 'a, compiled': 8}
    lines = list(break_even_lines([run(64, times), run(96, times)], ['none', 'a']))
    assert 'a is faster than none at none' in lines[0]
    assert 'a, compiled is faster than none, compiled at all' in lines[1]


def test_tables_of_a_benchmark_fit_into_80_columns(capsys):
    stages = dict(backbone=1.234, head=0.2, labels=0.01)
    quartiles = {name: (0.9 * s, 1.1 * s) for name, s in stages.items()}
    more = dict(
        gflops_per_second=123.4, share_of_matrix_products=0.456,
        stages=stages, stages_quartiles=quartiles,
    )  # fmt: skip
    one = run(1024, {'transformers, compiled': 2345.6, 'openvino': 9}, **more)
    del one['results'][1]['peak_memory_bytes']
    console = Console(width=80)
    console.print(result_table(one, run_title(one, 'float32', 'cpu')).to_rich())
    console.print(stage_table(one).to_rich())
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for cell in ('2346 (2111-2815)', '123 (46%)', '1234 (1111-1357)', 'openvino', ' - '):
        assert cell in text
    assert '1 x 3 x 1024 x 2048, 2 threads, float32 on cpu' in text


def test_checks():
    record = dict(
        relative_error_of_logits={'mmseg': 1.2e-6},
        relative_error_of_training_step={'mmseg': dict(loss=0.0, gradient=3e-5)},
        compiled={'none': dict(seconds=61.2, equal_labels=0.99987)},
        matrix_products_gflops_per_second={'mm': 93.4, 'conv1x1': 120.0},
    )
    assert list(check_lines(record)) == [
        'mmseg: logits equal to ours within 1e-06 of the largest one',
        'mmseg: training step equal to ours: loss within 0e+00, gradient within 3e-05',
        'none, compiled: in 61 s; 99.987% of the labels as in eager mode',
        'this machine multiplies matrices at 93 GFLOP/s by mm, 120 GFLOP/s by conv1x1',
    ]


def test_old_names_of_a_row():
    with pytest.warns(FutureWarning, match='FidelityRow is Row now') as moved:
        from segformer_plusplus.evaluation.fidelity import FidelityRow
    assert FidelityRow is Row
    with pytest.warns(FutureWarning, match='Row.strategy is Row.name now') as renamed:
        assert Row('hq').strategy == 'hq'
    with (
        pytest.warns(FutureWarning, match="'strategies' is 'presets' now") as given,
        pytest.raises(SegformerPlusPlusError, match='config not found'),
    ):
        measure_fidelity('no.py', 'no.pth', strategies=['hq'])
    shown = {warning.filename for each in (moved, renamed, given) for warning in each}
    assert shown == {__file__}  # the line that has the old name, not ours
