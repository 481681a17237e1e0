"""Tests that values and raw data survive the conversion, and that errors name the line."""

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
from tools.dataset_converters import jbd_conversion
from tools.dataset_converters.jbd_conversion import convert_jbd

CLI = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'jbd.py'
WIDTH, HEIGHT = 64, 48
HEADER = ['event', 'frame_num', *(f'{name}_{part}' for name in JBD.names for part in 'xys')]
BOX_HEADER = ['image_id', 'min_x', 'min_y', 'width', 'height']
BOXED = '10.5', '4', '30', '40.25'
COPY = pytest.mark.parametrize('copy', [False, True])


def points(**changed: tuple[str, str, str]) -> dict[str, tuple[str, str, str]]:
    """Puts all keypoints on a diagonal but two: `ltoe` is empty, `lhee` absurd."""
    every = {name: (f'{index + 1}.25', f'{index + 2}', '1') for index, name in enumerate(JBD.names)}
    return {**every, 'ltoe': ('', '', '0'), 'lhee': ('-7', 'n/a', '0.0'), **changed}


def only(**kept: tuple[str, str, str]) -> dict[str, tuple[str, str, str]]:
    return {**dict.fromkeys(JBD.names, ('', '', '0')), **kept}


def row(event: str, frame: object, keypoints: dict[str, tuple[str, str, str]]) -> list[str]:
    return [event, str(frame), *(cell for name in JBD.names for cell in keypoints[name])]


class Raw:
    """Holds a raw data set as lists of cells, with the header on index 0."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables = {
            'train': [
                list(HEADER),
                row('rome_2019', 7, points()),
                row('Köln', '12.0', points(head=('0', '47.999', '2'))),
                row('Köln', 13, points()),
            ],
            'val': [list(HEADER), row('oslo', 99999, points()), row('oslo', 5, points())],
            'bbox': [
                list(BOX_HEADER),
                ['rome_2019_(00007)', *BOXED],
                ['Köln_(00012)', '-3', '-2.5', '70', '60'],
                ['Köln_(00013)', *BOXED],
                ['oslo_(99999)', *BOXED],
                ['oslo_(00005)', *BOXED],
            ],
        }
        for name, *_ in self.tables['bbox'][1:]:
            path = self.frame(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((WIDTH, HEIGHT), 60).convert('RGB').save(path)

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

    def move_head(self, *head: str, split: str = 'val') -> None:
        """Changes the first keypoint of a split's first frame."""
        name = {'train': 'rome_2019', 'val': 'oslo'}[split]
        number = {'train': 7, 'val': 99999}[split]
        self.tables[split][1] = row(name, number, points(head=head))


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path / 'raw')


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


def convert(raw: Raw | Path, out: Path, **options) -> dict[str, dict[str, int]]:
    """Converts; returns the counts of each split that are not zero."""
    root = raw.write() if isinstance(raw, Raw) else raw
    counts = convert_jbd(root, out, progress=False, **options)
    return {split: {name: n for name, n in each.items() if n} for split, each in counts.items()}


def load(out: Path, split: str) -> dict:
    return json.loads((out / 'annotations' / f'{split}_jump.json').read_text())


def written(out: Path) -> list[bytes]:
    return [(out / f'annotations/{split}_jump.json').read_bytes() for split in ('train', 'val')]


def state(root: Path) -> dict[str, tuple]:
    """Lists all files with contents and times, links as links."""
    return {
        str(path.relative_to(root)): (
            os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes(),
            path.lstat().st_mtime_ns,
        )
        for path in sorted(root.rglob('*'))
    }


def refuse(message: str, raw: Raw | Path, out: Path, **options) -> None:
    """Checks that the error has the parts of the message, between '...', on one line."""
    parts = '.*'.join(map(re.escape, message.split('...')))
    with pytest.raises(SegformerPlusPlusError, match=parts) as error:
        convert(raw, out, **options)
    assert '\n' not in str(error.value)


