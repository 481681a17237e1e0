"""The hooks that come with ``StrictRunner`` by themselves."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import CheckpointHook

_OURS = dict(
    step_seed='StepSeedHook',
    stop_on_nan='StopOnNaN',
    skipped_samples='SkippedSamplesHook',
    preemption='PreemptionHook',
)


def with_our_hooks(given: dict[str, Any] | None) -> dict[str, Any]:
    """A config's ``default_hooks`` with ours, of which ``stop_on_nan=None`` leaves one out.

    mmengine's ``CheckpointHook`` becomes :class:`DurableCheckpointHook`; a hook of another kind
    under ``checkpoint`` stays.
    """
    hooks = {name: dict(type=kind) for name, kind in _OURS.items()} | dict(given or {})
    checkpoint = hooks.get('checkpoint', dict(type='CheckpointHook', interval=1))
    theirs = ('CheckpointHook', CheckpointHook)
    if isinstance(checkpoint, dict) and checkpoint.get('type') in theirs:
        hooks['checkpoint'] = {**checkpoint, 'type': 'DurableCheckpointHook'}
    return {name: hook for name, hook in hooks.items() if hook is not None or name not in _OURS}
