"""Either line of OpenMMLab, either NumPy: what a Runner wrote is read, and no more."""

import subprocess
import sys

import mmengine
import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner, checkpoint

from segformer_plusplus import CheckpointError, compat
from segformer_plusplus.checkpoints import read_checkpoint


class Line(BaseModel):
    """A model of one weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode='tensor'):
        return dict(loss=(self.weight * torch.stack(list(inputs)) - 1).square().sum())


def run(folder, max_iters, name, **settings):
    """mmengine's own Runner, as in somebody's own training script."""
    loader = dict(
        batch_size=1,
        dataset=[dict(inputs=torch.ones(1))] * 4,
        sampler=dict(type='InfiniteSampler', shuffle=False),
    )
    runner = Runner(
        model=Line(),
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=max_iters),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
            logger=dict(type='LoggerHook', interval=1),
        ),
        log_processor=dict(by_epoch=False),
        experiment_name=name,
        **settings,
    )
    runner.train()
    return runner


def test_mmengines_own_runner_resumes(tmp_path):
    run(tmp_path, 2, 'first')
    assert 'message_hub' in torch.load(tmp_path / 'iter_2.pth', weights_only=False)
    resumed = run(tmp_path, 4, 'resumed', resume=True)
    assert resumed.iter == 4
    # in one go
    straight = run(tmp_path / 'straight', 4, 'straight')
    assert torch.equal(resumed.model.weight, straight.model.weight)
    losses = [r.message_hub.get_scalar('train/loss').data[0] for r in (resumed, straight)]
    assert len(losses[0]) == 4 and np.array_equal(*losses)


class Attack:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return (open, (str(self.victim), 'w'))


@pytest.fixture
def original_line(monkeypatch):
    """mmengine as it was in 0.10.7, whichever is installed."""

    def load_from_local(filename, map_location=None):
        return torch.load(filename, map_location=map_location)

    monkeypatch.setattr(mmengine, '__version__', '0.10.7')
    monkeypatch.setattr(checkpoint, 'load_from_local', load_from_local)
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)


def test_the_loader_of_the_original_line(original_line, tmp_path):
    hub = MessageHub.get_instance('original_line')
    hub.update_scalar('train/loss', 0.5)
    path, evil = tmp_path / 'hub.pth', tmp_path / 'evil.pth'
    torch.save(dict(message_hub=hub.state_dict(), value=np.float64(2.5)), path)
    torch.save(dict(state_dict=Attack(tmp_path / 'victim')), evil)
    with pytest.raises(Exception, match='[Ww]eights.?only'):
        CheckpointLoader.load_checkpoint(str(path))

    compat.let_mmengine_read_its_checkpoints()
    content = CheckpointLoader.load_checkpoint(str(path))
    assert content['message_hub']['log_scalars']['train/loss'].current() == 0.5
    assert content['value'] == 2.5
    with pytest.raises(CheckpointError, match='evil.pth cannot be read safely: it asks for .*open'):
        CheckpointLoader.load_checkpoint(str(evil))
    assert not (tmp_path / 'victim').exists()
    # admitted while mmengine reads, and not for anybody else
    with pytest.raises(Exception, match='[Ww]eights.?only'):
        torch.load(path)


def test_another_mmengine_is_left_alone(original_line, monkeypatch):
    monkeypatch.setattr(mmengine, '__version__', '0.10.8')
    before = dict(CheckpointLoader._schemes)
    compat.let_mmengine_read_its_checkpoints()
    assert CheckpointLoader._schemes == before


@pytest.mark.parametrize('remote', [False, True])
def test_mmengine_runs_no_code_of_the_files_it_reads(tmp_path, monkeypatch, remote):
    """As the maintained line would where it cannot read a file otherwise, and of a download."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    evil, good = tmp_path / 'evil.pth', tmp_path / 'good.pth'
    torch.save(dict(state_dict=Attack(tmp_path / 'victim')), evil)
    torch.save(dict(state_dict=dict(weight=torch.ones(1)), value=np.float64(2.5)), good)
    sources = [str(evil), str(good)]
    if remote:
        cache = tmp_path / 'cache' / 'hub' / 'checkpoints'
        cache.mkdir(parents=True)
        for path in (evil, good):  # what is in the cache is not asked for again
            path.rename(cache / path.name)
        sources = [f'https://nowhere.invalid/{path.name}' for path in (evil, good)]
    with pytest.raises(CheckpointError, match='evil.pth cannot be read safely: it asks for .*open'):
        CheckpointLoader.load_checkpoint(sources[0])
    with pytest.raises(CheckpointError, match='evil.pth cannot be read safely'):
        line = Line()
        line.init_cfg = dict(type='Pretrained', checkpoint=sources[0])
        line.init_weights()
    assert not (tmp_path / 'victim').exists()
    assert CheckpointLoader.load_checkpoint(sources[1])['value'] == 2.5


def test_numbers_are_read_in_a_fresh_process(tmp_path):
    """NumPy 1.26 has numpy._core, but empty until somebody imports a part of it."""
    torch.save(dict(value=np.float64(2.5)), tmp_path / 'a.pth')
    code = (
        'from segformer_plusplus.checkpoints import read_checkpoint\n'
        f'print(read_checkpoint({str(tmp_path / "a.pth")!r})["value"])'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert result.stdout.strip().endswith('2.5'), result.stderr
    assert read_checkpoint(tmp_path / 'a.pth')['value'] == 2.5


@pytest.mark.parametrize('kept', [0, 0.5, 0.999], ids=['nothing', 'half', 'nearly all'])
def test_a_torn_cache_of_yapf_ends_no_training(tmp_path, monkeypatch, kept):
    """As a process that is killed leaves it, and as another of the same training may see it."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    code = 'from mmengine.config import Config; print(Config(dict(a=1)).pretty_text)'

    def run(code):
        return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)

    assert run(code).stdout == 'a = 1\n\n'
    caches = {path: path.read_bytes() for path in tmp_path.rglob('*.pickle')}
    assert caches
    for path, content in caches.items():
        path.write_bytes(content[: int(len(content) * kept)])
    assert run(code).returncode != 0
    result = run(f'import segformer_plusplus; {code}')
    assert (result.stdout, result.stderr) == ('a = 1\n\n', '')
    assert {path: path.read_bytes() for path in caches} == caches
