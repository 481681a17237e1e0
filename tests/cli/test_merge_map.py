"""segformer-plusplus merge-map: a picture and a table of what is merged."""

import cv2
import numpy as np
import pytest
from inference.test_sources import random_image
from PIL import Image

pytest.importorskip('mmseg')

from segformer_plusplus.cli.merge_map import main


@pytest.fixture
def call(segmentation, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / 'x.png'), random_image(128, 160))

    def run(image='x.png', out='deep/map.png', *more):
        words = [*segmentation, tmp_path / image, '--out', tmp_path / out, '--device', 'cpu', *more]
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


def test_a_picture_and_a_table(call, tmp_path):
    code, out, _ = call('x.png', 'deep/map.png', '--token-merging', '2x2')
    assert code == 0 and 'x.png: 2x2' in out and 'of the pixels change their label' in out
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in out.splitlines()]
    stages = [row for row in rows if row and row[0].isdigit()]
    assert stages[0] == ['1', 'queries', '1280', '320', '75.0%'] and len(stages) == 4
    assert np.asarray(Image.open(tmp_path / 'deep/map.png')).std() > 0


@pytest.mark.parametrize(('own', 'shown'), [('2x2', 'own'), ('none', 'hq')])
def test_what_the_config_merges_or_hq(call, segmentation, tmp_path, capsys, own, shown):
    config = tmp_path / 'own.py'
    text = segmentation[0].read_text()
    assert text.count("token_merging='none'") == 1
    config.write_text(text.replace("token_merging='none'", f'token_merging={own!r}'))
    words = [config, segmentation[1], tmp_path / 'x.png', '--out', tmp_path / 'map.png']
    assert main([str(word) for word in (*words, '--device', 'cpu')]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == f'x.png: {shown}' and lines[-1].endswith('change their label')


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['x.png', 'map.jpg'], 'map.jpg: give a name that ends in .png'),
        (['gone.png'], 'image not found: '),
        (['x.png', 'map.png', '--block', '2'], 'there is no block 2 in stage 1'),
    ],
)
def test_calls_that_are_refused(call, arguments, message, tmp_path):
    code, out, error = call(*arguments)
    assert (code, out) == (2, '') and error.startswith('error: ') and message in error
    assert not (tmp_path / 'map.png').exists()


def test_a_file_has_no_merge_map(segmentation, tmp_path, capsys):
    for words in (['model.xml', 'x.png'], [segmentation[0], 'model.xml', 'x.png']):
        assert main([*map(str, words), '--out', str(tmp_path / 'a.png')]) == 2
        message = capsys.readouterr().err
        assert message.startswith('error: model.xml is an exported file') and 'name the' in message