def test_all_values_survive(raw, out):
    counts = convert(raw, out)
    train, val = load(out, 'train'), load(out, 'val')
    names = ['rome_2019/rome_2019_(00007).jpg', 'Köln/Köln_(00012).jpg', 'Köln/Köln_(00013).jpg']
    assert train['images'] == [
        {'id': number, 'file_name': name, 'width': 64, 'height': 48}
        for number, name in enumerate(names, 1)
    ]
    files = [(image['id'], image['file_name']) for image in val['images']]
    assert files == [(4, 'oslo/oslo_(99999).jpg'), (5, 'oslo/oslo_(00005).jpg')]
    expected = []
    for index in range(18):  # labelled, but hidden
        expected += [index + 1.25, index + 2, 1]
    assert train['annotations'][0] == {
        **{'id': 1, 'image_id': 1, 'category_id': 1, 'iscrowd': 0},
        **{'keypoints': expected + [0] * 6, 'num_keypoints': 18},
        **{'bbox': [10.5, 4, 30, 40.25], 'area': 30 * 40.25},
    }
    assert train['annotations'][1]['keypoints'][:3] == [0, 47.999, 2]
    assert train['annotations'][1]['bbox'] == [-3, -2.5, 70, 60]
    assert [(a['id'], a['image_id']) for a in val['annotations']] == [(4, 4), (5, 5)]
    assert counts == {
        'train': dict(rows=3, frames=3, keypoints=54),
        'val': dict(rows=2, frames=2, keypoints=36),
    }
    (category,) = train['categories']
    assert val['categories'] == [category]
    assert category['keypoints'] == list(JBD.names)
    assert (category['id'], category['name'], category['supercategory']) == (1, 'person', 'person')
    limbs = [tuple(JBD.names[end - 1] for end in limb) for limb in category['skeleton']]
    assert limbs == list(JBD.limbs)


@pytest.mark.parametrize('from_keypoints', [False, True])
def test_raw_drawn_jumpers_become_the_converted_ones(drawn, out, from_keypoints):
    counts = convert(drawn('jbd-raw'), out, boxes_from_keypoints=from_keypoints)
    for split in ('train', 'val'):
        people, frames = [], []
        for root in (drawn('jbd'), out):
            content = load(root, split)
            files = {image['id']: image['file_name'] for image in content['images']}
            people.append({files[one['image_id']]: one for one in content['annotations']})
            frames.append(root / 'images' / split)
        truth, ours = people
        # one frame in ten has no box
        assert len(truth) - len(ours) == (0 if from_keypoints else 1)
        assert counts[split]['boxes_from_keypoints' if from_keypoints else 'skipped_without_box']
        for name, person in ours.items():
            given, drawn_ones = (
                np.reshape(one['keypoints'], (-1, 3)) for one in (person, truth[name])
            )
            seen = drawn_ones[:, 2] > 0
            np.testing.assert_array_equal(given[:, 2], drawn_ones[:, 2])
            np.testing.assert_allclose(given[seen, :2], drawn_ones[seen, :2])
            assert (frames[0] / name).read_bytes() == (frames[1] / name).read_bytes()
        same_box = [np.allclose(ours[name]['bbox'], truth[name]['bbox']) for name in ours]
        assert sum(same_box) >= len(truth) - 1


@COPY
def test_frames_are_linked_or_copied(raw, out, copy):
    convert(raw, out, copy=copy)
    target, frame = out / 'images/train/Köln/Köln_(00012).jpg', raw.frame('Köln_(00012)')
    assert target.samefile(frame) != copy and target.read_bytes() == frame.read_bytes()
    assert copy or Path(os.readlink(target)).is_absolute()
    assert {path.name for path in (out / 'images').glob('*/*')} == {'Köln', 'oslo', 'rome_2019'}
    before = state(out)
    convert(raw, out, copy=copy)
    assert state(out) == before, 'the second run touches nothing'


