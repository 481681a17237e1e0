"""A Runner that loads checkpoints strictly and without executing what stands in them."""

from typing import Any

import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, load_state_dict
from torch import nn

from ..checkpoints import extract_state_dict, load_state_dict_strictly, read_checkpoint
from ..errors import CheckpointError


@RUNNERS.register_module()
class StrictRunner(Runner):
    """mmengine's Runner, but a checkpoint must fit the model exactly.

    mmengine only logs missing and unexpected keys and goes on, so that a checkpoint of another
    model trains and tests as noise. Here that is a :class:`CheckpointError`. ``strict_load=False``
    in the config brings back mmengine's behaviour, for fine-tuning with another number of classes.

    Checkpoints are read with ``weights_only=True``: reading one runs no code that stands in it.
    """

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
        # As in the parent: hooks may still change the checkpoint (EMAHook swaps its weights in).
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = unwrap(self.model)
        weights = extract_state_dict(checkpoint, filename)
        if strict and self.cfg.get('strict_load', True):
            load_state_dict_strictly(model, weights, filename)
        else:
            load_state_dict(model, weights, strict=False, logger=self.logger)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

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


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, out of the wrappers for parallel training and test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule('module')
    return model
