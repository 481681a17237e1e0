"""A Runner that loads strictly, saves durably and goes on exactly where it was interrupted."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import is_distributed, master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import EpochBasedTrainLoop, Runner, load_state_dict
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoints import extract_state_dict, load_state_dict_strictly, read_checkpoint
from ..errors import CheckpointError, SegformerPlusPlusError
from ..loading.images import refuse_skipping
from .advice import advised
from .distributed import init_gloo, refuse_sharding, unwrap, wrap_on_cpu
from .hooks import with_our_hooks
from .preemption import PreemptionHook, outlive_sigterm
from .randomness import make_repeatable, positions_of
from .resuming import find_resumable_together
from .saving import beside, saving
from .switches import apply_switches, compile_backbone, uncompiled


@RUNNERS.register_module(force=True)
class StrictRunner(Runner):
    """mmengine's Runner, but a checkpoint must fit the model exactly, and accidents do no harm.

    - mmengine only logs missing and unexpected keys and goes on, so that a checkpoint of another
      model trains and tests as noise. Here that is a :class:`CheckpointError`.
      ``strict_load=False`` in the config brings back mmengine's behaviour, for fine-tuning with
      another number of classes.
    - Checkpoints are read with ``weights_only=True``: reading one runs no code that stands in it.
    - Checkpoints are there whole or not at all; resuming looks for the latest whole one.
    - A resumed run sees the samples, the augmentations and the random numbers that it would have
      seen without the interruption, see docs/scaling.md.
    - It stops on NaN and on SIGTERM (see :mod:`.hooks`), and says in one line what to do when
      memory runs out or a data loader's worker dies.
    - The switches ``amp``, ``accumulate`` and ``gradient_checkpointing`` of the config are carried
      out by :meth:`from_cfg`, see configs/_base_/runtime.
    - It runs distributed on CPUs too (gloo), with ``SyncBN`` as ``BN``. It does not shard a model.
    """

    _loaded_meta: dict[str, Any]
    _train_dataloader: Any

    @classmethod
    def from_cfg(cls, cfg: Config) -> StrictRunner:
        """Builds the Runner from a config, with its switches carried out.

        Raises:
            SegformerPlusPlusError: a switch does not fit, or several processes should use FSDP.
        """
        cfg = copy.deepcopy(cfg) if isinstance(cfg, Config) else Config(copy.deepcopy(cfg))
        if cfg.get('launcher', 'none') != 'none':
            refuse_sharding(cfg.get('model_wrapper_cfg'))
        apply_switches(cfg)
        return super().from_cfg(cfg)

    # --- environment -----------------------------------------------------------------------------

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """As in the parent, but processes without a GPU talk through gloo."""
        if self.distributed and not is_distributed() and not torch.cuda.is_available():
            init_gloo(self._launcher, env_cfg.get('dist_cfg', {}).get('timeout'))
        super().setup_env(env_cfg)

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """mmengine's and ours, each of which a None in the config leaves out."""
        super().register_default_hooks(with_our_hooks(hooks))

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Wraps the model as the parent does, but on the CPU too."""
        if self.distributed and not is_model_wrapper(model) and not torch.cuda.is_available():
            unused = self.cfg.get('find_unused_parameters', False)
            model, model_wrapper_cfg = wrap_on_cpu(model, model_wrapper_cfg, unused)
        return super().wrap_model(model_wrapper_cfg, model)

    def _maybe_compile(self, target: str) -> None:
        """Compile the backbone, in place of the parent's training step."""
        compile_backbone(unwrap(self.model), self.cfg.get('compile'))

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: dict[str, Any] | None = None) -> None:
        """As in the parent; the gradients that are accumulated count as one batch.

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

    # --- loops -----------------------------------------------------------------------------------

    def train(self) -> nn.Module:
        """Train; SIGTERM is what it was before, whatever happens."""
        try:
            return super().train()
        finally:
            for hook in self.hooks:
                if isinstance(hook, PreemptionHook):
                    hook.restore()

    @staticmethod
    def build_dataloader(
        dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """The parent's, whose workers outlive a SIGTERM that the training outlives."""
        loader = Runner.build_dataloader(dataloader, seed=seed, diff_rank_seed=diff_rank_seed)
        outlive_sigterm(loader)
        return loader

    def build_train_loop(self, loop: Any) -> Any:
        """The parent's, with samples that are repeatable and errors that say what to do."""
        if isinstance(loop, dict) and isinstance(self._train_dataloader, dict):
            # what the loop would do; but some loops start their workers at once
            apart = self._randomness_cfg.get('diff_rank_seed', False)
            self._train_dataloader = self.build_dataloader(
                self._train_dataloader, seed=self.seed, diff_rank_seed=apart
            )
        loader = self._train_dataloader
        if isinstance(loader, DataLoader) and make_repeatable(loader, self.seed) is None:
            self.logger.warning(
                'this data loader has a batch sampler of its own: resumed, it does not repeat its '
                'augmentations exactly'
            )
        built = super().build_train_loop(loop)
        built.run = advised('train', built.run)
        return built

    def build_val_loop(self, loop: Any) -> Any:
        """The parent's, with errors that say what to do."""
        return _evaluating(super().build_val_loop(loop), 'val')

    def build_test_loop(self, loop: Any) -> Any:
        """The parent's, with errors that say what to do."""
        return _evaluating(super().build_test_loop(loop), 'test')

    # --- checkpoints -----------------------------------------------------------------------------

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | torch.device = 'cpu',
        strict: bool = True,
    ) -> dict[str, Any]:
        """Loads weights into the model and returns the whole checkpoint.

        Args:
            filename: path or URL.
            map_location: see :func:`torch.load`.
            strict: False, or ``strict_load=False`` in the config, only logs what does not fit.

        Raises:
            CheckpointError: the file cannot be read, or does not fit the model.
        """
        checkpoint = read_checkpoint(filename, map_location=map_location)
        # Hooks find the weights where a Runner puts them, and by our names, whoever wrote them.
        checkpoint['state_dict'] = extract_state_dict(checkpoint, filename)
        # As in the parent: hooks may still change the checkpoint (EMAHook swaps its weights in).
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        weights = checkpoint['state_dict']
        model = unwrap(self.model)
        if strict and self.cfg.get('strict_load', True):
            load_state_dict_strictly(model, weights, filename)
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
        """As in the parent, but a file on a disk is there whole or not at all.

        Raises:
            CheckpointError: it cannot be written; what was there before is untouched.
        """
        settings: dict[str, Any] = dict(
            file_client_args=file_client_args,
            save_optimizer=save_optimizer,
            save_param_scheduler=save_param_scheduler,
            meta=self._with_sampler(meta),
            by_epoch=by_epoch,
            backend_args=backend_args,
        )
        backend = get_file_backend(out_dir, backend_args=backend_args)
        if file_client_args is not None or not isinstance(backend, LocalBackend):
            super().save_checkpoint(out_dir, filename, **settings)
            return
        with saving(os.path.join(out_dir, filename)):
            super().save_checkpoint(out_dir, beside(filename).name, **settings)

    def _with_sampler(self, meta: dict[str, Any] | None) -> dict[str, Any]:
        positions = positions_of(self.train_dataloader)
        return {**(meta or {}), **({'sampler_seed': positions.seed} if positions else {})}

    # --- resuming --------------------------------------------------------------------------------

    def resume_latest(self) -> None:
        """Have the training go on from the latest whole checkpoint of the work dir, if any.

        All processes have to call this.

        Raises:
            CheckpointError: there are checkpoints, but none that can be used.
        """
        path = find_resumable_together(self.work_dir)
        if path is None:
            self.logger.warning(f'nothing to resume in {self.work_dir}: training starts anew')
            self._resume = False
        else:
            self._resume, self._load_from = True, path

    def load_or_resume(self) -> None:
        """As in the parent, but ``resume=True`` alone takes the latest checkpoint that is whole."""
        if not self._has_loaded and self._resume and self._load_from is None:
            self.resume_latest()
        super().load_or_resume()

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Continues from a checkpoint that a Runner wrote; see mmengine's ``Runner.resume``."""
        try:
            super().resume(filename, *args, **kwargs)
        except KeyError as error:
            if error.args and error.args[0] in ('meta', 'epoch', 'iter', 'message_hub'):
                raise CheckpointError(
                    f'cannot resume from {filename}: it holds no training state '
                    f'({error.args[0]!r} is missing); use it with load_from (--load-from)'
                ) from error
            raise
        self._resume_order()

    def _resume_order(self) -> None:
        """The samples in the order of the run before, from where it was in its epoch."""
        loop: Any = self.train_loop
        positions = positions_of(loop.dataloader)
        if positions is None:
            return
        positions.seed = int(self._loaded_meta.get('sampler_seed', positions.seed))
        if isinstance(loop, EpochBasedTrainLoop):
            batches = loop.iter - loop.epoch * len(loop.dataloader)
            if 0 < batches <= len(loop.dataloader):
                positions.pass_over(batches * loop.dataloader.batch_size)


def _evaluating(loop: Any, phase: str) -> Any:
    refuse_skipping(getattr(loop.dataloader, 'dataset', None), f'{phase}_dataloader')
    loop.run = advised(phase, uncompiled(loop.run))
    return loop
