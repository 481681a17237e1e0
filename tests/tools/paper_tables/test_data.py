"""Data that are not there, not all there, damaged, or drawn: each is said with how to mend it."""

import json
from pathlib import Path

import pytest

from tools.paper_tables.data import DATA_SETS, find_fault, signature


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.fixture
def jumpers(tmp_path) -> Path:
    """A Jump-Broadcast data root with three validation frames."""
    folder = tmp_path / 'jump_broadcast'
    names = [f'event/event_({number:05d}).jpg' for number in range(3)]
    fill(folder / 'images/val', names)
    (folder / 'annotations').mkdir()
    content = {'images': [{'file_name': name} for name in names]}
    (folder / 'annotations/val_jump.json').write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize('name', list(DATA_SETS))
def test_no_data(tmp_path, name):
    fault = find_fault(DATA_SETS[name], tmp_path, training=False)
    assert f'is not at {tmp_path}' in fault and '{folder}' not in fault and '{{' not in fault
    assert any(word in fault for word in ('wget', 'unpack', 'jbd.py', 'git clone'))


def test_a_part_of_cityscapes(tmp_path):
    fill(tmp_path / 'cityscapes/leftImg8bit/val/ulm', ['a_leftImg8bit.png', 'b_leftImg8bit.png'])
    fault = find_fault(DATA_SETS['cityscapes'], tmp_path, training=False)
    assert 'is not complete' in fault
    assert '_leftImg8bit.png: 2 files, expected 500' in fault
    assert '_gtFine_labelTrainIds.png: 0 files, expected 500' in fault
    assert 'createTrainIdLabelImgs' in fault and '2975' not in fault
    assert '2975' in find_fault(DATA_SETS['cityscapes'], tmp_path, training=True)


def test_whole_ade20k(tmp_path):
    folder = tmp_path / 'ade/ADEChallengeData2016'
    fill(folder / 'images/validation', [f'{number}.jpg' for number in range(2000)])
    fill(folder / 'annotations/validation', [f'{number}.png' for number in range(2000)])
    assert find_fault(DATA_SETS['ade20k'], tmp_path, training=False) is None
    (folder / 'annotations/validation/7.png').unlink()
    assert '1999 files, expected 2000' in find_fault(DATA_SETS['ade20k'], tmp_path, training=False)


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.jpeg'])
def test_camvid_as_png_or_jpeg(tmp_path, suffix):
    folder, data = tmp_path / 'camvid', DATA_SETS['camvid']
    fill(folder / 'val', [f'{number}{suffix}' for number in range(101)] + ['Thumbs.db'])
    fill(folder / 'valannot', [f'{number}.png' for number in range(101)])
    assert find_fault(data, tmp_path, training=False) is None
    assert 'train/*.[jp]*g: 0 files, expected 367' in find_fault(data, tmp_path, training=True)
    before = signature(data, folder, training=False)
    (folder / f'val/7{suffix}').write_bytes(b'1')
    assert signature(data, folder, training=False) != before
    (folder / f'val/7{suffix}').unlink()
    assert '100 files, expected 101' in find_fault(data, tmp_path, training=False)


def test_frames_that_the_annotations_name(jumpers):
    data = DATA_SETS['jbd']
    assert find_fault(data, jumpers.parent, training=False) is None
    assert 'train_jump.json: 0 files' in find_fault(data, jumpers.parent, training=True)
    (jumpers / 'images/val/event/event_(00001).jpg').unlink()
    fault = find_fault(data, jumpers.parent, training=False)
    assert '1 files that annotations/val_jump.json names' in fault and '(00001).jpg' in fault


@pytest.mark.parametrize('content', ['{"images"', '{}', '[]', '{"images": [3]}'])
def test_damaged_annotations(jumpers, content):
    (jumpers / 'annotations/val_jump.json').write_text(content)
    fault = find_fault(DATA_SETS['jbd'], jumpers.parent, training=False)
    assert 'val_jump.json is damaged' in fault and 'converters/jbd.py' in fault


def test_drawn_data_are_no_measurement_of_the_papers_table(jumpers):
    (jumpers / 'jumpers.json').write_text('{}')
    fault = find_fault(DATA_SETS['jbd'], jumpers.parent, training=False)
    assert 'drawn data' in fault and 'move them away' in fault and 'converters/jbd.py' in fault


def test_the_signature_sees_other_files(jumpers):
    data = DATA_SETS['jbd']
    before = signature(data, jumpers, training=False)
    assert signature(data, jumpers, training=False) == before
    (jumpers / 'images/val/event/event_(00001).jpg').write_bytes(b'1')
    assert signature(data, jumpers, training=False) != before
