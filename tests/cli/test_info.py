"""segformer-plusplus info: the environment, a config, a checkpoint."""

import json

import pytest
import torch

from segformer_plusplus import __version__
from segformer_plusplus.cli.info import main
from segformer_plusplus.export import export_model
from segformer_plusplus.export.formats import TorchExportFile
from segformer_plusplus.inference import open_model


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


def test_an_exported_file(capsys, segmentation, tmp_path, monkeypatch):
    """What its metadata say, also of a precision; of a file without any, that it has none."""
    pytest.importorskip('mmseg')
    path = tmp_path / 'model.pt2'
    model = open_model(*segmentation, device='cpu')
    names = [f'class {k}' for k in range(5)]
    export = export_model(
        model, path, format='torch-export', shape=(64, 96), token_merging='hq', class_names=names,
        with_preprocessing=True,
    )  # fmt: skip
    printed = info(capsys, path)
    megabytes = path.stat().st_size / 1e6
    for row in (
        f'size │ {megabytes:.1f} MB', 'format │ torch-export, opset none', 'precision │ fp32',
        'takes │ 1 x 64x96, 3 channels, uint8 NHWC', 'gives │ logits, 5 channels',
        'mean │ 123.675, 116.28, 103.53, inside', 'token merging │ hq',
        'stage 1 │ kv: BipartiteSoftMatching2d(', '5 classes │ class 0, class 1,',
        f'made by │ segformer_plusplus {__version__}, torch',
    ):  # fmt: skip
        assert row in printed
    seen = dict(runtime='openvino', relative_error=0.0123, equal_labels=0.99, undecided=0)
    more = dict(
        precision='int8', calibration=dict(images=40), check=dict(images='kept back', seen=[seen])
    )
    monkeypatch.setattr(TorchExportFile, 'read_metadata', lambda *_: json.dumps(said))
    said = export.metadata | more
    printed = info(capsys, path)
    assert 'precision │ int8' in printed and 'calibration │ images: 40' in printed
    assert 'check in openvino │ relative error 1.2e-02, 99.000% equal labels (images: ' in printed
    monkeypatch.setattr(TorchExportFile, 'read_metadata', lambda *_: None)
    printed = info(capsys, path)
    assert 'recognised │ no: a file of another program' in printed
