"""Tests that joints survive the conversion, and that what cannot be used is counted or named."""

import json
import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segformer_plusplus.errors import SegformerPlusPlusError
from tools.dataset_converters.lsp import convert

CLI = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'lsp.py'
NAMES = (
    'right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow '
    'right_shoulder left_shoulder left_elbow left_wrist neck head_top'
).split()
WIDTH, HEIGHT = 60, 40
COPY = pytest.mark.parametrize('copy', [False, True])
FORM = pytest.mark.parametrize('form', ['mat', 'json'])


def savemat(path: Path, content: dict) -> None:
    pytest.importorskip('scipy.io').savemat(path, content)


class Raw:
    """Holds a raw data set of 20 images: 18 for training, 2 for validation."""

    def __init__(self, root: Path, form: str) -> None:
        rng = np.random.default_rng()
        self.root, self.form, self.names = root, form, [*rng.permutation(NAMES)]
        self.files = [f'im{number:05}.jpg' for number in range(1, 21)]
        self.joints = np.concatenate(  # (20, 14, 3)
            [rng.uniform(0, (WIDTH, HEIGHT), (20, 14, 2)), rng.integers(0, 2, (20, 14, 1))], axis=2
        )
        self.joints[:, :3, 2] = 1  # enough for a box
        self.content = dict(
            joint_names=self.names,
            images=[
                dict(file=file, split=split, width=WIDTH, height=HEIGHT)
                for file, split in zip(self.files, (['train'] * 9 + ['val']) * 2, strict=True)
            ],
        )
        (root / 'images').mkdir(parents=True)
        for number in range(1, 21):
            self.draw(number)

    def image(self, number: int) -> Path:
        return self.root / 'images' / self.files[number - 1]

    def draw(self, number: int, size=(WIDTH, HEIGHT), **options) -> None:
        Image.effect_noise(size, 60).convert('RGB').save(self.image(number), **options)

    def write(self) -> Path:
        if self.form == 'mat':
            savemat(self.root / 'joints.mat', dict(joints=self.joints.transpose(1, 2, 0)))
        else:
            order = [NAMES.index(name) for name in self.names]
            for image, joints in zip(self.content['images'], self.joints, strict=True):
                image.setdefault('joints', joints[order].tolist())
            (self.root / 'joints.json').write_text(json.dumps(self.content))
        return self.root


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


@pytest.fixture
def raw(tmp_path, form):
    return Raw(tmp_path / 'raw', form)


def run(raw: Raw | Path, out: Path, **options) -> dict[str, dict[str, int]]:
    """Converts; returns the counts of each split that are not zero."""
    root = raw.write() if isinstance(raw, Raw) else raw
    splits = convert(root, out, progress=False, **options)
    return {name: {key: n for key, n in one.counts.items() if n} for name, one in splits.items()}


def load(out: Path, split: str) -> dict:
    return json.loads((out / 'annotations' / f'{split}.json').read_text())


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
    root = raw.write() if isinstance(raw, Raw) else raw
    before, parts = state(root.parent), '.*'.join(map(re.escape, message.split('...')))
    with pytest.raises(SegformerPlusPlusError, match=parts) as error:
        convert(root, out, progress=False, **options)
    assert '\n' not in str(error.value)
    assert state(root.parent) == before, 'nothing is written'


@FORM
def test_all_values_survive(raw, out):
    counts, annotated = run(raw, out), raw.joints[..., 2] == 1
    val = np.arange(1, 21) % 10 == 0
    for split, chosen in (('train', ~val), ('val', val)):
        content, numbers = load(out, split), np.flatnonzero(chosen)
        assert content['images'] == [
            {'id': n + 1, 'file_name': raw.files[n], 'width': WIDTH, 'height': HEIGHT}
            for n in numbers
        ]
        assert counts[split] == dict(
            images=len(numbers), people=len(numbers), keypoints=annotated[chosen].sum()
        )
        for n, person in zip(numbers, content['annotations'], strict=True):
            points, there = raw.joints[n, :, :2], annotated[n]
            expected = np.where(there[:, None], [[x, y, 2] for x, y in points], 0)
            np.testing.assert_allclose(np.reshape(person['keypoints'], (14, 3)), expected)
            low, high = points[there].min(0), points[there].max(0)
            margin = 0.1 * (high - low).max()
            low, high = np.maximum(low - margin, 0), np.minimum(high + margin, (WIDTH, HEIGHT))
            np.testing.assert_allclose(person['bbox'], [*low, *(high - low)])
            assert person['area'] == pytest.approx((high - low).prod())
            assert (person['id'], person['image_id'], person['category_id']) == (n + 1, n + 1, 1)
            assert (person['num_keypoints'], person['iscrowd']) == (there.sum(), 0)
        assert content['categories'][0]['keypoints'] == NAMES