def test_frames_in_another_folder(raw, out, tmp_path):
    root, csv = raw.write(), tmp_path / 'csv'
    csv.mkdir()
    for path in root.glob('*.csv'):
        path.rename(csv / path.name)
    convert(csv, out, frames_dir=root)
    assert (out / 'images/train/Köln/Köln_(00012).jpg').samefile(raw.frame('Köln_(00012)'))
    nowhere = tmp_path / 'nowhere'
    refuse('nowhere: no such folder, correct --frames', csv, out, frames_dir=nowhere)


@pytest.mark.parametrize('variant', ['bom', 'crlf', 'blanks', 'order', 'spaces', 'quotes'])
def test_spellings_of_the_same_csv(raw, out, tmp_path, variant):
    convert(raw, out)
    edits = {
        'bom': lambda text, _: '\ufeff' + text,
        'crlf': lambda text, _: text.replace('\n', '\r\n'),
        'blanks': lambda text, separator: f'{text}\n  \n{separator * 61}\n\n',
        'order': lambda text, _: text,
        'spaces': lambda text, separator: text.replace(separator, f'  {separator} '),
        'quotes': lambda text, mark: re.sub(rf'(?<={mark})([^{mark}\n]+)', r' "\1"', text),
    }
    if variant == 'order':
        for table in raw.tables.values():
            for number, cells in enumerate(table):
                cells[:] = [*reversed(cells), 'note' if number == 0 else 'anything']
    root = raw.write()
    for name in raw.tables:
        text = edits[variant](raw.text(name), ',' if name == 'bbox' else ';')
        (root / f'{name}.csv').write_bytes(text.encode())
    convert(root, tmp_path / 'other')
    assert written(tmp_path / 'other') == written(out)


def test_numbers_are_those_of_the_csv(raw, out):
    raw.move_head('0.1', '2.675', '3.5e0')
    convert(raw, out)
    assert b'"keypoints": [0.1, 2.675, 2, ' in written(out)[1]


def test_frames_without_box_are_skipped_and_counted(raw, out):
    del raw.tables['bbox'][1]
    raw.tables['bbox'].append(['zurich_(00001)', *BOXED])
    stray = dict(boxes_of_no_frame=1)
    assert convert(raw, out) == {
        'train': dict(rows=3, frames=2, keypoints=36, skipped_without_box=1, **stray),
        'val': dict(rows=2, frames=2, keypoints=36, **stray),
    }
    assert [image['id'] for image in load(out, 'train')['images']] == [1, 2]
    assert load(out, 'train')['annotations'][0]['keypoints'][:2] == [0, 47.999]
    assert [image['id'] for image in load(out, 'val')['images']] == [3, 4]
    assert not (out / 'images/train/rome_2019').exists()


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
    counts = convert(raw, out, boxes_from_keypoints=True, drop_outside=True)['val']
    assert counts['boxes_from_keypoints' if box else 'skipped_with_too_few_keypoints'] == 1
    assert sum('box' in name or 'skipped' in name for name in counts) == 1
    annotations = load(out, 'val')['annotations']
    assert len(annotations) == counts['frames'] == (2 if box else 1)
    if box:
        assert annotations[0]['bbox'] == pytest.approx(box)
        assert annotations[0]['area'] == pytest.approx(box[2] * box[3])


@pytest.mark.parametrize(
    ('keypoints', 'counted', 'expected'),
    [
        (only(head=('10', '8', '1')), dict(frames=2, keypoints=19), [10, 8, 1] + [0] * 57),
        (
            points(head=('64', '1', '1'), neck=('-0.1', '1', '1'), rsho=('1', '48', '1')),
            dict(frames=2, keypoints=33, keypoints_outside=3),
            [0] * 9 + [4.25, 5, 1],
        ),
        (only(), dict(frames=1, keypoints=18, skipped_without_keypoints=1), [1.25, 2, 1]),
    ],
)
def test_box_of_bbox_csv_and_few_or_outside_keypoints(raw, out, keypoints, counted, expected):
    raw.tables['val'][1] = row('oslo', 99999, keypoints)
    counts = convert(raw, out, boxes_from_keypoints=True, drop_outside=True)['val']
    assert counts == dict(rows=2, **counted)
    first, *others = load(out, 'val')['annotations']
    assert len(others) == counted['frames'] - 1
    assert first['bbox'] == [float(side) for side in BOXED]
    assert first['keypoints'][: len(expected)] == expected
    assert first['num_keypoints'] == counted['keypoints'] - 18 * len(others)


