"""What the tests of the shipped configs share: reading them, and what every row has to be."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

from mmengine.config import Config, ConfigDict

from segformer_plusplus.mit.archs import ARCHS

ROOT = Path(__file__).parents[1] / 'configs'
FROM_SCRATCH = 'synthetic', 'camvid', 'lsp'
"""Folders whose models start from random weights."""


@cache
def _read(path: Path) -> Config:
    return Config.fromfile(path)


def load(path: Path) -> Config:
    """A copy, so that no test sees what another one changed."""
    return copy.deepcopy(_read(path))


def step(pipeline: list[ConfigDict], kind: str) -> ConfigDict:
    (found,) = (transform for transform in pipeline if transform.type == kind)
    return found


def flat(value, key: str = '') -> dict[str, object]:
    """Nested dicts and lists as {'a.b.0.c': value}."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {key: value}
    leaves: dict[str, object] = {}
    for name, child in items:
        leaves |= flat(child, f'{key}.{name}' if key else str(name))
    return leaves or {key: value}


def differences(one: Config, other: Config) -> set[str]:
    a, b = flat(one.to_dict()), flat(other.to_dict())
    return {key for key in a.keys() | b.keys() if a.get(key, ...) != b.get(key, ...)}


def check_a_row(path: Path, says: dict[str, str], scope: str, datasets: dict[str, str]) -> Config:
    """What its name says is what is in it, and it differs from 'none' in its preset alone."""
    cfg = load(path)
    backbone = cfg.model.backbone
    assert backbone.type == 'MixVisionTransformerPlusPlus'
    assert (backbone.arch, backbone.token_merging) == (says['arch'], says['strategy'])
    assert cfg.train_dataloader.batch_size == int(says['batch'])
    assert cfg.default_scope == scope and cfg.custom_imports.imports == ['segformer_plusplus']
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.type == datasets[says['data']]
        assert loader.dataset.data_root == cfg.data_root
        assert ('synthetic' in loader.dataset.data_root) == says['data'].startswith('synthetic')
    unmerged = path.with_name(path.name.replace(f'_{says["strategy"]}_', '_none_'))
    expected = set() if path == unmerged else {'model.backbone.token_merging'}
    assert differences(cfg, load(unmerged)) == expected
    if path.parent.name in FROM_SCRATCH:
        assert backbone.init_cfg is None
    else:
        assert backbone.init_cfg.type == 'Pretrained'
        assert f'/mit_{backbone.arch}_' in backbone.init_cfg.checkpoint
    return cfg


def check_3k(cfg: Config) -> None:
    """3000 iterations of AdamW, one rate for all, gradients clipped, a validation each 1000."""
    optimizer, wrapper = cfg.optim_wrapper.optimizer, cfg.optim_wrapper
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-3, 0.01)
    assert wrapper.paramwise_cfg.to_dict() == dict(custom_keys=dict(norm=dict(decay_mult=0.0)))
    assert wrapper.clip_grad.to_dict() == dict(max_norm=1.0)
    loop = cfg.train_cfg
    assert (loop.type, loop.max_iters, loop.val_interval) == ('IterBasedTrainLoop', 3000, 1000)
    warmup, poly = cfg.param_scheduler
    assert (warmup.type, warmup.begin, warmup.end) == ('LinearLR', 0, 100)
    assert (poly.type, poly.begin, poly.end, poly.eta_min) == ('PolyLR', 100, 3000, 0)
    assert not (warmup.by_epoch or poly.by_epoch or cfg.log_processor.by_epoch)
    assert cfg.train_dataloader.sampler.type == 'InfiniteSampler'
    assert 3000 % cfg.default_hooks.checkpoint.interval == 0
    assert not cfg.default_hooks.checkpoint.by_epoch


def widths(cfg: Config) -> list[int]:
    """Channels of the stages of the config's arch."""
    sizes = ARCHS[cfg.model.backbone.arch]
    return [sizes['embed_dims'] * heads for heads in sizes['num_heads']]


def check_pipelines(cfg: Config, registry) -> None:
    """Every transform is known and takes its arguments."""
    for name in ('train', 'val', 'test'):
        loader = cfg[f'{name}_dataloader']
        dataset = registry.build({**loader.dataset, 'lazy_init': True})
        kinds = [type(transform).__name__ for transform in dataset.pipeline.transforms]
        assert kinds == [transform.type for transform in loader.dataset.pipeline]