@FORM
@COPY
def test_images_are_linked_or_copied(raw, out, copy, form):
    before = state(raw.write())
    run(raw.root, out, copy=copy)
    for split, number in (('train', 11), ('val', 20)):
        target = out / 'images' / split / raw.files[number - 1]
        assert target.is_symlink() != copy and target.read_bytes() == raw.image(number).read_bytes()
        assert copy or os.readlink(target) == os.path.realpath(raw.image(number))
    assert len(list((out / 'images').glob('*/*'))) == 20
    written = state(out)
    run(raw.root, out, copy=copy)
    assert state(out) == written, 'the second run touches nothing'
    run(raw.root, out, copy=not copy)
    assert {path.is_symlink() for path in out.rglob('*.jpg')} == {copy}
    assert state(raw.root) == before


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return lambda raw, n: raw.draw(n, exif=exif)


def truncate(raw, n):
    data = raw.image(n).read_bytes()
    raw.image(n).write_bytes(data[: len(data) // 2])


def outside(x, y):
    def change(raw, n):
        raw.joints[n - 1, 5] = x, y, 1

    return change


def hide(kept):
    def change(raw, n):
        raw.joints[n - 1, kept:, 2] = 0

    return change


@pytest.mark.parametrize(
    ('damage', 'counted', 'people'),
    [
        (lambda raw, n: raw.image(n).unlink(), 'missing', 0),
        (lambda raw, n: raw.image(n).write_bytes(b''), 'unreadable', 0),
        (lambda raw, n: raw.image(n).write_bytes(b'%!PS-Adobe-3.0'), 'unreadable', 0),
        (truncate, 'unreadable', 0),
        *((turned(orientation), 'turned', 0) for orientation in range(2, 9)),
        *((turned(orientation), None, 1) for orientation in (0, 1, 9)),
        (hide(0), 'too_few', 0),
        (hide(1), 'too_few', 0),
        (hide(2), None, 1),
        *((outside(x, 0), 'outside', 1) for x in (-0.1, WIDTH, np.nan, np.inf)),
        *((outside(0, y), 'outside', 1) for y in (-0.1, HEIGHT, np.nan, -np.inf)),
        (outside(WIDTH - 0.01, HEIGHT - 0.01), None, 1),
        (lambda raw, n: outside(-1, -1)(raw, n) or hide(5)(raw, n), None, 1),
    ],
)
@FORM
def test_what_cannot_be_used_is_counted_and_left_out(raw, out, damage, counted, people):
    number = int(np.random.default_rng().choice([10, 20]))
    damage(raw, number)
    val = convert(raw.write(), out, progress=False)['val']
    counts, content = val.counts, load(out, 'val')
    found = {key for key in counts if key not in ('images', 'people', 'keypoints')}
    assert found == ({counted} if counted else set())
    assert counts['images'] == 2 and counts['people'] == 1 + people
    files = [image['file_name'] for image in content['images']]
    assert (raw.files[number - 1] in files) == bool(people) and len(files) == 1 + people
    assert sum(one['num_keypoints'] for one in content['annotations']) == counts['keypoints']
    if counted:
        assert val.first[counted].startswith(raw.files[number - 1])
    if counted == 'outside':
        point = content['annotations'][files.index(raw.files[number - 1])]['keypoints'][15:18]
        assert point == [0, 0, 0]


@pytest.mark.parametrize('form', ['mat'])
def test_an_image_of_another_size_than_its_joints(raw, out):
    raw.draw(7, size=(WIDTH, HEIGHT + 1))
    assert run(raw, out)['train']['people'] == 18, 'the published joints.mat has no sizes'
    (raw.root / 'joints.mat').unlink()
    raw.form = 'json'
    splits = convert(raw.write(), out, progress=False)
    assert splits['train'].first['size'] == 'im00007.jpg (60 x 41, joints for 60 x 40)'
    assert splits['train'].counts['people'] == 17


SHAPE = "joints.mat: 'joints' is ...expected are numbers of shape (14, 3, images)"


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (
            dict(joints=np.ones((3, 14, 20))),
            SHAPE.replace('...', 'float64 of shape (3, 14, 20)...'),
        ),
        (dict(joints=np.ones((14, 2, 20))), SHAPE),
        (dict(joints=np.ones((14, 3))), SHAPE),
        (dict(joints='fourteen joints'), SHAPE),
        (dict(joints=dict(x=1, y=2)), SHAPE),
        (dict(joints=np.ones((14, 3, 20), complex)), SHAPE),
        (dict(joint=np.ones((14, 3, 20))), SHAPE.replace('...', 'missing, ')),
        (b'', 'joints.mat cannot be read'),
        (b'no MAT file, whatever its name says' * 9, 'joints.mat cannot be read'),
        (dict(joints=np.ones((14, 3, 0))), 'no image of train can be used: it has none'),
        (
            dict(joints=np.ones((14, 3, 9))),
            'no image of train can be used (skipped: too few keypoints for a box: 9, such as',
        ),
        (dict(joints=np.random.default_rng().uniform(0, 9, (14, 3, 9))), 'no image of val can be'),
    ],
)
@pytest.mark.parametrize('form', ['mat'])
def test_another_joints_mat(raw, out, content, message):
    path = raw.root / 'joints.mat'
    path.write_bytes(content) if isinstance(content, bytes) else savemat(path, content)
    refuse(message, raw.root, out)


