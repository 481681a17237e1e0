"""Tests cause every accident of a training and look at its message and at what it leaves behind."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import resource
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('mmseg')

from mmengine.hooks import Hook
from tiny_training import config, in_child, run, validated, weights
from torch.utils.data import DataLoader

from segformer_plusplus.errors import DivergedError, SegformerPlusPlusError, describe_error
from segformer_plusplus.training.advice import advice
from segformer_plusplus.training.hooks import StopOnNaN
from segformer_plusplus.training.runner import StrictRunner

TRAIN = Path(__file__).resolve().parents[2] / 'tools' / 'train.py'


@pytest.fixture
def damaged(data, tmp_path) -> Path:
    """Copies the eight images, of which one ends too early."""
    shutil.copytree(data, tmp_path / 'data')
    path = tmp_path / 'data/images/train/3.png'
    path.write_bytes(path.read_bytes()[:-2000])
    return tmp_path / 'data'


class Break(Hook):
    """Makes a weight NaN before an iteration, or after its loss and before its checkpoint."""

    def __init__(self, iteration: int, late: bool = False) -> None:
        self.iteration, self.late = iteration, late

    def before_train_iter(self, runner, batch_idx, data_batch=None, late=False):
        if runner.iter + 1 == self.iteration and late == self.late:
            parameter = next(runner.model.decode_head.conv_seg.parameters())
            parameter.data.fill_(float('nan'))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.before_train_iter(runner, batch_idx, late=True)


def saved(work: Path) -> list[str]:
    return sorted(path.name for path in work.glob('*.pth'))


def test_a_loss_that_is_nan_stops_at_once_and_names_the_images(data, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(DivergedError, match='iteration 3: .*loss.* is nan') as error:
        run(config(data, tmp_path), hook=Break(3))
    assert signal.getsignal(signal.SIGTERM) is before
    said = tmp_path / 'nan_batch_iter_3.json'
    assert str(said) in str(error.value)
    content = json.loads(said.read_text())
    assert content['iteration'] == 3 and content['losses']['loss'] == 'nan'
    assert len(content['images']) == 2 and all(Path(path).is_file() for path in content['images'])
    assert saved(tmp_path) == ['iter_2.pth']


@pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
@pytest.mark.parametrize('kind', [float, torch.tensor], ids=['number', 'tensor'])
def test_a_loss_that_is_no_number_stops_whatever_it_is(tmp_path, value, kind):
    hook, runner = StopOnNaN(), SimpleNamespace(iter=6, work_dir=str(tmp_path))
    broken = kind(float(value))
    hook.after_train_iter(runner, 6, outputs=dict(loss=kind(1.0), acc_seg=broken))
    with pytest.raises(DivergedError, match=f'iteration 7: decode.loss_ce is {value};'):
        hook.after_train_iter(runner, 6, outputs={'loss': kind(1.0), 'decode.loss_ce': broken})
    assert json.loads((tmp_path / 'nan_batch_iter_7.json').read_text())['iteration'] == 7
    with pytest.raises(DivergedError, match='iteration 7: w has values that are NaN or infinite'):
        weights = dict(n=torch.tensor(3), w=torch.tensor([0.0, float(value)]))
        hook.before_save_checkpoint(runner, dict(state_dict=weights))


def test_weights_that_are_nan_are_not_saved(data, tmp_path):
    with pytest.raises(DivergedError, match='iteration 4: decode_head.conv_seg.* no checkpoint is'):
        run(config(data, tmp_path), hook=Break(4, late=True))
    assert saved(tmp_path) == ['iter_2.pth']


def test_nan_is_let_through_when_the_config_says_so(data, tmp_path):
    cfg = config(data, tmp_path, **{'default_hooks.stop_on_nan': None, 'train_cfg.max_iters': 3})
    run(cfg, hook=Break(2))
    assert (tmp_path / 'iter_3.pth').is_file()


def test_the_tool_ends_with_one_line_and_code_1(data, tmp_path, capfd):
    spec = importlib.util.spec_from_file_location('tools_train_nan', TRAIN)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    cfg = config(data, tmp_path / 'work')
    cfg.optim_wrapper.optimizer.lr = 1e30
    cfg.dump(str(tmp_path / 'tiny.py'))
    assert tool.main([str(tmp_path / 'tiny.py'), '--work-dir', str(tmp_path / 'work')]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith('error: iteration ')]) == 1
    assert not any('Traceback' in line for line in lines)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_corrupt_image_in_a_late_epoch_is_named(data, damaged, tmp_path, workers):
    """The image breaks while the training runs, after it was good for two epochs."""
    whole = (data / 'images/train/3.png').read_bytes()
    broken = (damaged / 'images/train/3.png').read_bytes()
    (damaged / 'images/train/3.png').write_bytes(whole)

    class Rot(Hook):
        def before_train_epoch(self, runner):
            if runner.epoch == 2:
                (damaged / 'images/train/3.png').write_bytes(broken)

    cfg = config(damaged, tmp_path / 'work')
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4)
    cfg.train_dataloader.update(num_workers=workers, sampler=dict(type='DefaultSampler'))
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    with pytest.raises(Exception) as error:
        run(cfg, hook=Rot())
    assert f'image {damaged}/images/train/3.png cannot be read' in describe_error(error.value)
    assert saved(tmp_path / 'work') == ['epoch_1.pth', 'epoch_2.pth']


@pytest.mark.parametrize('workers', [0, 2])
def test_corrupt_files_are_skipped_and_counted_when_the_config_says_so(
    damaged, tmp_path, capfd, workers
):
    shutil.copy(damaged / 'images/train/1.png', damaged / 'labels/train/1.png')
    cfg = config(damaged, tmp_path / 'work')
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
    cfg.train_dataloader.update(num_workers=workers, sampler=dict(type='DefaultSampler'))
    for step in cfg.train_dataloader.dataset.pipeline[:2]:
        step.on_error = 'skip'
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=3)
    runner = run(cfg)
    image, label, *_ = runner.train_dataloader.dataset.pipeline.transforms
    # once an epoch, and more where it was drawn again in place of itself
    assert image.skips.count >= 3 and image.skips.files == label.skips.files == 1
    said = ''.join(capfd.readouterr())
    assert f'skipped: image {damaged}/images/train/3.png cannot be read' in said
    assert said.count('samples of damaged files were skipped since') >= 3
    assert saved(tmp_path / 'work') == ['epoch_3.pth']


def test_too_many_corrupt_images_are_an_error(damaged, tmp_path):
    for number in (1, 5):
        (damaged / f'images/train/{number}.png').write_bytes(b'no image')
    cfg = config(damaged, tmp_path / 'work')
    cfg.train_dataloader.dataset.pipeline[0].update(on_error='skip', max_skipped=2)
    with pytest.raises(SegformerPlusPlusError, match='more than max_skipped=2 files are damaged'):
        run(cfg)


def test_images_of_people_are_skipped_too(damaged):
    pytest.importorskip('mmpose')
    from segformer_plusplus.pose.data import CheckedLoadImage

    results = dict(img_path=str(damaged / 'images/train/3.png'))
    load = CheckedLoadImage(on_error='skip')
    assert load(dict(results)) is None and load.skips.count == 1
    with pytest.raises(SegformerPlusPlusError, match='3.png cannot be read'):
        CheckedLoadImage()(dict(results))
    with pytest.raises(SegformerPlusPlusError, match="on_error='ignore'"):
        CheckedLoadImage(on_error='ignore')


def test_nothing_is_skipped_in_validation_and_test(data, tmp_path):
    cfg = validated(config(data, tmp_path))
    cfg.val_dataloader.dataset.pipeline[0].on_error = 'skip'
    with pytest.raises(SegformerPlusPlusError, match="val_dataloader: .* has on_error='skip'"):
        run(cfg)
    with pytest.raises(SegformerPlusPlusError, match="test_dataloader: .* has on_error='skip'"):
        StrictRunner.from_cfg(cfg).test()


class Swallows(Hook):
    """A destructor that Ctrl-C meets."""

    def __init__(self, moment):
        setattr(self, moment, self.interrupt)
        self.iterations = 0

    def interrupt(self, *args, **kwargs):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    def before_train_epoch(self, runner):
        self.iterations = runner.iter

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.iterations += 1


@pytest.mark.parametrize('moment', ['before_run', 'before_train', 'after_train_iter'])
def test_ctrl_c_that_is_swallowed_is_heard_all_the_same(data, tmp_path, moment):
    before = signal.getsignal(signal.SIGINT)
    hook = Swallows(moment)
    with pytest.raises(KeyboardInterrupt):
        run(config(data, tmp_path), hook=hook)
    assert hook.iterations == (moment == 'after_train_iter')
    assert signal.getsignal(signal.SIGINT) is before is signal.default_int_handler


@pytest.mark.parametrize('handler', [signal.SIG_IGN, lambda *_: None])
def test_another_handler_of_ctrl_c_stays(data, tmp_path, handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        run(config(data, tmp_path), hook=Swallows('after_train_iter'))
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_worker_that_is_killed(data, tmp_path):
    class Kill(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            iterator = runner.train_loop.dataloader_iterator._iterator
            os.kill(iterator._workers[0].pid, signal.SIGKILL)

    cfg = config(data, tmp_path)
    cfg.train_dataloader.num_workers = 1
    with pytest.raises(
        SegformerPlusPlusError, match=r'worker of the train .* died \(pid \d+\)'
    ) as e:
        run(cfg, hook=Kill())
    assert 'train_dataloader.num_workers' in str(e.value) and '--resume' in str(e.value)


def test_a_connection_that_breaks_before_its_worker_is_dead():
    samples = iter(DataLoader([1, 2], num_workers=1))
    kill = threading.Timer(0.2, os.kill, (samples._workers[0].pid, signal.SIGKILL))
    with pytest.raises(SegformerPlusPlusError, match='worker of the val data loader died'):
        with advice('val'):
            kill.start()
            raise ConnectionError('what multiprocessing raises first')


class LittleMemory(Hook):
    """Allows a few MB more than are in use when the validation begins."""

    def before_val(self, runner):
        with open('/proc/self/statm') as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20, resource.RLIM_INFINITY))


def test_out_of_memory_in_validation(data, tmp_path):
    """The batch is far beyond the memory: it must not fit into what earlier tests have freed."""
    log = tmp_path / 'log.txt'

    def validate() -> None:
        cfg = validated(config(data, tmp_path / 'work'))
        cfg.train_cfg.val_interval = 2
        cfg.model.data_preprocessor.test_cfg = dict(size=(100_000, 100_000))  # 112 GiB
        run(cfg, hook=LittleMemory())

    assert in_child(validate, log) == 99
    said = log.read_text()
    assert 'SegformerPlusPlusError: out of memory in val' in said, said[-2000:]
    for switch in ("mode='slide'", 'crop_size', 'batch_size', 'token_merging', 'labels_only'):
        assert switch in said
    assert (tmp_path / 'work' / 'iter_2.pth').is_file()


@pytest.mark.parametrize('kind', ['bare', 'wrapped'])
def test_ema_starts_from_weights_that_no_runner_wrote(data, calm, tmp_path, kind):
    state = weights(calm / 'iter_6.pth')
    foreign = state if kind == 'bare' else {'model': {f'module.{k}': v for k, v in state.items()}}
    torch.save(foreign, tmp_path / 'bare.pth')
    cfg = config(data, tmp_path / 'two', load_from=str(tmp_path / 'bare.pth'))
    cfg.custom_hooks = [dict(type='EMAHook')]
    cfg.train_cfg.max_iters = 1
    cfg.optim_wrapper.optimizer.lr = 0.0
    runner = run(cfg)
    (ema,) = (hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    averaged = ema.ema_model.module.state_dict()
    name = 'backbone.layers.0.0.projection.weight'
    assert torch.equal(averaged[name], state[name])
