"""One line for what a user can mend, a traceback for what only we can."""

import errno
import logging
import re

import pytest
import torch
from mmengine.registry import MODELS, PARAM_SCHEDULERS, Registry
from torch._utils import ExceptionWrapper
from tqdm import tqdm

from segformer_plusplus.cli.guard import TRACEBACK_VARIABLE, main_guard
from segformer_plusplus.errors import (
    CheckpointError,
    MissingDependencyError,
    SegformerPlusPlusError,
    describe_error,
)
from segformer_plusplus.libraries import require


def failing(error, progress=False):
    @main_guard
    def main(argv):
        if progress:
            tqdm(total=5).update()
        raise error

    return main


def raised_by(function, *args) -> BaseException:
    """The exception that the call ends with."""
    with pytest.raises(Exception) as info:
        function(*args)
    return info.value


@pytest.mark.parametrize(
    'error, message',
    [
        (CheckpointError('first\n  second'), 'first second'),
        (FileExistsError(17, 'File exists', 'work'), 'File exists: work'),
        (OSError(28, 'No space left on device'), 'No space left on device'),
        (
            RuntimeError("[enforce fail at x.cpp:1] DefaultCPUAllocator: can't allocate memory: y"),
            'out of memory; try a smaller --shape or --batch-size, or --dtype bfloat16',
        ),
        (
            torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'),
            'out of memory; try a smaller --shape or --batch-size, or --dtype bfloat16',
        ),
        (
            ValueError('need at least one array to concatenate'),
            'a dataset is empty: no file in its data_prefix has its img_suffix, or nobody in its '
            'ann_file has a box and keypoints',
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line(error, message, capsys):
    assert failing(error)([]) == 2
    assert capsys.readouterr().err == f'error: {message}\n'


def test_the_error_stands_on_its_own_line_below_a_progress_bar(capsys):
    assert failing(CheckpointError('broken'), progress=True)([]) == 2
    assert 'error: broken' in [line.strip() for line in re.split('[\r\n]', capsys.readouterr().err)]


@pytest.mark.parametrize(
    'name, words',
    [
        ('mmcv', 'needs mmcv, which cannot be imported (No module); install it with pip install '),
        ('mmengine.runner', 'pip install onedl-mmengine'),
        ('xtcocotools', 'mmpose==1.3.2'),
        ('munkres', 'mmpose==1.3.2'),
        ('rich', 'install it with pip install rich'),
    ],
)
def test_a_missing_library_is_named_wherever_it_is_imported(name, words, capsys, monkeypatch):
    monkeypatch.setattr('segformer_plusplus.libraries.installed_line', lambda: 'maintained')
    assert failing(ModuleNotFoundError('No module', name=name))([]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count('\n') == 1
    with pytest.raises(MissingDependencyError) as asked:
        require('of_nobody', 'TensorboardVisBackend')
    assert failing(asked.value)([]) == 2
    assert capsys.readouterr().err.startswith('error: TensorboardVisBackend needs of_nobody, ')
    ours = ModuleNotFoundError('No module', name='segformer_plusplus.lost')
    with pytest.raises(ModuleNotFoundError):
        failing(ours)([])


def test_ctrl_c_is_one_line_whatever_a_library_makes_of_it(capsys, monkeypatch):
    def formatted():
        try:
            raise KeyboardInterrupt
        except BaseException as error:
            raise SyntaxError('Failed to format the config file') from error

    for error in (KeyboardInterrupt(), raised_by(formatted)):
        assert failing(error)([]) == 130
        assert capsys.readouterr().err == 'interrupted\n'
        with pytest.raises(type(error)):
            failing(error)(['--traceback'])


def test_a_log_file_that_cannot_be_written_is_no_traceback_a_line(capsys):
    class Full(logging.Handler):
        def emit(self, record):
            try:
                raise OSError(errno.ENOSPC, 'No space left on device')
            except OSError:
                self.handleError(record)

    @main_guard
    def main(argv):
        Full().emit(logging.makeLogRecord({}))
        return 0

    assert main([]) == 0 and capsys.readouterr().err == ''
    Full().emit(logging.makeLogRecord({}))
    assert 'No space left' in capsys.readouterr().err  # elsewhere as before


@pytest.mark.parametrize('error', [AttributeError('x'), AssertionError('x'), ValueError('x')])
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)):
        failing(error)([])


def test_traceback_on_demand(monkeypatch):
    main = failing(CheckpointError('x'))
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


@pytest.mark.parametrize(
    ('error', 'message'),
    [
        (SegformerPlusPlusError('bad: x.png'), 'bad: x.png'),
        (CheckpointError('bad: y'), 'bad: y'),
        (AssertionError('x'), None),
    ],
)
def test_errors_of_data_loader_workers(error, message):
    try:
        raise error
    except type(error):
        sent = ExceptionWrapper(where='in DataLoader worker process 0')
    assert describe_error(raised_by(sent.reraise)) == message


def test_registry_errors():
    message = describe_error(raised_by(MODELS.build, dict(type='NoSuchModel')))
    assert re.match(r'NoSuchModel is not in the \S*model registry; check its spelling', message)
    assert '\n' not in message
    unknown = dict(type='MixVisionTransformerPlusPlus', arch='b0', no_such_argument=1)
    assert 'no_such_argument' in describe_error(raised_by(MODELS.build, unknown))


class Picky:
    def __init__(self, size=0, step=0):
        if size < 0:
            raise ValueError(f'size is {size}')
        self.check(step)

    def check(self, step):
        if step < 0:
            raise ValueError(f'step is {step}')


def test_a_value_that_a_class_of_the_config_refuses():
    """By its own constructor or its parent's; not what fails in a method, which may be a bug."""

    class PickyChild(Picky):
        def __init__(self, **settings):
            super().__init__(**settings)

    registry = Registry('picky')
    for each in (Picky, PickyChild):
        registry.register_module(module=each)
        refused = raised_by(registry.build, dict(type=each.__name__, size=-3))
        assert describe_error(refused) == f'the config does not fit {each.__name__}: size is -3'
        assert describe_error(raised_by(registry.build, dict(type=each.__name__, step=-3))) is None
    assert describe_error(raised_by(Picky, -3)) is None


def test_a_schedule_that_ends_before_it_begins():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = dict(type='PolyLR', begin=50, end=20, by_epoch=False)
    error = raised_by(
        lambda: PARAM_SCHEDULERS.build(schedule, default_args=dict(optimizer=optimizer))
    )
    said = describe_error(error)
    assert said.startswith('the config does not fit PolyLR: ') and 'begin=50, end=20' in said