BAD_FILES = [
    '',
    '.',
    '..',
    '../im00001.jpg',
    '/etc/passwd',
    'a/b.jpg',
    'a\\b',
    '-rf',
    'a\nb',
    'a b',
]


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        *(('file', value, 'images[4]: file ...is not the name of a file') for value in BAD_FILES),
        *(
            ('file', value, 'images[4]: file ...is not the name')
            for value in (7, None, ['a'], '\x1b')
        ),
        ('file', 'im00001.jpg', 'joints.json lists im00001.jpg more than once'),
        *(
            ('split', value, 'images[4]: split ...is none of')
            for value in ('test', '', None, ['val'])
        ),
        *(
            (key, value, 'images[4]: width and height are ')
            for key in ('width', 'height')
            for value in (0, -3, 60.5, '60', None, True, np.nan, np.inf)
        ),
        ('joints', [[1, 2, 1]] * 13, 'images[4]: joints of shape (13, 3), expected is (14, 3)'),
        ('joints', [[1, 2]] * 14, 'images[4]: joints of shape (14, 2)'),
        ('joints', [[1, 2, 1]] * 13 + [[1, 2]], 'images[4]: ValueError'),
        ('joints', [['a', 2, 1]] * 14, 'images[4]: ValueError'),
        ('joints', [[10**400, 2, 1]] * 14, 'images[4]: OverflowError'),
    ],
)
@pytest.mark.parametrize('form', ['json'])
def test_bad_values_are_named(raw, out, key, value, message):
    raw.content['images'][4][key] = value
    refuse(message, raw, out)


