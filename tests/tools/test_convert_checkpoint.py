"""tools/convert_checkpoint.py: what it writes, what it says, and what it refuses."""

import importlib.util
from pathlib import Path

import pytest
import torch

from segformer_plusplus import MixVisionTransformerPlusPlus
from segformer_plusplus.checkpoints import (
    plain_state_dict,
    read_checkpoint,
    recognise,
    to_mmseg,
    to_nvlabs,
)
from segformer_plusplus.segmentation import SegformerHeadPlusPlus, SegformerLinearHead

pytest.importorskip('safetensors')

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'convert_checkpoint.py'
WIDTHS = [32, 64, 160, 256]


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('convert_checkpoint', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make(head_type):
    torch.manual_seed(0)
    backbone = MixVisionTransformerPlusPlus(embed_dims=32, num_heads=(1, 2, 5, 8),
                                            num_layers=(1, 1, 1, 1))  # fmt: skip
    head = head_type(
        in_channels=WIDTHS, in_index=[0, 1, 2, 3], channels=16, num_classes=7,
        norm_cfg=dict(type='BN'), align_corners=False,
    )  # fmt: skip
    state = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    return state | {f'decode_head.{k}': v for k, v in head.state_dict().items()}


@pytest.fixture(scope='module')
def linear():
    return make(SegformerLinearHead)


@pytest.fixture(scope='module')
def mmseg():
    return make(SegformerHeadPlusPlus)


def read(path):
    return plain_state_dict(read_checkpoint(path), path)


def same(one, other):
    return set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def run(tool, capsys):
    def call(*arguments):
        code = tool.main([str(argument) for argument in arguments])
        out, error = capsys.readouterr()
        return code, ' '.join(out.split()), error

    return call


def test_round_trip_over_every_format(tmp_path, run, linear):
    source = tmp_path / 'source.pth'
    torch.save(dict(state_dict=linear), source)
    steps = dict(nvlabs='deep/a.bin', transformers='b.safetensors', mmseg='c.pt')
    for to, name in steps.items():
        code, out, error = run(source, tmp_path / name, '--to', to)
        assert (code, error) == (0, '') and 'classes │ 7' in out
        source = tmp_path / name
        assert recognise(read(source)) == to
    assert same(read(source), linear) and 'recognised │ transformers' in out


def test_transformers_folder(tmp_path, run, linear):
    torch.save(linear, tmp_path / 'source.pth')
    code, out, _ = run(tmp_path / 'source.pth', tmp_path / 'folder', '--to', 'transformers')
    assert code == 0 and 'head │ linear' in out
    names = sorted(path.name for path in (tmp_path / 'folder').iterdir())
    assert names == ['config.json', 'model.safetensors']
    assert run(tmp_path / 'folder', tmp_path / 'back.pth')[0] == 0
    assert same(read(tmp_path / 'back.pth'), linear)


def test_mmengine_reads_what_is_written(tmp_path, run, linear):
    from mmengine.runner import CheckpointLoader

    torch.save(to_nvlabs(linear), tmp_path / 'source.pth')
    assert run(tmp_path / 'source.pth', tmp_path / 'out.pth')[0] == 0
    assert same(CheckpointLoader.load_checkpoint(str(tmp_path / 'out.pth'))['state_dict'], linear)


def test_left_out_keys_are_named(tmp_path, run, linear):
    backbone = {k.removeprefix('backbone.'): v for k, v in linear.items() if 'backbone' in k}
    state = to_nvlabs(backbone) | {'head.weight': torch.ones(9, 256), 'head.bias': torch.ones(9)}
    torch.save(state, tmp_path / 'mit.pth')
    code, out, _ = run(tmp_path / 'mit.pth', tmp_path / 'out.safetensors')
    assert code == 0 and 'keys left out │ 2 head' in out and 'head │ none' in out
    assert f'keys converted │ {len(state) - 2}' in out
    assert same(read(tmp_path / 'out.safetensors'), backbone)


@pytest.mark.parametrize('to', ['mmseg', 'transformers', 'nvlabs'])
def test_backbone_only(tmp_path, run, mmseg, to):
    torch.save(mmseg, tmp_path / 'source.pth')
    target = tmp_path / 'out.safetensors'
    code, out, _ = run(tmp_path / 'source.pth', target, '--to', to, '--backbone-only')
    assert code == 0 and 'decode_head.convs.0.bn' in out
    backbone = {k.removeprefix('backbone.'): v for k, v in mmseg.items() if 'backbone' in k}
    assert recognise(read(target)) == to and same(to_mmseg(read(target)), backbone)


def test_the_head_of_mmseg_is_refused(tmp_path, run, mmseg):
    torch.save(mmseg, tmp_path / 'source.pth')
    code, _, error = run(tmp_path / 'source.pth', tmp_path / 'out', '--to', 'transformers')
    assert code == 2 and '--backbone-only' in error and 'SegformerLinearHead' in error
    assert not (tmp_path / 'out').exists()


BAD = {
    'empty': (lambda path, state: path.touch(), 'cannot be read'),
    'missing': (lambda path, state: torch.save(
        {k: v for k, v in state.items() if k != 'decode_head.conv_seg.bias'}, path),
                '1 keys missing: decode_head.conv'),
    'strange': (lambda path, state: torch.save(
        to_nvlabs(state) | {'backbone.x': torch.ones(1)}, path), 'backbone.x'),
}  # fmt: skip


@pytest.mark.parametrize('to', ['mmseg', 'transformers'])
@pytest.mark.parametrize('kind', BAD)
def test_bad_input_is_one_line_and_leaves_the_target(tmp_path, run, linear, kind, to):
    prepare, words = BAD[kind]
    source, target = tmp_path / 'source.pth', tmp_path / 'out.safetensors'
    target.write_bytes(b'old')
    prepare(source, linear)
    code, out, error = run(source, target, '--to', to)
    assert (code, out) == (2, '')
    assert error.startswith('error: ') and error.count('\n') == 1
    assert words in error and 'source.pth' in error
    assert target.read_bytes() == b'old'


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_code_in_a_pickle(tmp_path, run, linear):
    source, target, trace = (tmp_path / name for name in ('a.pth', 'b.safetensors', 'trace'))
    torch.save(dict(state_dict=linear, extra=Payload(trace)), source)
    code, _, error = run(source, target)
    assert code == 2 and '--unsafe' in error and not trace.exists() and not target.exists()
    assert run(source, target, '--unsafe')[0] == 0
    assert trace.exists() and same(read(target), linear)


@pytest.mark.parametrize(
    'name, to, words',
    [
        ('out.npz', 'mmseg', 'end it with one of'),
        ('out', 'nvlabs', 'end it with one of'),
        ('out.npz', 'transformers', 'end it with one of'),
        ('file', 'transformers', 'is a file'),
        ('full', 'transformers', 'already holds other weights'),
    ],
)
def test_targets_that_cannot_be(tmp_path, run, linear, name, to, words):
    (tmp_path / 'file').touch()
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'pytorch_model.bin').touch()
    torch.save(linear, tmp_path / 'source.pth')
    before = sorted(path for path in tmp_path.rglob('*'))
    code, _, error = run(tmp_path / 'source.pth', tmp_path / name, '--to', to)
    assert code == 2 and words in error
    assert sorted(path for path in tmp_path.rglob('*')) == before