def test_a_turned_frame_has_the_size_that_training_sees(raw, out):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    path = raw.frame('oslo_(99999)')
    Image.effect_noise((HEIGHT, WIDTH), 60).convert('RGB').save(path, exif=exif)
    convert(raw, out)
    image = load(out, 'val')['images'][0]
    assert (image['width'], image['height']) == (WIDTH, HEIGHT)
    assert imfrombytes(path.read_bytes(), backend='pillow').shape[:2] == (HEIGHT, WIDTH)


NUMBER = 'only a finite number such as 12.5'
FOLDER = 'only the name of a folder'
HOSTILE = '.. . ../../evil /evil a/b a\\b C: C:evil a..b a/ a\x1bb -rf _a .a ~a'.split()
HOSTILE += ['rome 2019', 'a*b', 'a$b', 'a\u202eb', "a'b", 'a\u200bb']


@pytest.mark.parametrize(
    ('table', 'line', 'column', 'value', 'allowed'),
    [
        ('train', 3, 'rhip_x', 'x', NUMBER),
        *(('val', 4, 'rhip_y', value, NUMBER) for value in ('', '1_0', '1,5', '٣', 'nan', '1e999')),
        *(('val', 4, 'rhip_s', value, NUMBER) for value in ('', '-inf')),
        ('train', 5, 'ltoe_s', '-1', 'only 0 (not annotated) or more'),
        *(('train', 5, 'frame_num', n, 'only a whole number') for n in ('1.5', '-1', '1e300')),
        *(('train', 3, 'event', value, FOLDER) for value in ('', 'a\tb', *HOSTILE)),
        *(('bbox', 4, 'width', value, 'only a number above 0') for value in ('0', '1e200')),
        ('bbox', 4, 'height', '-3', 'only a number above 0'),
        ('bbox', 4, 'height', 'nan', NUMBER),
        ('bbox', 4, 'image_id', '', 'only the name of a frame'),
        # values that do not fit the frame
        ('train', 5, 'event', 'a\0b', ''),
        ('train', 5, 'event', 'x' * 300, 'frame ...too long'),
        (
            *('val', 4, 'rhip_x', '-0.5'),
            'keypoint rhip at x=-0.5, y=12.0 is outside its frame, allowed is x from 0 to below '
            '64 and y from 0 to below 48; ...--outside drop',
        ),
        ('val', 4, 'rhip_x', '64', 'keypoint rhip at x=64.0'),
        ('val', 4, 'rhip_y', '-1', 'keypoint rhip at ...y=-1.0'),
        ('val', 4, 'rhip_y', '48', 'keypoint rhip at ...y=48.0'),
        (
            *('bbox', 4, 'min_x', '-30'),
            'the box x=-30.0, y=4.0, width=30.0, height=40.25 lies outside its frame of 64 x 48, '
            'allowed is',
        ),
        # mmpose clips boxes to the pixels' centres, and would drop this one without a word
        ('bbox', 4, 'min_x', '63.5', 'the box ...lies outside its frame'),
        ('bbox', 4, 'min_y', '47.5', 'the box ...lies outside its frame'),
    ],
)
def test_bad_cells_are_named(raw, out, table, line, column, value, allowed):
    header, *_ = rows = raw.tables[table]
    rows[line - (1 if table == 'bbox' else 2)][header.index(column)] = value
    if allowed.startswith('only'):
        allowed = f'{column}={value!r} is not allowed, {allowed}'
    before = sorted(out.parent.iterdir())
    refuse(f'{table}.csv:{line}: {allowed}', raw, out)
    assert sorted(out.parent.iterdir()) == before


