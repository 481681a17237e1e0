"""A Runner that loads strictly, saves durably and goes on exactly where it was interrupted."""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed, master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import HOOKS, OPTIMIZERS, RUNNERS
from mmengine.runner import EpochBasedTrainLoop, Runner, load_state_dict
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoints import extract_state_dict, load_state_dict_strictly, read_checkpoint
from ..errors import CHECK_NAME, CheckpointError, SegformerPlusPlusError, describe_error, first_line
from ..inference.opening import in_parts_of_one_size
from ..loading.images import refuse_skipping
from ..registration import component, component_name
from .advice import advice
from .checkpoint_files import find_resumable, lock_work_dir, saving
from .checks import (
    check_backends,
    check_best,
    check_metrics,
    check_numbers,
    check_outputs,
    check_phases,
)
from .distributed import init_gloo, unwrap
from .preemption import PreemptionHook, hearing_ctrl_c, start_worker
from .randomness import make_repeatable, positions_of
from .switches import apply_switches, compile_backbone

_HOOKS = dict(
    step_seed='StepSeedHook',
    stop_on_nan='StopOnNaN',
    skipped_samples='SkippedSamplesHook',
    preemption='PreemptionHook',
)


@RUNNERS.register_module(force=True)
class StrictRunner(Runner):
    """mmengine's Runner, but a checkpoint must fit the model exactly, and accidents do no harm.

    - Missing and unexpected keys, which mmengine only logs, are a ``CheckpointError``.
      ``strict_load=False`` in the config brings back mmengine's behaviour, for fine-tuning with
      another number of classes. Reading a checkpoint runs no code that stands in it.
    - Checkpoints are there whole or not at all; resuming looks for the latest whole one and sees
      the samples, the augmentations and the random numbers of a run without interruption.
    - It stops on NaN and on SIGTERM (see ``training.hooks``), and says in one line what to do when
      memory runs out or a data loader's worker dies.
    - ``from_cfg`` carries out the switches of configs/_base_/runtime.
    - It runs distributed on CPUs too (gloo), with ``SyncBN`` as ``BN``. It does not shard a model.
    """

    _loaded_meta: dict[str, Any]
    _train_dataloader: Any
    _lock: contextlib.ExitStack | None = None
    _ask_for_ctrl_c: Callable[[], None] | None = None

    @classmethod
    def from_cfg(cls, cfg: Config) -> StrictRunner:
        """Builds the Runner from a config, with its switches carried out.

        Raises:
            SegformerPlusPlusError: a value or a switch does not fit, or several processes should
                use FSDP.
        """
        cfg = copy.deepcopy(cfg) if isinstance(cfg, Config) else Config(copy.deepcopy(cfg))
        wrapper = component_name((cfg.get('model_wrapper_cfg') or {}).get('type'))
        if cfg.get('launcher', 'none') != 'none' and 'FullySharded' in wrapper:
            raise SegformerPlusPlusError(
                f'model_wrapper_cfg.type={wrapper}: this Runner does not shard a model; leave '
                "model_wrapper_cfg out for DistributedDataParallel, or train with mmengine's "
                "FlexibleRunner and strategy=dict(type='FSDPStrategy')"
            )
        apply_switches(cfg)
        check_phases(cfg)
        check_numbers(cfg)
        with _naming_the_disk(cfg.get('work_dir')):
            return super().from_cfg(cfg)

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Sets up the environment; processes without a GPU talk through gloo."""
        if self.distributed and not is_distributed() and not torch.cuda.is_available():
            init_gloo(self._launcher, env_cfg.get('dist_cfg', {}).get('timeout'))
        super().setup_env(env_cfg)

    def set_randomness(self, seed: Any, *args: Any, **kwargs: Any) -> None:
        """Seeds as the parent does; a seed that is none is named."""
        with _building('randomness'):
            super().set_randomness(seed, *args, **kwargs)

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """Builds the visualizer; a missing library of a backend is said before the training."""
        built = super().build_visualizer(visualizer)
        check_backends(built)
        return built

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """Registers mmengine's hooks and ours, of which a None in the config leaves one out.

        mmengine's ``CheckpointHook`` becomes ``DurableCheckpointHook``; a hook of another kind
        under ``checkpoint`` stays.
        """
        hooks = {name: dict(type=kind) for name, kind in _HOOKS.items()} | dict(hooks or {})
        checkpoint = hooks.get('checkpoint', dict(type='CheckpointHook', interval=1))
        theirs = isinstance(checkpoint, dict) and component(checkpoint.get('type'), HOOKS)
        if theirs is CheckpointHook:
            hooks['checkpoint'] = {**checkpoint, 'type': 'DurableCheckpointHook'}
        left_out = {name for name in _HOOKS if hooks[name] is None}
        super().register_default_hooks({k: v for k, v in hooks.items() if k not in left_out})

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Wraps the model as the parent does, but on the CPU too."""
        if self.distributed and not is_model_wrapper(model) and not torch.cuda.is_available():
            self.logger.info('SyncBN needs a GPU: each process goes by its own statistics')
            model = revert_sync_batchnorm(model)
            if model_wrapper_cfg is None:  # mmengine's own settings
                unused = self.cfg.get('find_unused_parameters', False)
                model_wrapper_cfg = dict(broadcast_buffers=False, find_unused_parameters=unused)
            on_cpu = dict(type='MMDistributedDataParallel', device_ids=None)
            model_wrapper_cfg = {**on_cpu, **model_wrapper_cfg}
        return super().wrap_model(model_wrapper_cfg, model)

    def _maybe_compile(self, target: str) -> None:
        """Compiles the backbone in place of the parent's training step."""
        compile_backbone(unwrap(self.model), self.cfg.get('compile'))

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: dict[str, Any] | None = None) -> None:
        """Scales the learning rate; images whose gradients are accumulated count as one batch.

        Raises:
            SegformerPlusPlusError: the batch size that the learning rate is meant for is missing.
        """
        if not auto_scale_lr or not auto_scale_lr.get('enable', False):
            return
        base = auto_scale_lr.get('base_batch_size')
        if not base:
            raise SegformerPlusPlusError(
                'auto_scale_lr needs base_batch_size, the images per step that the learning rate '
                'is meant for'
            )
        count = getattr(optim_wrapper, '_accumulative_counts', 1)
        super().scale_lr(optim_wrapper, {**auto_scale_lr, 'base_batch_size': base / count})

    def train(self) -> nn.Module:
        """Trains the model; whatever happens, SIGTERM does afterwards what it did before.

        Raises:
            SegformerPlusPlusError: another training uses the work dir.
            OSError: the disk is full.
        """
        lock = self._lock_work_dir()
        try:
            with _naming_the_disk(self.work_dir), hearing_ctrl_c() as self._ask_for_ctrl_c:
                return super().train()
        finally:
            self._ask_for_ctrl_c = None
            lock.close()
            self._lock = None
            for hook in self.hooks:
                if isinstance(hook, PreemptionHook):
                    hook.after_train(self)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Calls all hooks, unless Ctrl-C was pressed and swallowed since the last time."""
        if self._ask_for_ctrl_c is not None:
            self._ask_for_ctrl_c()
        super().call_hook(fn_name, **kwargs)

    @staticmethod
    def build_dataloader(
        dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Builds a data loader whose workers outlive a SIGTERM that the training outlives."""
        with _building('a data loader'):
            loader = Runner.build_dataloader(dataloader, seed=seed, diff_rank_seed=diff_rank_seed)
        loader.worker_init_fn = functools.partial(start_worker, loader.worker_init_fn)
        return loader

    def build_train_loop(self, loop: Any) -> Any:
        """Builds a loop whose samples are repeatable and whose errors say what to do."""
        if isinstance(loop, dict) and isinstance(self._train_dataloader, dict):
            # what the loop would do; but some loops start their workers at once
            apart = self._randomness_cfg.get('diff_rank_seed', False)
            self._train_dataloader = self.build_dataloader(
                self._train_dataloader, seed=self.seed, diff_rank_seed=apart
            )
        loader = self._train_dataloader
        check_outputs(getattr(loader, 'dataset', None), unwrap(self.model), 'train_dataloader')
        if isinstance(loader, DataLoader) and make_repeatable(loader, self.seed) is None:
            self.logger.warning(
                'this data loader has a batch sampler of its own: resumed, it does not repeat its '
                'augmentations exactly'
            )
        built = super().build_train_loop(loop)
        built.run = advice('train')(built.run)
        return built

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Builds the optimizer as the parent does; one that nobody knows is named.

        Raises:
            SegformerPlusPlusError: nobody knows it, or it refuses a value.
        """
        optimizer = optim_wrapper.get('optimizer') if isinstance(optim_wrapper, dict) else None
        kind = optimizer.get('type') if isinstance(optimizer, dict) else None
        if kind is not None and component(kind, OPTIMIZERS) is None:
            raise SegformerPlusPlusError(
                f'optim_wrapper.optimizer.type={kind!r} is not in the optimizer registry; '
                f'{CHECK_NAME}'
            )
        with _building('optim_wrapper'):
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Builds the schedules as the parent does; one that refuses its values is named."""
        with _building('param_scheduler'):
            return super().build_param_scheduler(scheduler)

    def build_val_loop(self, loop: Any) -> Any:
        """Builds a loop that scores every image, uncompiled, and whose errors say what to do."""
        with _building('val_dataloader, val_cfg or val_evaluator'):
            return _evaluating(super().build_val_loop(loop), 'val')

    def build_test_loop(self, loop: Any) -> Any:
        """Builds a loop that scores every image, uncompiled, and whose errors say what to do."""
        with _building('test_dataloader, test_cfg or test_evaluator'):
            return _evaluating(super().build_test_loop(loop), 'test')

    def load_checkpoint(
        self, filename: str, map_location: str | torch.device = 'cpu', strict: bool = True
    ) -> dict[str, Any]:
        """Loads weights into the model and returns the whole checkpoint.

        Args:
            filename: path or URL.
            map_location: as in ``torch.load``.
            strict: False, or ``strict_load=False`` in the config, only logs what does not fit.

        Raises:
            CheckpointError: the file cannot be read, or does not fit the model.
        """
        checkpoint = read_checkpoint(filename, map_location=map_location)
        # Hooks find the weights where a Runner puts them, and by our names, whoever wrote them.
        checkpoint['state_dict'] = extract_state_dict(checkpoint, filename)
        # As in the parent: hooks may still change the checkpoint (EMAHook swaps its weights in).
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model, weights = unwrap(self.model), checkpoint['state_dict']
        if strict and self.cfg.get('strict_load', True):
            try:
                load_state_dict_strictly(model, weights, filename)
            except CheckpointError as error:
                if self._resume:
                    raise
                raise CheckpointError(
                    f'{error}; strict_load=False (--cfg-options) loads what fits, as for '
                    'fine-tuning with another number of classes'
                ) from error
        else:
            load_state_dict(model, weights, strict=False, logger=self.logger)
        self._loaded_meta = dict(checkpoint.get('meta') or {})
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    @master_only
    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict[str, Any] | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        """Saves a checkpoint as the parent does, but a file on a disk is whole or not there.

        Raises:
            CheckpointError: it cannot be written; what was there before is untouched.
        """
        meta, positions = dict(meta or {}), positions_of(self.train_dataloader)
        if positions is not None:
            meta['sampler_seed'] = int(positions.sampler.seed)
        settings = (file_client_args, save_optimizer, save_param_scheduler, meta, by_epoch)
        backend = get_file_backend(out_dir, backend_args=backend_args)
        local = file_client_args is None and isinstance(backend, LocalBackend)
        path = Path(out_dir, filename)
        with saving(path) if local else contextlib.nullcontext(path) as place:
            super().save_checkpoint(out_dir, place.name, *settings, backend_args)

    def _lock_work_dir(self) -> contextlib.ExitStack:
        if self._lock is None:
            self._lock = contextlib.ExitStack()
            self._lock.enter_context(lock_work_dir(self.work_dir))
        return self._lock

    def resume_latest(self) -> None:
        """Makes the training go on from the latest whole checkpoint of the work dir, if any.

        All processes have to call this.

        Raises:
            CheckpointError: there are checkpoints, but none that can be used.
            SegformerPlusPlusError: another training uses the work dir.
        """
        self._lock_work_dir()  # it removes files that were never finished
        path = find_resumable(self.work_dir)
        if path is None:
            self.logger.warning(f'nothing to resume in {self.work_dir}: training starts anew')
            self._resume = False
        else:
            self._resume, self._load_from = True, path

    def load_or_resume(self) -> None:
        """Loads as the parent does; ``resume=True`` alone takes the latest whole checkpoint."""
        if not self._has_loaded and self._resume and self._load_from is None:
            self.resume_latest()
        super().load_or_resume()

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Continues from a checkpoint, with the samples in its order; see mmengine's ``resume``.

        Raises:
            CheckpointError: the file holds no training state, or does not fit the model.
        """
        try:
            super().resume(filename, *args, **kwargs)
        except KeyError as error:
            if error.args and error.args[0] in ('meta', 'epoch', 'iter', 'message_hub'):
                raise CheckpointError(
                    f'cannot resume from {filename}: it holds no training state '
                    f'({error.args[0]!r} is missing); use it with load_from (--load-from)'
                ) from error
            raise
        loop: Any = self.train_loop
        positions = positions_of(loop.dataloader)
        if positions is None:
            return
        sampler = positions.sampler
        sampler.seed = int(self._loaded_meta.get('sampler_seed', sampler.seed))
        if isinstance(loop, EpochBasedTrainLoop):
            batches = loop.iter - loop.epoch * len(loop.dataloader)
            if 0 < batches <= len(loop.dataloader):
                positions.pass_over = batches * loop.dataloader.batch_size


@contextlib.contextmanager
def _building(section: str) -> Iterator[None]:
    """Says which part of the config it was, where an error does not say what to do by itself."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        if describe_error(error) is not None:
            raise
        raise SegformerPlusPlusError(
            f'{section} of the config cannot be built: {type(error).__name__}: '
            f'{first_line(error)} (--traceback shows where)'
        ) from error


@contextlib.contextmanager
def _naming_the_disk(work_dir: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or error.filename:
            raise
        place = f'{work_dir} or a temporary folder'
        raise OSError(error.errno, error.strerror, place) from error


def _evaluating(loop: Any, phase: str) -> Any:
    dataset, key, model = loop.dataloader.dataset, f'{phase}_dataloader', unwrap(loop.runner.model)
    refuse_skipping(dataset, key)
    check_outputs(dataset, model, key)
    check_metrics(loop.evaluator.metrics, dataset, key)
    for hook in loop.runner.hooks if phase == 'val' else []:
        if isinstance(hook, CheckpointHook):
            check_best(hook, loop.evaluator.metrics)
    step = getattr(model, f'{phase}_step')
    setattr(model, f'{phase}_step', functools.partial(in_parts_of_one_size, step))
    run = loop.run

    def guarded() -> Any:
        # images that are scored come in many sizes, each of which would be compiled
        with advice(phase), torch.compiler.set_stance('force_eager'):
            return run()

    loop.run = guarded
    return loop
