"""Reads checkpoints of any library safely, and either whole or not at all."""

from ..libraries import naming_what_is_missing

with naming_what_is_missing(__name__):
    from .conversion import (
        Conversion,
        convert,
        from_nvlabs,
        from_smp,
        from_transformers,
        recognise,
        to_mmseg,
        to_nvlabs,
        to_transformers,
    )
    from .loading import (
        extract_state_dict,
        load_checkpoint_strictly,
        load_state_dict_strictly,
        plain_state_dict,
        read_checkpoint,
    )
    from .settings import describe
    from .writing import write_checkpoint, write_transformers_folder

__all__ = [
    'Conversion',
    'convert',
    'describe',
    'extract_state_dict',
    'from_nvlabs',
    'from_smp',
    'from_transformers',
    'load_checkpoint_strictly',
    'load_state_dict_strictly',
    'plain_state_dict',
    'read_checkpoint',
    'recognise',
    'to_mmseg',
    'to_nvlabs',
    'to_transformers',
    'write_checkpoint',
    'write_transformers_folder',
]
