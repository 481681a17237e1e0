"""The progress bar counts every iteration, and goes on where a resumed run stands."""

from types import SimpleNamespace

import pytest
import torch

from segformer_plusplus.training.hooks import ProgressBarHook


@pytest.mark.parametrize('start', [0, 3])
def test_progress_bar(start, capsys):
    runner = SimpleNamespace(rank=0, max_iters=5, iter=start)
    hook = ProgressBarHook()
    hook.before_train(runner)
    for index in range(start, 5):
        hook.after_train_iter(runner, index, outputs=dict(loss=torch.tensor(0.25)))
    hook.after_train(runner)
    shown = capsys.readouterr().err
    assert '5/5' in shown and '100%' in shown and 'loss=0.25' in shown


@pytest.mark.filterwarnings('error')
def test_a_loss_that_has_a_graph(capsys):
    """As mmseg gives it: PyTorch warns where it is made a number by ``float``."""
    runner = SimpleNamespace(rank=0, max_iters=1, iter=0)
    hook = ProgressBarHook()
    hook.before_train(runner)
    loss = torch.tensor(0.25, requires_grad=True) * 2
    hook.after_train_iter(runner, 0, outputs=dict(loss=loss))
    hook.after_train(runner)
    assert 'loss=0.5' in capsys.readouterr().err


def test_no_bar_on_other_ranks(capsys):
    runner = SimpleNamespace(rank=1, max_iters=5, iter=0)
    hook = ProgressBarHook()
    hook.before_train(runner)
    hook.after_train_iter(runner, 0, outputs=dict(loss=1.0))
    hook.after_train(runner)
    assert capsys.readouterr().err == ''
