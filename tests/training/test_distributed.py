"""Two processes on one CPU do what one process does with their batches together."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmseg')

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from tiny_training import (
    Sums,
    config,
    in_child,
    largest_difference,
    run,
    together,
    validated,
    wait,
    weights,
)  # fmt: skip

from segformer_plusplus.checkpoints import read_checkpoint
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.training.runner import StrictRunner

ROOT = Path(__file__).resolve().parents[2]


class MeanLoss(Hook):
    """Writes down the loss of all processes."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        from mmengine.dist import all_reduce

        loss = outputs['loss'].detach().clone()
        all_reduce(loss, op='mean')
        with open(Path(runner.work_dir) / f'losses_{runner.rank}.txt', 'a') as file:
            file.write(f'{float(loss)!r}\n')


@pytest.fixture(scope='module')
def alone(data, tmp_path_factory) -> Path:
    """Trains and tests with one process and batches of four, and returns the work dir."""
    work = tmp_path_factory.mktemp('alone')
    cfg = config(data, work, random=False)
    cfg.train_dataloader.batch_size = 4

    def train_and_test() -> None:
        runner = run(cfg, hook=MeanLoss())
        (work / 'metrics.json').write_text(json.dumps(runner.test(), default=float))

    code = in_child(train_and_test, work / 'log.txt')
    assert code == 0, (work / 'log.txt').read_text()[-3000:]
    return work


def of_two(data: Path, work: Path, **changes):
    """Configures two processes with batches of two each."""
    cfg = config(data, work, random=False, **changes)
    cfg.launcher = 'pytorch'
    return cfg


def launch(call, folder: Path, expected: int = 0) -> None:
    codes = [wait(child, 90) for child in together(call, folder)]
    said = '\n'.join(path.read_text()[-3000:] for path in sorted(folder.glob('rank_*.txt')))
    assert codes == [expected] * 2, said


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm'])
def test_the_same_loss_and_weights(data, alone, tmp_path, launcher):
    """The processes meet by what torchrun sets, or by what srun sets for two tasks on one node."""
    work = tmp_path / 'two'
    cfg = of_two(data, work)
    cfg.launcher = launcher

    def task() -> None:
        if launcher == 'slurm':
            names = dict(RANK='PROCID', WORLD_SIZE='NTASKS', LOCAL_RANK='LOCALID')
            for ours, slurms in names.items():
                os.environ[f'SLURM_{slurms}'] = os.environ.pop(ours)
        runner = run(cfg, hook=MeanLoss())
        assert is_model_wrapper(runner.model)

    launch(task, tmp_path)
    assert largest_difference(alone / 'iter_6.pth', work / 'iter_6.pth') <= 1e-5
    losses = [float(line) for line in (work / 'losses_0.txt').read_text().split()]
    expected = [float(line) for line in (alone / 'losses_0.txt').read_text().split()]
    assert losses == pytest.approx(expected, abs=1e-5) and len(losses) == 6
    # and it starts elsewhere than it ends, so that all this says something
    assert largest_difference(work / 'iter_2.pth', work / 'iter_6.pth') > 1e-4


def test_random_augmentation_is_the_same_for_any_number_of_processes(data, calm, tmp_path):
    """One process has batches of two images, two processes have one image each."""
    cfg = config(data, tmp_path / 'two')
    cfg.launcher, cfg.train_dataloader.batch_size = 'pytorch', 1
    launch(lambda: run(cfg, hook=Sums()), tmp_path)
    first, second = ((tmp_path / f'two/sums_{rank}.txt').read_text().split() for rank in (0, 1))
    dealt = [value for pair in zip(first, second, strict=True) for value in pair]
    assert len(set(dealt)) == 12
    assert dealt == (calm / 'sums_0.txt').read_text().split()[:12]


