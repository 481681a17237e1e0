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

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from tiny_training import config, in_child, run, together, validated, wait, weights, write_data

from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.training.runner import StrictRunner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp('data'))


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
    """One process, batch 4."""
    work = tmp_path_factory.mktemp('alone')
    cfg = config(data, work, random=False)
    cfg.train_dataloader.batch_size = 4
    add = lambda r: r.register_hook(MeanLoss())  # noqa: E731
    code = in_child(lambda: run(cfg, before=add), work / 'log.txt')
    assert code == 0, (work / 'log.txt').read_text()[-3000:]
    return work


def of_two(data: Path, work: Path, **changes):
    """Two processes, batch 2 each. The first gives its loss as the mean of both."""
    cfg = config(data, work, random=False, **changes)
    cfg.launcher = 'pytorch'
    return cfg


def launch(call, folder: Path, expected: int = 0) -> None:
    codes = [wait(child, 90) for child in together(call, folder)]
    said = '\n'.join(path.read_text()[-3000:] for path in sorted(folder.glob('rank_*.txt')))
    assert codes == [expected] * 2, said


def close(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    worst = max(float((a[key] - b[key]).abs().max()) for key in a)
    assert worst <= 1e-5


def test_the_same_loss_and_weights(data, alone, tmp_path):
    cfg = of_two(data, tmp_path / 'two')

    def wrapped(runner) -> None:
        assert is_model_wrapper(runner.model)
        runner.register_hook(MeanLoss())

    launch(lambda: run(cfg, before=wrapped), tmp_path)
    close(alone / 'iter_6.pth', tmp_path / 'two' / 'iter_6.pth')
    losses = [float(line) for line in (tmp_path / 'two/losses_0.txt').read_text().split()]
    expected = [float(line) for line in (alone / 'losses_0.txt').read_text().split()]
    assert losses == pytest.approx(expected, abs=1e-5) and len(losses) == 6
    # and it starts elsewhere than it ends, so that all this says something
    moved = weights(tmp_path / 'two' / 'iter_2.pth')
    last = weights(tmp_path / 'two' / 'iter_6.pth')
    assert max(float((moved[k] - last[k]).abs().max()) for k in last) > 1e-4


def test_random_augmentation_is_the_same_for_any_number_of_processes(data, tmp_path):
    def seen(cfg, batch: int) -> None:
        class Sums(Hook):
            def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
                name = Path(runner.work_dir) / f'sums_{runner.rank}.txt'
                with open(name, 'a') as file:
                    file.writelines(f'{int(image.sum())}\n' for image in data_batch['inputs'])

        cfg.train_dataloader.batch_size = batch
        run(cfg, before=lambda r: r.register_hook(Sums()))

    one, two = config(data, tmp_path / 'one'), config(data, tmp_path / 'two')
    two.launcher = 'pytorch'
    assert in_child(lambda: seen(one, 4), tmp_path / 'log.txt') == 0
    launch(lambda: seen(two, 2), tmp_path)
    read = lambda name: (tmp_path / name).read_text().split()  # noqa: E731
    dealt = [v for pair in zip(read('two/sums_0.txt'), read('two/sums_1.txt'), strict=True)
             for v in pair]  # fmt: skip
    assert dealt == read('one/sums_0.txt') and len(set(dealt)) > 12


@pytest.mark.parametrize('round_up', [True, False])
def test_the_metric_is_that_of_one_process(data, alone, tmp_path, round_up):
    """Five images over two processes; per class, to the last bit."""

    def test(launcher: str) -> None:
        cfg = config(data, tmp_path / launcher, random=False, load_from=str(alone / 'iter_6.pth'))
        cfg.launcher = launcher
        cfg.test_dataloader.sampler.round_up = round_up
        os.makedirs(tmp_path / launcher, exist_ok=True)
        os.chdir(tmp_path / launcher)
        runner = StrictRunner.from_cfg(cfg)
        found: list = []
        metric = runner.build_evaluator(cfg.test_evaluator).metrics[0]
        compute = type(metric).compute_metrics
        type(metric).compute_metrics = lambda self, r: found.append(len(r)) or compute(self, r)
        metrics = runner.test()
        if runner.rank == 0:
            assert found == [5]
            (tmp_path / f'{launcher}.json').write_text(json.dumps(metrics, default=float))

    assert in_child(lambda: test('none'), tmp_path / 'log.txt') == 0
    launch(lambda: test('pytorch'), tmp_path)
    one, two = ((tmp_path / f'{name}.json').read_text() for name in ('none', 'pytorch'))
    assert one == two and json.loads(one)['mIoU'] > 0


def test_all_stop_together_when_one_is_told_to(data, tmp_path):
    class Terminate(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.rank == 1 and runner.iter + 1 == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    cfg = of_two(data, tmp_path / 'work')
    launch(lambda: run(cfg, before=lambda r: r.register_hook(Terminate())), tmp_path, 143)
    assert (tmp_path / 'work/last_checkpoint').read_text().endswith('iter_3.pth')
    launch(lambda: run(of_two(data, tmp_path / 'work'), resume=True), tmp_path)
    assert (tmp_path / 'work' / 'iter_6.pth').is_file()


@pytest.mark.parametrize('told', [0, 1])
def test_one_that_is_told_in_a_validation_leaves_nobody_waiting(data, tmp_path, told):
    """All finish it; the first one has saved before that, if it was the one that was told."""

    class Terminate(Hook):
        def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.rank == told and batch_idx == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    def cfg():
        made = validated(of_two(data, tmp_path / 'work'))
        made.train_cfg.val_interval = 3
        made.custom_hooks = [dict(type='EMAHook', momentum=0.3)]
        return made

    launch(lambda: run(cfg(), before=lambda r: r.register_hook(Terminate())), tmp_path, 143)
    assert (tmp_path / 'work/last_checkpoint').read_text().endswith('iter_4.pth')
    assert (tmp_path / 'work/iter_3.pth').is_file() == (told == 0)
    if told:
        return
    (tmp_path / 'work/iter_4.pth').unlink()  # as if they had been killed in that validation
    launch(lambda: run(cfg(), resume=True), tmp_path)
    calm = cfg()
    calm.work_dir = str(tmp_path / 'calm')
    launch(lambda: run(calm), tmp_path)
    close(tmp_path / 'work' / 'iter_6.pth', tmp_path / 'calm' / 'iter_6.pth')


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


def test_slurm_launcher(data, alone, tmp_path):
    """What srun sets, two tasks on one node."""
    cfg = of_two(data, tmp_path / 'two')
    cfg.launcher = 'slurm'

    def task() -> None:
        for ours, slurms in dict(RANK='PROCID', WORLD_SIZE='NTASKS', LOCAL_RANK='LOCALID').items():
            os.environ[f'SLURM_{slurms}'] = os.environ.pop(ours)
        run(cfg)

    launch(task, tmp_path)
    close(alone / 'iter_6.pth', tmp_path / 'two' / 'iter_6.pth')


def test_torchrun_starts_the_tools(data, alone, tmp_path):
    """As a user does, once."""
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
    close(alone / 'iter_2.pth', tmp_path / 'work' / 'iter_2.pth')
