"""Reads what commands take as their model: CONFIG CHECKPOINT, or a NAME that brings its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from rich.console import Console

from ..errors import SegformerPlusPlusError
from ..inference.configs import load_config
from ..inference.pretrained import describe_pretrained, own_weights


def read_model(
    config: str,
    files: Sequence[str],
    cfg_options: Mapping[str, Any] | None,
    token_merging: str | None = None,
) -> tuple[Config, str, list[str]]:
    """Reads the config of a model, and finds its weights.

    Says on stderr what a name stands for, and what it merges.

    Args:
        config: whatever ``..inference.configs.load_config`` takes.
        files: what follows; the weights first, unless the model brings its own.
        cfg_options: dotted keys of the config and their new values.
        token_merging: what will take the place of the config's strategy, if anything.

    Returns:
        The config, the checkpoint, and the files that are left.

    Raises:
        SegformerPlusPlusError: see ``..inference.configs.load_config``; or no weights.
    """
    cfg = load_config(config, cfg_options)
    weights = own_weights(cfg)
    if weights is not None:
        said = describe_pretrained(cfg, token_merging)
        Console(stderr=True, soft_wrap=True, highlight=False).print(said, markup=False)
        return cfg, weights, list(files)
    if not files:
        raise SegformerPlusPlusError(
            f'CONFIG {config} needs a CHECKPOINT with its weights; the names that '
            'segformer-plusplus models lists bring theirs'
        )
    return cfg, files[0], list(files[1:])


def read_weights(
    config: str,
    checkpoint: str | None,
    cfg_options: Mapping[str, Any] | None,
    token_merging: str | None = None,
) -> tuple[Config, str]:
    """Returns config and checkpoint, see ``read_model``; a checkpoint that is given counts."""
    given = [] if checkpoint is None else [checkpoint]
    cfg, weights, _ = read_model(config, given, cfg_options, token_merging)
    return cfg, checkpoint or weights
