"""One-line errors, reading configs, and early path checks."""

import argparse
import json
import re
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from segformer_plusplus.cli.guard import TRACEBACK_VARIABLE, main_guard
from segformer_plusplus.cli.options import add_config_arguments
from segformer_plusplus.errors import CheckpointError, SegformerPlusPlusError, describe_error
from segformer_plusplus.files import write_json
from segformer_plusplus.inference.configs import check_data_roots, load_config


def raised_by(function, *args) -> BaseException:
    """The exception that the call ends with."""
    with pytest.raises(Exception) as info:
        function(*args)
    return info.value


class Broken(Dataset):
    """A dataset whose every sample fails, as a damaged file does."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        raise self.error


def test_guard_prints_one_line_and_returns_2(capsys):
    @main_guard
    def main(argv):
        raise CheckpointError('first\n  second')

    assert main([]) == 2
    assert capsys.readouterr().err == 'error: first second\n'


@pytest.mark.parametrize(
    'error, message',
    [
        (FileExistsError(17, 'File exists', 'work'), 'error: File exists: work\n'),
        (OSError(28, 'No space left on device'), 'error: No space left on device\n'),
        (
            ValueError('need at least one array to concatenate'),
            'error: a dataset is empty: no file in its data_prefix has its img_suffix, or nobody '
            'in its ann_file has a box and keypoints\n',
        ),
    ],
)
def test_guard_knows_what_the_system_and_empty_data_say(capsys, error, message):
    @main_guard
    def main(argv):
        raise error

    assert main([]) == 2
    assert capsys.readouterr().err == message


def test_the_error_stands_on_its_own_line_below_a_progress_bar(capsys):
    @main_guard
    def main(argv):
        bar = tqdm(total=5)
        bar.update()
        raise CheckpointError('broken')

    assert main([]) == 2
    assert 'error: broken' in [line.strip() for line in re.split('[\r\n]', capsys.readouterr().err)]


def test_an_option_without_a_value_is_a_usage_error(capsys):
    parser = argparse.ArgumentParser()
    add_config_arguments(parser)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(['--cfg-options', 'foo'])
    assert stop.value.code == 2
    assert "'foo' is not KEY=VALUE" in capsys.readouterr().err
    assert parser.parse_args(['--cfg-options', 'a.b=1']).cfg_options == {'a.b': 1}


def test_guard_passes_results_and_arguments_through():
    seen = []

    @main_guard
    def main(argv):
        seen.extend(argv)
        return 7

    assert main(['a', 'b']) == 7
    assert seen == ['a', 'b']


@pytest.mark.parametrize('error', [AttributeError('x'), AssertionError('x'), ValueError('x')])
def test_bugs_keep_their_traceback(error):
    @main_guard
    def main(argv):
        raise error

    with pytest.raises(type(error)):
        main([])


def test_traceback_on_demand(monkeypatch):
    @main_guard
    def main(argv):
        raise CheckpointError('x')

    with pytest.raises(CheckpointError):
        main(['--traceback'])
    monkeypatch.setenv(TRACEBACK_VARIABLE, '1')
    with pytest.raises(CheckpointError):
        main([])


def test_wrapping_by_registries_is_taken_off():
    def build():
        try:
            raise SegformerPlusPlusError('unknown preset')
        except SegformerPlusPlusError as error:
            message = f'class `Head` in mmseg/models/head.py: {error}'
            raise SegformerPlusPlusError(f'class `Seg` in mmseg/seg.py: {message}') from error

    assert describe_error(raised_by(build)) == 'unknown preset'


def test_a_wrapped_error_is_found_but_a_bug_in_a_handler_is_not_hidden():
    def wrapped():
        try:
            raise SegformerPlusPlusError('the cause')
        except SegformerPlusPlusError as error:
            raise RuntimeError('something failed') from error

    def buggy_handler():
        try:
            raise SegformerPlusPlusError('the cause')
        except SegformerPlusPlusError:
            None.attribute  # noqa: B018

    assert describe_error(raised_by(wrapped)) == 'the cause'
    assert describe_error(raised_by(buggy_handler)) is None


@pytest.mark.parametrize('error', [SegformerPlusPlusError('bad: x.png'), CheckpointError('bad: y')])
def test_errors_of_data_loader_workers(error):
    loader = DataLoader(Broken(error), num_workers=1)
    assert describe_error(raised_by(next, iter(loader))) == str(error)


def test_bugs_in_data_loader_workers_keep_their_traceback():
    loader = DataLoader(Broken(AssertionError('x')), num_workers=1)
    assert describe_error(raised_by(next, iter(loader))) is None


def test_registry_errors():
    message = describe_error(raised_by(MODELS.build, dict(type='NoSuchModel')))
    assert re.match(r'NoSuchModel is not in the \S*model registry; check its spelling', message)
    assert '\n' not in message

    unknown = dict(type='MixVisionTransformerPlusPlus', arch='b0', no_such_argument=1)
    assert 'no_such_argument' in describe_error(raised_by(MODELS.build, unknown))


def test_missing_files():
    assert describe_error(raised_by(open, '/no/such/file')).endswith(': /no/such/file')


def test_load_config(tmp_path):
    path = tmp_path / 'net.py'
    path.write_text('model = dict(depth=1)')
    assert load_config(path).work_dir == str(Path('work_dirs') / 'net')
    assert load_config(path, work_dir='here').work_dir == 'here'
    assert load_config(path, {'model.depth': 2}).model.depth == 2
    assert load_config(path, {'randomness': dict(seed=1)}).randomness.seed == 1


def test_load_config_errors(tmp_path):
    with pytest.raises(SegformerPlusPlusError, match='config not found: .*missing.py'):
        load_config(tmp_path / 'missing.py')
    path = tmp_path / 'net.py'
    for text in ('model = dict(', 'model = 1 / 0', '_base_ = "nothing.py"'):
        path.write_text(text)
        with pytest.raises(SegformerPlusPlusError, match='cannot read config .*net.py'):
            load_config(path)
    path.write_text('model = dict(depth=1)')
    with pytest.raises(SegformerPlusPlusError, match="did you mean 'model'"):
        load_config(path, {'modle.depth': 2})


def make_config(root: Path, wrap: bool = False, **changes) -> Config:
    prefix = dict(img_path='images', seg_map_path='labels')
    pipeline = [dict(type='CheckedLoadImageFromFile'), dict(type='CheckedLoadAnnotations')]
    dataset = dict(data_root=str(root), data_prefix=prefix, pipeline=pipeline)
    dataset.update(changes)
    if wrap:
        dataset = dict(type='RepeatDataset', times=2, dataset=dataset)
    return Config(dict(train_dataloader=dict(dataset=dataset)))


@pytest.fixture
def root(tmp_path):
    for name in ('images', 'labels'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'a.png').touch()
    (tmp_path / 'empty').mkdir()
    return tmp_path


@pytest.mark.parametrize('wrap', [False, True])
def test_data_roots(root, wrap):
    splits = ['train', 'val', 'test']
    key = 'train_dataloader.dataset' + ('.dataset' if wrap else '')
    check_data_roots(make_config(root, wrap), splits)
    check_data_roots(make_config(root, wrap, data_root='s3://bucket/data'), splits)

    wrong = [
        (make_config(root / 'x', wrap), 'data_root'),
        (make_config(root, wrap, data_prefix=dict(img_path='x')), 'data_prefix.img_path'),
        (make_config(root, wrap, data_prefix=dict(img='empty')), 'data_prefix.img'),
        (make_config(root, wrap, data_prefix=dict(seg_map_path='x')), 'data_prefix.seg_map_path'),
        (make_config(root, wrap, ann_file='x.json'), 'ann_file'),
        (make_config(root, wrap, bbox_file='x.json'), 'bbox_file'),
    ]
    for cfg, name in wrong:
        with pytest.raises(SegformerPlusPlusError, match=f'--cfg-options {key}.{name}='):
            check_data_roots(cfg, splits)
        check_data_roots(cfg, ['val', 'test'])


def test_labels_that_nobody_reads_may_be_missing(root):
    prefix = dict(img_path='images', seg_map_path='x')
    cfg = make_config(root, data_prefix=prefix, pipeline=[dict(type='CheckedLoadImageFromFile')])
    check_data_roots(cfg, ['train'])


def test_write_json(tmp_path):
    path = tmp_path / 'new' / 'metrics.json'
    write_json(path, {'a': float('nan'), 'b': (1, 2.5)})
    assert json.loads(path.read_text()) == {'a': None, 'b': [1, 2.5]}
    assert [p.name for p in path.parent.iterdir()] == ['metrics.json']
