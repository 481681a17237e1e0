"""Jump-Broadcast to COCO: the values survive, the raw data too, bad rows are named by line."""

import errno
import json
import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from mmcv import imfrombytes
from PIL import Image

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.pose.keypoints import JBD
from tools.dataset_converters import jbd_conversion, jbd_frames
from tools.dataset_converters.jbd_conversion import SplitReport, convert_jbd

CLI = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'jbd.py'
WIDTH, HEIGHT = 64, 48
HEADER = ['event', 'frame_num', *(f'{name}_{part}' for name in JBD.names for part in 'xys')]
BOX_HEADER = ['image_id', 'min_x', 'min_y', 'width', 'height']
BOXED = '10.5', '4', '30', '40.25'


def points(**changed: tuple[str, str, str]) -> dict[str, tuple[str, str, str]]:
    """All keypoints on a diagonal but two: `ltoe` has empty coordinates, `lhee` absurd ones."""
    every = {name: (f'{index + 1}.25', f'{index + 2}', '1') for index, name in enumerate(JBD.names)}
    return {**every, 'ltoe': ('', '', '0'), 'lhee': ('-7', 'n/a', '0.0'), **changed}


def only(**kept: tuple[str, str, str]) -> dict[str, tuple[str, str, str]]:
    return {**dict.fromkeys(JBD.names, ('', '', '0')), **kept}


def row(event: str, frame: object, keypoints: dict[str, tuple[str, str, str]]) -> list[str]:
    return [event, str(frame), *(cell for name in JBD.names for cell in keypoints[name])]