@pytest.mark.parametrize(
    ('table', 'cells', 'message'),
    [
        ('bbox', ['zurich_(00001)', '1', '1', '0', '1'], "7: width='0'"),
        (
            *('train', row('rome_2019', '7.0', points())),
            '6: rome_2019_(00007) stands already on ...train.csv:3, a frame stands once',
        ),
        (
            *('val', row('Köln', 13, points())),
            '5: Köln_(00013) stands already on ...train.csv:5, ...in one of',
        ),
        (
            *('bbox', ['Köln_(00012)', *BOXED]),
            '7: Köln_(00012) stands already on ...bbox.csv:3, a frame has one box',
        ),
    ],
)
def test_bad_rows_are_named(raw, out, table, cells, message):
    raw.tables[table].append(cells)
    refuse(f'{table}.csv:{message}', raw, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ('table', 'kept', 'message'),
    [
        ('val', 0, 'val.csv:2: no header, expected'),
        ('val', 1, 'val.csv:2: no rows below the header'),
        ('bbox', 1, 'bbox.csv:1: no rows below the header'),
        ('bbox', 4, 'val.csv: no frames left of 2, ...--missing-box from-keypoints'),
    ],
)
def test_missing_rows_are_named(raw, out, table, kept, message):
    del raw.tables[table][kept:]
    refuse(message, raw, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ('table', 'old', 'new', 'message'),
    [
        ('train', ';', ',', "2: wrong separator: found ',', expected ';'"),
        ('bbox', ',', ';', "1: wrong separator: found ';', expected ','"),
        ('bbox', ','.join(BOX_HEADER), 'image_id', "1: wrong separator: found none, expected ','"),
        ('train', ';rhan_s;lsho_x;', ';a;b;', '2: missing columns: rhan_s, lsho_x, expected'),
        (
            *('val', 'to be skipped\n', ''),
            '2: missing columns: event, frame_num, head_x, head_y, head_s and 57 more',
        ),
        ('val', 'rhan_s', 'rhan_y', '2: missing columns: rhan_s'),
        ('bbox', 'height\n', 'height,width\n', '1: columns that stand twice in the header: width'),
        ('train', 'Köln;13', '13', "5: 61 fields, expected 62 as in the header, separated by ';'"),
        (
            *('bbox', '40.25\noslo_(00005)', '40.25,\noslo_(00005)'),
            "5: 6 fields, expected 5 as in the header, separated by ','",
        ),
        ('train', 'Köln;12.0', '"Köln;12.0', '4: cannot be read (...), expected a line of a csv'),
        # the line after a cell of two lines
        ('val', 'oslo;99999', '"os\nlo";99999', r"3: event='os\nlo' is not allowed"),
    ],
)
def test_bad_texts_are_named(raw, out, table, old, new, message):
    path = raw.write() / f'{table}.csv'
    text = path.read_text(encoding='utf-8')
    assert old in text
    path.write_text(text.replace(old, new), encoding='utf-8')
    refuse(f'{table}.csv:{message}', raw.root, out)
    assert not out.exists()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ('name', 'damage', 'message'),
    [
        ('val', Path.unlink, 'val.csv: file not found, expected train.csv, val.csv and bbox.csv'),
        ('val', folder, 'raw/val.csv: cannot be read (Is a directory)'),
        ('val', lambda path: path.write_text('é', 'latin-1'), 'val.csv:1: not UTF-8'),
        (
            *('Köln_(00013)', Path.unlink),
            'train.csv:5: frame ...raw/Köln/Köln_(00013).jpg is missing, add it',
        ),
        (
            *('oslo_(00005)', lambda path: path.write_bytes(path.read_bytes()[:-200])),
            'val.csv:4: frame ...oslo_(00005).jpg cannot be decoded (...truncated...), replace it',
        ),
        (
            *('oslo_(00005)', lambda path: path.write_text('hello')),
            'val.csv:4: frame ...oslo_(00005).jpg is no image, replace it',
        ),
        (
            *('oslo_(00005)', folder),
            'val.csv:4: frame ...oslo_(00005).jpg cannot be decoded (Is a directory)',
        ),
    ],
)
def test_bad_files_are_named(raw, out, name, damage, message):
    damage(raw.write() / 'val.csv' if name == 'val' else raw.frame(name))
    refuse(message, raw.root if name == 'val' else raw, out)
    assert not out.exists()