def test_an_interrupted_write_leaves_the_target(tmp_path, run, linear, monkeypatch):
    """Ctrl-C in the middle of writing: the old file stays, nothing else does."""
    source, target = tmp_path / 'source.pth', tmp_path / 'out.pth'
    torch.save(linear, source)
    target.write_bytes(b'old')

    def interrupted(content, path):
        path.write_bytes(b'half')
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, 'save', interrupted)
    code, _, error = run(source, target)
    assert (code, error) == (130, 'interrupted\n')
    assert target.read_bytes() == b'old'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out.pth', 'source.pth']


@pytest.mark.parametrize('meta', [{}, dict(dataset_meta=dict(classes=list('abcdefg'), palette=[]))])
def test_a_folder_for_transformers_names_the_classes(tool, linear, tmp_path, meta):
    """The folder is then a model by its name."""
    from segformer_plusplus.inference import Segmenter

    torch.save(dict(state_dict=linear, meta=meta), tmp_path / 'mine.pth')
    words = [tmp_path / 'mine.pth', tmp_path / 'folder', '--to', 'transformers']
    assert tool.main([str(word) for word in words]) == 0
    expected = list('abcdefg') if meta else [f'LABEL_{i}' for i in range(7)]
    assert Segmenter.from_pretrained(tmp_path / 'folder', device='cpu').classes == expected
