"""The paper's tables as data: every row has a config, typos are named."""

from pathlib import Path

import pytest

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.token_merging import PRESETS
from tools.paper_tables.tables import PAPER, TABLES, find_rows, find_tables

from .fakes import ROOT


def test_every_row_has_its_config():
    for table in TABLES.values():
        for row in table.rows:
            assert (ROOT / table.config_of(row)).is_file()


def test_speed_ups_and_batch_sizes_are_those_of_the_configs():
    for table in (TABLES[name] for name in PAPER):
        stem = Path(table.config_of('none')).stem
        height, width = table.shape
        assert f'-{height}x{width}' in stem
        if table.timed == 'training':
            assert f'_1xb{table.batch_size}-' in stem


@pytest.mark.parametrize(
    ('name', 'shape', 'batch_size'),
    [
        ('cityscapes-inference', (1024, 1024), 8),
        ('cityscapes-training', (1024, 1024), 4),
        ('ade20k', (640, 640), 8),
        ('jbd', (640, 480), 16),
        ('coco', (384, 288), 16),
    ],
)
def test_what_is_timed_is_that_of_the_paper(name, shape, batch_size):
    assert (TABLES[name].shape, TABLES[name].batch_size) == (shape, batch_size)


def test_a_table_that_the_paper_lacks_has_every_preset_on_one_set_of_weights():
    table = TABLES['camvid']
    assert table.rows == tuple(PRESETS) and not any(table.figures.values())
    assert {table.weights_row(row) for row in table.rows} == {'none'}
    assert (table.shape, table.batch_size) == ((720, 960), 8)


def test_addresses_are_those_of_mmseg():
    mmseg = pytest.importorskip('mmseg')
    known = Path(mmseg.__file__).parent / '.mim/configs/segformer/metafile.yaml'
    if not known.is_file():
        pytest.skip('this mmseg was installed without its configs')
    weights = known.read_text()
    for table in TABLES.values():
        for address in table.published.values():
            assert address.rpartition('/')[2] in weights


def test_all_is_every_table_of_the_paper_in_order():
    assert tuple(table.name for table in find_tables(['all'])) == PAPER
    assert [*TABLES] == [*PAPER, 'camvid', 'demo-seg', 'demo-pose']
    assert [table.name for table in find_tables(['demo-seg', 'jbd'])] == ['jbd', 'demo-seg']
    assert [table.name for table in find_tables(['coco', 'ade20k'])] == ['ade20k', 'coco']


@pytest.mark.parametrize(
    'names, message',
    [
        (['ade20'], "unknown table 'ade20'; did you mean 'ade20k'"),
        (['everything'], "unknown table 'everything'; choose from"),
    ],
)
def test_a_typo_in_a_table(names, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        find_tables(names)


def test_rows_stand_in_the_papers_order():
    assert find_rows(find_tables(['jbd']), ['fast', 'none']) == {'jbd': ('none', 'fast')}
    two = find_rows(find_tables(['ade20k', 'jbd']), ['none', 'downsampling'])
    assert two == {'ade20k': ('none', 'downsampling'), 'jbd': ('none',)}


@pytest.mark.parametrize(
    'table, rows, message',
    [
        ('jbd', ['fsat'], "unknown row 'fsat'; did you mean 'fast'"),
        ('jbd', ['downsampling'], "unknown row 'downsampling'"),
        ('all', ['downsampling'], 'jbd has no row downsampling; it has none, hq, fast, 2x2'),
        ('jbd', [], '--rows names no row'),
    ],
)
def test_rows_that_are_not_there(table, rows, message):
    with pytest.raises(SegformerPlusPlusError, match=message):
        find_rows(find_tables([table]), rows)
