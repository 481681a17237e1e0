"""mmseg's backbone in a config, and this package's in its place."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS

OURS = 'MixVisionTransformerPlusPlus'

_PLAIN = ('mmseg.models.backbones.mit', 'MixVisionTransformer')
"""Known by name, as where models are patched: not every toolbox comes with mmseg."""


def has_plain_backbone(cfg: Config) -> bool:
    """Whether the backbone is mmseg's, under whatever name the config calls it."""
    kind: Any = ((cfg.get('model') or {}).get('backbone') or {}).get('type')
    if not inspect.isclass(kind):
        with MODELS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
            kind = registry.get(str(kind))
    return kind is not None and (kind.__module__, kind.__name__) == _PLAIN


def with_own_backbone(cfg: Config) -> Config:
    """The config as one with a winner runs it: this package's backbone in place of mmseg's.

    It takes the same arguments and the same weights.
    """
    if has_plain_backbone(cfg):
        cfg = copy.deepcopy(cfg)
        cfg.model.backbone.type = OURS
    return cfg
