"""Reading checkpoints: safely, and either whole or not at all."""

from .loading import (
    extract_state_dict,
    load_checkpoint_strictly,
    load_state_dict_strictly,
    read_checkpoint,
)

__all__ = [
    'extract_state_dict',
    'load_checkpoint_strictly',
    'load_state_dict_strictly',
    'read_checkpoint',
]