@pytest.mark.parametrize('round_up', [True, False])
def test_the_metric_is_that_of_one_process(data, alone, tmp_path, round_up):
    """Two processes share five images; the metrics are equal to the last bit."""

    def test() -> None:
        os.chdir(tmp_path)  # where processes leave their results for each other
        cfg = config(data, tmp_path, random=False, load_from=str(alone / 'iter_6.pth'))
        cfg.launcher = 'pytorch'
        cfg.test_dataloader.sampler.round_up = round_up
        runner = StrictRunner.from_cfg(cfg)
        found: list = []
        metric = runner.build_evaluator(cfg.test_evaluator).metrics[0]
        compute = type(metric).compute_metrics
        type(metric).compute_metrics = lambda self, r: found.append(len(r)) or compute(self, r)
        metrics = runner.test()
        if runner.rank == 0:
            assert found == [5]
            (tmp_path / 'metrics.json').write_text(json.dumps(metrics, default=float))

    launch(test, tmp_path)
    two = (tmp_path / 'metrics.json').read_text()
    assert two == (alone / 'metrics.json').read_text() and json.loads(two)['mIoU'] > 0


def test_all_stop_together_when_one_is_told_to(data, alone, tmp_path):
    class Terminate(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.rank == 1 and runner.iter + 1 == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    cfg = of_two(data, tmp_path / 'work')
    launch(lambda: run(cfg, hook=Terminate()), tmp_path, 143)
    assert (tmp_path / 'work/last_checkpoint').read_text().endswith('iter_3.pth')
    launch(lambda: run(of_two(data, tmp_path / 'work'), resume=True), tmp_path)
    assert largest_difference(alone / 'iter_6.pth', tmp_path / 'work' / 'iter_6.pth') <= 1e-5


@pytest.mark.parametrize('told', [0, 1])
def test_one_that_is_told_in_a_validation_leaves_nobody_waiting(data, alone, tmp_path, told):
    """All finish the validation; if the first one was told, it saves before that."""

    class Terminate(Hook):
        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.rank == told and batch_idx == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    work = tmp_path / 'work'
    cfg = validated(of_two(data, work))
    cfg.train_cfg.val_interval = 3
    cfg.custom_hooks = [dict(type='EMAHook', momentum=0.3)]
    launch(lambda: run(cfg, hook=Terminate()), tmp_path, 143)
    assert (work / 'last_checkpoint').read_text().endswith('iter_4.pth')
    assert (work / 'iter_3.pth').is_file() == (told == 0)
    if told:
        return
    (work / 'iter_4.pth').unlink()  # as if they had been killed in that validation
    launch(lambda: run(cfg, resume=True), tmp_path)
    trained = read_checkpoint(work / 'iter_6.pth')['ema_state_dict']  # the hook has swapped them
    for name, expected in weights(alone / 'iter_6.pth').items():
        torch.testing.assert_close(trained[f'module.{name}'], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize('launcher', ['pytorch', 'none'])
def test_sharding_is_refused_where_it_would_happen(data, tmp_path, launcher):
    cfg = config(data, tmp_path, model_wrapper_cfg=dict(type='MMFullyShardedDataParallel'))
    cfg.launcher = launcher
    if launcher == 'none':  # one process wraps nothing
        assert not is_model_wrapper(StrictRunner.from_cfg(cfg).model)
        return
    said = 'model_wrapper_cfg.type=MMFullyShardedDataParallel: .*DistributedDataParallel.*Flexible'
    with pytest.raises(SegformerPlusPlusError, match=said):
        StrictRunner.from_cfg(cfg)


def test_torchrun_starts_the_tools(data, alone, tmp_path):
    """The command is the one that a user types."""
    cfg = config(data, tmp_path / 'work', random=False)
    cfg.train_cfg.max_iters = 2
    cfg.dump(str(tmp_path / 'tiny.py'))
    argv = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
            'tools/train.py', str(tmp_path / 'tiny.py'), '--launcher', 'pytorch',
            '--work-dir', str(tmp_path / 'work')]  # fmt: skip
    environment = dict(os.environ, OMP_NUM_THREADS='1')
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r'GPU number: 2', done.stdout + done.stderr)
    assert largest_difference(alone / 'iter_2.pth', tmp_path / 'work' / 'iter_2.pth') <= 1e-5
