"""segformer-plusplus info: the environment, a config, a checkpoint."""

import pytest
import torch

from segformer_plusplus import __version__
from segformer_plusplus.cli.info import main


def info(capsys, *arguments):
    assert main([str(word) for word in arguments]) == 0
    return ' '.join(capsys.readouterr().out.split())


def test_versions_and_strategies(capsys):
    printed = info(capsys)
    assert __version__ in printed and torch.__version__.split('+')[0] in printed
    assert 'BipartiteSoftMatching2d' in printed and 'downsampling' in printed


def test_a_config(capsys, segmentation):
    printed = info(capsys, segmentation[0])
    assert 'EncoderDecoderPlusPlus' in printed and 'mmseg' in printed and 'million' in printed


@pytest.mark.parametrize('scale, shown', [((96, 64), '96 x 64'), (80, '80')])
def test_sizes_of_images(capsys, segmentation, tmp_path, scale, shown):
    config = tmp_path / 'config.py'
    config.write_text(segmentation[0].read_text().replace('scale=(96, 64)', f'scale={scale}'))
    assert f'resized to fit {shown} ' in info(capsys, config)


def test_a_checkpoint(capsys, segmentation):
    printed = info(capsys, segmentation[1])
    assert 'recognised │ mmseg' in printed and 'classes │ 5' in printed


def test_what_looks_like_markup_is_shown(capsys, tmp_path):
    path = tmp_path / 'd[' / 'e] [bold]x.pth'
    path.parent.mkdir()
    torch.save({'state_dict': {'x': torch.zeros(2)}, 'meta': {'time': 'a[/b]c[red]d'}}, path)
    printed = info(capsys, path)
    assert 'a[/b]c[red]d' in printed and 'd[/e] [bold]x.pth' in printed


def test_a_file_of_nobody(capsys, tmp_path):
    torch.save({'x': torch.zeros(2)}, tmp_path / 'x.pth')
    assert 'of no library that is known' in info(capsys, tmp_path / 'x.pth')


@pytest.mark.parametrize('name', ['none.py', 'none.pth'])
def test_what_is_not_there(capsys, tmp_path, name):
    assert main([str(tmp_path / name)]) == 2
    assert 'error: ' in capsys.readouterr().err


@pytest.mark.parametrize(
    'text, words',
    [
        ('a = 1', 'plain.py has no model to build; expected model = dict(type='),
        ('model = dict()', 'plain.py has no model to build'),
        ('model = None', 'plain.py has no model to build'),
        ('model = 3', 'plain.py has no model to build'),
        ('test_dataloader = 3', 'plain.py: test_dataloader=3 is no dict'),
        ('val_dataloader = dict(dataset=3)', 'plain.py: val_dataloader.dataset=3 is no dict'),
        ("model = dict(type='EncoderDecoderPlusPlus')", 'the config does not fit its class'),
        (
            "model = dict(type='EncoderDecoderPlusPlus', backbon=dict())",
            "__init__() got an unexpected keyword argument 'backbon'",
        ),
        ('1 / 0', 'cannot read config'),
    ],
)
def test_a_config_without_a_model(capsys, tmp_path, text, words):
    (tmp_path / 'plain.py').write_text(f"default_scope = 'mmseg'\n{text}\n")
    assert main([str(tmp_path / 'plain.py')]) == 2
    error = capsys.readouterr().err
    assert words in error and error.splitlines()[-1].startswith('error: ')