class Raw:
    """A raw data set as lists of cells; `write` makes its files. The header is on index 0."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables = {
            'train': [
                list(HEADER),
                row('rome 2019', 7, points()),
                row('Köln', '12.0', points(head=('0', '47.999', '2'))),
                row('Köln', 13, points()),
            ],
            'val': [list(HEADER), row('oslo', 99999, points()), row('oslo', 5, points())],
            'bbox': [
                list(BOX_HEADER),
                ['rome 2019_(00007)', *BOXED],
                ['Köln_(00012)', '-3', '-2.5', '70', '60'],
                ['Köln_(00013)', *BOXED],
                ['oslo_(99999)', *BOXED],
                ['oslo_(00005)', *BOXED],
            ],
        }
        for name, *_ in self.tables['bbox'][1:]:
            self.add_frame(name)

    def add_frame(self, name: str) -> Path:
        path = self.frame(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((WIDTH, HEIGHT), 60).convert('RGB').save(path)
        return path

    def frame(self, name: str) -> Path:
        return self.root / name.rpartition('_(')[0] / f'{name}.jpg'

    def text(self, table: str) -> str:
        separator = ',' if table == 'bbox' else ';'
        lines = [separator.join(cells) for cells in self.tables[table]]
        return '\n'.join([*(['to be skipped'] if table != 'bbox' else []), *lines]) + '\n'

    def write(self) -> Path:
        for table in self.tables:
            (self.root / f'{table}.csv').write_text(self.text(table), encoding='utf-8')
        return self.root


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path / 'raw')


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


def convert(raw: Raw | Path, out: Path, **options) -> dict[str, SplitReport]:
    root = raw.write() if isinstance(raw, Raw) else raw
    return convert_jbd(root, out, progress=False, **options)


def load(out: Path, split: str) -> dict:
    return json.loads((out / 'annotations' / f'{split}_jump.json').read_text())


def state(root: Path) -> dict[str, tuple]:
    """What is where: links as links, with contents and times."""
    return {
        str(path.relative_to(root)): (
            os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes(),
            path.lstat().st_mtime_ns,
        )
        for path in sorted(root.rglob('*'))
    }


def test_all_values_survive(raw, out):
    reports = convert(raw, out)
    train, val = load(out, 'train'), load(out, 'val')
    assert train['images'] == [
        {'id': 1, 'file_name': 'rome 2019/rome 2019_(00007).jpg', 'width': 64, 'height': 48},
        {'id': 2, 'file_name': 'Köln/Köln_(00012).jpg', 'width': 64, 'height': 48},
        {'id': 3, 'file_name': 'Köln/Köln_(00013).jpg', 'width': 64, 'height': 48},
    ]
    assert [image['file_name'] for image in val['images']] == [
        'oslo/oslo_(99999).jpg',
        'oslo/oslo_(00005).jpg',
    ]
    assert [image['id'] for image in val['images']] == [4, 5]
    expected = []
    for index in range(18):
        expected += [index + 1.25, index + 2, 2]
    assert train['annotations'][0] == {
        'id': 1,
        'image_id': 1,
        'category_id': 1,
        'keypoints': expected + [0] * 6,
        'num_keypoints': 18,
        'bbox': [10.5, 4, 30, 40.25],
        'area': 30 * 40.25,
        'iscrowd': 0,
    }
    assert train['annotations'][1]['keypoints'][:3] == [0, 47.999, 2]
    assert train['annotations'][1]['bbox'] == [-3, -2.5, 70, 60]
    assert [(a['id'], a['image_id']) for a in val['annotations']] == [(4, 4), (5, 5)]
    assert reports == {
        'train': SplitReport(3, 3, 54, 0, 0, 0, 0, 0, 0),
        'val': SplitReport(2, 2, 36, 0, 0, 0, 0, 0, 0),
    }


def test_category(raw, out):
    convert(raw, out)
    (category,) = load(out, 'train')['categories']
    assert load(out, 'val')['categories'] == [category]
    assert category['keypoints'] == list(JBD.names)
    assert (category['id'], category['name'], category['supercategory']) == (1, 'person', 'person')
    limbs = [tuple(JBD.names[end - 1] for end in limb) for limb in category['skeleton']]
    assert limbs == list(JBD.limbs)


def test_frames_are_linked(raw, out):
    convert(raw, out)
    link = out / 'images/train/Köln/Köln_(00012).jpg'
    assert link.is_symlink() and Path(os.readlink(link)).is_absolute()
    assert link.samefile(raw.frame('Köln_(00012)'))
    assert sorted(path.name for path in (out / 'images').glob('*/*')) == [
        'Köln',
        'oslo',
        'rome 2019',
    ]


def test_frames_are_copied(raw, out):
    convert(raw, out, frames_as='copy')
    copy = out / 'images/val/oslo/oslo_(00005).jpg'
    assert not copy.is_symlink() and not copy.samefile(raw.frame('oslo_(00005)'))
    assert copy.read_bytes() == raw.frame('oslo_(00005)').read_bytes()


def test_frames_in_another_folder(raw, out, tmp_path):
    root = raw.write()
    csv = tmp_path / 'csv'
    csv.mkdir()
    for path in root.glob('*.csv'):
        path.rename(csv / path.name)
    convert(csv, out, frames_dir=root)
    assert (out / 'images/train/Köln/Köln_(00012).jpg').samefile(raw.frame('Köln_(00012)'))
    with pytest.raises(SegformerPlusPlusError, match=r'nowhere: no such folder, correct --frames'):
        convert(csv, out, frames_dir=tmp_path / 'nowhere')


@pytest.mark.parametrize('variant', ['bom', 'crlf', 'blanks', 'order', 'spaces', 'quotes'])
def test_spellings_of_the_same_csv(raw, out, tmp_path, variant):
    convert(raw, out)
    expected = [(out / f'annotations/{split}_jump.json').read_bytes() for split in ('train', 'val')]
    edits = {
        'bom': lambda text, _: '\ufeff' + text,
        'crlf': lambda text, _: text.replace('\n', '\r\n'),
        'blanks': lambda text, separator: f'{text}\n  \n{separator * 61}\n\n',
        'order': lambda text, _: text,
        'spaces': lambda text, separator: text.replace(separator, f'  {separator} '),
        'quotes': lambda text, separator: re.sub(
            rf'(?<={separator})([^{separator}\n]+)', r' "\1"', text
        ),
    }
    if variant == 'order':
        for table in raw.tables.values():
            for number, cells in enumerate(table):
                cells[:] = [*reversed(cells), 'note' if number == 0 else 'anything']
    root = raw.write()
    for name in raw.tables:
        text = edits[variant](raw.text(name), ',' if name == 'bbox' else ';')
        (root / f'{name}.csv').write_bytes(text.encode())
    other = tmp_path / 'other'
    convert(root, other)
    assert expected == [
        (other / f'annotations/{split}_jump.json').read_bytes() for split in ('train', 'val')
    ]


def test_numbers_are_those_of_the_csv(raw, out):
    raw.tables['val'][1] = row('oslo', 99999, points(head=('0.1', '2.675', '3.5e0')))
    convert(raw, out)
    assert '"keypoints": [0.1, 2.675, 2, ' in (out / 'annotations/val_jump.json').read_text()


def test_coco_tools_read_it(raw, out):
    coco_tools = pytest.importorskip('xtcocotools.coco')
    evaluation = pytest.importorskip('xtcocotools.cocoeval')
    convert(raw, out)
    coco = coco_tools.COCO(str(out / 'annotations' / 'train_jump.json'))
    assert coco.getImgIds() == [1, 2, 3] and coco.getCatIds() == [1]
    truth = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    assert len(truth) == 1 and len(truth[0]['keypoints']) == 60
    found = [{**coco.loadAnns([index])[0], 'score': 1.0} for index in (1, 2, 3)]
    run = evaluation.COCOeval(coco, coco.loadRes(found), 'keypoints', sigmas=np.full(20, 0.1))
    run.evaluate()
    run.accumulate()
    run.summarize()
    assert run.stats[0] == pytest.approx(1)


def test_frames_without_box_are_skipped_and_counted(raw, out):
    del raw.tables['bbox'][1]
    raw.tables['bbox'].append(['zurich_(00001)', *BOXED])
    reports = convert(raw, out)
    assert reports['train'] == SplitReport(3, 2, 36, 1, 0, 0, 0, 0, 1)
    assert reports['val'] == SplitReport(2, 2, 36, 0, 0, 0, 0, 0, 1)
    assert [image['id'] for image in load(out, 'train')['images']] == [1, 2]
    assert load(out, 'train')['annotations'][0]['keypoints'][:2] == [0, 47.999]
    assert [image['id'] for image in load(out, 'val')['images']] == [3, 4]
    assert not (out / 'images/train/rome 2019').exists()


@pytest.mark.parametrize(
    ('keypoints', 'box'),
    [
        (only(head=('10', '8', '1'), rtoe=('20', '28', '1')), [8, 6, 14, 24]),
        (only(head=('10', '1', '1'), rtoe=('63', '41', '1')), [4.7, 0, 59.3, 46.3]),
        (only(head=('10', '8', '1'), rtoe=('10', '28', '1')), [8, 6, 4, 24]),
        (only(head=('10', '8', '1')), None),
        (only(head=('10', '8', '1'), rtoe=('10', '8', '1')), None),
        (only(), None),
        (only(head=('10', '8', '1'), rtoe=('64', '8', '1')), None),
    ],
)
def test_box_from_keypoints(raw, out, keypoints, box):
    raw.tables['val'][1] = row('oslo', 99999, keypoints)
    del raw.tables['bbox'][4]
    report = convert(raw, out, missing_box='from-keypoints', outside='drop')['val']
    assert (report.boxes_from_keypoints, report.skipped_with_too_few_keypoints) == (
        (1, 0) if box else (0, 1)
    )
    assert report.skipped_without_box == 0
    annotations = load(out, 'val')['annotations']
    assert len(annotations) == report.frames == (2 if box else 1)
    if box:
        assert annotations[0]['bbox'] == pytest.approx(box)
        assert annotations[0]['area'] == pytest.approx(box[2] * box[3])


def test_box_of_bbox_csv_goes_before_keypoints(raw, out):
    raw.tables['val'][1] = row('oslo', 99999, only(head=('10', '8', '1')))
    report = convert(raw, out, missing_box='from-keypoints')['val']
    assert (report.frames, report.boxes_from_keypoints) == (2, 0)
    assert load(out, 'val')['annotations'][0]['bbox'] == [float(side) for side in BOXED]


def test_keypoints_outside_are_dropped_and_counted(raw, out):
    outside = points(head=('64', '1', '1'), neck=('-0.1', '1', '1'), rsho=('1', '48', '1'))
    raw.tables['val'][1] = row('oslo', 99999, outside)
    report = convert(raw, out, outside='drop')['val']
    assert (report.keypoints_outside, report.keypoints) == (3, 33)
    annotation = load(out, 'val')['annotations'][0]
    assert annotation['keypoints'][:12] == [0] * 9 + [4.25, 5, 2]
    assert annotation['num_keypoints'] == 15


def test_frames_without_keypoints_are_skipped_and_counted(raw, out):
    raw.tables['val'][1] = row('oslo', 99999, only())
    report = convert(raw, out)['val']
    assert (report.rows, report.frames, report.skipped_without_keypoints) == (2, 1, 1)
    assert len(load(out, 'val')['annotations']) == 1


def test_a_turned_frame_has_the_size_that_training_sees(raw, out):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    path = raw.frame('oslo_(99999)')
    Image.effect_noise((HEIGHT, WIDTH), 60).convert('RGB').save(path, exif=exif)
    convert(raw, out)
    image = load(out, 'val')['images'][0]
    assert (image['width'], image['height']) == (WIDTH, HEIGHT)
    assert imfrombytes(path.read_bytes(), backend='pillow').shape[:2] == (HEIGHT, WIDTH)


def cell(table: str, line: int, column: str, value: str):
    """An edit: the cell of a column on a line of the file, counted as editors do."""

    def edit(raw: Raw) -> None:
        first = 1 if table == 'bbox' else 2
        cells = raw.tables[table][line - first]
        cells[raw.tables[table][0].index(column)] = value

    return edit


def appended(table: str, *cells: str):
    return lambda raw: raw.tables[table].append(list(cells))


def replaced(table: str, old: str, new: str):
    """An edit of the text of a csv file, after it is written."""

    def edit(raw: Raw) -> None:
        path = raw.root / f'{table}.csv'
        text = path.read_text(encoding='utf-8')
        assert old in text
        path.write_text(text.replace(old, new), encoding='utf-8')

    edit.after_writing = True
    return edit


def truncated(raw: Raw) -> None:
    path = raw.frame('oslo_(00005)')
    path.write_bytes(path.read_bytes()[:-200])


NUMBER = r'only a finite number such as 12\.5'
BAD_INPUTS = {
    'no csv': (
        lambda raw: raw.tables.pop('val'),
        r'raw/val\.csv: file not found, expected train\.csv, val\.csv and bbox\.csv',
    ),
    'csv is a folder': (
        lambda raw: (raw.tables.pop('val'), (raw.root / 'val.csv').mkdir()),
        r'raw/val\.csv: cannot be read \(Is a directory\)',
    ),
    'comma for semicolon': (
        replaced('train', ';', ','),
        r"train\.csv:2: wrong separator: found ',', expected ';'",
    ),
    'semicolon for comma': (
        replaced('bbox', ',', ';'),
        r"bbox\.csv:1: wrong separator: found ';', expected ','",
    ),
    'one column': (
        replaced('bbox', 'image_id,min_x,min_y,width,height', 'image_id'),
        r"bbox\.csv:1: wrong separator: found none, expected ','",
    ),
    'missing columns': (
        replaced('train', ';rhan_s;lsho_x;', ';a;b;'),
        r'train\.csv:2: missing columns: rhan_s, lsho_x, expected',
    ),
    'many missing columns': (
        replaced('val', 'to be skipped\n', ''),
        r'val\.csv:2: missing columns: event, frame_num, head_x, head_y, head_s and 57 more',
    ),
    'column twice': (
        replaced('val', 'rhan_s', 'rhan_y'),
        r'val\.csv:2: missing columns: rhan_s',
    ),
    'column twice, none missing': (
        replaced('bbox', 'height\n', 'height,width\n'),
        r'bbox\.csv:1: columns that stand twice in the header: width',
    ),
    'too few fields': (
        replaced('train', 'Köln;13;', '13;'),
        r"train\.csv:5: 61 fields, expected 62 as in the header, separated by ';'",
    ),
    'too many fields': (
        replaced('bbox', '40.25\noslo_(00005)', '40.25,\noslo_(00005)'),
        r"bbox\.csv:5: 6 fields, expected 5 as in the header, separated by ','",
    ),
    'word': (
        cell('train', 3, 'rhip_x', 'x'),
        rf"train\.csv:3: rhip_x='x' is not allowed, {NUMBER}",
    ),
    'empty number': (cell('val', 4, 'rhip_y', ''), rf"val\.csv:4: rhip_y='' .*{NUMBER}"),
    'empty visibility': (cell('val', 4, 'rhip_s', ''), rf"val\.csv:4: rhip_s='' .*{NUMBER}"),
    'underscores': (cell('val', 4, 'rhip_x', '1_0'), rf"val\.csv:4: rhip_x='1_0' .*{NUMBER}"),
    'decimal comma': (cell('val', 4, 'rhip_x', '1,5'), rf"val\.csv:4: rhip_x='1,5' .*{NUMBER}"),
    'other digits': (cell('val', 4, 'rhip_x', '٣'), rf"val\.csv:4: rhip_x='٣' .*{NUMBER}"),
    'nan': (cell('val', 4, 'rhip_x', 'nan'), rf"val\.csv:4: rhip_x='nan' .*{NUMBER}"),
    'inf': (cell('val', 4, 'rhip_x', '-inf'), rf"val\.csv:4: rhip_x='-inf' .*{NUMBER}"),
    'too large': (cell('val', 4, 'rhip_x', '1e999'), rf"val\.csv:4: rhip_x='1e999' .*{NUMBER}"),
    'negative visibility': (
        cell('train', 5, 'ltoe_s', '-1'),
        r"train\.csv:5: ltoe_s='-1' is not allowed, only 0 \(not annotated\) or more",
    ),
    'infinite visibility': (
        cell('val', 4, 'ltoe_s', 'inf'),
        rf"val\.csv:4: ltoe_s='inf' .*{NUMBER}",
    ),
    'frame number': (
        cell('train', 5, 'frame_num', '1.5'),
        r"train\.csv:5: frame_num='1\.5' is not allowed, only a whole number",
    ),
    'negative frame number': (cell('train', 5, 'frame_num', '-1'), r"train\.csv:5: frame_num='-1'"),
    'huge frame number': (
        cell('train', 5, 'frame_num', '1e300'),
        r"train\.csv:5: frame_num='1e300'",
    ),
    'no event': (cell('train', 5, 'event', ''), r"train\.csv:5: event='' is not allowed"),
    'zero byte': (cell('train', 5, 'event', 'a\0b'), r'train\.csv:5: '),
    'long event': (cell('train', 5, 'event', 'x' * 300), r'train\.csv:5: frame .*too long'),
    'frame missing': (
        lambda raw: raw.frame('Köln_(00013)').unlink(),
        r'train\.csv:5: frame .*raw/Köln/Köln_\(00013\)\.jpg is missing, add it',
    ),
    'frame truncated': (
        truncated,
        r'val\.csv:4: frame .*oslo_\(00005\)\.jpg cannot be decoded \(.*truncated.*\), replace it',
    ),
    'frame is text': (
        lambda raw: raw.frame('oslo_(00005)').write_text('hello'),
        r'val\.csv:4: frame .*oslo_\(00005\)\.jpg is no image, replace it',
    ),
    'frame is a folder': (
        lambda raw: (raw.frame('oslo_(00005)').unlink(), raw.frame('oslo_(00005)').mkdir()),
        r'val\.csv:4: frame .*oslo_\(00005\)\.jpg cannot be decoded \(Is a directory\)',
    ),
    'keypoint left': (
        cell('val', 4, 'rhip_x', '-0.5'),
        r'val\.csv:4: keypoint rhip at x=-0\.5, y=12\.0 is outside its frame, allowed is x '
        r'from 0 to below 64 and y from 0 to below 48; .*--outside drop',
    ),
    'keypoint right': (cell('val', 4, 'rhip_x', '64'), r'val\.csv:4: keypoint rhip at x=64\.0'),
    'keypoint above': (cell('val', 4, 'rhip_y', '-1'), r'val\.csv:4: keypoint rhip at .*y=-1\.0'),
    'keypoint below': (cell('val', 4, 'rhip_y', '48'), r'val\.csv:4: keypoint rhip at .*y=48\.0'),
    'no width': (
        cell('bbox', 4, 'width', '0'),
        r"bbox\.csv:4: width='0' is not allowed, only a number above 0",
    ),
    'negative height': (
        cell('bbox', 4, 'height', '-3'),
        r"bbox\.csv:4: height='-3' is not allowed",
    ),
    'nan height': (cell('bbox', 4, 'height', 'nan'), rf"bbox\.csv:4: height='nan' .*{NUMBER}"),
    'endless width': (cell('bbox', 4, 'width', '1e200'), r"bbox\.csv:4: width='1e200'"),
    'bad box of no frame': (
        appended('bbox', 'zurich_(00001)', '1', '1', '0', '1'),
        r"bbox\.csv:7: width='0'",
    ),
    'box of nothing': (appended('bbox', '', *BOXED), r"bbox\.csv:7: image_id='' is not allowed"),
    'box to the left': (
        cell('bbox', 4, 'min_x', '-30'),
        r'bbox\.csv:4: the box x=-30\.0, y=4\.0, width=30\.0, height=40\.25 lies outside its frame '
        r'of 64 x 48, allowed is',
    ),
    # mmpose clips boxes to the pixels' centres, and would drop this one without a word
    'box hardly inside': (
        cell('bbox', 4, 'min_x', '63.5'),
        r'bbox\.csv:4: the box .*lies outside its frame',
    ),
    'box below': (cell('bbox', 4, 'min_y', '48'), r'bbox\.csv:4: the box .*lies outside its frame'),
    'row twice': (
        appended('train', *row('rome 2019', '7.0', points())),
        r'train\.csv:6: rome 2019_\(00007\) stands already on .*train\.csv:3, a frame stands once',
    ),
    'row in both splits': (
        appended('val', *row('Köln', 13, points())),
        r'val\.csv:5: Köln_\(00013\) stands already on .*train\.csv:5, .*in one of',
    ),
    'box twice': (
        appended('bbox', 'Köln_(00012)', *BOXED),
        r'bbox\.csv:7: Köln_\(00012\) stands already on .*bbox\.csv:3, a frame has one box',
    ),
    'no rows': (
        lambda raw: raw.tables.update(val=[HEADER]),
        r'val\.csv:2: no rows below the header',
    ),
    'no boxes': (
        lambda raw: raw.tables.update(bbox=[BOX_HEADER]),
        r'bbox\.csv:1: no rows below the header',
    ),
    'no header': (lambda raw: raw.tables.update(val=[]), r'val\.csv:2: no header, expected'),
    'no frames left': (
        lambda raw: raw.tables.update(bbox=raw.tables['bbox'][:4]),
        r'val\.csv: no frames left of 2, .*--missing-box from-keypoints',
    ),
    'open quote': (
        replaced('train', 'Köln;12.0', '"Köln;12.0'),
        r'train\.csv:4: cannot be read \(.*\), expected a line of a csv file',
    ),
    'line after a cell of two lines': (
        replaced('val', 'oslo;99999', '"os\nlo";99999'),
        r"val\.csv:3: event='os\\nlo' is not allowed",
    ),
    'no utf-8': (
        lambda raw: (raw.root / 'val.csv').write_bytes(raw.text('val').encode('utf-16')),
        r'val\.csv:1: not UTF-8',
    ),
}
BAD_INPUTS['no utf-8'][0].after_writing = True


@pytest.mark.parametrize('name', BAD_INPUTS)
def test_bad_input_is_named_and_nothing_is_written(raw, out, name):
    edit, message = BAD_INPUTS[name]
    if not hasattr(edit, 'after_writing'):
        edit(raw)
    root = raw.write()
    if hasattr(edit, 'after_writing'):
        edit(raw)
    with pytest.raises(SegformerPlusPlusError, match=message) as error:
        convert(root, out)
    assert '\n' not in str(error.value)
    assert not out.exists()


@pytest.mark.parametrize(
    'event',
    [
        '..',
        '.',
        '../../evil',
        '/evil',
        'a/b',
        'a\\b',
        'C:',
        'C:evil',
        'a..b',
        'a/',
        'a\x1bb',
        'a\tb',
    ],
)
def test_hostile_event_names(raw, out, event):
    raw.tables['train'][1] = row(event, 7, points())
    before = sorted(out.parent.iterdir())
    with pytest.raises(
        SegformerPlusPlusError, match=r'train\.csv:3: event=.* is not allowed, only'
    ):
        convert(raw, out)
    assert sorted(out.parent.iterdir()) == before


def test_bad_second_split_leaves_both_json_files(raw, out):
    convert(raw, out)
    before = state(out)
    raw.tables['train'][1] = row('rome 2019', 7, points(head=('3', '3', '1')))
    raw.tables['val'][1] = row('oslo', 99999, points(head=('300', '3', '1')))
    with pytest.raises(SegformerPlusPlusError, match=r'val\.csv:3: keypoint head'):
        convert(raw, out)
    assert state(out) == before


@pytest.mark.parametrize('frames_as', ['link', 'copy'])
def test_second_run_touches_nothing(raw, out, frames_as):
    convert(raw, out, frames_as=frames_as)
    before = state(out)
    convert(raw, out, frames_as=frames_as)
    assert state(out) == before


def test_changed_rows_change_the_json_only(raw, out):
    convert(raw, out)
    before = state(out)
    raw.tables['val'][1] = row('oslo', 99999, points(head=('3', '3', '1')))
    convert(raw, out)
    changed = {name for name, is_now in state(out).items() if is_now != before[name]}
    assert changed == {'annotations', 'annotations/val_jump.json'}


@pytest.mark.parametrize(('first', 'second'), [('link', 'copy'), ('copy', 'link')])
def test_switching_leaves_the_raw_data_alone(raw, out, tmp_path, first, second):
    before = state(raw.write())
    convert(raw.root, out, frames_as=first)
    convert(raw.root, out, frames_as=second)
    fresh = tmp_path / 'fresh'
    convert(raw.root, fresh, frames_as=second)
    assert state(raw.root) == before
    assert [(name, kept[0]) for name, kept in state(out).items()] == [
        (name, kept[0]) for name, kept in state(fresh).items()
    ]


def test_what_is_wrong_at_the_place_is_replaced_not_written_to(raw, out, tmp_path):
    other = tmp_path / 'precious.jpg'
    other.write_bytes(b'precious')
    targets = [out / f'images/val/oslo/oslo_({number}).jpg' for number in ('99999', '00005')]
    targets[0].parent.mkdir(parents=True)
    (out / 'annotations').mkdir()
    targets[0].symlink_to(other)
    targets[1].symlink_to(tmp_path / 'nowhere')
    (out / 'annotations/val_jump.json').symlink_to(other)
    convert(raw, out, frames_as='copy')
    assert other.read_bytes() == b'precious' and not (tmp_path / 'nowhere').exists()
    assert not any(path.is_symlink() for path in out.rglob('*'))
    targets[0].write_bytes(b'older')
    convert(raw, out, frames_as='copy')
    assert targets[0].read_bytes() == raw.frame('oslo_(99999)').read_bytes()


@pytest.mark.parametrize('frames_as', ['link', 'copy'])
def test_raw_frame_that_is_a_link_to_the_converted_one_is_kept(raw, out, frames_as):
    convert(raw, out, frames_as='copy')
    frame, moved = raw.frame('oslo_(00005)'), out / 'images/val/oslo/oslo_(00005).jpg'
    data = frame.read_bytes()
    frame.unlink()
    frame.symlink_to(moved)
    convert(raw, out, frames_as=frames_as)
    assert not moved.is_symlink() and frame.read_bytes() == data


@pytest.mark.parametrize('place', ['raw', 'raw/.', 'raw/Köln', 'raw/Köln/deeper', 'link'])
def test_out_folder_in_the_raw_data_is_refused(raw, tmp_path, place):
    (tmp_path / 'link').symlink_to(tmp_path / 'raw')
    before = state(raw.write())
    with pytest.raises(SegformerPlusPlusError, match=r'name another folder with --out'):
        convert(raw.root, tmp_path / place)
    assert state(raw.root) == before


def test_link_in_the_out_folder_to_the_raw_data_is_refused(raw, out):
    before = state(raw.write())
    (out / 'images/train').mkdir(parents=True)
    (out / 'images/train/Köln').symlink_to(raw.root / 'Köln')
    with pytest.raises(SegformerPlusPlusError, match=r'train/Köln: lies in a raw folder of frames'):
        convert(raw.root, out)
    assert state(raw.root) == before


def test_out_folder_beside_the_events(raw):
    convert(raw, raw.root / 'coco')
    assert (raw.root / 'coco/annotations/val_jump.json').exists()


def test_folders_that_are_none(raw, out, tmp_path):
    with pytest.raises(SegformerPlusPlusError, match=r'nowhere: no such folder, correct RAW_DIR'):
        convert(tmp_path / 'nowhere', out)
    out.write_text('a file')
    for place in (out, out / 'deeper'):
        with pytest.raises(SegformerPlusPlusError, match=r'out: is not a folder'):
            convert(raw, place)


@pytest.mark.parametrize('option', ['frames_as', 'missing_box', 'outside'])
def test_unknown_choices(raw, out, option):
    with pytest.raises(SegformerPlusPlusError, match=f"{option}='hard' is not allowed: '.*' or '"):
        convert(raw, out, **{option: 'hard'})


def test_file_system_without_links(raw, out, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, 'Operation not permitted')

    monkeypatch.setattr(jbd_frames.os, 'symlink', refuse)
    with pytest.raises(SegformerPlusPlusError, match=r'cannot be made a link .*--frames-as copy'):
        convert(raw, out)
    assert not (out / 'annotations').exists()


@pytest.mark.parametrize(
    'place', ['annotations/train_jump.json', 'images/train/Köln/Köln_(00012).jpg', 'images/val']
)
@pytest.mark.parametrize('frames_as', ['link', 'copy'])
def test_place_that_cannot_be_written(raw, out, place, frames_as):
    if place == 'images/val':
        (out / 'images').mkdir(parents=True)
        (out / place).write_text('a file')
    else:
        (out / place).mkdir(parents=True)
    with pytest.raises(SegformerPlusPlusError, match=re.escape(place) + '.*: cannot be written'):
        convert(raw, out, frames_as=frames_as)


@pytest.mark.parametrize('frames_as', ['link', 'copy'])
@pytest.mark.parametrize('step', ['decode_frame', 'write_frame'])
def test_interruption_leaves_the_earlier_json(raw, out, monkeypatch, frames_as, step):
    convert(raw, out)
    annotations = state(out / 'annotations')
    raw.tables['train'][1] = row('rome 2019', 7, points(head=('3', '3', '1')))
    done = []
    original = getattr(jbd_conversion, step)

    def interrupted(*arguments):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(arguments)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(jbd_conversion, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(raw, out, frames_as=frames_as)
    assert state(out / 'annotations') == annotations
    convert(raw, out, frames_as=frames_as)
    assert load(out, 'train')['annotations'][0]['keypoints'][:3] == [3, 3, 2]


def test_interruption_of_the_first_run_leaves_no_json(raw, out, monkeypatch):
    monkeypatch.setattr(jbd_conversion, 'write_frame', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(raw, out)
    assert not out.exists()


def test_interruption_between_writing_and_renaming_leaves_no_link(raw, out, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(jbd_frames.os, 'replace', interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(raw, out)
    assert not [path for path in out.rglob('*') if not path.is_dir()]


def test_command_line(raw, out, capsys):
    raw.tables['val'][1] = row('oslo', 99999, points(head=('64', '1', '1')))
    del raw.tables['bbox'][1]
    raw.tables['bbox'].append(['zurich_(00001)', *BOXED])
    main = runpy.run_path(str(CLI))['main']
    assert main([str(raw.write()), '--out', str(out), '--outside', 'drop']) == 0
    printed = capsys.readouterr()
    assert printed.err == ''
    for line in (
        'train: 1 frame(s) skipped: bbox.csv has no box for them '
        '(--missing-box from-keypoints makes one)',
        'val: 1 keypoint(s) outside their frame taken as not annotated',
        'bbox.csv: 1 box(es) ignored: their frames are in neither csv file',
        f'Converted to {out}',
    ):
        assert line in printed.out.splitlines()
    assert len(load(out, 'train')['images']) == 2


def test_command_line_says_what_is_wrong(raw, out, capsys):
    main = runpy.run_path(str(CLI))['main']
    assert main([str(raw.write()), '--out', str(out), '--frames', str(out)]) == 2
    assert main([str(raw.root), '--out', str(raw.root)]) == 2
    raw.frame('oslo_(00005)').unlink()
    assert main([str(raw.root), '--out', str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith('error: ') for line in lines)
    assert 'val.csv:4: frame ' in lines[2]