@pytest.mark.parametrize('key', ['file', 'split', 'width', 'height', 'joints'])
@pytest.mark.parametrize('form', ['json'])
def test_a_missing_value_is_named(raw, out, key):
    raw.write()
    del raw.content['images'][19][key]
    (raw.root / 'joints.json').write_text(json.dumps(raw.content))
    message = f"images[19]: KeyError: '{key}'; expected are file, split, width, height and joints"
    refuse(message, raw.root, out)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'joints.json cannot be read'),
        ('\x00\xff', 'joints.json cannot be read'),
        ('[' * 100000, 'joints.json cannot be read'),
        *((text, 'joint_names are None, expected are') for text in ('[]', '7', 'null', '{}')),
        *(
            (json.dumps(dict(joint_names=names, images=[])), 'joint_names are ')
            for names in ('neck', NAMES[1:], [*NAMES, 'nose'], [*NAMES, 'neck'], [[]], dict(a=1))
        ),
        *(
            (json.dumps(dict(joint_names=NAMES, images=images)), 'images is no list')
            for images in (None, 7, 'abc', dict(a=1))
        ),
        (json.dumps(dict(joint_names=NAMES, images=[])), 'no image of train can be used: it has'),
        (json.dumps(dict(joint_names=NAMES, images=['a'])), 'images[0]: TypeError'),
    ],
    ids=lambda text: text[:30],
)
@pytest.mark.parametrize('form', ['json'])
def test_another_joints_json(raw, out, text, message):
    (raw.root / 'joints.json').write_bytes(text.encode('latin-1'))
    refuse(message, raw.root, out)


@FORM
def test_both_annotation_files_or_none(raw, out):
    refuse('holds neither joints.mat', raw.root, out)
    raw.write()
    raw.form = {'mat': 'json', 'json': 'mat'}[raw.form]
    refuse('holds both joints.mat', raw, out)


@FORM
def test_a_split_without_people(raw, out):
    for number in (10, 20):
        raw.image(number).unlink()
    refuse('no image of val ...(skipped: no image file: 2, such as im00010.jpg)', raw, out)


@FORM
def test_out_folder_among_the_images_is_refused(raw):
    refuse('lies among the images', raw, raw.root / 'images/deep/out')
    assert not (raw.root / 'images/deep').exists()


@pytest.mark.parametrize('place', ['raw', 'raw/.', 'raw/images', 'link', 'link/images'])
@FORM
def test_out_folder_in_the_raw_data_is_refused(raw, tmp_path, place):
    (tmp_path / 'link').symlink_to(raw.root)
    refuse('holds the raw data, name another folder with --out', raw, tmp_path / place)


@FORM
def test_folders_that_are_none(raw, out, tmp_path):
    refuse('nowhere/images: no such folder, correct RAW_DIR', tmp_path / 'nowhere', out)
    out.write_text('a file')
    for place in (out, out / 'deeper'):
        refuse('out: is not a folder', raw, place)


@FORM
@COPY
def test_raw_images_are_never_damaged(raw, out, copy):
    """The out folder's images are the raw ones, or stand in the way as other files."""
    before = state(raw.write())
    (out / 'images/val').mkdir(parents=True)
    (out / 'images/train').symlink_to(raw.root / 'images')
    (out / 'images/val' / raw.files[9]).symlink_to(raw.image(1))
    (out / 'images/val' / raw.files[19]).write_bytes(b'another file')
    run(raw.root, out, copy=copy)
    assert state(raw.root) == before
    for number in (10, 20):
        target = out / 'images/val' / raw.files[number - 1]
        assert target.read_bytes() == raw.image(number).read_bytes()


@FORM
@COPY
def test_a_place_that_cannot_be_written(raw, out, copy):
    (out / 'images/val' / raw.files[19]).mkdir(parents=True)
    root = raw.write()
    with pytest.raises(SegformerPlusPlusError, match=f'{raw.files[19]}: cannot be written'):
        convert(root, out, copy=copy, progress=False)
    assert not (out / 'annotations').exists()


@pytest.mark.parametrize('form', ['json'])
def test_command_line(raw, out, capsys):
    main = runpy.run_path(str(CLI))['main']
    outside(-1, 2)(raw, 10)
    raw.image(3).unlink()
    assert main([str(raw.write()), '--out', str(out), '--frames-as', 'copy']) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [re.split(r'\s*[│┃]\s*', line)[1:-1] for line in lines]
    assert ['people converted', '17', '2'] in cells
    assert {
        'train: skipped: no image file: 1, such as im00003.jpg',
        'val: keypoints outside their image, taken as not annotated: 1, such as im00010.jpg '
        '(left_ankle at x=-1, y=2)',
    } < set(lines)
    assert lines[-1] == f'Converted to {out}'
    assert main([str(raw.root), '--out', str(raw.root)]) == 2
    assert capsys.readouterr().err.startswith('error: ')