def test_bad_second_split_leaves_both_json_files(raw, out):
    convert(raw, out)
    before = state(out)
    raw.move_head('3', '3', '1', split='train')
    raw.move_head('300', '3', '1')
    refuse('val.csv:3: keypoint head', raw, out)
    assert state(out) == before


def test_changed_rows_change_the_json_only(raw, out):
    convert(raw, out)
    before = state(out)
    raw.move_head('3', '3', '1')
    convert(raw, out)
    changed = {name for name, is_now in state(out).items() if is_now != before[name]}
    assert changed == {'annotations', 'annotations/val_jump.json'}


@COPY
def test_switching_leaves_the_raw_data_alone(raw, out, tmp_path, copy):
    before = state(raw.write())
    convert(raw.root, out, copy=not copy)
    convert(raw.root, out, copy=copy)
    convert(raw.root, tmp_path / 'fresh', copy=copy)
    assert state(raw.root) == before
    switched, fresh = (
        [(name, kept[0]) for name, kept in state(root).items()]
        for root in (out, tmp_path / 'fresh')
    )
    assert switched == fresh


def test_what_is_wrong_at_the_place_is_replaced_not_written_to(raw, out, tmp_path):
    other = tmp_path / 'precious.jpg'
    other.write_bytes(b'precious')
    targets = [out / f'images/val/oslo/oslo_({number}).jpg' for number in ('99999', '00005')]
    targets[0].parent.mkdir(parents=True)
    (out / 'annotations').mkdir()
    targets[0].symlink_to(other)
    targets[1].symlink_to(tmp_path / 'nowhere')
    (out / 'annotations/val_jump.json').symlink_to(other)
    convert(raw, out, copy=True)
    assert other.read_bytes() == b'precious' and not (tmp_path / 'nowhere').exists()
    assert not any(path.is_symlink() for path in out.rglob('*'))
    targets[0].write_bytes(b'older')
    convert(raw, out, copy=True)
    assert targets[0].read_bytes() == raw.frame('oslo_(99999)').read_bytes()


@COPY
def test_raw_frame_that_is_a_link_to_the_converted_one_is_kept(raw, out, copy):
    convert(raw, out, copy=True)
    frame, moved = raw.frame('oslo_(00005)'), out / 'images/val/oslo/oslo_(00005).jpg'
    data = frame.read_bytes()
    frame.unlink()
    frame.symlink_to(moved)
    convert(raw, out, copy=copy)
    assert not moved.is_symlink() and frame.read_bytes() == data


@pytest.mark.parametrize('place', ['raw', 'raw/.', 'raw/Köln', 'raw/Köln/deeper', 'link', 'out'])
def test_out_folder_in_the_raw_data_is_refused(raw, out, tmp_path, place):
    (tmp_path / 'link').symlink_to(tmp_path / 'raw')
    (out / 'images/train').mkdir(parents=True)
    (out / 'images/train/Köln').symlink_to(raw.root / 'Köln')
    before = state(raw.write())
    message = 'train/Köln: lies in a raw folder of frames' if place == 'out' else 'name another'
    refuse(message + '...folder with --out', raw.root, tmp_path / place)
    assert state(raw.root) == before


def test_out_folder_beside_the_events(raw):
    convert(raw, raw.root / 'coco')
    assert (raw.root / 'coco/annotations/val_jump.json').exists()


