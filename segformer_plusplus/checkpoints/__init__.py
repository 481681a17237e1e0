"""Reading checkpoints: safely, and either whole or not at all."""

from .loading import load_checkpoint_strictly, load_state_dict_strictly, read_checkpoint

__all__ = ['load_checkpoint_strictly', 'load_state_dict_strictly', 'read_checkpoint']
