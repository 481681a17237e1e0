"""Tunes a model: splits the images, searches, selects, checks and writes what was found."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from tqdm import tqdm

from ...errors import SegformerPlusPlusError
from ...files import hash_file, sha256
from ...inference.configs import load_config
from ...inference.exported import refuse_exported
from ...inference.opening import check_device
from ...inference.pretrained import own_weights
from ...loading.datasets import test_dataset
from ...patching import find_backbones
from ...version import __version__
from ..fidelity import Fidelity, open_fidelity
from ..results import MEASURES
from ..timing import device_name
from .deployment import DeploymentSpace, Exporter, find_ways, keep_file
from .selection import FINAL_ROUNDS, Budget, Evaluator, TuneResult, release_memory, select
from .space import Space, read_space
from .study import Study, open_study, require_optuna
from .writing import draw_front, with_own_backbone, write_config, write_front

FILES = 'files'
"""Folder in ``out`` of the exported files that are measured; at the end it goes away."""

MOST_IMAGES = 50
"""On so many images a search runs, unless more are asked for."""


@dataclass(frozen=True)
class Limits:
    """Says how long to search, and on what.

    Attributes:
        trials: in all, those of earlier calls included.
        timeout: begin no trial after so many minutes.
        images: to search on, drawn from the test set; as many others are for the check (default:
            half of them, at most 50).
        rounds: in which a trial is timed, in turn with no merging; finalists and the check get
            three times as many.
        seed: of the choice of images and of the proposals.
    """

    trials: int = 60
    timeout: float | None = None
    images: int | None = None
    rounds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('trials', 'images', 'rounds'):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise SegformerPlusPlusError(f'{name} is {value!r}; give a whole number above 0')
        if self.timeout is not None and not self.timeout > 0:
            raise SegformerPlusPlusError(f'timeout is {self.timeout}; give minutes above 0')
        if not isinstance(self.seed, int) or self.seed < 0:
            raise SegformerPlusPlusError(f'seed is {self.seed!r}; give a whole number from 0')


@dataclass(frozen=True)
class Options:
    """What a model is tuned on, by what and where.

    Attributes:
        by: the measure that counts, of mIoU, mIoU_fine, changed, PCK@0.1, PCK@0.05 and shift
            (default: mIoU or PCK@0.05; changed or shift without ground truth). On few images,
            changed and shift vary less.
        out: folder for front.json, front.png, a config and the search itself (default: 'tuning' in
            the config's work_dir).
        folder: images without labels, in place of the config's test set.
        space: config with space = [dict(type='MyStrategy', ratio=[0.5, 0.7], sides=['kv'],
            stages=[1, 2]), ...]; lists are choices (default: BipartiteSoftMatching2d and
            NeighborMerging2d).
        device: where to run (default: cuda if there is one).
        fresh: forget the search in --out.
        deploy: search formats and precisions of exported files beside the presets, in the place of
            strategies for each stage; see segformer-plusplus advise.
    """

    by: str | None = None
    out: Path | None = None
    folder: Path | None = None
    space: Path | None = None
    device: Literal['cpu', 'cuda'] | None = None
    fresh: bool = False
    deploy: bool = False

    def __post_init__(self) -> None:
        if self.deploy and (self.space or self.device == 'cuda'):
            raise SegformerPlusPlusError('--deploy: exported files run on the CPU, under presets')
        if self.by is not None and self.by not in MEASURES:
            raise SegformerPlusPlusError(f'--by {self.by}: choose from {", ".join(MEASURES)}')


def tune(
    config: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    cfg_options: Mapping[str, Any] | None = None,
    progress: bool = False,
    **options: Any,
) -> TuneResult:
    """Searches strategies, ratios and strides for each stage, on these data and this device.

    The presets are tried first. The best trials under the budget are timed anew together, and the
    winner has to keep the budget, up to the noise, on images that were not searched on.

    With ``deploy``, the presets are tried in every format and precision that a file can have here;
    a file that wins is written. int8 is calibrated on the images that are searched on.

    Writes into ``out``: ``front.json`` (all trials, the front, the winner and its check),
    ``front.png``, with a winner a config that inherits ``config``, and the study itself, so that
    the same call goes on after an interruption, or with more trials or another budget. Without a
    winner, the config of an earlier call stays.

    Args:
        config: of mmseg or mmpose.
        checkpoint: its weights; None for a model that brings them.
        cfg_options: dotted keys of the config and their new values.
        progress: show a bar.
        options: the fields of ``selection.Budget`` (``max_drop`` or ``min_speedup``), of
            ``Limits`` (such as ``trials=100``) and of ``Options``, whose ``space`` may
            also be a list as in ``space.default_space``.

    Raises:
        SegformerPlusPlusError: a wrong argument, no data, a folder that is in use or that holds
            a study of something else.
        CheckpointError: the checkpoint does not fit.
        MissingDependencyError: optuna, or the toolbox of the config, is not installed.
    """
    budget = Budget(**_taken(options, Budget))
    wanted = Limits(**_taken(options, Limits))
    given = Options(**options)
    device, folder = 'cpu' if given.deploy else given.device, given.folder
    space: Any = given.space  # from Python also a list
    require_optuna()
    if device is not None:
        check_device(device)
    config, cfg = Path(config), load_config(config, cfg_options)
    checkpoint = checkpoint or own_weights(cfg)
    refuse_exported(checkpoint, 'there is nothing left to tune')
    imports: list[str] = []
    if isinstance(space, str | os.PathLike):
        space, imports = read_space(space)
    out = Path(given.out) if given.out is not None else Path(cfg.work_dir) / 'tuning'
    source = dict(
        config=str(config), checkpoint=str(checkpoint), folder=folder and str(folder),
        cfg_options=cfg_options, seed=wanted.seed, rounds=wanted.rounds,
    )  # fmt: skip
    write_files = partial(_write, out=out, config=config, cfg=cfg, source=source, imports=imports)
    fidelity = open_fidelity(
        with_own_backbone(cfg), checkpoint, device=device, images=folder, progress=False
    )
    parts = {key: cfg.get(key) for key in ('model', 'test_dataloader', 'test_evaluator')}
    file = Path(str(checkpoint))
    identity = {
        'config': sha256(Config(parts).to_dict()),
        'checkpoint': hash_file(file) if file.is_file() else str(checkpoint),
        'folder of images': str(folder and Path(folder).resolve()),
        'state of the images': sha256(_list_files(cfg, folder)),
        'version of this package': __version__,
    }
    num_stages = len(find_backbones(fidelity.model)[0].blocks)
    by, left_out, searched = given.by, dict[str, str](), Space(space, num_stages)
    if given.deploy:
        ways, left_out = find_ways()
        searched = DeploymentSpace(ways, num_stages)
        wanted = replace(wanted, trials=min(wanted.trials, searched.size))
        by = by or ('changed' if cfg.default_scope == 'mmseg' else 'shift')
    result = tune_fidelity(
        fidelity, budget, out, space=searched, limits=wanted, by=by,
        identity=identity, fresh=given.fresh, progress=progress,
        searched=write_files,
    )  # fmt: skip
    result.left_out = left_out
    write_files(result)
    if not result.interrupted:
        shutil.rmtree(out / FILES, ignore_errors=True)
    return result


def _taken(options: dict[str, Any], kind: type) -> dict[str, Any]:
    """Takes the fields of a dataclass out of the options."""
    names = [each.name for each in fields(kind)]
    return {name: options.pop(name) for name in names if name in options}


def tune_fidelity(
    fidelity: Fidelity[Any],
    budget: Budget,
    out: str | os.PathLike[str],
    *,
    space: Space | None = None,
    limits: Limits | None = None,
    by: str | None = None,
    identity: Mapping[str, str] | None = None,
    fresh: bool = False,
    progress: bool = False,
    searched: Callable[[TuneResult], None] | None = None,
) -> TuneResult:
    """Searches and selects; of files, only the study in ``out`` is written.

    Args:
        fidelity: the model on all images.
        budget: what is wanted.
        out: folder of the study; with an unfinished one in it, the search goes on.
        space: see ``tune``, as are ``by``, ``fresh`` and ``progress``.
        limits: how long to search, and on what.
        identity: what else the numbers depend on, by a name that a message can say.
        searched: is called with all trials before one of them is selected.

    Raises:
        SegformerPlusPlusError: see ``tune``.
    """
    limits, space = limits or Limits(), space or Space()
    chosen, others = split_images(fidelity.pictures, limits.images, limits.seed)
    device = device_name(fidelity.device)
    identity = {
        **(identity or {}),
        'measure': by or fidelity.main_measure,
        'choice of images': f'{len(chosen)} of {fidelity.num_images}, seed {limits.seed}',
        'space': repr(space.sites),
        'device': device,
    }
    with open_study(Path(out), space, identity, limits.seed, fresh) as study:
        if fresh:  # they are of what is forgotten
            shutil.rmtree(Path(out) / FILES, ignore_errors=True)
        part = fidelity.subset(chosen)
        evaluator = Evaluator(part, by, limits.rounds, Exporter(part, Path(out) / FILES))
        result = TuneResult(
            budget, evaluator.by, evaluator.baseline, evaluator.fidelity.shape, fidelity.timed,
            device, len(chosen), len(others), study.points, interrupted=True,
        )  # fmt: skip
        try:
            try:
                _search(study, evaluator, budget, limits, progress)
            finally:
                result.failures = study.failures
            if searched is not None:
                searched(result)
            checker = None
            if others and budget.near(study.points):
                checker = _open_checker(fidelity.subset(others), evaluator, result)
            select(result, evaluator, checker)
            result.interrupted = False
        except KeyboardInterrupt:
            pass  # the result says so
    return result


def split_images(
    pictures: Sequence[Hashable], images: int | None, seed: int
) -> tuple[list[int], list[int]]:
    """Draws the images that are searched on, and others that the winner is checked on.

    Of people, those of one picture are never on both sides.

    Args:
        pictures: for each image, or person, the picture that it is of.
        images: how many to search on (people, for pose), as in ``Limits``.
        seed: of the draw.

    Raises:
        SegformerPlusPlusError: there is no image, or fewer than are asked for.
    """
    count = len(pictures)
    half = max(1, count // 2)
    if count < 1:
        raise SegformerPlusPlusError('there is no image to search on')
    if images is not None and images > count:
        raise SegformerPlusPlusError(
            f'images={images}: give a number from 1 to {count}, which there are; up to '
            f'{half} leave as many for the check'
        )
    members: dict[Hashable, list[int]] = {}
    for index, picture in enumerate(pictures):
        members.setdefault(picture, []).append(index)
    drawn = list(members.values())
    random.Random(seed).shuffle(drawn)
    order = [index for people in drawn for index in people]
    wanted = images or min(MOST_IMAGES, half)
    seen = {pictures[index] for index in order[:wanted]}
    others = [index for index in order[wanted:] if pictures[index] not in seen]
    return sorted(order[:wanted]), sorted(others[:wanted])


def _search(
    study: Study, evaluator: Evaluator, budget: Budget, limits: Limits, progress: bool
) -> None:
    def describe_best() -> str:
        for best in budget.ranked(study.points):
            return f'best {best.speed_up:.2f}x, drop {best.drop:.2f}'
        return 'none meets the budget yet'

    start = time.monotonic()
    with tqdm(
        total=limits.trials, initial=min(study.done, limits.trials), unit='trial',
        disable=not progress,
    ) as bar:  # fmt: skip
        bar.set_postfix_str(describe_best())
        while study.done < limits.trials:
            if limits.timeout is not None and time.monotonic() - start > 60 * limits.timeout:
                break
            proposal = study.propose()
            if proposal is None:
                break
            try:
                found = evaluator.evaluate(*proposal)
            except KeyboardInterrupt:
                study.withdraw(proposal[1])
                raise
            study.tell(found)
            bar.set_postfix_str(describe_best(), refresh=False)
            bar.update()


def _open_checker(
    others: Fidelity[Any], evaluator: Evaluator, result: TuneResult
) -> Evaluator | None:
    """Opens the images of the check; None, with the reason noted, if they cannot be measured."""
    try:
        rounds = FINAL_ROUNDS * evaluator.rounds
        return Evaluator(others, evaluator.by, rounds, evaluator.realise)
    except SegformerPlusPlusError as error:
        result.unchecked = str(error)
    release_memory()
    return None


def _list_files(cfg: Config, folder: str | os.PathLike[str] | None) -> list[list[Any]]:
    """Lists name, size and time of the files measured on, as far as they lie on a disk."""
    data = test_dataset(cfg)
    parts = [*(data.get('data_prefix') or {}).values(), data.get('ann_file')]
    root = Path(data.get('data_root') or '')
    places = [Path(folder)] if folder else [root / part for part in parts if part]
    return [
        [str(path), path.stat().st_size, path.stat().st_mtime_ns]
        for place in places
        for path in (sorted(place.rglob('*')) if place.is_dir() else [place])
        if path.is_file()
    ]


def _write(
    result: TuneResult,
    out: Path,
    config: Path,
    cfg: Config,
    source: Mapping[str, Any],
    imports: Sequence[str],
) -> None:
    """Writes all files; until a call is done, an earlier config and its front stay."""
    tuned = out / f'{config.stem}_tuned.py'
    result.files = {}
    try:
        if result.winner is None and tuned.exists():
            result.files['earlier config'] = tuned
            if result.interrupted:
                return
        result.files.update(front=out / 'front.json', plot=out / 'front.png')
        write_front(result.files['front'], result, source)
        draw_front(result.files['plot'], result, f'{config.stem}, {result.device}')
        if result.winner is not None and isinstance(result.winner.token_merging, dict):
            result.files['model'] = keep_file(result.winner.token_merging, out / FILES, out)
        elif result.winner is not None:
            write_config(tuned, config, cfg, result, imports, source['cfg_options'])
            result.files['config'] = tuned
    except OSError as error:
        raise SegformerPlusPlusError(f'cannot write into {out}: {error.strerror}') from error
