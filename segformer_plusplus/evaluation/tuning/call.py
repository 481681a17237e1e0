"""Tunes the model of a config and its checkpoint, and writes what was found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...errors import SegformerPlusPlusError
from ...files import hash_file, sha256
from ...inference.configs import load_config
from ...inference.opening import check_device, test_dataset
from ...patching import find_backbones
from ...version import __version__
from ..fidelity import open_fidelity
from ..results import MEASURES
from .points import Budget
from .run import Limits, TuneResult, tune_fidelity
from .space import Space, read_space
from .study import require_optuna
from .writing import FRONT, PLOT, draw_front, with_own_backbone, write_config, write_front


def tune(
    config: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    by: str | None = None,
    space: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    fresh: bool = False,
    progress: bool = False,
    max_drop: float | None = None,
    min_speedup: float | None = None,
    **limits: Any,
) -> TuneResult:
    """Searches strategies, ratios and strides for each stage, on these data and this device.

    The presets are tried first. The best trials under the budget are timed anew together, and the
    winner has to keep the budget, up to the noise, on images that were not searched on.

    Written into ``out``: ``front.json`` (all trials, the front, the winner and its check),
    ``front.png``, with a winner a config that inherits ``config``, and the study itself, so that
    the same call goes on after an interruption, or with more trials or another budget. Without a
    winner, the config of an earlier call stays.

    Args:
        config: of mmseg or mmpose.
        checkpoint: its weights.
        out: folder; by default 'tuning' in the config's ``work_dir``.
        folder: of images without labels, in place of the config's test set.
        by: the measure that counts, a key of ``fidelity.MEASURES``. None is mIoU or PCK@0.05;
            without ground truth, what changes against no merging.
        space: entries as in :func:`~.space.default_space`, which None is; or a config file with
            ``space = [...]``.
        device: None: CUDA if there is one.
        cfg_options: dotted keys of the config and their new values.
        fresh: forget the study that is there.
        progress: show a bar.
        max_drop: this, or the next: see :class:`~.points.Budget`.
        min_speedup: see :class:`~.points.Budget`.
        limits: the fields of :class:`~.run.Limits`, such as ``trials=100``.

    Raises:
        SegformerPlusPlusError: a wrong argument, no data, a folder that is in use or that holds
            a study of something else.
        CheckpointError: the checkpoint does not fit.
        MissingDependencyError: optuna, or the toolbox of the config, is not installed.
    """
    budget = Budget(max_drop, min_speedup)
    wanted = Limits(**limits)
    if by is not None and by not in MEASURES:
        raise SegformerPlusPlusError(f'--by {by}: choose from {", ".join(MEASURES)}')
    require_optuna()
    if device is not None:
        check_device(device)
    config = Path(config)
    cfg = load_config(config, cfg_options)
    entries, imports = _read_space(space)
    out = Path(out) if out is not None else Path(cfg.work_dir) / 'tuning'
    source = dict(
        config=str(config), checkpoint=str(checkpoint), folder=folder and str(folder),
        cfg_options=cfg_options, seed=wanted.seed, rounds=wanted.rounds,
    )  # fmt: skip
    write_files = partial(_write, out=out, config=config, cfg=cfg, source=source, imports=imports)
    fidelity = open_fidelity(
        with_own_backbone(cfg), checkpoint, device=device, images=folder, progress=False
    )
    result = tune_fidelity(
        fidelity,
        budget,
        out,
        space=Space(entries, len(find_backbones(fidelity.model)[0].blocks)),
        limits=wanted,
        by=by,
        identity=_identity(cfg, Path(checkpoint), folder),
        fresh=fresh,
        progress=progress,
        searched=write_files,
    )
    write_files(result)
    return result


def _read_space(
    space: str | os.PathLike[str] | Sequence[Mapping[str, Any]] | None,
) -> tuple[Sequence[Mapping[str, Any]] | None, list[str]]:
    return read_space(space) if isinstance(space, str | os.PathLike) else (space, [])


def _identity(
    cfg: Config, checkpoint: Path, folder: str | os.PathLike[str] | None
) -> dict[str, str]:
    """What the numbers of a study depend on."""
    parts = {key: cfg.get(key) for key in ('model', 'test_dataloader', 'test_evaluator')}
    return {
        'config': sha256(Config(parts).to_dict()),
        'checkpoint': hash_file(checkpoint) if checkpoint.is_file() else str(checkpoint),
        'folder of images': str(folder and Path(folder).resolve()),
        'state of the images': sha256(_list_files(cfg, folder)),
        'version of this package': __version__,
    }


def _list_files(cfg: Config, folder: str | os.PathLike[str] | None) -> list[list[Any]]:
    """Name, size and time of what is measured on, as far as it lies on a disk."""
    data = test_dataset(cfg)
    parts = [*(data.get('data_prefix') or {}).values(), data.get('ann_file')]
    root = Path(data.get('data_root') or '')
    places = [Path(folder)] if folder else [root / part for part in parts if part]
    files = []
    for place in places:
        for path in sorted(place.rglob('*')) if place.is_dir() else [place]:
            if path.is_file():
                files.append([str(path), path.stat().st_size, path.stat().st_mtime_ns])
    return files


def _write(
    result: TuneResult,
    out: Path,
    config: Path,
    cfg: Config,
    source: Mapping[str, Any],
    imports: Sequence[str],
) -> None:
    """All files; the config of an earlier call, and what tells of it, stay until a call is done."""
    tuned = out / f'{config.stem}_tuned.py'
    result.files = {}
    try:
        if result.winner is None and tuned.exists():
            result.files['earlier config'] = tuned
            if result.interrupted:
                return
        result.files.update(front=out / FRONT, plot=out / PLOT)
        write_front(out / FRONT, result, source)
        draw_front(out / PLOT, result, f'{config.stem}, {result.device}')
        if result.winner is not None:
            write_config(tuned, config, cfg, result, imports, source['cfg_options'])
            result.files['config'] = tuned
    except OSError as error:
        raise SegformerPlusPlusError(f'cannot write into {out}: {error.strerror}') from error