def test_folders_that_are_none(raw, out, tmp_path):
    refuse('nowhere: no such folder, correct RAW_DIR', tmp_path / 'nowhere', out)
    out.write_text('a file')
    for place in (out, out / 'deeper'):
        refuse('out: is not a folder', raw, place)


def test_file_system_without_links(raw, out, monkeypatch):
    def fail(*_):
        raise OSError(errno.EPERM, 'Operation not permitted')

    monkeypatch.setattr(os, 'symlink', fail)
    refuse('cannot be made a link ...--frames-as copy', raw, out)
    assert not (out / 'annotations').exists()


@pytest.mark.parametrize(
    'place', ['annotations/train_jump.json', 'images/train/Köln/Köln_(00012).jpg', 'images/val']
)
@COPY
def test_place_that_cannot_be_written(raw, out, place, copy):
    (out / place).mkdir(parents=True)
    if place == 'images/val':
        (out / place).rmdir()
        (out / place).write_text('a file')
    refuse(f'{place}...: cannot be written', raw, out, copy=copy)


@COPY
@pytest.mark.parametrize('step', ['decode_frame', 'write_frame'])
def test_interruption_leaves_the_earlier_json(raw, out, monkeypatch, copy, step):
    convert(raw, out)
    annotations = state(out / 'annotations')
    raw.move_head('3', '3', '1', split='train')
    done, original = [], getattr(jbd_conversion, step)

    def interrupted(*arguments):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(arguments)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(jbd_conversion, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(raw, out, copy=copy)
    assert state(out / 'annotations') == annotations
    convert(raw, out, copy=copy)
    assert load(out, 'train')['annotations'][0]['keypoints'][:3] == [3, 3, 1]


@COPY
def test_interruption_between_writing_and_renaming_leaves_nothing(raw, out, monkeypatch, copy):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(raw, out, copy=copy)
    assert not [path for path in out.rglob('*') if not path.is_dir()]


def test_command_line(raw, out, capsys):
    raw.move_head('64', '1', '1')
    del raw.tables['bbox'][1]
    raw.tables['bbox'].append(['zurich_(00001)', *BOXED])
    main = runpy.run_path(str(CLI))['main']
    assert main([str(raw.write()), '--out', str(out), '--outside', 'drop']) == 0
    printed = capsys.readouterr()
    assert printed.err == ''
    lines = printed.out.splitlines()
    assert {
        'train: 1 frame(s) skipped: bbox.csv has no box for them '
        '(--missing-box from-keypoints makes one)',
        'val: 1 keypoint(s) outside their frame taken as not annotated',
        'bbox.csv: 1 box(es) ignored: their frames are in neither csv file',
    } < set(lines)
    assert lines[-1] == f'Converted to {out}'
    cells = [re.split(r'\s*[│┃]\s*', line)[1:-1] for line in lines]
    assert ['frames converted', '2', '2'] in cells
    assert ['keypoints outside the frame, dropped', '0', '1'] in cells
    assert len(load(out, 'train')['images']) == 2 and len(list(out.rglob('*.jpg'))) == 4
    assert all(path.is_symlink() for path in out.rglob('*.jpg'))

    more = ['--outside', 'drop', '--missing-box', 'from-keypoints', '--frames-as', 'copy']
    assert main([str(raw.root), '--out', str(out), *more]) == 0
    expected = 'train: 1 box(es) made from keypoints: bbox.csv has none for the frame'
    assert expected in capsys.readouterr().out.splitlines()
    assert len(load(out, 'train')['images']) == 3
    assert not any(path.is_symlink() for path in out.rglob('*.jpg'))


def test_command_line_says_what_is_wrong(raw, out, capsys):
    main = runpy.run_path(str(CLI))['main']
    assert main([str(raw.write()), '--out', str(out), '--frames', str(out)]) == 2
    assert main([str(raw.root), '--out', str(raw.root)]) == 2
    raw.frame('oslo_(00005)').unlink()
    assert main([str(raw.root), '--out', str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith('error: ') for line in lines)
    assert 'val.csv:4: frame ' in lines[2]
